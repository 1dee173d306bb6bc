"""How much memory a run may take: a limit as a person writes it, what the process holds, and what is left."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

from quantonnx.errors import ConfigError, ModelError

FLOAT_BYTES = 4

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_ABSURD = 1e18
_SHARE_LEFT_ALONE = 0.05
"""Of a limit: what is remembered of tensors, and memory that was freed and not given back, take it."""


def memory_limit_of(told: int | str | None) -> int | None:
    """Returns a limit in bytes: a number of bytes as it is, or a text such as 4GB, 800 MB or 1.5GiB; None is none.

    Raises ConfigError for what is no size.
    """
    if told is None or (isinstance(told, int) and not isinstance(told, bool) and told > 0):
        return told
    found = _SIZE.fullmatch(told.strip()) if isinstance(told, str) else None
    size = float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2].lower()] if found else 0.0
    if not 1 <= size < _ABSURD:
        raise ConfigError(f"the memory limit is {told!r}", "expected a size such as 4GB, 800MB or 1.5GiB")
    return int(size)


def room(limit: int) -> int:
    """Returns how many bytes this process may still take; less than 0 where it holds more than the limit."""
    return int(limit * (1 - _SHARE_LEFT_ALONE)) - resident()


def require(needed: int, limit: int | None, what: str) -> None:
    """Raises ModelError where `what`, which needs that many bytes, does not fit beside what the process holds."""
    if limit is None or needed <= (left := room(limit)):
        return
    total = int((limit - left + needed) * 1.05)
    raise ModelError(
        f"{what} needs about {in_words(needed)} of memory, and the limit of {in_words(limit)} leaves {in_words(left)}",
        f"allow {in_words(total)}",
    )


def resident() -> int:
    """Returns the bytes of memory that this process holds, pages of mapped files included."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most so far, where the system tells no more
    return most if sys.platform == "darwin" else most * 1024


def in_words(size: int) -> str:
    """Returns a number of bytes as a person reads it."""
    for name, unit in (("GB", 10**9), ("MB", 10**6)):
        if size >= unit:
            return f"{size / unit:.{1 if name == 'GB' else 0}f} {name}"
    return f"{max(size, 0) / 1000:.0f} kB"
