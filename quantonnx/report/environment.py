"""Where figures come from: the versions, the processor and the system; nothing that names a machine or a person."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantonnx.calibration.concurrency import cores
from quantonnx.version import version_of

_PACKAGES = ("quantonnx", "onnxruntime", "onnx", "onnx-graphsurgeon", "numpy")
_NAME = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Environment:
    """The processor, the cores that the process may run on, the system, and the versions of packages."""

    processor: str
    cores: int
    system: str
    versions: Mapping[str, str]


def environment() -> Environment:
    """Returns that of this process."""
    versions = {"python": platform.python_version(), **{name: version_of(name) for name in _PACKAGES}}
    return Environment(_processor(), cores(None), f"{platform.system()} {platform.machine()}", versions)


def _processor() -> str:
    """Linux has the name in a file, other systems give it to Python."""
    try:
        found = _NAME.search(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine() or "unknown"
