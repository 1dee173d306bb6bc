"""What a real runtime makes of a quantized file: integer kernels, conversions left over, and time against float."""

from __future__ import annotations

import importlib.util
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from quantonnx.calibration.extensions import wanted_extensions
from quantonnx.calibration.feeds import input_specs
from quantonnx.errors import ModelError, TargetError
from quantonnx.inspecting import find_pairs
from quantonnx.model import Model
from quantonnx.recalibration import float_view
from quantonnx.runtimes.child import Compiled, Request, compile_apart
from quantonnx.runtimes.mapping import operators
from quantonnx.runtimes.report import OperatorRun, RunReport
from quantonnx.shapes import Shape, infer_shapes
from quantonnx.speed import Speed

__all__ = ["RUNTIMES", "OperatorRun", "RunReport", "run_with"]

RUNTIMES = ("onnxruntime", "openvino", "tensorrt")

_CONVERSIONS = (
    "Convert",
    "DequantizeLinear",
    "FakeQuantize",
    "QuantizeLinear",
    "Reformat",
    "Reorder",
    "Subgraph",
)


def run_with(
    runtime: str,
    path: str | Path,
    *,
    float_model: str | Path | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    seconds: float = 2.0,
    threads: int = 1,
) -> RunReport:
    """Compiles a file with a runtime, in a child process, and returns what became of its operators and how fast it is.

    It is timed against `float_model`, or against itself without its Q/DQ pairs. `sizes` gives the shapes of inputs
    with open dimensions; others are as in `infer_shapes`. Raises TargetError for a runtime that is unknown or not
    installed, ModelError for a file that cannot be read.
    """
    missing = why_not(runtime)
    if missing:
        raise missing
    path = Path(path)
    model = Model.read(path)
    shapes = infer_shapes(model, sizes)
    with ExitStack() as stack:
        exact = float_model if float_model is not None else _without_pairs(model, stack)
        compiled = compile_apart(runtime, _request(path, exact, model, shapes, seconds, threads))
    if isinstance(compiled, str):
        return RunReport(runtime, error=compiled)
    return _report(runtime, model, shapes, compiled, has_float=exact is not None)


def why_not(runtime: str) -> TargetError | None:
    """Returns what to tell a user who asks for a runtime that cannot run here, None for one that can."""
    if runtime not in RUNTIMES:
        return TargetError(f"there is no runtime {runtime!r} to run", f"known: {', '.join(RUNTIMES)}")
    if runtime == "openvino" and importlib.util.find_spec("openvino") is None:
        return TargetError("openvino is not installed", "pip install 'quantonnx[openvino]'")
    if runtime == "tensorrt":
        from quantonnx.runtimes.tensorrt import PROGRAM, is_there

        return None if is_there() else TargetError(f"{PROGRAM} is not on the PATH", "install TensorRT")
    return None


def _request(
    path: Path,
    exact: str | Path | None,
    model: Model,
    shapes: Mapping[str, Shape],
    seconds: float,
    threads: int,
) -> Request:
    inputs = {}
    for spec in input_specs(model):
        shape = [size for size in shapes.get(spec.name, ()) if size is not None]
        if spec.name not in shapes:
            raise ModelError(f"the input {spec.name!r} has no shape, so nothing can be fed to it", "give its sizes")
        inputs[spec.name] = (shape, spec.dtype.name)
    beside = str(Path(exact).absolute()) if exact else None
    return Request(str(path.absolute()), beside, inputs, seconds, threads, wanted_extensions())


def _without_pairs(model: Model, stack: ExitStack) -> Path | None:
    """Writes the model as it was before quantization; None where it has no pair to take out."""
    pairs = find_pairs(model)
    if not pairs.activations and not pairs.constants:
        return None
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantonnx-"))) / "float.onnx"
    float_view(model).model.save(path)
    return path


def _report(
    runtime: str, model: Model, shapes: Mapping[str, Shape], compiled: Compiled, *, has_float: bool
) -> RunReport:
    layers = Counter(layer.kind for layer in compiled.layers)
    return RunReport(
        runtime,
        compiled.version,
        operators(model, compiled.layers, shapes),
        dict(layers.most_common()),
        {kind: count for kind, count in sorted(layers.items()) if _converts(kind)},
        _speed(compiled),
        note=compiled.note or ("" if has_float else "there is no float model to compare with: give one"),
    )


def _converts(kind: str) -> bool:
    return any(kind.startswith(name) for name in _CONVERSIONS)


def _speed(compiled: Compiled) -> Speed | None:
    times = compiled.times
    if times is None or times.float_ms is None or times.ratio is None:
        return None
    return Speed(times.float_ms, times.quantized_ms, times.ratio)
