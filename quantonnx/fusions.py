"""Which fusions of a target hold in a graph: the longest first, and no node in two of them."""

from __future__ import annotations

import heapq
from dataclasses import replace

import onnx_graphsurgeon as gs

from quantonnx.declarations import largest
from quantonnx.matching import Matcher
from quantonnx.model import Model
from quantonnx.pattern import Pattern
from quantonnx.pattern_index import PatternIndex
from quantonnx.plan import Step
from quantonnx.target import Target


def step_of(found: Pattern) -> Step:
    """Returns the step that a match is."""
    nodes = tuple(node.name for node in reversed(found.nodes))
    points = tuple(point.role.name for point in found.qdq_points)
    return Step(type(found).__name__, found.result.name, nodes, points)


def find_fusions(model: Model, target: Target) -> list[Step]:
    """Finds the fusions, the longest first.

    From the outputs up, a node inside a match is not tried as the end of one that can only be shorter, unless the
    match around it loses.
    """
    candidates = _Candidates(model, target)
    owner: dict[int, Step] = {}
    kept: list[tuple[int, Step]] = []
    while (entry := candidates.pop()) is not None:
        match, position = entry
        owners = [owner.get(id(node)) for node in match.nodes]
        winner = next((taken for taken in owners if taken is not None), None)
        if winner is None:
            step = step_of(match)
            owner.update((id(node), step) for node in match.nodes)
        elif all(owners):
            continue  # inside a longer match, or covered by several: nothing to decide
        else:
            reason = overlap(winner)
            step = replace(step_of(match), apply=False, reason=reason)
            candidates.try_inside(match)
        kept.append((position, step))
    return [step for _, step in sorted(kept, key=lambda entry: entry[0])]


class _Candidates:
    """Matches in the order in which they are taken: more nodes first, then the order of the graph and of patterns."""

    def __init__(self, model: Model, target: Target) -> None:
        self._matcher, self._index = Matcher(model), PatternIndex(target.patterns)
        self._positions = {id(node): position for position, node in enumerate(model.graph.nodes)}
        self._around: dict[int, int] = {}  # the size of the longest match so far around each inner node
        self._heap: list[tuple[int, int, int, Pattern]] = []
        self._found: set[tuple[int, int]] = set()
        for node in reversed(model.graph.nodes):
            self._try(node, longer_than=self._around.get(id(node), 0))

    def pop(self) -> tuple[Pattern, int] | None:
        """Returns the next match and the position of its last node."""
        if not self._heap:
            return None
        _, position, _, match = heapq.heappop(self._heap)
        return match, position

    def try_inside(self, match: Pattern) -> None:
        """Tries the nodes inside a match that lost as the ends of shorter matches."""
        for node in match.nodes:
            if node.outputs[0] is not match.result:
                self._try(node, longer_than=0)

    def _try(self, node: gs.Node, *, longer_than: int) -> None:
        for order, pattern in enumerate(self._index.fitting(node)):
            if longer_than and len(largest(pattern.root)) <= longer_than:
                continue
            place = (self._positions[id(node)], order)
            match = self._matcher.match(pattern, node) if place not in self._found else None
            if match is not None and (size := len(match.binding.nodes)) > longer_than:
                self._found.add(place)
                heapq.heappush(self._heap, (-size, *place, match))
                for inner in match.nodes:
                    if inner is not node:
                        self._around[id(inner)] = max(size, self._around.get(id(inner), 0))


def overlap(winner: Step) -> str:
    """Returns why a match that shares nodes with `winner` is not taken."""
    return f"overlaps {winner.pattern} at {winner.output!r}, which comes first"
