"""What operators cost on a target, in float and in integers: constants that a benchmark measures.

They decide which operators are worth their conversions, so they have to be right in proportion, not to the microsecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """The time of one operator in nanoseconds: for the call, for each multiply-accumulate, for each element of the
    activations read and written, and for each element of the weight."""

    call: float
    mac: float
    element: float
    weight: float = 0.0

    def time(self, macs: int, elements: int, weights: int = 0) -> float:
        """Returns the microseconds of one run."""
        return (self.call + self.mac * macs + self.element * elements + self.weight * weights) / 1e3


@dataclass(frozen=True)
class CostModel:
    """The costs of a target by kind of operator: an ONNX operator, or `depthwise`, `grouped` (of Conv) and `product`
    (a MatMul of two activations). `QuantizeLinear` and `DequantizeLinear` are among the float ones.

    With `fuses_conversions` an integer operator writes codes, or real numbers, at no cost of its own. With
    `fills_gaps` the runtime makes integers by itself of an operator with a weight that stands between pairs, with one
    scale for the whole weight: none is left in float there.
    """

    float_costs: Mapping[str, Cost]
    integer_costs: Mapping[str, Cost]
    fuses_conversions: bool = False
    fills_gaps: bool = False
