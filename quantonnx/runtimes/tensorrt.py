"""TensorRT through its own program `trtexec`: which precision each layer got is read from what that writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from quantonnx.errors import QuantonnxError
from quantonnx.runtimes.child import Compiled, Request
from quantonnx.runtimes.report import Layer
from quantonnx.timing import Times

PROGRAM = "trtexec"

_ORIGIN = re.compile(r"\[ONNX Layer: (.+?)\]")
_VERSION = re.compile(r"TensorRT[. v]*(\d[\d.]*)")


def compile_here(request: Request) -> Compiled:
    """Builds and times engines, one after the other; what trtexec complains about goes up."""
    layers, quantized_ms, version = _build(request.model, request)
    exact_ms = _build(request.float_model, request)[1] if request.float_model else None
    ratio = None if exact_ms is None else quantized_ms / exact_ms
    return Compiled(version, tuple(layers), Times(quantized_ms, exact_ms, ratio))


def is_there() -> bool:
    """True where `trtexec` is on the PATH."""
    return shutil.which(PROGRAM) is not None


def read_layers(exported: dict[str, Any]) -> list[Layer]:
    """Returns the layers of an engine from what `--exportLayerInfo` wrote with detailed verbosity."""
    return [_layer(entry) for entry in exported["Layers"] if isinstance(entry, dict)]


def _build(path: str, request: Request) -> tuple[list[Layer], float, str]:
    with tempfile.TemporaryDirectory(prefix="quantonnx-") as folder:
        layers, times = Path(folder) / "layers.json", Path(folder) / "times.json"
        command = [
            PROGRAM,
            f"--onnx={path}",
            "--stronglyTyped",
            "--profilingVerbosity=detailed",
            f"--duration={max(1, round(request.seconds))}",
            f"--exportLayerInfo={layers}",
            f"--exportTimes={times}",
            *_shapes(path, request),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not layers.is_file():
            raise QuantonnxError(_complaint(done.stdout + done.stderr))
        found = _VERSION.search(done.stdout)
        runs = [float(run["computeMs"]) for run in json.loads(times.read_text(encoding="utf-8"))]
        exported = json.loads(layers.read_text(encoding="utf-8"))
        return read_layers(exported), median(runs), found.group(1) if found else ""


def _shapes(path: str, request: Request) -> list[str]:
    """Only inputs with open dimensions may be given shapes."""
    inputs = onnx.load(path, load_external_data=False).graph.input
    given = []
    for value in inputs:
        if value.name in request.inputs and not all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim):
            given.append(f"{value.name}:{'x'.join(map(str, request.inputs[value.name][0]))}")
    return [f"--shapes={','.join(given)}"] if given else []


def _layer(entry: dict[str, Any]) -> Layer:
    origins = _ORIGIN.findall(entry.get("Metadata", "")) or entry.get("Name", "").split(" + ")
    reads = [str(value.get("Format/Datatype", "")) for value in entry.get("Inputs", ())]
    integer = any("int8" in read.lower() or "fp8" in read.lower() for read in reads)
    return Layer(entry.get("LayerType", ""), entry.get("TacticName") or entry.get("Name", ""), integer, tuple(origins))


def _complaint(text: str) -> str:
    errors = [line for line in text.splitlines() if "[E]" in line]
    return " ".join(errors[0].split("[E]")[-1].split()) if errors else "trtexec failed and did not say why"
