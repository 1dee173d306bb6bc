"""Which patterns could end in a node, so that only those are tried there.

Nearly all attempts to match fail, and on the operators of the first few nodes. A network repeats itself, so that is
found out once for all nodes that look alike: by their operators, and those behind their inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_graphsurgeon as gs

from quantonnx.declarations import (
    COMMUTATIVE,
    EitherDeclaration,
    MaybeDeclaration,
    NodeDeclaration,
    ValueDeclaration,
    roots,
)
from quantonnx.pattern import Pattern

_DEPTH = 2
_MOST_INPUTS = 8  # what is behind more is not looked at, so that the cost of a node stays bounded

Look = Any
"""A value as far as it is looked at: `(operator, domain, looks of the inputs)`, the last None where not looked at; or
one of these words."""

_ABSENT, _CONSTANT, _GIVEN = "absent", "constant", "given"


def root_operators(pattern: type[Pattern]) -> frozenset[str]:
    """Returns the operators that the last node of a match can be."""
    return roots(pattern.root) or frozenset()


class PatternIndex:
    """Patterns by what a match ends in, in the order in which they are tried."""

    def __init__(self, patterns: Iterable[type[Pattern]]) -> None:
        self._by_operator: dict[str, list[type[Pattern]]] = {}
        self._by_look: dict[Look, list[type[Pattern]]] = {}
        for pattern in patterns:
            for name in root_operators(pattern):
                self._by_operator.setdefault(name, []).append(pattern)

    def at(self, node: gs.Node) -> list[type[Pattern]]:
        """Returns the patterns that could end in the operator of `node`."""
        return self._by_operator.get(node.op, [])

    def fitting(self, node: gs.Node) -> list[type[Pattern]]:
        """Returns those of them that the operators before `node` allow, as the graph is now."""
        named = self.at(node)
        if not named:
            return named
        look = _look_of(node, _DEPTH)
        found = self._by_look.get(look)
        if found is None:
            found = self._by_look[look] = [pattern for pattern in named if _could_be(pattern.root, look)]
        return found


def _look_of(node: gs.Node, depth: int) -> Look:
    inputs = node.inputs
    if not depth or len(inputs) > _MOST_INPUTS:
        return node.op, node.domain or "", None
    return node.op, node.domain or "", tuple([_look_at(value, depth - 1) for value in inputs])


def _look_at(value: gs.Tensor, depth: int) -> Look:
    producers = value.inputs
    if producers:
        return _look_of(producers[0], depth) if producers[0].outputs[0] is value else _GIVEN
    if not value.name:
        return _ABSENT
    return _CONSTANT if isinstance(value, gs.Constant) else _GIVEN


def _could_be(declared: Any, look: Look) -> bool:
    """False only where no value that looks like this can match what is declared."""
    if isinstance(declared, ValueDeclaration):
        return declared.optional if look == _ABSENT else look == _CONSTANT or not declared.constant
    if isinstance(declared, MaybeDeclaration):
        return _could_be(declared.expression, look) or _could_be(declared.otherwise, look)
    if isinstance(declared, EitherDeclaration):
        return any(_could_be(alternative, look) for alternative in declared.alternatives)
    return isinstance(look, tuple) and _could_be_node(declared, *look)


def _could_be_node(declared: NodeDeclaration, op: str, domain: str, inputs: tuple[Look, ...] | None) -> bool:
    if op not in declared.ops or domain != declared.domain:
        return False
    if inputs is None:
        return True
    if _could_be_operands(declared, inputs):
        return True
    swapped = len(inputs) == len(declared.operands) == 2 and op in COMMUTATIVE
    return swapped and _could_be_operands(declared, inputs[::-1])


def _could_be_operands(declared: NodeDeclaration, inputs: tuple[Look, ...]) -> bool:
    for position, operand in enumerate(declared.operands):
        if getattr(operand, "many", False):
            return not operand.constant or all(look in (_CONSTANT, _ABSENT) for look in inputs[position:])
        if not _could_be(operand, inputs[position] if position < len(inputs) else _ABSENT):
            return False
    extra = inputs[len(declared.operands) :]
    return declared.open_ended or all(look == _ABSENT for look in extra)
