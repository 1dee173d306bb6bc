"""Patterns that almost hold at a node, and targets that would take it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

import onnx_graphsurgeon as gs

from quantonnx.decisions import refusal
from quantonnx.element_types import ElementTypes
from quantonnx.explaining.findings import Attempt
from quantonnx.matching import Matcher
from quantonnx.pattern import EitherDeclaration, MaybeDeclaration, NodeDeclaration, Pattern
from quantonnx.pattern_index import root_operators
from quantonnx.plan import Step
from quantonnx.target import Target, known_targets

_MOST_CANDIDATES = 16


def attempts(matcher: Matcher, target: Target, node: gs.Node, taken: Collection[str]) -> tuple[Attempt, ...]:
    """Returns what became of every pattern about this operator that is not among `taken`, the nearest first."""
    tried = (_attempt(matcher, pattern, node) for pattern in target.patterns if pattern.__name__ not in taken)
    return tuple(sorted(filter(None, tried), key=lambda attempt: (not attempt.holds, -attempt.matched)))


def elsewhere(matcher: Matcher, target: Target, node: gs.Node, value: str | None = None) -> Iterator[str]:
    """Yields which other shipped targets would quantize a node, or put a pair on `value` for it."""
    types = ElementTypes(matcher.model)
    for other in known_targets().values():
        if other.name == target.name:
            continue
        for pattern in other.patterns:
            found = next(_matches(matcher, pattern, node), None) if pattern.qdq_points else None
            if found is None or refusal(_step(found), found, other, types) is not None:
                continue
            points = [point for point in found.qdq_points if value is None or _stands_on(point, found, value)]
            if points:
                roles = ", ".join(dict.fromkeys(point.role.name for point in points))
                yield f"another target: {other.name} has {roles} of {pattern.__name__} here"
                break


def _stands_on(point: Any, found: Pattern, value: str) -> bool:
    return point.role.on_activation and any(known.name == value for known in found.values(point.declaration))


def _step(found: Pattern) -> Step:
    return Step(type(found).__name__, found.result.name)


def _attempt(matcher: Matcher, pattern: type[Pattern], node: gs.Node) -> Attempt | None:
    if next(_matches(matcher, pattern, node), None) is not None:
        reason = "it fits here too, but a longer or earlier match was taken"
        return Attempt(pattern.__name__, node.name, reason, holds=True)
    refused = [(distance, end, matcher.failure(pattern, end)) for distance, end in _ends(pattern, node)]
    found = [(-distance, failure.depth, end, failure) for distance, end, failure in refused if failure is not None]
    if not found:
        return None
    _, depth, end, failure = max(found, key=lambda entry: entry[:2])
    return Attempt(pattern.__name__, end.name, failure.reason(), max(depth, 0), kind=failure.kind)


def _matches(matcher: Matcher, pattern: type[Pattern], node: gs.Node) -> Iterator[Pattern]:
    """The matches of a pattern that hold a node."""
    for _, end in _ends(pattern, node):
        found = matcher.match(pattern, end)
        if found is not None and any(matched is node for matched in found.nodes):
            yield found


def _ends(pattern: type[Pattern], node: gs.Node) -> list[tuple[int, gs.Node]]:
    """The operators at or after a node in which a match that holds it could end, with their distance."""
    depth = _deepest(pattern.root, node.op)
    if depth is None:
        return []
    roots = root_operators(pattern)
    return list(islice((entry for entry in _downstream(node, depth) if entry[1].op in roots), _MOST_CANDIDATES))


def _downstream(node: gs.Node, depth: int) -> Iterator[tuple[int, gs.Node]]:
    seen = {id(node)}
    level = [node]
    yield 0, node
    for distance in range(1, depth + 1):
        readers = (reader for current in level for output in current.outputs for reader in output.outputs)
        level = list({id(reader): reader for reader in readers if id(reader) not in seen}.values())
        seen.update(id(reader) for reader in level)
        yield from ((distance, reader) for reader in level)


def _deepest(declared: Any, operator: str) -> int | None:
    """How many operators at most stand between one in a declaration and its end; None where it is not in it."""
    found: list[int | None] = []
    if isinstance(declared, NodeDeclaration):
        inner = [_deepest(operand, operator) for operand in declared.operands]
        found = [0 if operator in declared.ops else None, *(None if d is None else d + 1 for d in inner)]
    elif isinstance(declared, MaybeDeclaration):
        found = [_deepest(declared.expression, operator)]
    elif isinstance(declared, EitherDeclaration):
        found = [_deepest(alternative, operator) for alternative in declared.alternatives]
    return max((depth for depth in found if depth is not None), default=None)
