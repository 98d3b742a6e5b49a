"""Makes the virtual environment of a checkout: `python3 tools/install.py VENV [EXTRA ...]`.

Standard library only, because it runs before anything is installed. It does nothing when the environment
already matches pyproject.toml and constraints.txt (their hash is the stamp). uv does the work, some
fifteen times faster than pip here; pip brings uv in, and stands in for it where uv has no wheel or fails.
The indexes, link folders and certificates that pip is configured with are handed to uv, which does not
read them itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
INPUTS = (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__).resolve())
OLDEST, NEWEST = (3, 11), (3, 13)

# What pip calls a setting, and the environment variable by which uv learns of it.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}


def main(arguments: list[str]) -> int:
    """Installs, or says in one line why it cannot."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return complain(f"Python 3.11, 3.12 or 3.13 is needed, this is {sys.version.split()[0]}: set PYTHON")
    if not arguments:
        return complain("usage: install.py VENV [EXTRA ...]")
    venv = Path(arguments[0]).absolute()
    venv.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{venv}.lock").open("w") as lock:  # two runs of make at once must not both install
        fcntl.flock(lock, fcntl.LOCK_EX)
        return install(venv, arguments[1:])


def install(venv: Path, extras: list[str]) -> int:
    """Brings `venv` up to date; 0 when it is."""
    stamp, wanted = venv / ".logos-installed", fingerprint(extras)
    if stamp.exists() and stamp.read_text() == wanted and (venv / "bin" / "python").exists():
        return 0
    started = time.monotonic()
    if not is_usable(venv):
        shutil.rmtree(venv, ignore_errors=True)
        made = subprocess.run([sys.executable, "-m", "venv", str(venv)], check=False)
        if made.returncode:
            return complain("this python3 cannot make a venv (Debian: apt-get install python3-venv)")
    stamp.unlink(missing_ok=True)
    project = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    if not (install_with_uv(venv, project) or install_with_pip(venv, project)):
        return complain("the installation failed; the lines above say why")
    stamp.write_text(wanted)
    print(f"installed into {venv} in {time.monotonic() - started:.0f} s")
    return 0


def fingerprint(extras: list[str]) -> str:
    """A hash of all that decides what the environment holds."""
    digest = hashlib.sha256()
    for text in (str(ROOT), sys.version, *sorted(extras), *(path.read_text() for path in INPUTS)):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def is_usable(venv: Path) -> bool:
    """Whether `venv` runs, with the Python version that runs this file."""
    python = venv / "bin" / "python"
    if not python.exists():
        return False
    ask = [str(python), "-c", "import sys; print(sys.version)"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
    return answer.strip() == sys.version.strip()


def install_with_uv(venv: Path, project: str) -> bool:
    """Installs `project` by uv, the one on PATH or one that pip brings in."""
    uv = shutil.which("uv") or str(venv / "bin" / "uv")
    if not Path(uv).exists() and not run([*pip(venv), "install", "-q", "-c", str(CONSTRAINTS), "uv"]):
        return False
    command = [uv, "pip", "install", "-q", "--python", str(venv / "bin" / "python")]
    return run([*command, "-c", str(CONSTRAINTS), "-e", project], {**uv_settings(venv), **os.environ})


def install_with_pip(venv: Path, project: str) -> bool:
    """Installs `project` by pip: the same versions, more slowly."""
    print("uv could not install; pip takes over, which takes about a minute", file=sys.stderr)
    return run([*pip(venv), "install", "-q", "-c", str(CONSTRAINTS), "-e", project])


def uv_settings(venv: Path) -> dict[str, str]:
    """pip's configuration (files and environment) as uv's environment variables."""
    command = [*pip(venv), "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    found: dict[str, str] = {}
    for line in sorted(listed, key=precedence):
        key, _, value = line.partition("=")
        name = UV_NAMES.get(key.removeprefix(":env:").strip(".").rpartition(".")[2])
        if name and value:
            found[name] = " ".join(shlex.split(value)[0].split())
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = ",".join(found["UV_FIND_LINKS"].split())
    # The constraints name the version; any index that has it will do, as with pip.
    return {**found, "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PYTHON_DOWNLOADS": "never"}


def precedence(line: str) -> int:
    """Where a line of `pip config list` stands: global, then for installs only, then the environment."""
    return 2 if line.startswith(":env:") else 0 if line.startswith("global.") else 1


def pip(venv: Path) -> list[str]:
    """The start of a pip command in `venv`."""
    return [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]


def run(command: list[str], environment: dict[str, str] | None = None) -> bool:
    """Whether `command` succeeded; it shows its own errors."""
    return subprocess.run(command, env=environment, check=False).returncode == 0


def complain(message: str) -> int:
    """One line on stderr, and the exit code of a failure."""
    print(f"install: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
