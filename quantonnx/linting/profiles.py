"""What a target takes and what it makes fast, as far as linting asks: read from the target, and measured facts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from quantonnx.formats import TensorFormat
from quantonnx.pattern import Role
from quantonnx.target import FormatRequest, Target


@dataclass(frozen=True)
class Facts:
    """What a target's own declaration does not say; the defaults are those of a target that nothing is known about.

    `int32_bias_refused`: a DequantizeLinear on an int32 bias does not load. `signed_costs`: why signed activations are
    slow. `weight_signed`: unsigned weight codes run
    in float. `integer_operators`, `foreign_pairs`: QLinear… and …Integer operators, and pairs of another domain, load.
    `block_sizes`: those that weights of 4 bits may have; None where such weights alone (no quantized input) are fast.
    """

    int32_bias_refused: bool = False
    signed_costs: str = ""
    weight_signed: bool = False
    integer_operators: bool = True
    foreign_pairs: bool = True
    block_sizes: tuple[int, ...] | None = None
    weight_only: frozenset[str] = frozenset()


MEASURED = {
    "tensorrt": Facts(
        int32_bias_refused=True,
        integer_operators=False,
        foreign_pairs=False,
        block_sizes=(64, 128),
        weight_only=frozenset({"MatMul", "Gemm"}),
    ),
    "onnxruntime": Facts(
        signed_costs="ONNX Runtime runs Conv → Relu and the two ways of a residual block on signed codes in float",
        weight_only=frozenset({"MatMul", "Gather"}),
    ),
    "openvino": Facts(weight_signed=True, weight_only=frozenset({"MatMul", "Gemm", "Gather"})),
}
"""By the target's name; each is a row of a measurement or of the developer guide, not a guess."""


@dataclass(frozen=True)
class Profile:
    """A target as linting sees it."""

    target: Target

    @property
    def name(self) -> str:
        """The target's name."""
        return self.target.name

    @cached_property
    def facts(self) -> Facts:
        """What is known besides the target's own declaration."""
        return MEASURED.get(self.target.name, Facts())

    def refusal(self, bits: int, *, signed: bool, symmetric: bool, weight: bool) -> str | None:
        """Why the target does not take codes like these, or None."""
        if not 2 <= bits <= 16:
            return None
        base: TensorFormat = self.target.weight if weight else self.target.activation
        asked = replace(base, n_bits=bits, signed=signed, symmetric=symmetric, narrow_range=False)
        return self.target.refuses(FormatRequest(asked, Role.WEIGHT if weight else Role.INPUT, "any operator"))

    @property
    def integer_bits(self) -> int:
        """The bits of the codes that its integer kernels take."""
        return self.target.activation.n_bits
