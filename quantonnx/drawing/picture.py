"""From a scene to coordinates: each group is laid out for itself and then stands as one box among the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantonnx.drawing.columns import wrapped
from quantonnx.drawing.layering import End
from quantonnx.drawing.layering import Wire as Line
from quantonnx.drawing.layout import Arrangement, Route, Size, Stretch, arrange
from quantonnx.drawing.scene import Box, Group, Kind, Scene, Wire
from quantonnx.drawing.text import width_of

HEADING, SMALL, MARK = 12.5, 10.0, 9.0
LINE = 13.0
_PADDING = 9.0
_LABEL = 17.0
_PORT = Size(1.0, 0.0)


@dataclass(frozen=True)
class Place:
    """A rectangle: its left upper corner and its size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Picture:
    """A scene with coordinates: a place for each box and group, the routes of each wire."""

    scene: Scene
    boxes: tuple[Place, ...]
    groups: tuple[Place, ...]
    routes: tuple[tuple[Route, ...], ...]
    size: Size


def laid_out(scene: Scene, *, wrap: bool = False) -> Picture:
    """Returns a scene with coordinates; with `wrap`, a tall one goes on in further columns."""
    return _Layout(scene).picture(wrap=wrap)


def size_of(box: Box) -> Size:
    """Returns how much room the texts of a box take."""
    if box.kind is Kind.PAIR:
        return Size(width_of(box.heading, MARK) + 14, 16)
    if box.kind is Kind.CUT:
        return Size(26, 14)
    first = width_of(box.heading, HEADING, bold=True) + (width_of(box.details, SMALL) + 6 if box.details else 0)
    if box.kind is not Kind.OPERATOR:
        return Size(first + 24, 24)
    widths = [first, width_of(box.name, SMALL), width_of(weight_text(box), SMALL) + (9 if box.codes else 0)]
    lines = 1 + sum(width > 0 for width in widths[1:])
    return Size(max(widths) + 20, 14 + LINE * lines)


def weight_text(box: Box) -> str:
    """Returns what a box says about its weight."""
    return " ".join(part for part in (box.codes, box.weight) if part)


@dataclass(frozen=True)
class _Inside:
    """A group laid out: where its members stand in it, and at which offset each outer wire enters or leaves."""

    members: list[int]
    wires: list[int]
    layout: Arrangement
    size: Size
    ports: dict[int, float]


class _Layout:
    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.members: list[list[int]] = [[] for _ in scene.groups]
        self.home = _homes(scene)
        for number, group in enumerate(self.home):
            if group is not None:
                self.members[group].append(number)
        self.touching: list[list[int]] = [[] for _ in scene.groups]
        for number, wire in enumerate(scene.wires):
            for group in dict.fromkeys(self.home[box] for box in (wire.source, *wire.targets)):
                if group is not None:
                    self.touching[group].append(number)
        self.inside = [self._inside(group) for group in range(len(scene.groups))]

    def picture(self, *, wrap: bool) -> Picture:
        """Lays out groups and free boxes, then puts the members into their groups."""
        free = [number for number, group in enumerate(self.home) if group is None]
        self.unit = {number: position + len(self.inside) for position, number in enumerate(free)}
        sizes = [inside.size for inside in self.inside] + [size_of(self.scene.boxes[number]) for number in free]
        outer = {n: line for n, wire in enumerate(self.scene.wires) if (line := self._outer(n, wire)) is not None}
        found = arrange(sizes, list(outer.values()))
        found = wrapped(found, sizes) if wrap else found
        places = [Place(x, y, size.width, size.height) for (x, y), size in zip(found.places, sizes, strict=True)]
        routes: list[tuple[Route, ...]] = [() for _ in self.scene.wires]
        for number, run in zip(outer, found.routes, strict=True):
            routes[number] = run
        boxes = {number: places[self.unit[number]] for number in free}
        for inside, place in zip(self.inside, places, strict=False):
            self._put(inside, place, boxes, routes)
        every = tuple(boxes[number] for number in range(len(boxes)))
        return Picture(self.scene, every, tuple(places[: len(self.inside)]), tuple(routes), found.size)

    def _inside(self, group: int) -> _Inside:
        members, wires = self.members[group], self.touching[group]
        number_of = {box: position for position, box in enumerate(members)}
        sizes = [size_of(self.scene.boxes[box]) for box in members]
        entries, exits, lines = {}, {}, []
        for number in wires:
            wire = self.scene.wires[number]
            targets = [End(number_of[box]) for box in wire.targets if box in number_of]
            if wire.source not in number_of:
                entries[number] = len(sizes)
                sizes.append(_PORT)
                lines.append(Line(End(entries[number], 0.0), tuple(targets)))
                continue
            if len(targets) < len(wire.targets):
                exits[number] = len(sizes)
                targets.append(End(len(sizes), 0.0))
                sizes.append(_PORT)
            lines.append(Line(End(number_of[wire.source]), tuple(targets)))
        top, bottom = frozenset(entries.values()), frozenset(exits.values())
        found = arrange(sizes, lines, top=top, bottom=bottom, gap=9.0, space=14.0)
        size = self._size(self.scene.groups[group], found)
        shift = (size.width - found.size.width) / 2
        ports = {n: found.places[p][0] + 0.5 + shift - size.width / 2 for n, p in (entries | exits).items()}
        return _Inside(members, wires, found, size, ports)

    def _size(self, group: Group, found: Arrangement) -> Size:
        label = width_of(group.label, SMALL, bold=True) + 4
        width = max(found.size.width, label) + 2 * _PADDING
        return Size(width, found.size.height + _LABEL + _PADDING / 2)

    def _outer(self, number: int, wire: Wire) -> Line | None:
        home = self.home[wire.source]
        targets: dict[int, End] = {}
        for box in wire.targets:
            if self.home[box] is None or self.home[box] != home:
                end = self._end(number, box)
                targets[end.box] = end
        return Line(self._end(number, wire.source), tuple(targets.values())) if targets else None

    def _end(self, wire: int, box: int) -> End:
        group = self.home[box]
        return End(self.unit[box]) if group is None else End(group, self.inside[group].ports[wire])

    def _put(self, inside: _Inside, place: Place, boxes: dict[int, Place], routes: list[tuple[Route, ...]]) -> None:
        """Shifts a group's members and inner wires to where the group stands; wires at its edge reach that edge."""
        dx = place.x + (place.width - inside.layout.size.width) / 2
        dy = place.y + _LABEL
        for number, (x, y) in zip(inside.members, inside.layout.places, strict=False):
            size = size_of(self.scene.boxes[number])
            boxes[number] = Place(x + dx, y + dy, size.width, size.height)
        for number, run in zip(inside.wires, inside.layout.routes, strict=True):
            shifted = [tuple(Stretch(s.x + dx, s.start + dy, s.end + dy) for s in route) for route in run]
            routes[number] += tuple(_reaching(route, place, dy, inside) for route in shifted)


def _reaching(route: Route, place: Place, top: float, inside: _Inside) -> Route:
    first, last = route[0], route[-1]
    bottom = top + inside.layout.size.height
    starts = Stretch(first.x, place.y if first.start <= top else first.start, first.end)
    if len(route) == 1:
        return (starts,)
    ends = Stretch(last.x, last.start, place.y + place.height if last.end >= bottom else last.end)
    return (starts, *route[1:-1], ends)


def _homes(scene: Scene) -> Sequence[int | None]:
    """The group of each box; a pair belongs to the group that both gives and reads its value."""
    homes = [box.group for box in scene.boxes]
    given = {target: wire.source for wire in scene.wires for target in wire.targets}
    for wire in scene.wires:
        if scene.boxes[wire.source].kind is Kind.PAIR and wire.source in given:
            around = {homes[box] for box in (given[wire.source], *wire.targets)}
            if len(around) == 1:
                homes[wire.source] = around.pop()
    return homes
