"""What this machine has that an engine's abilities depend on. Looks at device files only; nothing is started."""

from __future__ import annotations

from pathlib import Path

# Made by the drivers of CUDA and ROCm; without one of them, vLLM is its CPU build.
DEVICES = ("dev/nvidiactl", "dev/kfd")


def has_gpu(root: Path = Path("/")) -> bool:
    """Whether engines find a GPU here."""
    return any((root / device).exists() for device in DEVICES)
