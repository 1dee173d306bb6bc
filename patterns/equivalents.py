"""What one exporter writes in another way than the next: one form is kept, so that placement sees one network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.editing import Rewriter
from quantonnx.pattern import Conversion, Mismatch, const, op, tensor, tensors

from .public import refuse_public
from .sizes import Sizes

FLATTEN_OPSET, NO_BIAS_OPSET = 9, 11


class RemoveConcatOfOne(Conversion):
    """A Concat of one value does nothing."""

    parts = tensors()
    output = op.Concat(parts)

    def check(self) -> None:
        """Refuses several values, and one that joins two public names."""
        if len(self.parts) != 1:
            raise Mismatch(f"{self.output.name!r} joins {len(self.parts)} values")
        refuse_public(self, self.parts[0])

    def rewrite(self, graph: Rewriter) -> None:
        """Lets the readers read the input."""
        graph.bypass(self.output, self.parts[0])


class RemoveZeroBias(Conversion):
    """A bias of nothing but zeros goes away, as dynamo does it."""

    x, weight, bias = tensor(), tensor(), const()
    output = (op.Conv | op.ConvTranspose | op.Gemm)(x, weight, bias)

    def check(self) -> None:
        """Refuses a bias that does something, and a Gemm of an opset that wants one."""
        if self.output.op == "Gemm" and self.model.opset < NO_BIAS_OPSET:
            raise Mismatch(f"Gemm needs a bias before opset {NO_BIAS_OPSET}, and the model has {self.model.opset}")
        if self.array(self.bias).any():
            raise Mismatch(f"{self.bias.name!r} is not zero")

    def rewrite(self, graph: Rewriter) -> None:
        """Takes the input away."""
        graph.drop_inputs(self.output, 2)


class RemoveAddOfZero(Conversion):
    """Adding zero does nothing; dynamo writes it into the indices of a view."""

    x, zero = tensor(), const(0)
    output = op.Add(x, zero)

    def check(self) -> None:
        """Refuses a zero with more axes than the value, a constant value, and one that joins two public names."""
        axes = Sizes.of(self.model).rank(self.x)
        if isinstance(self.x, gs.Constant) or axes is None or axes < len(self.zero.shape):
            raise Mismatch(f"{self.x.name!r} is not known to have the axes of {self.zero.name!r}")
        refuse_public(self, self.x)

    def rewrite(self, graph: Rewriter) -> None:
        """Lets the readers read the input."""
        graph.bypass(self.output, self.x)


class RemoveReshape(Conversion):
    """A Reshape of a list to a list does nothing; TorchScript writes it before every Expand."""

    x = tensor()
    output = op.Reshape(x, const(-1))

    def check(self) -> None:
        """Refuses a value with other axes, and one that joins two public names."""
        if Sizes.of(self.model).rank(self.x) != 1:
            raise Mismatch(f"{self.x.name!r} is not known to have one axis")
        if tuple(self.output.inputs[1].shape) != (1,):
            raise Mismatch(f"{self.output.name!r} does not make one axis")
        refuse_public(self, self.x)

    def rewrite(self, graph: Rewriter) -> None:
        """Lets the readers read the input."""
        graph.bypass(self.output, self.x)


class ReshapeToFlatten(Conversion):
    """A Reshape that keeps the first axis and makes one of all others is Flatten."""

    x, shape = tensor(), const()
    output = op.Reshape(x, shape)

    def check(self) -> None:
        """Refuses other shapes, and values whose axes are not known."""
        known = Sizes.of(self.model)
        axes = known.rank(self.x)
        if axes is None or axes < 3 or tuple(self.shape.shape) != (2,) or self.model.opset < FLATTEN_OPSET:
            raise Mismatch(f"{self.output.name!r} does not make two axes of more")
        first, last = self.array(self.shape).tolist()
        keeps_first = first == 0 and not self.output.attrs.get("allowzero", 0)
        if not keeps_first and last != _product([known.number(self.x, axis) for axis in range(1 - axes, 0)]):
            raise Mismatch(f"{self.output.name!r} is not known to keep the first axis of {self.x.name!r}")

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the operator."""
        graph.drop_inputs(self.output, 1)
        self.output.attrs.clear()
        self.output.op = "Flatten"


class RemoveView(Conversion):
    """A value that is gathered from its own elements, each at its place: dynamo's as_strided after a mean."""

    x, limit = tensor(), tensor()
    stride, places, axes = const(), const(), const()
    flat = op.Reshape(x, const(-1))
    rows = op.Mul(op.Range(const(0), limit, const(1)), stride)
    output = op.Gather(flat, op.Add(op.Unsqueeze(rows, axes), places), axis=lambda axis: not axis)

    def check(self) -> None:
        """Refuses another shape than the value has, and another order of its elements."""
        shape = self.x.shape
        if not shape or self.result.shape is None or list(shape) != list(self.result.shape) or None in shape:
            raise Mismatch(f"{self.result.name!r} is not known to have the shape of {self.x.name!r}")
        count = _product(list(shape[1:]))
        if count is None or self.array(self.stride).reshape(-1).tolist() != [count]:
            raise Mismatch(f"the rows of {self.x.name!r} are not known to be {self.stride.name!r} apart")
        wanted = np.arange(count).reshape(1, *shape[1:])
        if self.array(self.axes).tolist() != list(range(1, len(shape))) or not self._in_order(wanted):
            raise Mismatch(f"{self.places.name!r} takes the elements in another order")
        refuse_public(self, self.x)

    def rewrite(self, graph: Rewriter) -> None:
        """Lets the readers read the value itself."""
        graph.bypass(self.output, self.x)

    def _in_order(self, wanted: np.ndarray[Any, Any]) -> bool:
        return tuple(self.places.shape) == wanted.shape and np.array_equal(self.array(self.places), wanted)


def _product(sizes: list[int | str | None]) -> int | None:
    """The product of sizes; None where one of them is not known."""
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


equivalents = (RemoveConcatOfOne, RemoveZeroBias, RemoveAddOfZero, RemoveReshape, ReshapeToFlatten, RemoveView)
