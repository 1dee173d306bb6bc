"""The memory of a worker with all its children, seen from outside, and what its end means."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


def resident_bytes(root: int) -> int:
    """Returns the memory that a process and its descendants hold; 0 where the system does not tell."""
    return sum(map(_resident, _family(root)))


def ending(code: int, said: str) -> str:
    """Returns in words how a process ended, with the last thing that it said."""
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        words = f"its process was ended by {name}"
        words += ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    else:
        words = f"its process ended with code {code}"
    lines = [line for line in said.splitlines() if line.strip()]
    return f"{words}: {' '.join(lines[-1].split())[:300]}" if lines else words


def end_family(process: subprocess.Popen[str]) -> None:
    """Ends a process that leads its own group, with all that it started, and waits for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def _family(root: int) -> Iterable[int]:
    yield root
    children = _PROC / str(root) / "task" / str(root) / "children"
    try:
        below = children.read_text().split()
    except OSError:
        below = []
    for child in below:
        yield from _family(int(child))


def _resident(process: int) -> int:
    try:
        return int((_PROC / str(process) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
