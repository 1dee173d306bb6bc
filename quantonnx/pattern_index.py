"""Which patterns could end in a node, so that only those are tried there."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from quantonnx.declarations import roots
from quantonnx.pattern import Pattern


def root_operators(pattern: type[Pattern]) -> frozenset[str]:
    """Returns the operators that the last node of a match can be."""
    return roots(pattern.root) or frozenset()


class PatternIndex:
    """Patterns by the operator that a match ends in, in the order in which they are tried."""

    def __init__(self, patterns: Iterable[type[Pattern]]) -> None:
        self._by_operator: dict[str, list[type[Pattern]]] = {}
        for pattern in patterns:
            for name in root_operators(pattern):
                self._by_operator.setdefault(name, []).append(pattern)

    def at(self, node: gs.Node) -> list[type[Pattern]]:
        """Returns the patterns that could end in `node`."""
        return self._by_operator.get(node.op, [])
