"""Operators that exporters take apart are put together again, where the model's opset has them.

One operator is what compilers fuse best, and it keeps a model the same whichever exporter wrote it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.editing import Rewriter
from quantonnx.pattern import Conversion, Mismatch, const, either, op, tensor

from .activation import erf_gelu, tanh_gelu
from .normalization import DecomposedLayerNorm, DecomposedNorm, DecomposedRMSNorm

LAYER_NORM_OPSET, GELU_OPSET, RMS_NORM_OPSET = 17, 20, 23
_AFTER_SCORES = frozenset({"Add", "Cast", "Reshape", "Softmax", "Where"})


class RecomposeLayerNorm(DecomposedLayerNorm, Conversion):
    """A LayerNorm in parts becomes LayerNormalization."""

    def check(self) -> None:
        """Refuses an opset without the operator, casts, and a norm without its factors, or seen without its bias."""
        super().check()
        _refuse_operator(self, "LayerNormalization", LAYER_NORM_OPSET)
        _refuse_casts(self)
        _refuse_other_factors(self)
        if self.beta is None and any(_adds_constant(reader) for reader in self.result.outputs):
            raise Mismatch(f"{self.result.name!r} goes on to the bias of the norm")

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the parts by the operator."""
        operands = [self.x, _as_operand(graph, self, "gamma", self.gamma)]
        if self.beta is not None:
            operands.append(_as_operand(graph, self, "beta", self.beta))
        _replace(graph, self, "LayerNormalization", operands, _norm_attributes(self))


class RecomposeRMSNorm(DecomposedRMSNorm, Conversion):
    """An RMSNorm in parts becomes RMSNormalization."""

    def check(self) -> None:
        """Refuses an opset without the operator, casts, a norm without its factors, and the inside of a LayerNorm."""
        super().check()
        _refuse_operator(self, "RMSNormalization", RMS_NORM_OPSET)
        _refuse_casts(self)
        _refuse_other_factors(self)
        if self.x.inputs and self.x.inputs[0].op == "Sub":
            raise Mismatch(f"{self.x.name!r} is a difference, so this may be the inside of a LayerNorm")

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the parts by the operator."""
        operands = [self.x, _as_operand(graph, self, "gamma", self.gamma)]
        _replace(graph, self, "RMSNormalization", operands, _norm_attributes(self))


class RecomposeGelu(Conversion):
    """A GELU in parts, with erf or with tanh, becomes Gelu."""

    x = tensor()
    erf, tanh = erf_gelu(x), tanh_gelu(x)
    output = either(erf, tanh)

    def check(self) -> None:
        """Refuses an opset without the operator, and float64, of which runtimes have none."""
        _refuse_operator(self, "Gelu", GELU_OPSET)

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the parts by the operator."""
        form = "tanh" if self.erf is None else "none"
        _replace(graph, self, "Gelu", [self.x], {"approximate": form})


class ScaleAfterProduct(Conversion):
    """The scale of attention, on q, on k or split over both, moves behind the product, as one number.

    q and k then come to the product as their projections give them, and both ways to export attention are one.
    """

    q, k = tensor(), tensor()
    on_q, on_k = const(), const()
    scaled_q = either(op.Mul(q, on_q), op.Div(q, on_q))
    scaled_k = either(op.Mul(k, on_k), op.Div(k, on_k))
    output = either(op.MatMul(scaled_q, scaled_k), op.MatMul(scaled_q, k), op.MatMul(q, scaled_k))

    def check(self) -> None:
        """Refuses what is not one number, weights, and a product that no attention goes on from."""
        for scale in (self.on_q, self.on_k):
            if scale is not None and np.prod(scale.shape) != 1:
                raise Mismatch(f"{scale.name!r} is not one number")
        for value in (self.q, self.k):
            if isinstance(value, gs.Constant):
                raise Mismatch(f"{value.name!r} is a constant")
        if {reader.op for reader in self.result.outputs} - _AFTER_SCORES or len(self.result.outputs) != 1:
            raise Mismatch(f"{self.result.name!r} does not go on to a mask or Softmax")

    def rewrite(self, graph: Rewriter) -> None:
        """Multiplies the scores instead of q and k."""
        scale = self._factor(self.scaled_q, self.on_q) * self._factor(self.scaled_k, self.on_k)
        kind = self.array(self.on_q if self.on_q is not None else self.on_k).dtype
        number = graph.constant(f"{self.result.name}_scale", np.asarray(scale, kind))
        scores = graph.insert("MatMul", [self.q, self.k], self.output.name)
        _replace(graph, self, "Mul", [scores, number], {})

    def _factor(self, node: gs.Node | None, scale: gs.Constant | None) -> float:
        if node is None or scale is None:
            return 1.0
        number = float(self.array(scale).reshape(-1)[0])
        return number if node.op == "Mul" else 1 / number


def _refuse_other_factors(found: DecomposedNorm) -> None:
    if found.gamma is None:
        raise Mismatch(f"{found.result.name!r} has no factors for its elements")
    shape = _element_shape(found, found.gamma)
    if found.beta is not None and _element_shape(found, found.beta) != shape:
        raise Mismatch(f"{found.beta.name!r} has shape {list(found.beta.shape)}, expected {list(shape)}")


def _element_shape(found: DecomposedNorm, value: gs.Constant) -> tuple[int, ...]:
    """The shape of a constant without leading ones; Mismatch where it is not that of the normalized axes."""
    count = found.normalized_axes(found.mean)
    shape = tuple(value.shape)
    if len(shape) < count or any(size != 1 for size in shape[: len(shape) - count]) or 1 in shape[-count:]:
        raise Mismatch(f"{value.name!r} has shape {list(shape)}, expected one number for each normalized element")
    return shape[-count:]


def _as_operand(graph: Rewriter, found: DecomposedNorm, name: str, value: gs.Constant) -> gs.Constant:
    shape = _element_shape(found, value)
    if shape == tuple(value.shape):
        return value
    return graph.constant(f"{found.result.name}_{name}", found.array(value).reshape(shape))


def _norm_attributes(found: DecomposedNorm) -> dict[str, Any]:
    epsilon = float(np.asarray(found.array(found.epsilon)).reshape(-1)[0])
    return {"axis": -found.normalized_axes(found.mean), "epsilon": epsilon}


def _replace(
    graph: Rewriter, found: Conversion, operator: str, operands: list[gs.Tensor], attributes: dict[str, Any]
) -> None:
    inner = [node for node in found.nodes if node.outputs[0] is not found.result]
    root = found.result.inputs[0]
    node = graph.insert(operator, operands, root.name, attributes).inputs[0]
    graph.take_output(node, root)
    for part in inner:
        graph.remove(part)


def _refuse_operator(found: Conversion, operator: str, first: int) -> None:
    if found.model.opset < first:
        raise Mismatch(f"{operator} came with opset {first}, and the model has {found.model.opset}")
    values = (value for node in found.nodes for value in node.inputs if isinstance(value, gs.Constant))
    double = next((value.name for value in values if value.dtype == np.float64), None)
    if double is not None:
        raise Mismatch(f"{double!r} is float64, in which runtimes have no {operator}")


def _refuse_casts(found: Conversion) -> None:
    cast = next((node.name for node in found.nodes if node.op == "Cast"), None)
    if cast is not None:
        raise Mismatch(f"{cast!r} changes the precision inside")


def _adds_constant(node: gs.Node) -> bool:
    return node.op == "Add" and any(isinstance(value, gs.Constant) for value in node.inputs)


recompositions = (RecomposeLayerNorm, RecomposeRMSNorm, RecomposeGelu)
attention_scales = (ScaleAfterProduct,)
