"""Operators without weights that a closed integer region needs: Add, Mul, Concat, Resize."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from quantonnx.pattern import INPUT, OUTPUT, Mismatch, Pattern, maybe, op, tensor, tensors

from .convolution import clipped


class Add(Pattern):
    """Add of two branches → [Relu or Clip]."""

    a, b = tensor(), tensor()
    add = op.Add(a, b)
    output = maybe(clipped(add))
    qdq_points = (INPUT(a), INPUT(b), OUTPUT(output))

    def check(self) -> None:
        """Refuses a constant operand."""
        _refuse_constants(self.a, self.b)


class Mul(Pattern):
    """Product of two branches."""

    a, b = tensor(), tensor()
    output = op.Mul(a, b)
    qdq_points = (INPUT(a), INPUT(b), OUTPUT(output))

    def check(self) -> None:
        """Refuses a constant operand."""
        _refuse_constants(self.a, self.b)


class Sigmoid(Pattern):
    """Sigmoid on its own, also inside SiLU: a table of codes."""

    x = tensor()
    output = op.Sigmoid(x)
    qdq_points = (INPUT(x), OUTPUT(output))


class Concat(Pattern):
    """Concatenation of branches."""

    branches = tensors()
    output = op.Concat(branches)
    qdq_points = (INPUT(branches), OUTPUT(output))

    def check(self) -> None:
        """Refuses constant branches."""
        _refuse_constants(*self.branches)


class ResizeNearest(Pattern):
    """Nearest-neighbour Resize: copies codes."""

    x = tensor()
    output = op.Resize(x, ..., mode=lambda v: v in (None, "nearest"))
    qdq_points = (INPUT(x), OUTPUT(output))


def _refuse_constants(*values: gs.Tensor) -> None:
    for value in values:
        if isinstance(value, gs.Constant):
            raise Mismatch(f"{value.name!r} is a constant, not a branch")


elementwise = (Add, Mul, Concat, ResizeNearest)
