"""What a process holds, what surrounds it, and how it leaves."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def leave_on_terminate() -> None:
    """Let SIGTERM end the process like an exception: files of gigabytes and children are taken away on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def memory() -> dict[str, int]:
    """The most bytes that this process ever held, and those that are pages of files now; 0 where nobody tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {"peak": 0, "mapped": 0}
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return {name: int(lines[key].split()[0]) * 1024 for name, key in (("peak", "VmHWM"), ("mapped", "RssFile"))}


def surroundings(with_minivl: bool) -> dict[str, str]:
    """The environment of a process: offline, quiet, and with this very minivl on its path, or without."""
    home = Path(__file__).resolve().parents[3]
    paths = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path).resolve() != home
    ]
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join([str(home)] * with_minivl + paths)}
