"""Run a function in a process of its own, with limits, and say how that ended.

The process is a fork of this one, so that nothing is imported again; it costs about 10 ms. ONNX Runtime must not have
opened a session here before, whose threads a fork does not have.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import typer

import quantonnx

_BROKEN = 70
_MEGABYTE = 1 << 20
_SHOWN = 100_000


@dataclass(frozen=True)
class Ending:
    """How a process ended: its exit code, the signal that ended it (0: none), what it printed, what it took.

    `memory` is what it held more than the process that it was forked from, in bytes.
    """

    code: int
    signal: int
    text: str
    seconds: float
    memory: int

    @property
    def problem(self) -> str:
        """What is wrong with it in a word, nothing where it did its work or refused it in one line."""
        if self.signal in (signal.SIGALRM, signal.SIGPROF):
            return "hang"
        if self.signal:
            return f"ended by {signal.Signals(self.signal).name}"
        if self.code == _BROKEN or "Traceback" in self.text or "error: unexpected" in self.text:
            return "traceback"
        return ""

    @property
    def said(self) -> str:
        """The last line of what it printed."""
        return (self.text.strip().splitlines() or [""])[-1]


def apart(function: Callable[[], int | None], *, seconds: float, memory: int = 0, folder: Path | None = None) -> Ending:
    """Runs a function in a fork, in `folder`; it may take so long, and so much address space more than now (0: any)."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        child = os.fork()
        if not child:
            _work(function, output, seconds, memory, folder)
        held = _resident()
        _, status, usage = os.wait4(child, 0)
        output.seek(0)
        text = output.read(_SHOWN).decode(errors="replace")
    took = time.perf_counter() - started
    code = os.waitstatus_to_exitcode(status)
    return Ending(max(code, 0), max(-code, 0), text, took, max(usage.ru_maxrss * 1024 - held, 0))


def command_line(arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> Callable[[], int]:
    """Returns a run of the program, for `apart`."""

    def work() -> int:
        from quantonnx import cli

        os.environ.update(settings or {})
        return cli.run(list(arguments))

    return work


def warm() -> None:
    """Imports all of quantonnx here, and parses its options, so that no fork has to."""
    for module in pkgutil.walk_packages(quantonnx.__path__, "quantonnx."):
        if not module.name.endswith("__main__") and "torch" not in module.name:
            importlib.import_module(module.name)
    cli: Any = importlib.import_module("quantonnx.cli")
    cli.app = typer.main.get_command(cli.app)
    gc.freeze()  # what forks share stays shared


def _work(
    function: Callable[[], int | None], output: IO[bytes], seconds: float, memory: int, folder: Path | None
) -> None:
    """Never returns: the process ends here, whatever happens."""
    code = _BROKEN
    try:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", errors="replace") for number in (1, 2))
        if folder is not None:
            os.chdir(folder)
        if memory:
            limit = _address_space() + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        code = function() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
