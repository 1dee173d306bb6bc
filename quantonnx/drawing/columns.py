"""Long chains in columns: a tall layout is cut where few wires pass and goes on beside itself, as newspapers do."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt

from quantonnx.drawing.layout import Arrangement, Route, Size, Stretch

_TALLEST = 1500.0
_SLIMMEST = 2.2
_ASPECT = 1.6
_GUTTER = 34.0
_LANE = 7.0
_ROOM = (0.8, 1.12)


@dataclass(frozen=True)
class _Column:
    """The layers from `first` up to `end`, what they are shifted by, and the left and right of what stands in them."""

    first: int
    end: int
    left: float
    right: float
    dx: float = 0.0
    dy: float = 0.0


def wrapped(found: Arrangement, sizes: Sequence[Size]) -> Arrangement:
    """Returns a tall, slim layout in columns, about as wide as a screen; any other as it is.

    Wires that pass a cut run on from the foot of a column to the head of the next one.
    """
    height, width = found.size.height, found.size.width + _GUTTER
    if height < max(_TALLEST, _SLIMMEST * width):
        return found
    return _Wrapping(found, sizes, columns=max(2, round(sqrt(_ASPECT * height / width)))).arrangement()


class _Wrapping:
    def __init__(self, found: Arrangement, sizes: Sequence[Size], *, columns: int) -> None:
        self.found = found
        self.sizes = sizes
        self.tops = [top for top, _ in found.bands]
        self.passing, self.branches = self._passing()
        self.columns = self._placed(self._cut(found.size.height / columns))
        self.column_of = [n for n, column in enumerate(self.columns) for _ in range(column.first, column.end)]

    def arrangement(self) -> Arrangement:
        """Returns the layout with every column at its place."""
        places = []
        for layer, (x, y) in zip(self.found.layer_of, self.found.places, strict=True):
            column = self.columns[self.column_of[layer]]
            places.append((x + column.dx, y + column.dy))
        routes = tuple(tuple(self._run(number, route) for route in run) for number, run in enumerate(self.found.routes))
        bands = []
        for layer, (top, bottom) in enumerate(self.found.bands):
            dy = self.columns[self.column_of[layer]].dy
            bands.append((top + dy, bottom + dy))
        width = self.columns[-1].right + self.columns[-1].dx
        height = max(self._foot(column) + self._lanes(column.end) * _LANE for column in self.columns)
        return replace(self.found, places=tuple(places), routes=routes, bands=tuple(bands), size=Size(width, height))

    def _layer(self, stretch: Stretch) -> int:
        return max(0, bisect_right(self.tops, stretch.start) - 1)

    def _passing(self) -> tuple[list[dict[int, float]], list[int]]:
        """The wires that come into each layer from the one above, with their place above; and how many they are with
        their branches."""
        wires: list[dict[int, float]] = [{} for _ in range(len(self.tops) + 1)]
        branches = [0] * len(wires)
        for number, run in enumerate(self.found.routes):
            for route in run:
                for upper, lower in pairwise(route):
                    layer = self._layer(lower)
                    wires[layer][number] = upper.x
                    branches[layer] += 1
        return wires, branches

    def _cut(self, height: float) -> list[int]:
        """Returns the first layer of each column: near the wanted height, where the fewest wires pass."""
        cuts = [0]
        while True:
            top = self.tops[cuts[-1]]
            if self.found.size.height - top <= height * _ROOM[1]:
                return cuts
            first = bisect_right(self.tops, top + height * _ROOM[0])
            end = bisect_right(self.tops, top + height * _ROOM[1])
            start = max(first, cuts[-1] + 1)
            choices = range(start, min(max(end, start + 1), len(self.tops)))
            if not choices:
                return cuts
            wanted = top + height
            cuts.append(min(choices, key=lambda layer: (self.branches[layer], abs(self.tops[layer] - wanted))))

    def _placed(self, cuts: list[int]) -> list[_Column]:
        columns = [self._extent(first, end) for first, end in pairwise([*cuts, len(self.tops)])]
        head = max((len(self.passing[first]) for first in cuts[1:]), default=0) * _LANE
        placed: list[_Column] = []
        x = 0.0
        for column in columns:
            placed.append(replace(column, dx=x - column.left, dy=head - self.tops[column.first]))
            x += column.right - column.left + _GUTTER + self._lanes(column.end) * _LANE
        return placed

    def _extent(self, first: int, end: int) -> _Column:
        edges = [
            edge
            for layer, (x, _), size in zip(self.found.layer_of, self.found.places, self.sizes, strict=True)
            if first <= layer < end
            for edge in (x, x + size.width)
        ]
        edges += [s.x for run in self.found.routes for route in run for s in route if first <= self._layer(s) < end]
        return _Column(first, end, min(edges), max(edges))

    def _lanes(self, end: int) -> int:
        return len(self.passing[end]) if end < len(self.tops) else 0

    def _foot(self, column: _Column) -> float:
        return self.found.bands[column.end - 1][1] + column.dy

    def _run(self, number: int, route: Route) -> Route:
        """Shifts each stretch with its column; between columns it goes down, through the gutter up, and down again."""
        run: list[Stretch] = []
        before: _Column | None = None
        for stretch in route:
            column = self.columns[self.column_of[self._layer(stretch)]]
            moved = Stretch(stretch.x + column.dx, stretch.start + column.dy, stretch.end + column.dy)
            if before is not None and before is not column:
                last = run.pop()
                foot, gutter, head = self._lane(number, before, column)
                run += [replace(last, end=foot), Stretch(gutter, foot, head)]
                moved = replace(moved, start=head)
            run.append(moved)
            before = column
        return tuple(run)

    def _lane(self, number: int, column: _Column, following: _Column) -> tuple[float, float, float]:
        """Lanes are nested, so that wires keep their order without crossing: foot, gutter, head."""
        passing = self.passing[column.end]
        rank = sorted(passing, key=lambda wire: (passing[wire], wire)).index(number)
        inner = len(passing) - rank
        head = self.tops[following.first] + following.dy - rank * _LANE - _LANE / 2
        return self._foot(column) + inner * _LANE, column.right + column.dx + _GUTTER / 2 + inner * _LANE, head
