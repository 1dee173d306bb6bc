"""ONNX Runtime on the CPU: which kernels it runs is read from the graph that it writes after its optimizations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from quantonnx.calibration.extensions import register
from quantonnx.inspecting import MOVING
from quantonnx.runtimes.child import Compiled, Request
from quantonnx.runtimes.report import Layer
from quantonnx.timing import measure

_QUIET = 4
_EXTERNAL_FROM = "1024"
_INTEGER = frozenset(
    {
        "ConvInteger",
        "ConvTransposeInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QGemm",
        "QMoE",
        "QOrderedMatMul",
    }
)
_ONTO_CODES = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QGemm"})
_COPYING = MOVING | {"Concat", "Pad", "Resize"}


def compile_here(request: Request) -> Compiled:
    """Loads, optimizes and times a model; what ONNX Runtime raises goes up."""
    layers = tuple(optimized_layers(request.model, request.extensions))
    run = _runner(request.model, request)
    exact = _runner(request.float_model, request) if request.float_model else None
    return Compiled(str(ort.__version__), layers, measure(run, exact, request.seconds))


def optimized_layers(path: str, extensions: tuple[str, ...] = ()) -> list[Layer]:
    """Returns the operators that ONNX Runtime runs in place of those in the file.

    Taken before it rearranges memory for the processor at hand, which renames tensors and changes no kernel's numbers.
    """
    with tempfile.TemporaryDirectory(prefix="quantonnx-") as folder:
        options = _options(1, extensions)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", _EXTERNAL_FROM
        )
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    return _layers(graph)


def _layers(graph: onnx.GraphProto) -> list[Layer]:
    """Follows codes through the graph: an operator that only moves values is integer when it moves codes."""
    weights = {item.name for item in graph.initializer}
    stored: dict[str, str] = {}
    codes: set[str] = set()
    layers = []
    for node in graph.node:
        integer = node.op_type in _INTEGER or node.op_type.startswith("QLinear")
        integer = integer or (node.op_type in _COPYING and node.input[0] in codes)
        if node.op_type in _ONTO_CODES or (integer and node.op_type not in _INTEGER):
            codes.update(node.output)
        of_weight = node.op_type == "DequantizeLinear" and node.input[0] in weights
        if of_weight:
            stored[node.output[0]] = node.input[0]
        read = [stored.get(name, name) for name in node.input if name in weights or name in stored]
        kind = "DequantizeLinear of a constant" if of_weight else node.op_type
        layers.append(Layer(kind, node.op_type, integer, tuple(filter(None, (node.name, *node.output, *read)))))
    return layers


def _options(threads: int, extensions: Sequence[str]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads
    register(options, tuple(extensions))
    return options


def _runner(path: str, request: Request) -> Callable[[], Any]:
    options = _options(request.threads, request.extensions)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    feed = request.feed()
    return lambda: session.run(None, feed)
