"""Runs a command with limits of time and memory, and says in one line why it failed."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LINE = 160
FOLDERS = re.compile(r"(/[\w.@+-]+){2,}/")  # folders of this machine say nothing to a reader


@dataclass(frozen=True)
class Limits:
    """How long a command may run and how much memory it may take."""

    seconds: float
    gigabytes: float


@dataclass(frozen=True)
class Done:
    """The last line that a command printed, and the reason if it failed."""

    output: str
    error: str = ""


def run_child(command: Sequence[object], limits: Limits, folder: Path | None = None) -> Done:
    """Run a command in a folder, where tools leave files of their own; what it started and is left over is ended."""
    size = int(limits.gigabytes * 2**30)
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
        cwd=folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size)),
    )
    try:
        out, errors = process.communicate(timeout=limits.seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Done("", f"not done after {limits.seconds:.0f} s")
    last = (out.strip().splitlines() or [""])[-1]
    return Done(last, reason(process.returncode, errors, limits))


def reason(code: int, errors: str, limits: Limits) -> str:
    """Return why a command failed, in one line; nothing if it did not."""
    if not code:
        return ""
    if re.search(r"MemoryError|bad_alloc|Unable to allocate|can't allocate memory|Failed to allocate", errors):
        return f"needs more than {limits.gigabytes:.0f} GB of memory"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Fail)\b", line) or line.startswith("ERROR")]
    last = (named or lines or [f"exit code {code}"])[-1]
    return shortened(last if " " in last else f"{last}: {before(lines, last)}", LINE)


def before(lines: list[str], last: str) -> str:
    """Return the line of source that a traceback shows above its last line."""
    source = [line for line in lines[: lines.index(last)] if not set(line) <= set("^~ ")] if last in lines else []
    return source[-1] if source else ""


def shortened(text: str, length: int) -> str:
    """Return the beginning of a text, its folders left out."""
    text = FOLDERS.sub("", text)
    return text if len(text) <= length else f"{text[: length - 1]}…"
