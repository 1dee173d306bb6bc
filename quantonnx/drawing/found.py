"""The picture of a file as it stands: a float model, or anybody's Q/DQ model with its pairs as marks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.drawing.captions import is_stored, weight_of
from quantonnx.drawing.flow import Flow, codes_of
from quantonnx.drawing.scene import Region, Scene
from quantonnx.inspecting import MOVING, constant_of
from quantonnx.model import Model

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FUSED_BEHIND = frozenset({"Add", "BatchNormalization", "Clip", "Relu"})
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def found_scene(model: Model, title: str) -> Scene:
    """Returns a model as it stands.

    Integer is what reads nothing but quantized values, what moves codes, and what compilers fuse behind either.
    """
    return _Found(model).scene(title)


class _Found:
    """`coded` are the values that come as codes or straight from them, `origin` the value that a pair stands on."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.halves = [n for n in model.graph.nodes if not n.domain and n.op in (_QUANTIZE, _DEQUANTIZE) and n.inputs]
        self.flow = Flow(model, hidden=self.halves)
        self.public = {output.name for output in model.graph.outputs} | model.captured
        self.origin: dict[str, str] = {}
        self.coded: set[str] = set()
        self.computed: set[str] = set()

    def scene(self, title: str) -> Scene:
        """Puts marks in the place of Q and DQ nodes, colours what runs on integers, and joins it all."""
        halves = [node for node in self.halves if not is_stored(node.inputs[0], self.flow.stored)]
        for node in halves:
            self._mark(node)
        for node in self.flow.nodes:
            self._colour(node)
        self.flow.connect({}, {}, shown=lambda name: self.origin.get(name, name))
        told = f"{len(self.flow.nodes)} operators"
        pairs = sum(node.op == _QUANTIZE for node in halves)
        return self.flow.sketch.scene(title, f"{told} · {pairs} pairs" if pairs else told)

    def _mark(self, node: gs.Node) -> None:
        """A Q whose codes nothing but DQ nodes read is one mark with them; any other half has a mark of its own."""
        given, result = node.inputs[0].name, node.outputs[0].name
        self.coded.add(result)
        self.origin[result] = self.origin.get(given, given)
        if node.op == _DEQUANTIZE and node.inputs[0].inputs and self._is_closed(node.inputs[0].inputs[0]):
            self.flow.givers[result] = self.flow.givers[given]
            return
        codes = codes_of(self.model, node)
        half = "Q" if node.op == _QUANTIZE else "DQ"
        text = codes if self._is_closed(node) else f"{half} {codes}"
        mark = self.flow.pair(text, self.origin[result], self._told(node, codes))
        if given in self.flow.givers:
            self.flow.sketch.join(self.flow.givers[given], mark, given)
        self.flow.givers[result] = mark

    def _is_closed(self, node: gs.Node) -> bool:
        if node.op != _QUANTIZE or node.domain or node.outputs[0].name in self.public:
            return False
        readers = node.outputs[0].outputs
        return bool(readers) and all(reader.op == _DEQUANTIZE and not reader.domain for reader in readers)

    def _told(self, node: gs.Node, codes: str) -> str:
        lines = [f"pair on {self.origin[node.outputs[0].name]}", f"{codes}, by {node.name}"]
        for name, value in zip(("scale", "zero point"), node.inputs[1:], strict=False):
            stored = constant_of(value) if value.name else None
            if stored is not None:
                numbers = self.model.array(stored)
                lines.append(f"{name} {_shown(numbers)}" if numbers.size else f"no {name}")
        return "\n".join(lines)

    def _colour(self, node: gs.Node) -> None:
        operands = [value for value in node.inputs if not is_stored(value, self.flow.stored)]
        results = {output.name for output in node.outputs if output.name}
        if not node.domain and node.op in MOVING:
            if not operands or not (node.inputs[0].name in self.coded or self._is_inner(node.inputs[0])):
                return
            (self.coded if node.inputs[0].name in self.coded else self.computed).update(results)
        elif self._computes_on_integers(node, operands):
            self.computed |= results
        else:
            return
        number = self.flow.box_of[node.name]
        self.flow.sketch.boxes[number] = replace(self.flow.sketch.boxes[number], region=Region.INTEGER)

    def _computes_on_integers(self, node: gs.Node, operands: list[gs.Tensor]) -> bool:
        if is_integer_operator(node):
            return True
        weight = weight_of(node, self.flow.stored) if node.op in _WEIGHTED else None
        if not operands or (weight is not None and not weight.codes):
            return False
        fused = node.op in _FUSED_BEHIND
        return all(value.name in self.coded or (fused and self._is_inner(value)) for value in operands)

    def _is_inner(self, value: gs.Tensor) -> bool:
        return value.name in self.computed and len(value.outputs) == 1 and value.name not in self.public


def is_integer_operator(node: gs.Node) -> bool:
    """True for an operator that computes on codes itself, such as QLinearConv."""
    return node.op.startswith("QLinear") or node.op in ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


def _shown(numbers: np.ndarray[Any, Any]) -> str:
    return f"{numbers.reshape(-1)[0]:.6g}" if numbers.size == 1 else f"{numbers.min():.6g} … {numbers.max():.6g}"
