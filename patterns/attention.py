"""Attention: the two products of activations around a Softmax, in the forms that exporters write.

A scale on q or k before the first product stays outside, so that a pair on q or k stands right at the product, where
every compiler wants it. Scale and mask after it, and Softmax, are inside and stay in float.
"""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from quantonnx.pattern import INPUT, Mismatch, Pattern, const, either, maybe, op, tensor

from .shapes import rank


def _scaled(scores: Any) -> Any:
    """Scores times, or divided by, a number: a constant, or one that a model with open shapes computes."""
    return maybe(either(op.Mul(scores, tensor()), op.Div(scores, tensor())))


def _masked(scores: Any) -> Any:
    """Scores with a mask or position bias added, or chosen by a mask; perhaps in another shape from here on."""
    added = op.Add(scores, tensor())
    chosen = either(op.Where(tensor(), scores, tensor()), op.Where(tensor(), tensor(), scores))
    return maybe(op.Reshape(maybe(either(added, chosen)), ...))


class ScaledDotProductAttention(Pattern):
    """softmax(q · kᵀ · scale + mask) · v, of one query or of windows, to itself or across.

    `p` are the probabilities: a target whose kernels want both operands of the second product as integers puts a
    point there too.
    """

    q, k, v = tensor(), tensor(), tensor()

    scores = op.MatMul(q, k)
    softmax = op.Softmax(maybe(op.Cast(_masked(_masked(_scaled(scores))))))
    p = either(op.Where(op.IsNaN(softmax), const(0), softmax), op.Cast(softmax), softmax)
    output = either(op.MatMul(p, v), op.MatMul(v, op.Transpose(p)))

    qdq_points = (INPUT(q), INPUT(k), INPUT(v))

    def check(self) -> None:
        """Refuses a product with a weight, and a Softmax over another axis than the last."""
        for value in (self.q, self.k, self.v):
            if isinstance(value, gs.Constant):
                raise Mismatch(f"{value.name!r} is a constant, so this is a layer with a Softmax and no attention")
        axis = self.softmax.attrs.get("axis", -1 if self.model.opset >= 13 else 1)
        axes = rank(self.softmax.inputs[0])
        if axis != -1 and axes is not None and axis != axes - 1:
            raise Mismatch(f"{self.softmax.name!r} is over axis {axis}, not over the last one")


class AttentionOperator(Pattern):
    """The operator Attention of ONNX: stays in float, unless the target puts points on q, k and v."""

    q, k, v = tensor(), tensor(), tensor()
    output = op.Attention(q, k, v, ...)


class FusedAttention(Pattern):
    """An attention that ONNX Runtime has fused already: left alone, in float."""

    _names = (
        op("com.microsoft").Attention
        | op("com.microsoft").MultiHeadAttention
        | op("com.microsoft").GroupQueryAttention
        | op("com.microsoft").DecoderMaskedMultiHeadAttention
        | op("com.microsoft").PackedAttention
        | op("com.microsoft").PackedMultiHeadAttention
        | op("com.microsoft").QAttention
    )
    x = tensor()
    output = _names(x, ...)


attentions = (ScaledDotProductAttention, AttentionOperator, FusedAttention)
