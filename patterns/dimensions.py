"""Dimensions that a model computes at run time though its operators fix them: the width of a head behind a Reshape.

TorchScript writes them as Shape → Gather or Slice, and a scale or a shape computed from them; as constants they make
the same graph as other exporters write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.editing import Rewriter
from quantonnx.pattern import Conversion, Mismatch, const, either, op, tensor, tensors

from .axes import element
from .public import refuse_public
from .shapes import elements
from .sizes import Sizes

class FoldDimension(Conversion):
    """Dimensions taken from the shape of a value become constants, where operators and weights fix them."""

    shape = tensor()
    index, end = const(), const()
    axes, steps = const(optional=True), const(optional=True)
    gather = op.Gather(shape, index, axis=lambda axis: not axis)
    output = either(gather, op.Slice(shape, index, end, axes, steps))

    def check(self) -> None:
        """Refuses what is not the shape of a value, a dimension that is open, and a name that must stay."""
        node = self.shape.inputs[0] if self.shape.inputs else None
        if node is None or node.op != "Shape" or node.domain or node.attrs:
            raise Mismatch(f"{self.shape.name!r} is not the whole shape of a value")
        refuse_public(self)
        known = Sizes.of(self.model)
        taken = self._taken(known.rank(node.inputs[0]))
        sizes = [known.size(node.inputs[0], int(axis)) for axis in taken.reshape(-1)]
        if not sizes or None in sizes:
            raise Mismatch(f"nothing in the model fixes these dimensions of {node.inputs[0].name!r}")
        self.sizes = np.asarray(sizes, np.int64).reshape(taken.shape)

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the operator by the numbers."""
        graph.bypass(self.output, graph.constant(f"{self.result.name}_value", self.sizes))

    def _taken(self, count: int | None) -> np.ndarray[Any, Any]:
        """The axes that are taken, counted from the end."""
        taken = self.array(self.index) if self.gather is not None else self._sliced(count)
        if count is None and (taken >= 0).any():
            raise Mismatch(f"{self.shape.name!r} has an unknown number of elements")
        return np.where(taken >= 0, taken - (count or 0), taken)

    def _sliced(self, count: int | None) -> np.ndarray[Any, Any]:
        if any(v is not None and self.array(v).tolist() != [wanted] for v, wanted in ((self.axes, 0), (self.steps, 1))):
            raise Mismatch(f"{self.output.name!r} takes steps")
        first, end = (int(self.array(value).reshape(-1)[0]) for value in (self.index, self.end))
        if count is not None:
            return np.arange(count)[first:end]
        return np.arange(first, 0 if end > 0 else end)


class FillShape(Conversion):
    """A Reshape of whose new shape one number is open: it follows from the others, and the shape is a constant."""

    x, parts = tensor(), tensors()
    output = op.Reshape(x, op.Concat(parts))

    def check(self) -> None:
        """Refuses a shape with several open numbers, or with one that has a meaning of its own (0 or -1)."""
        lengths = [elements(part) for part in self.parts]
        count = None if None in lengths else sum(length for length in lengths if length is not None)
        shape = self.output.inputs[1]
        numbers = [element(shape, place, count) for place in range(-(count or 0), 0)]
        if numbers.count(None) != 1:
            raise Mismatch(f"{shape.name!r} does not have one open number among {len(numbers)}")
        if any(number is not None and number < 1 for number in numbers):
            raise Mismatch(f"{shape.name!r} has a number that stands for another")
        self.numbers = [-1 if number is None else number for number in numbers]

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the shape."""
        filled = graph.constant(f"{self.output.inputs[1].name}_value", np.asarray(self.numbers, np.int64))
        graph.set_input(self.output, 1, filled)


dimensions = (FoldDimension, FillShape)
