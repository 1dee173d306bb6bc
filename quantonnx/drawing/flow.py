"""From a graph to a sketch: a box for each operator, input and output, and the wires between them, pairs in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.drawing.captions import Stored, details, is_stored, stored_values, times, weight_of
from quantonnx.drawing.scene import Box, Kind, Region, Sketch, short_name
from quantonnx.inspecting import zero_point
from quantonnx.model import Model
from quantonnx.ordering import body_reads

Slot = tuple[str, int]
"""One input of a node: the node's name, and which input."""


class Flow:
    """The boxes of a model. `givers` has the box that gives each value, `stored` what is known before it runs.

    `side` are values that are no activations: shapes, indices, and what comes of them. `hidden` are nodes that get no
    box; what reads a value from them is joined by the caller.
    """

    def __init__(self, model: Model, hidden: Iterable[gs.Node] = ()) -> None:
        self.model = model
        self.sketch = Sketch()
        self.stored: dict[str, Stored] = stored_values(model.graph.nodes, lambda node: codes_of(model, node))
        unseen = {id(node) for node in hidden}
        self.nodes = [node for node in model.graph.nodes if id(node) not in unseen and not self._is_stored(node)]
        self.givers: dict[str, int] = {}
        self.box_of: dict[str, int] = {}
        self.side: set[str] = set()
        for value in model.graph.inputs:
            self.givers[value.name] = self.sketch.add(_pill(Kind.INPUT, value))
        for node in self.nodes:
            self._add(node)

    def _is_stored(self, node: gs.Node) -> bool:
        return bool(node.outputs) and all(not output.name or output.name in self.stored for output in node.outputs)

    def _add(self, node: gs.Node) -> None:
        weight = weight_of(node, self.stored)
        number = self.box_of[node.name] = self.sketch.add(
            Box(
                Kind.OPERATOR,
                f"{node.domain}.{node.op}" if node.domain else node.op,
                details=details(node, weight),
                name=name if (name := short_name(node.name, node.op)) != node.op else "",
                weight="" if weight is None or weight.shape is None else times(weight.shape),
                codes="" if weight is None else weight.codes,
                region=self._region(node),
                tooltip=f"{node.op} {node.name}",
                key=node.name,
                aliases=tuple(output.name for output in node.outputs if output.name),
            )
        )
        self.givers |= {output.name: number for output in node.outputs if output.name}

    def _region(self, node: gs.Node) -> Region:
        """Float, unless the result is known to be no float, or comes from nothing but shapes and constants."""
        types = [np.dtype(output.dtype) for output in node.outputs if output.dtype is not None]
        operands = [value for value in node.inputs if not is_stored(value, self.stored)]
        known = types and all(dtype.kind in "iub" for dtype in types)
        if known or node.op in ("Shape", "Size") or all(value.name in self.side for value in operands):
            self.side.update(output.name for output in node.outputs)
            return Region.OTHER
        return Region.FLOAT

    def pair(self, text: str, tensor: str, tooltip: str) -> int:
        """Adds the mark of a pair."""
        return self.sketch.add(Box(Kind.PAIR, text, region=Region.INTEGER, tooltip=tooltip, key="", aliases=(tensor,)))

    def connect(self, through: Mapping[Slot, int], ends: Mapping[str, int], shown: Callable[[str], str] = str) -> None:
        """Joins everything: an input of a node comes from its mark in `through`, an output of the graph from its mark
        in `ends`, anything else from what gives it. `shown` names the value that a wire carries."""
        for node in self.nodes:
            for index, value in enumerate(node.inputs):
                giver = through.get((node.name, index), self.givers.get(value.name))
                if giver is not None and not is_stored(value, self.stored):
                    self.sketch.join(giver, self.box_of[node.name], shown(value.name))
            for name in sorted(body_reads(node)):
                if name in self.givers:
                    self.sketch.join(self.givers[name], self.box_of[node.name], name)
        for value in self.model.graph.outputs:
            pill = self.sketch.add(_pill(Kind.OUTPUT, value))
            giver = ends.get(value.name, self.givers.get(value.name))
            if giver is not None:
                self.sketch.join(giver, pill, shown(value.name))


def _pill(kind: Kind, value: gs.Tensor) -> Box:
    shape = "" if value.shape is None else times(value.shape)
    dtype = "" if value.dtype is None else np.dtype(value.dtype).name
    told = " ".join(part for part in (kind.value, value.name, dtype, shape) if part)
    return Box(kind, short_name(value.name, ""), details=shape, region=Region.OTHER, tooltip=told, key=value.name)


def codes_of(model: Model, node: gs.Node) -> str:
    """Returns the integer type of a QuantizeLinear or DequantizeLinear node, such as `int8`."""
    codes = node.inputs[0] if node.op == "DequantizeLinear" else node.outputs[0]
    if codes.dtype is not None:
        return str(np.dtype(codes.dtype).name)
    zero = zero_point(model, node)
    return "uint8" if zero is None else str(zero.dtype.name)
