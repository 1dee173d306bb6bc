"""Dimensions that a model computes at run time though its operators fix them: the width of a head behind a Reshape.

TorchScript writes them as Shape → Gather or Slice, and a scale or a shape computed from them; as constants they make
the same graph as other exporters write.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import numpy as np

from quantonnx.editing import Rewriter
from quantonnx.pattern import Conversion, Mismatch, const, either, op, tensor, tensors

from .public import refuse_public
from .shapes import Size, element, elements, is_whole_shape
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
        if node is None or not is_whole_shape(node):
            raise Mismatch(f"{self.shape.name!r} is not the whole shape of a value")
        refuse_public(self)
        known = Sizes.of(self.model)
        taken = self._taken(known.rank(node.inputs[0]))
        sizes = [known.number(node.inputs[0], int(axis)) for axis in taken.reshape(-1)]
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
    """A Reshape whose open numbers follow from the others, or from the value that it takes, gets a constant shape."""

    x, parts = tensor(), tensors()
    output = op.Reshape(x, op.Concat(parts))

    def check(self) -> None:
        """Refuses a shape with open numbers that nothing gives."""
        shape = self.output.inputs[1]
        length, known = elements(shape), Sizes.of(self.model)
        numbers = [element(shape, place, known) for place in range(-(length or 0), 0)]
        if not numbers:
            raise Mismatch(f"{shape.name!r} has an unknown number of elements")
        copied = numbers if self._one_is_open(numbers) else self._copied(numbers, known)
        if not self._one_is_open(copied) and not all(isinstance(number, int) for number in copied):
            raise Mismatch(f"nothing in the model gives the open numbers of {shape.name!r}")
        self.numbers = [number if isinstance(number, int) else -1 for number in copied]

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the shape."""
        filled = graph.constant(f"{self.output.inputs[1].name}_value", np.asarray(self.numbers, np.int64))
        graph.set_input(self.output, 1, filled)

    def _one_is_open(self, numbers: list[Size]) -> bool:
        known = [number for number in numbers if isinstance(number, int)]
        zero_copies = not self.output.attrs.get("allowzero", 0)
        return len(known) + 1 == len(numbers) and -1 not in known and (zero_copies or 0 not in known)

    def _copied(self, numbers: list[Size], known: Sizes) -> list[Size]:
        """The numbers with 0 in place of the open ones that the value itself has at the same place."""
        count = known.rank(self.x)
        if count is None or self.output.attrs.get("allowzero", 0):
            return numbers
        own = [known.size(self.x, place) for place in range(-count, 0)]
        return [0 if isinstance(n, str) and own[i : i + 1] == [n] else n for i, n in enumerate(numbers)]


class FoldShape(Conversion):
    """A shape of which every number is known becomes a constant."""

    x = tensor()
    output = op.Shape(x)

    def check(self) -> None:
        """Refuses a shape with an open number, and a name that must stay."""
        refuse_public(self)
        known = Sizes.of(self.model)
        count = known.rank(self.x) if is_whole_shape(self.output) else None
        if count is None:
            raise Mismatch(f"{self.x.name!r} has an unknown number of axes, or only some are taken")
        self.sizes = list(takewhile(lambda size: size is not None, (known.number(self.x, a) for a in range(-count, 0))))
        if len(self.sizes) < count:
            raise Mismatch(f"nothing in the model fixes all dimensions of {self.x.name!r}")

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the operator by the numbers."""
        graph.bypass(self.output, graph.constant(f"{self.result.name}_value", np.asarray(self.sizes, np.int64)))


class RemoveExpandGuard(Conversion):
    """What TorchScript writes before every Expand, 1 for each -1 of a shape, does nothing to a shape without any."""

    shape = tensor()
    minus, ones = const(), const()
    output = op.Where(op.Equal(shape, minus), ones, shape)

    def check(self) -> None:
        """Refuses a shape that may hold what is replaced."""
        refuse_public(self, self.shape)
        known, length = Sizes.of(self.model), elements(self.shape)
        numbers = [element(self.shape, place, known) for place in range(-(length or 0), 0)]
        if not numbers or any(number is None or (isinstance(number, int) and number < 0) for number in numbers):
            raise Mismatch(f"{self.shape.name!r} is not known to be without negative numbers")
        if (self.array(self.minus) >= 0).any() or len(
            {(length,), *(tuple(v.shape) for v in (self.minus, self.ones))}
        ) > 1:
            raise Mismatch(f"{self.minus.name!r} is not -1 for each number")

    def rewrite(self, graph: Rewriter) -> None:
        """Lets the readers read the shape."""
        graph.bypass(self.output, self.shape)


dimensions = (FoldDimension, FoldShape, FillShape, RemoveExpandGuard)
