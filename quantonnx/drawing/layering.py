"""Which layer each box of a picture stands in, and in which order: the first half of a layered layout.

After Sugiyama, Tagawa and Toda (1981): longest-path layers, stand-ins for wires that pass a layer, barycenter sweeps.
A wire has one stand-in in each layer that it passes, however many boxes it feeds, so that the work stays near linear.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_SWEEPS = 6


@dataclass(frozen=True)
class End:
    """One end of a wire: a box, and how far from the middle of the box; None lets the layout choose."""

    box: int
    offset: float | None = None


@dataclass(frozen=True)
class Wire:
    """What one box gives to several: drawn as one trunk with branches."""

    source: End
    targets: tuple[End, ...]


@dataclass(frozen=True)
class Link:
    """A stretch of a wire from a box or stand-in to one in the next layer."""

    wire: int
    upper: End
    lower: End


@dataclass
class Layers:
    """Boxes and stand-ins by layer, in order. Those from `boxes` on are stand-ins; `trunks` has them by wire.

    `above` and `below` are the links of each box or stand-in.
    """

    boxes: int
    layer_of: list[int]
    rows: list[list[int]]
    trunks: list[list[int]]
    links: list[Link] = field(default_factory=list)
    above: list[list[Link]] = field(default_factory=list)
    below: list[list[Link]] = field(default_factory=list)


def layered(count: int, wires: Sequence[Wire], *, top: frozenset[int], bottom: frozenset[int]) -> Layers:
    """Returns `count` boxes in layers, each below all that it reads, in an order with few crossings.

    `top` and `bottom` are boxes for the first and the last layer.
    """
    layer_of = _longest_paths(count, wires, top)
    last = max((layer_of[box] for box in range(count) if box not in bottom), default=-1) + 1
    for box in bottom:
        layer_of[box] = max(layer_of[box], last)
    found = _with_stand_ins(count, wires, layer_of)
    _order(found)
    return found


def _longest_paths(count: int, wires: Sequence[Wire], top: frozenset[int]) -> list[int]:
    readers: list[list[int]] = [[] for _ in range(count)]
    givers: list[list[int]] = [[] for _ in range(count)]
    for wire in wires:
        for target in wire.targets:
            readers[wire.source.box].append(target.box)
            givers[target.box].append(wire.source.box)
    waiting = [len(given) for given in givers]
    order = [box for box in range(count) if not waiting[box]]
    layer_of = [0] * count
    for box in order:
        for reader in readers[box]:
            layer_of[reader] = max(layer_of[reader], layer_of[box] + 1)
            waiting[reader] -= 1
            if not waiting[reader]:
                order.append(reader)
    _lower(layer_of, order, readers, givers, top)
    return layer_of


def _lower(
    layer_of: list[int], order: list[int], readers: list[list[int]], givers: list[list[int]], top: frozenset[int]
) -> None:
    """A side branch that begins with something that reads nothing, such as a mask, stands near what reads it."""
    latest = list(layer_of)
    for box in reversed(order):
        latest[box] = min((latest[reader] - 1 for reader in readers[box]), default=layer_of[box])
    free: set[int] = set()
    for box in order:
        if latest[box] > layer_of[box] and box not in top and all(giver in free for giver in givers[box]):
            free.add(box)
    for box in reversed(order):
        if box in free:
            layer_of[box] = min(layer_of[reader] for reader in readers[box]) - 1


def _with_stand_ins(count: int, wires: Sequence[Wire], layer_of: list[int]) -> Layers:
    found = Layers(count, layer_of, [[] for _ in range(max(layer_of, default=-1) + 1)], [])
    for number, wire in enumerate(wires):
        start = layer_of[wire.source.box]
        deepest = max((layer_of[target.box] for target in wire.targets), default=start)
        trunk = list(range(len(layer_of), len(layer_of) + max(0, deepest - start - 1)))
        layer_of.extend(range(start + 1, start + 1 + len(trunk)))
        chain = [wire.source, *(End(item) for item in trunk)]
        found.trunks.append(trunk)
        found.links += [Link(number, upper, lower) for upper, lower in pairwise(chain)]
        found.links += [Link(number, chain[layer_of[end.box] - start - 1], end) for end in wire.targets]
    found.above = [[] for _ in layer_of]
    found.below = [[] for _ in layer_of]
    for link in found.links:
        found.above[link.lower.box].append(link)
        found.below[link.upper.box].append(link)
    for item in _depth_first(found):
        found.rows[layer_of[item]].append(item)
    return found


def _depth_first(found: Layers) -> list[int]:
    """Everything that hangs together stands together at first."""
    seen: set[int] = set()
    order: list[int] = []
    for root in range(found.boxes):
        stack = [] if found.above[root] else [root]
        while stack:
            item = stack.pop()
            if item not in seen:
                seen.add(item)
                order.append(item)
                stack.extend(link.lower.box for link in reversed(found.below[item]))
    return order


def _order(found: Layers) -> None:
    """Sorts each layer by the middle of what it hangs on, downwards and upwards in turn, and keeps the best order."""
    best, crossings = [list(row) for row in found.rows], _crossings(found)
    for sweep in range(_SWEEPS):
        if not crossings:
            return
        _sweep(found, downwards=sweep % 2 == 0)
        now = _crossings(found)
        if now < crossings:
            best, crossings = [list(row) for row in found.rows], now
    found.rows[:] = best


def _sweep(found: Layers, *, downwards: bool) -> None:
    place = {item: float(position) for row in found.rows for position, item in enumerate(row)}
    for row in found.rows if downwards else reversed(found.rows):
        wanted = {}
        for item in row:
            ends = [
                link.upper if downwards else link.lower for link in (found.above if downwards else found.below)[item]
            ]
            places = [place[end.box] + _lean(end) for end in ends]
            wanted[item] = sum(places) / len(places) if places else place[item]
        row.sort(key=lambda item: (wanted[item], place[item]))
        place.update((item, float(position)) for position, item in enumerate(row))


def _lean(end: End) -> float:
    """A wire at the left of a box lies a little further left."""
    return (end.offset or 0.0) * 1e-3


def _crossings(found: Layers) -> int:
    place = {item: position for row in found.rows for position, item in enumerate(row)}
    total = 0
    for row in found.rows:
        ends = sorted(
            (place[link.upper.box] + _lean(link.upper), place[link.lower.box] + _lean(link.lower))
            for item in row
            for link in found.below[item]
        )
        passed: list[float] = []
        for _, lower in ends:
            total += len(passed) - bisect_right(passed, lower)
            insort(passed, lower, bisect_left(passed, lower))
    return total
