"""Keeps power-of-two scales within what the shifts of an XINT8 processor reach.

With scales 2^-pos, an integer processor rescales by shifting, and its shifters have limits: an accumulator is shifted
by so many bits at most, a bias is aligned with it, the operands of an Add are aligned with each other. A few tensors
give up a bit of resolution for that. The limits are those that AMD's Quark applies for its XINT8 configuration and
MQBench's documentation tells for Vitis AI: see `shift_limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf

import onnx_graphsurgeon as gs

from quantonnx.algorithms.shift_positions import Change, Group, Positions
from quantonnx.formats import Parameters
from quantonnx.model import Model
from quantonnx.sites import Site

_ROUNDS = 50
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_GATES = frozenset({"HardSigmoid", "Sigmoid"})


@dataclass(frozen=True)
class Limited:
    """Parameters within the limits, what was changed for that, and what could not be met, as text."""

    parameters: Mapping[Site, Parameters]
    changes: tuple[Change, ...]
    unmet: tuple[str, ...]


@dataclass(frozen=True)
class _Limit:
    """A quantity that must lie in low…high; `sign` is what a step of the position of `moved` changes."""

    rule: str
    node: gs.Node
    value: int
    low: float
    high: float
    moved: Group
    sign: int

    @property
    def holds(self) -> bool:
        """True where the quantity is within the limit."""
        return self.low <= self.value <= self.high

    def apply(self) -> bool:
        """Moves as far as the limit needs; True where something changed."""
        wanted = int(min(max(self.value, self.low), self.high))
        return self.moved.move(self.moved.position + self.sign * (wanted - self.value), self.rule)

    def told(self) -> str:
        """The limit in words."""
        where = f"{self.rule} of {self.node.op} {self.node.name!r}"
        return f"{where} is {self.value}, expected {self.low:g} to {self.high:g}"


def shift_limits(model: Model, sites: Iterable[Site], parameters: Mapping[Site, Parameters]) -> Limited:
    """Returns the parameters with the positions, pos = −log2 of the scale, changed as little as these limits need.

    Of Conv, ConvTranspose, Gemm and MatMul with a weight, w + i − o is 0 to 16 (the weight's position w is moved), and
    w + i − b is min(0, w + i − o − 16), or 0 before LeakyRelu, to 15 (the bias's position b is moved). Inputs of Add
    and Sub differ by 7 at most (the finer is moved), and their least position − o is −7 to 25; of Mul, the sum of the
    inputs' − o is 0 to 32, in x · sigmoid(x) to 15 (o is moved). HardSigmoid takes 0 to 15 and gives 7 or more. Inputs
    and outputs of Concat, poolings, Pad and Slice have one position, the least of them. The output is behind an
    activation that follows. Only sites with one power-of-two scale count and change; one that a user fixed stays.
    Source: AMD Quark 0.13, onnx_xint8_adjust; MQBench, Vitis.
    """
    positions = Positions(model, sites, parameters)
    for _ in range(_ROUNDS):
        moved = [limit for limit in _limits(positions) if not limit.holds and limit.apply()]
        if not moved:
            break
    unmet = (*positions.torn, *(limit.told() for limit in _limits(positions) if not limit.holds))
    return Limited(positions.parameters(parameters), tuple(positions.changes()), unmet)


def _limits(positions: Positions) -> Iterator[_Limit]:
    """Every limit in the order of the nodes, with the values of the moment at which it is asked for."""
    for node in positions.nodes:
        for rule in _RULES.get(node.op, ()):
            yield from rule(positions, node)


def _weighted(at: Positions, node: gs.Node) -> Iterator[_Limit]:
    """An accumulator is shifted right to the output, and the bias to the accumulator."""
    i, w, o = at.at_input(node, 0), at.at_input(node, 1), at.behind(node)
    if i is None or w is None or o is None or not _is_weight(node):
        return
    yield _Limit("shift_cut", node, w.position + i.position - o.position, 0, 16, w, 1)
    b = at.bias(node)
    if b is not None:
        least = min(0, w.position + i.position - o.position - 16)
        if any(reader.op == "LeakyRelu" for reader in node.outputs[0].outputs):
            least = 0
        yield _Limit("shift_bias", node, w.position + i.position - b.position, least, 15, b, -1)


def _sum(at: Positions, node: gs.Node) -> Iterator[_Limit]:
    """The operands of a sum are aligned with each other, then shifted to the output."""
    inputs, o = at.at_inputs(node), at.behind(node)
    if not inputs:
        return
    finest, coarsest = (choose(inputs, key=lambda group: group.position) for choose in (max, min))
    yield _Limit("shift_read", node, finest.position - coarsest.position, 0, 7, finest, 1)
    if o is not None:
        yield _Limit("shift_write", node, coarsest.position - o.position, -7, 25, o, -1)


def _product(at: Positions, node: gs.Node) -> Iterator[_Limit]:
    """A product is shifted to the output, by fewer bits where it is a gate: x · sigmoid(x)."""
    inputs, o = at.at_inputs(node), at.behind(node)
    if not inputs or o is None:
        return
    is_gate = any(reader.op in _GATES for value in node.inputs for reader in value.outputs)
    rule, most = ("shift_swish", 15) if is_gate else ("shift_write", 32)
    yield _Limit(rule, node, sum(group.position for group in inputs) - o.position, 0, most, o, -1)


def _hard_sigmoid(at: Positions, node: gs.Node) -> Iterator[_Limit]:
    """The table of HardSigmoid has inputs and outputs of certain scales."""
    i, o = at.at_input(node, 0), at.behind(node)
    if i is not None:
        yield _Limit("hard_sigmoid_input", node, i.position, 0, 15, i, 1)
    if o is not None:
        yield _Limit("hard_sigmoid_output", node, o.position, 7, inf, o, 1)


_RULES: Mapping[str, tuple[Callable[[Positions, gs.Node], Iterator[_Limit]], ...]] = {
    **dict.fromkeys(_WEIGHTED, (_weighted,)),
    "Add": (_sum,),
    "Sub": (_sum,),
    "Mul": (_product,),
    "HardSigmoid": (_hard_sigmoid,),
}


def _is_weight(node: gs.Node) -> bool:
    return isinstance(node.inputs[1], gs.Constant)
