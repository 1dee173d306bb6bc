"""Compile and time a model in a process of its own: a runtime can end the process that it runs in.

`python -m quantonnx.runtimes.child RUNTIME` reads a Request as JSON from standard input and writes the result to the
file that it names.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantonnx.runtimes.report import Layer
from quantonnx.timing import Times

LONGEST = 1800.0
"""Seconds after which a runtime is taken to hang."""

_WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
_AMX_NOTE = "the processor claims AMX and traps on it, as some virtual machines do: compiled without AMX"


@dataclass(frozen=True)
class Request:
    """What to compile and time: the model, the float model beside it, and what to feed: shape and dtype by name.

    `extensions` are libraries of custom operators for ONNX Runtime.
    """

    model: str
    float_model: str | None
    inputs: Mapping[str, tuple[list[int], str]]
    seconds: float
    threads: int
    extensions: tuple[str, ...] = ()

    def feed(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns normal numbers for float inputs, 0 and 1 for others: any embedding has these rows."""
        generator = np.random.default_rng(0)
        return {
            name: (
                generator.standard_normal(shape) if np.dtype(dtype).kind == "f" else generator.integers(0, 2, shape)
            ).astype(dtype)
            for name, (shape, dtype) in self.inputs.items()
        }


@dataclass(frozen=True)
class Compiled:
    """What the runtime made of it: its version, its layers, and times where they could be measured."""

    version: str
    layers: tuple[Layer, ...]
    times: Times | None = None
    note: str = ""


def compile_apart(runtime: str, request: Request) -> Compiled | str:
    """Compiles in a child process; returns why it failed where it did, even if the process was ended."""
    answer, ended_by = _answer(runtime, request, {})
    if runtime == "openvino" and ended_by == signal.SIGILL:
        answer, _ = _answer(runtime, request, _WITHOUT_AMX)
        return replace(answer, note=_AMX_NOTE) if isinstance(answer, Compiled) else answer
    return answer


def _answer(runtime: str, request: Request, settings: Mapping[str, str]) -> tuple[Compiled | str, int]:
    """Returns the answer of one child, and the number of the signal that ended it."""
    with tempfile.TemporaryDirectory(prefix="quantonnx-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-P", "-m", "quantonnx.runtimes.child", runtime, str(result)]
        try:
            done = subprocess.run(
                command,
                input=json.dumps(asdict(request)),
                capture_output=True,
                text=True,
                timeout=LONGEST,
                check=False,
                env=os.environ | settings,
            )
        except subprocess.TimeoutExpired:
            return f"it was still at work after {LONGEST:.0f} s", 0
        if done.returncode or not result.is_file():
            return _ending(done), max(0, -done.returncode)
        return _read(json.loads(result.read_text(encoding="utf-8"))), 0


def main(runtime: str, destination: str) -> None:
    """Answers one request; what a runtime raises goes into the answer."""
    request = Request(**json.load(sys.stdin))
    module = importlib.import_module(f"quantonnx.runtimes.{runtime}")
    compile_here: Callable[[Request], Compiled] = module.compile_here
    try:
        answer = asdict(compile_here(request))
    except Exception as error:  # every runtime raises types of its own
        answer = {"error": _first_line(str(error)) or type(error).__name__}
    Path(destination).write_text(json.dumps(answer), encoding="utf-8")


def _read(answer: dict[str, Any]) -> Compiled | str:
    if "error" in answer:
        return str(answer["error"])
    layers = tuple(Layer(**{**layer, "origins": tuple(layer["origins"])}) for layer in answer["layers"])
    times = Times(**answer["times"]) if answer["times"] else None
    return Compiled(answer["version"], layers, times, answer["note"])


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    last = _last_line(done.stderr)
    if done.returncode < 0:
        ended = f"its process was ended by {signal.Signals(-done.returncode).name}"
        return f"{ended}: {last}" if last else ended
    return last or f"its process ended with code {done.returncode}"


def _first_line(text: str) -> str:
    return " ".join(text.split(os.linesep)[0].split())[:400]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:400] if lines else ""


if __name__ == "__main__":
    main(*sys.argv[1:])
