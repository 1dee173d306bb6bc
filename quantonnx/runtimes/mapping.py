"""From the layers of a compiled model back to the operators of the file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import onnx_graphsurgeon as gs

from quantonnx.model import Model
from quantonnx.runtimes.report import Layer, OperatorRun
from quantonnx.shapes import Shape, multiply_accumulates

_CONVOLUTION = ("Conv", "QLinearConv", "FusedConv", "ConvInteger", "NhwcFusedConv", "NhwcConv", "Convolution")
_PRODUCT = (
    "Attention",
    "CaskGemm",
    "DynamicQuantizeMatMul",
    "FullyConnected",
    "FusedGemm",
    "FusedMatMul",
    "Gemm",
    "MHA",
    "MatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "MatrixMultiply",
    "MultiHeadAttention",
    "QAttention",
    "QGemm",
    "QKVProjection",
    "QLinearMatMul",
    "ScaledDotProductAttention",
)
_KINDS = {
    "Conv": _CONVOLUTION,
    "ConvInteger": _CONVOLUTION,
    "QLinearConv": _CONVOLUTION,
    "ConvTranspose": ("ConvTranspose", "ConvTransposeInteger", "Deconvolution", "CaskDeconvolutionV2"),
    "Attention": _PRODUCT,
    "Gemm": _PRODUCT,
    "MatMul": _PRODUCT,
    "MatMulInteger": _PRODUCT,
    "QGemm": _PRODUCT,
    "QLinearMatMul": _PRODUCT,
}
"""The kinds of layers, over all runtimes, that can be an operator which adds up products."""

_BOOKKEEPING = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant", "Identity", "Cast"}
)
_FARTHEST = 24


def operators(model: Model, layers: Iterable[Layer], shapes: Mapping[str, Shape]) -> tuple[OperatorRun, ...]:
    """Returns what became of each operator: of all that add up products, and of others with a layer of their own."""
    finder = _Finder(layers)
    found = []
    for node in model.graph.nodes:
        if node.op in _BOOKKEEPING:
            continue
        products = multiply_accumulates(node, shapes)
        layer = finder.find(node)
        if products or layer is not None:
            kernel, integer = ("", False) if layer is None else (layer.kernel, layer.integer)
            found.append(OperatorRun(node.name, node.op, kernel, integer, products))
    return tuple(found)


class _Finder:
    def __init__(self, layers: Iterable[Layer]) -> None:
        self._by_origin: dict[str, list[Layer]] = {}
        for layer in layers:
            for name in layer.origins:
                self._by_origin.setdefault(name, []).append(layer)

    def find(self, node: gs.Node) -> Layer | None:
        """Returns the layer that computes a node: by its name, by what it gives, by its weight."""
        own = (node.name, *(output.name for output in node.outputs))
        kinds = _KINDS.get(node.op)
        if kinds is None:
            return self._first(own, lambda layer: layer.kind.removeprefix("QLinear") == node.op) or self._first(
                own, _computes
            )
        names = (*own, *_given_after(node), *_weights_of(node))
        exact = self._first(names, lambda layer: any(layer.kind.startswith(kind) for kind in kinds))
        return exact or self._first(own[:1], _computes)

    def _first(self, names: Iterable[str], wanted: Callable[[Layer], bool]) -> Layer | None:
        every = (layer for name in names for layer in self._by_origin.get(name, ()))
        return next(filter(wanted, every), None)


def _computes(layer: Layer) -> bool:
    return "Quantize" not in layer.kind and "Dequantize" not in layer.kind


def _given_after(node: gs.Node) -> Iterator[str]:
    """The values that follow from a node, the nearest first: a fused layer is called after the last of them."""
    waiting = deque(node.outputs)
    for _ in range(_FARTHEST):
        if not waiting:
            return
        value = waiting.popleft()
        yield value.name
        for reader in value.outputs:
            if reader.op not in _KINDS:
                waiting.extend(reader.outputs)


def _weights_of(node: gs.Node) -> Iterator[str]:
    """The constants behind the operands of a node."""
    for value in node.inputs[:2]:
        while not isinstance(value, gs.Constant) and value.inputs and value.inputs[0].inputs:
            if value.inputs[0].op not in ("QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Identity"):
                break
            value = value.inputs[0].inputs[0]
        if isinstance(value, gs.Constant):
            yield value.name
