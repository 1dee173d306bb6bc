"""Conv and ConvTranspose with what compilers fuse into them: batch normalization, activation, residual Add, pooling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.batch_norm_folds import BatchNormFold
from quantonnx.editing import Rewriter
from quantonnx.pattern import (
    INPUT,
    RESIDUAL_INPUT,
    WEIGHT,
    Mismatch,
    Pattern,
    Point,
    const,
    either,
    maybe,
    op,
    tensor,
)


def clipped(value: Any) -> Any:
    """Relu or Clip: activations that a range of codes can imply."""
    return (op.Relu | op.Clip)(value, const(optional=True), const(optional=True))


def activated(value: Any) -> Any:
    """Any activation that compilers fuse into the operator before it, SiLU and HardSwish in parts included."""
    return either(
        clipped(value),
        (op.LeakyRelu | op.Sigmoid | op.HardSwish | op.HardSigmoid | op.Tanh | op.Elu)(value),
        op.PRelu(value, const()),
        op.Mul(value, (op.Sigmoid | op.HardSigmoid)(value)),
    )


def output_axis(found: Any) -> int | None:
    """The output-channel axis of a convolution's weight; None for a grouped ConvTranspose, where no axis is one."""
    if found.conv.op == "Conv":
        return 0
    return 1 if found.conv.attrs.get("group", 1) == 1 else None


class ConvBN(Pattern):
    """Conv → [BN]."""

    x = tensor()
    weight = const()
    bias = const(optional=True)
    gamma, beta, mean, variance = const(), const(), const(), const()

    conv = (op.Conv | op.ConvTranspose)(x, weight, bias)
    bn = maybe(
        op.BatchNormalization(
            conv, gamma, beta, mean, variance, training_mode=lambda v: not v, is_test=lambda v: v in (None, 1)
        )
    )
    output = bn

    qdq_points: ClassVar[tuple[Point, ...]] = (INPUT(x), WEIGHT(weight, axis=output_axis))

    def check(self) -> None:
        """Refuses parameters that do not fit the convolution, as no runtime would run them."""
        if np.dtype(self.weight.dtype).kind in "biu":
            raise Mismatch(f"{self.weight.name!r} holds {self.weight.dtype}, expected real numbers")
        expected = self._outputs()
        for value in (self.bias, self.gamma, self.beta, self.mean, self.variance):
            if value is not None and tuple(value.shape) != (expected,):
                raise Mismatch(f"{value.name!r} has shape {list(value.shape)}, expected [{expected}]")

    def rewrite(self, graph: Rewriter) -> None:
        """Folds the batch normalization into weight and bias; the factor is computed in float64."""
        if self.bn is None:
            return
        fold = self._fold()
        weight, bias = fold.folded([None if value is None else self.array(value) for value in fold.constants])
        value = self.bn.outputs[0].name
        folded = graph.constant(f"{value}_weight", weight), graph.constant(f"{value}_bias", bias)
        graph.model.folds[folded[0].name] = replace(fold, folded_bias=folded[1].name)
        graph.set_input(self.conv, 1, folded[0])
        graph.set_input(self.conv, 2, folded[1])
        graph.take_output(self.conv, self.bn)

    def _fold(self) -> BatchNormFold:
        attrs, group = self.bn.attrs, self.conv.attrs.get("group", 1)
        normalized = self.gamma, self.beta, self.mean, self.variance
        numbers = attrs.get("epsilon", 1e-5), attrs.get("momentum", 0.9)
        return BatchNormFold(self.weight, self.bias, *normalized, *numbers, group, self.conv.op != "Conv")

    def _outputs(self) -> int:
        groups = self.conv.attrs.get("group", 1)
        return int(self.weight.shape[0] if self.conv.op == "Conv" else self.weight.shape[1] * groups)


class ConvBNRelu(ConvBN):
    """Conv → [BN] → Relu or Clip."""

    output = clipped(ConvBN.bn)


class ConvBNActivation(ConvBN):
    """Conv → [BN] → LeakyRelu, Sigmoid, HardSwish, HardSigmoid, SiLU, …"""

    output = activated(ConvBN.bn)


class _WithResidual(ConvBN):
    residual = tensor()
    output = op.Add(ConvBN.bn, residual)

    qdq_points = (INPUT(ConvBN.x), RESIDUAL_INPUT(residual), WEIGHT(ConvBN.weight, axis=output_axis))

    def check(self) -> None:
        """Refuses a constant operand: that is a bias, not a residual branch."""
        super().check()
        if isinstance(self.residual, gs.Constant):
            raise Mismatch(f"{self.residual.name!r} is a constant, not a residual branch")


class ConvBNAdd(_WithResidual):
    """Conv → [BN] → Add(·, residual): the tail of a linear bottleneck."""


class ConvBNAddRelu(_WithResidual):
    """Conv → [BN] → Add(·, residual) → activation: the tail of a ResNet block."""

    output = activated(_WithResidual.output)


class ConvBNReluAdd(_WithResidual):
    """Conv → [BN] → activation → Add(·, residual): the tail of a pre-activation or YOLO block."""

    output = op.Add(activated(ConvBN.bn), _WithResidual.residual)


class StemConvBNReluMaxPool(ConvBN):
    """Conv → [BN] → activation → MaxPool on an input of the graph: the stem, quantized at the image itself."""

    output = op.MaxPool(activated(ConvBN.bn))

    def check(self) -> None:
        """Refuses a Conv that does not read an input of the graph."""
        super().check()
        if self.x.inputs:
            raise Mismatch(f"{self.x.name!r} is not an input of the graph, so this is no stem")


class SqueezeExcite(Pattern):
    """x · gate(Conv(act(Conv(pool(x))))): stays in float, its convolutions see one pixel and gain nothing."""

    x = tensor()
    squeeze_weight, excite_weight = const(), const()
    squeeze_bias, excite_bias = const(optional=True), const(optional=True)

    pool = op.GlobalAveragePool(x)
    squeeze = op.Conv(pool, squeeze_weight, squeeze_bias)
    excite = op.Conv(activated(squeeze), excite_weight, excite_bias)
    output = op.Mul((op.Sigmoid | op.HardSigmoid)(excite), x)


convolutions = (
    StemConvBNReluMaxPool,
    SqueezeExcite,
    ConvBNAddRelu,
    ConvBNReluAdd,
    ConvBNAdd,
    ConvBNRelu,
    ConvBNActivation,
    ConvBN,
)
