"""Where boxes stand and wires run: the second half of a layered layout, from layers and order to coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from quantonnx.drawing.layering import Layers, Link, Wire, layered
from quantonnx.drawing.straightening import straighten

_UP, _DOWN, _BOTH = (True, False), (False, True), (True, True)  # whether it hangs on what is below, above
_SWEEPS = (_DOWN, _UP, _DOWN, _UP, _DOWN, _UP, _BOTH, _DOWN)  # the last one straightens chains
_STEEPEST = 9.0
_MOST_EXTRA = 36.0
_SPREAD = 14.0
_STRAIGHT = 6.0


@dataclass(frozen=True)
class Size:
    """Width and height in user units of the picture."""

    width: float
    height: float


@dataclass(frozen=True)
class Stretch:
    """A vertical piece of a wire. Between two stretches runs a curve, or a level line where they end level."""

    x: float
    start: float
    end: float


Route = tuple[Stretch, ...]


@dataclass(frozen=True)
class Arrangement:
    """A finished layout: the left upper corner of each box, the routes of each wire, top and bottom of each layer."""

    places: tuple[tuple[float, float], ...]
    routes: tuple[tuple[Route, ...], ...]
    bands: tuple[tuple[float, float], ...]
    layer_of: tuple[int, ...]
    size: Size


def arrange(
    sizes: Sequence[Size],
    wires: Sequence[Wire],
    *,
    top: frozenset[int] = frozenset(),
    bottom: frozenset[int] = frozenset(),
    gap: float = 14.0,
    space: float = 22.0,
) -> Arrangement:
    """Returns where boxes of these sizes stand: layer below layer, nothing overlaps, wires run round the boxes.

    `gap` is the least distance between layers, `space` between neighbours; `top` and `bottom` name the boxes of the
    first and the last layer. The same input gives the same layout. Raises nothing; wires must not form a cycle.
    """
    found = layered(len(sizes), wires, top=top, bottom=bottom)
    widths = [size.width for size in sizes] + [0.0] * (len(found.layer_of) - len(sizes))
    middles = _middles(found, widths, space)
    bands = _bands(found, sizes, middles, gap)
    places = []
    for box, size in enumerate(sizes):
        start, end = bands[found.layer_of[box]]
        places.append((middles[box] - size.width / 2, (start + end - size.height) / 2))
    routes = _Router(found, sizes, middles, bands).routes()
    right = max((x + size.width for (x, _), size in zip(places, sizes, strict=True)), default=0.0)
    right = max(right, *middles) if middles else right
    return Arrangement(
        tuple(places),
        routes,
        tuple(bands),
        tuple(found.layer_of[: len(sizes)]),
        Size(right, bands[-1][1] if bands else 0),
    )


def _middles(found: Layers, widths: Sequence[float], space: float) -> list[float]:
    """Pulls every box to the middle of its neighbours above, below, at last both, as far as the order allows."""
    middles = [0.0] * len(widths)
    for row in found.rows:
        _settle(row, [0.0] * len(row), [1.0] * len(row), middles, widths, space)
    for below, above in _SWEEPS:
        for row in found.rows if above else reversed(found.rows):
            wanted, weights = [], []
            for item in row:
                place, weight = _pull(found, item, middles, up=above, down=below)
                wanted.append(place)
                weights.append(weight)
            _settle(row, wanted, weights, middles, widths, space)
    straighten(found, middles, widths, space)
    left = min((middle - width / 2 for middle, width in zip(middles, widths, strict=True)), default=0.0)
    return [middle - left for middle in middles]


def _pull(found: Layers, item: int, middles: list[float], *, up: bool, down: bool) -> tuple[float, float]:
    total = weight = 0.0
    for link in found.above[item] if up else ():
        strength = _strength(found, link)
        total += strength * (middles[link.upper.box] + (link.upper.offset or 0.0) - (link.lower.offset or 0.0))
        weight += strength
    for link in found.below[item] if down else ():
        strength = _strength(found, link)
        total += strength * (middles[link.lower.box] + (link.lower.offset or 0.0) - (link.upper.offset or 0.0))
        weight += strength
    return (total / weight, weight) if weight else (middles[item], 0.01)


def _strength(found: Layers, link: Link) -> float:
    """Long wires are straight before chains are, and chains before anything else; where both meet, the wire bends."""
    upper, lower = link.upper.box, link.lower.box
    if upper >= found.boxes or lower >= found.boxes:
        return _STRAIGHT if upper >= found.boxes and lower >= found.boxes else 0.1
    return 3.0 if len(found.below[upper]) == 1 == len(found.above[lower]) else 1.0


def _settle(
    row: list[int],
    wanted: list[float],
    weights: list[float],
    middles: list[float],
    widths: Sequence[float],
    space: float,
) -> None:
    """Writes the places nearest to the wanted ones (least squares) that keep order and distance: isotonic regression
    by pooling adjacent violators."""
    shifts = [0.0]
    for left, right in pairwise(row):
        shifts.append(shifts[-1] + (widths[left] + widths[right]) / 2 + space)
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of items
    for place, weight, shift in zip(wanted, weights, shifts, strict=True):
        pool = (place - shift, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, mass, size = pools.pop()
            total = mass + pool[1]
            pool = ((mean * mass + pool[0] * pool[1]) / total, total, size + pool[2])
        pools.append(pool)
    means = (mean for mean, _, size in pools for _ in range(size))
    for item, mean, shift in zip(row, means, shifts, strict=True):
        middles[item] = mean + shift


def _bands(found: Layers, sizes: Sequence[Size], middles: list[float], gap: float) -> list[tuple[float, float]]:
    """Top and bottom of each layer; layers stand further apart where a wire runs far aside between them."""
    bands: list[tuple[float, float]] = []
    bottom = -gap
    for row in found.rows:
        aside = max((_aside(link, middles) for item in row for link in found.above[item]), default=0.0)
        top = bottom + gap + min(_MOST_EXTRA, aside / _STEEPEST)
        bottom = top + max((sizes[item].height for item in row if item < found.boxes), default=0.0)
        bands.append((top, bottom))
    return bands


def _aside(link: Link, middles: list[float]) -> float:
    upper, lower = link.upper, link.lower
    return abs(middles[upper.box] + (upper.offset or 0.0) - middles[lower.box] - (lower.offset or 0.0))


class _Router:
    """Turns links into routes: down through the layers that a wire passes, and a branch for each box that it feeds."""

    def __init__(
        self, found: Layers, sizes: Sequence[Size], middles: list[float], bands: list[tuple[float, float]]
    ) -> None:
        self.found = found
        self.sizes = sizes
        self.middles = middles
        self.bands = bands
        self.entries = self._spread(upper=False)
        self.exits = self._spread(upper=True)

    def routes(self) -> tuple[tuple[Route, ...], ...]:
        """Returns the routes of each wire: the trunk down to its farthest box, then the branches."""
        links: list[list[Link]] = [[] for _ in self.found.trunks]
        for link in self.found.links:
            if link.lower.box < self.found.boxes:
                links[link.wire].append(link)
        return tuple(tuple(self._of_wire(number, ends)) for number, ends in enumerate(links))

    def _of_wire(self, number: int, ends: list[Link]) -> list[Route]:
        trunk = self.found.trunks[number]
        ends = sorted(ends, key=lambda link: -self.found.layer_of[link.lower.box])
        routes = []
        for position, link in enumerate(ends):
            if position == 0 and trunk:
                source = self.found.above[trunk[0]][0]
                passed = [Stretch(self.middles[item], *self.bands[self.found.layer_of[item]]) for item in trunk]
                routes.append((self._start(source), *passed, self._finish(link)))
            else:
                routes.append((self._start(link), self._finish(link)))
        return routes

    def _start(self, link: Link) -> Stretch:
        box = link.upper.box
        _, below = self.bands[self.found.layer_of[box]]
        if box >= self.found.boxes:
            return Stretch(self.middles[box], below, below)
        offset = self.exits.get((link.wire, box), 0.0) if link.upper.offset is None else link.upper.offset
        return Stretch(self.middles[box] + offset, self._edge(box, 1), below)

    def _finish(self, link: Link) -> Stretch:
        box = link.lower.box
        above, _ = self.bands[self.found.layer_of[box]]
        offset = self.entries.get((link.wire, box), 0.0) if link.lower.offset is None else link.lower.offset
        return Stretch(self.middles[box] + offset, above, self._edge(box, -1))

    def _edge(self, box: int, side: int) -> float:
        above, below = self.bands[self.found.layer_of[box]]
        return (above + below + side * self.sizes[box].height) / 2

    def _spread(self, *, upper: bool) -> dict[tuple[int, int], float]:
        """Wires that share an edge of a box meet it side by side, in the order in which they come."""
        offsets: dict[tuple[int, int], float] = {}
        for box in range(self.found.boxes):
            comes: dict[int, list[float]] = {}
            for link in (self.found.below if upper else self.found.above)[box]:
                here, there = (link.upper, link.lower) if upper else (link.lower, link.upper)
                if here.offset is None:
                    comes.setdefault(link.wire, []).append(self.middles[there.box] + (there.offset or 0.0))
            step = min(_SPREAD, max(0.0, self.sizes[box].width - 12) / max(len(comes), 1))
            for position, wire in enumerate(sorted(comes, key=lambda wire: sum(comes[wire]) / len(comes[wire]))):
                offsets[wire, box] = (position - (len(comes) - 1) / 2) * step
        return offsets
