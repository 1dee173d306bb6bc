"""Which linear layers read a normalization, and nothing else does: there channels can be scaled and no result moves.

A channel divided by s at the factors of the norm and multiplied by s in the rows of every weight that reads it leaves
the products as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx_graphsurgeon as gs

from quantonnx.matching import Matcher
from quantonnx.model import Model
from quantonnx.patterns.normalization import DecomposedLayerNorm, DecomposedRMSNorm
from quantonnx.patterns.sizes import Sizes

Skip = Callable[[Iterable[str]], str | None]
"""Tells which rule of a user matches one of the names of an operator; `NameRules.first` is one."""

Edges = tuple[tuple[gs.Node, int], ...]

_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
_LAST_OF_PARTS = frozenset({"Add", "Div", "Mul"})
_RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_SHAPE_READERS = frozenset({"Shape", "Size"})


@dataclass(frozen=True, eq=False)
class Operand:
    """A constant, the node inputs that read it here, and the axis along which its channels lie."""

    constant: gs.Constant
    edges: Edges
    axis: int = -1


@dataclass(frozen=True, eq=False)
class NormReaders:
    """A norm's result, its factors (γ, and β where there is one), and the weights of the linear layers that read it."""

    result: gs.Tensor
    factors: tuple[Operand, ...]
    weights: tuple[Operand, ...]

    @property
    def linears(self) -> tuple[str, ...]:
        """The names of the nodes that read it."""
        return tuple(node.name for weight in self.weights for node, _ in weight.edges)


@dataclass(frozen=True)
class Refused:
    """A value whose channels are not scaled, and why."""

    activation: str
    reason: str


@dataclass(frozen=True, eq=False)
class _Norm:
    """A norm, its node or its parts, the one that gives the result first; `gamma` and `beta` as they are read."""

    nodes: tuple[gs.Node, ...]
    gamma: gs.Tensor | None
    beta: gs.Tensor | None

    @property
    def result(self) -> gs.Tensor:
        """What the norm gives."""
        return self.nodes[0].outputs[0]


class _Refusal(Exception):  # noqa: N818 - a refusal with a reason is an answer, not an error
    """Says why the channels of a norm cannot be scaled."""


def norm_readers(model: Model, skip: Skip = lambda names: None) -> list[NormReaders | Refused]:
    """Returns every norm of a model in the order of its nodes: what reads it, or why it cannot be scaled.

    Norms are LayerNormalization, RMSNormalization, and both in parts. `skip` is asked about the norm and each of its
    linear layers, by node name, operator and outputs.
    """
    finder = _Finder(model, skip)
    return [finder.readers(norm) for norm in _norms(model)]


def _norms(model: Model) -> Iterator[_Norm]:
    """Parts of a larger norm are none of their own."""
    found = {id(node): _operator(node) for node in model.graph.nodes if node.op in _NORMS and not node.domain}
    taken: set[int] = set()
    for norm in sorted(_in_parts(model), key=lambda norm: len(norm.nodes), reverse=True):
        if taken.isdisjoint(map(id, norm.nodes)):
            taken.update(map(id, norm.nodes))
            found[id(norm.nodes[0])] = norm
    yield from (found[id(node)] for node in model.graph.nodes if id(node) in found)


def _operator(node: gs.Node) -> _Norm:
    gamma, beta = (*node.inputs[1:3], None, None)[:2]
    return _Norm((node,), gamma, None if beta is None or beta.is_empty() else beta)


def _in_parts(model: Model) -> Iterator[_Norm]:
    matcher = Matcher(model)
    for node in model.graph.nodes:
        if node.op in _LAST_OF_PARTS and not node.domain:
            matches = (matcher.match(pattern, node) for pattern in (DecomposedLayerNorm, DecomposedRMSNorm))
            match: Any = next(filter(None, matches), None)
            if match is not None:
                others = (other for other in match.nodes if other is not node)
                yield _Norm((node, *others), match.gamma, match.beta)


class _Finder:
    """Follows the results of norms to what reads them."""

    def __init__(self, model: Model, skip: Skip) -> None:
        self.model = model
        self.skip = skip
        self.known = Sizes.of(model)
        self.public = {id(output) for output in model.graph.outputs}

    def readers(self, norm: _Norm) -> NormReaders | Refused:
        """Returns what reads a norm, or why its channels cannot be scaled."""
        try:
            self._check_skipped(norm.nodes[0])
            factors = _factors(norm)
            weights = self._weights(norm.result, factors[0].constant.shape[-1])
        except _Refusal as refusal:
            return Refused(norm.result.name, str(refusal))
        return NormReaders(norm.result, factors, weights)

    def _check_skipped(self, node: gs.Node) -> None:
        rule = self.skip([node.name, node.op, *(output.name for output in node.outputs)])
        if rule is not None:
            raise _Refusal(f"{node.op} {node.name!r} is skipped by {rule!r}")

    def _weights(self, result: gs.Tensor, channels: int) -> tuple[Operand, ...]:
        found: dict[tuple[int, int], Operand] = {}
        for node in self._linears(result, channels):
            self._check_skipped(node)
            weight, axis = node.inputs[1], input_axis(node)
            if len(weight.shape) < 2 or weight.shape[axis] != channels:
                raise _Refusal(f"{weight.name!r} is {list(weight.shape)}, no matrix with {channels} input channels")
            edges = found[id(weight), axis].edges if (id(weight), axis) in found else ()
            found[id(weight), axis] = Operand(weight, (*edges, (node, 1)), axis)
        if not found:
            raise _Refusal("no linear layer reads it")
        return tuple(found.values())

    def _linears(self, result: gs.Tensor, channels: int) -> Iterator[gs.Node]:
        """The linear layers behind a value, through what only changes its shape; a refusal for any other reader."""
        pending = [result]
        while pending:
            value = pending.pop()
            if id(value) in self.public or value.name in self.model.captured:
                raise _Refusal(f"{value.name!r} is an output of the graph, or read by a body of If, Loop or Scan")
            for node in value.outputs:
                if is_linear(node, value):
                    yield node
                elif node.op not in _SHAPE_READERS or node.domain:
                    self._check_moves(node, value, channels)
                    pending.append(node.outputs[0])

    def _check_moves(self, node: gs.Node, value: gs.Tensor, channels: int) -> None:
        """Refuses a reader that does more than change the shape, or that moves the channels from the last axis."""
        moved = node.outputs[0] if node.outputs else None
        if node.domain or [read for read in node.inputs if read is value] != [node.inputs[0]]:
            raise _Refusal(f"{node.op} {node.name!r} reads it, which is no linear layer")
        if node.op == "Transpose":
            axes = list(node.attrs.get("perm", ()))
            kept = bool(axes) and axes[-1] == len(axes) - 1
        elif node.op in _RESHAPING:
            kept = channels > 1 and self.known.number(moved, -1) == channels
        elif node.op == "Identity":
            kept = True
        else:
            raise _Refusal(f"{node.op} {node.name!r} reads it, which is no linear layer")
        if not kept:
            raise _Refusal(f"its channels are not known to stay the last axis through {node.op} {node.name!r}")


def _factors(norm: _Norm) -> tuple[Operand, ...]:
    gamma, beta = norm.gamma, norm.beta
    if gamma is None:
        raise _Refusal("the norm has no γ that could be divided")
    for factor in filter(None, (gamma, beta)):
        if not isinstance(factor, gs.Constant):
            raise _Refusal(f"the factor {factor.name!r} of the norm is computed")
    if not gamma.shape or prod(gamma.shape) != gamma.shape[-1]:
        raise _Refusal(f"γ {gamma.name!r} is {list(gamma.shape)}, not one number for each channel")
    if beta is not None and tuple(beta.shape[-1:]) != tuple(gamma.shape[-1:]):
        raise _Refusal(f"β {beta.name!r} is {list(beta.shape)}, not one number for each channel")
    constants = {id(factor): factor for factor in (gamma, beta) if factor is not None}
    return tuple(Operand(factor, _edges(factor, norm.nodes)) for factor in constants.values())


def _edges(value: gs.Tensor, nodes: tuple[gs.Node, ...]) -> Edges:
    return tuple((node, index) for node in nodes for index, read in enumerate(node.inputs) if read is value)


def is_linear(node: gs.Node, value: gs.Tensor) -> bool:
    """Returns True for a product of the value with a constant weight, in which nothing else is the value."""
    if node.domain or node.op not in ("MatMul", "Gemm") or not isinstance(node.inputs[1], gs.Constant):
        return False
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return False
    return node.inputs[0] is value and all(read is not value for read in node.inputs[1:])


def input_axis(node: gs.Node) -> int:
    """Returns the axis of the input channels of a linear layer's weight."""
    return -1 if node.op == "Gemm" and node.attrs.get("transB", 0) else -2
