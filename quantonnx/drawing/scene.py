"""What is in a picture, before anybody knows where: boxes, wires between them, groups around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from quantonnx.errors import ModelError
from quantonnx.plan import near


class Kind(Enum):
    """What a box stands for; a CUT stands for all that was left out beyond it."""

    OPERATOR = "operator"
    PAIR = "pair"
    INPUT = "input"
    OUTPUT = "output"
    CUT = "cut"


class Region(Enum):
    """Where an operator runs: on integer codes, in float, or on numbers that were integers all along."""

    INTEGER = "integer"
    FLOAT = "float"
    OTHER = "other"


@dataclass(frozen=True)
class Box:
    """One box: `heading` and `details` on its first line, then its name and further lines.

    `codes` is the integer type of its weight; `aliases` are the names by which a person may ask for it.
    """

    kind: Kind
    heading: str
    details: str = ""
    name: str = ""
    weight: str = ""
    codes: str = ""
    region: Region = Region.FLOAT
    tooltip: str = ""
    key: str = ""
    aliases: tuple[str, ...] = ()
    group: int | None = None


@dataclass(frozen=True)
class Wire:
    """The value `tensor` on its way from one box to all that read it; `coded` behind a pair."""

    source: int
    targets: tuple[int, ...]
    tensor: str
    coded: bool = False


@dataclass(frozen=True)
class Group:
    """Operators that one pattern holds."""

    label: str
    region: Region
    tooltip: str = ""


@dataclass(frozen=True)
class Scene:
    """One picture: `boxes` and `groups` are referred to by their position."""

    title: str
    subtitle: str = ""
    boxes: tuple[Box, ...] = ()
    wires: tuple[Wire, ...] = ()
    groups: tuple[Group, ...] = ()

    def around(self, name: str, radius: int) -> Scene:
        """Returns the part within `radius` operators of a node or tensor; a group stays whole.

        Raises ModelError for a name that is not in the picture.
        """
        start = self._called(name)
        kept = self._within(start, radius)
        shown = {self.boxes[box].group for box in kept} - {None}
        kept |= {number for number, box in enumerate(self.boxes) if box.group in shown}
        part = _Part(self, sorted(kept)).scene()
        return replace(part, subtitle=f"{self.subtitle} · around {short_name(name, '')}")

    def _called(self, name: str) -> list[int]:
        found = [number for number, box in enumerate(self.boxes) if name in (box.key, *box.aliases)]
        if not found:
            known = [known for box in self.boxes for known in (box.key, *box.aliases) if known]
            raise ModelError(f"the picture has no node or tensor {name!r}", near(name, known))
        return [number for number in found if self.boxes[number].kind is Kind.OPERATOR] or found

    def _within(self, start: list[int], radius: int) -> set[int]:
        """Walks wires both ways; a pair on the way does not count as a step."""
        neighbours = self._neighbours()
        reached = set(start)
        level = list(start)
        for step in range(radius + 1):
            following = []
            while level:
                for other in neighbours[level.pop()]:
                    if other in reached:
                        continue
                    if self.boxes[other].kind is Kind.PAIR:
                        level.append(other)
                    elif step < radius:
                        following.append(other)
                    else:
                        continue
                    reached.add(other)
            level = following
        return reached

    def _neighbours(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.boxes]
        for wire in self.wires:
            for target in wire.targets:
                found[wire.source].append(target)
                found[target].append(wire.source)
        return found


class _Part:
    """Some boxes of a scene, with a small box wherever a wire leads out of them."""

    def __init__(self, scene: Scene, kept: list[int]) -> None:
        self.whole = scene
        self.boxes = [scene.boxes[number] for number in kept]
        self.place = {number: position for position, number in enumerate(kept)}

    def scene(self) -> Scene:
        """Returns the part."""
        wires = [part for wire in self.whole.wires if (part := self._wire(wire)) is not None]
        used = sorted({box.group for box in self.boxes if box.group is not None})
        renumbered = {group: position for position, group in enumerate(used)}
        boxes = tuple(replace(box, group=None if box.group is None else renumbered[box.group]) for box in self.boxes)
        groups = tuple(self.whole.groups[group] for group in used)
        return replace(self.whole, boxes=boxes, wires=tuple(wires), groups=groups)

    def _wire(self, wire: Wire) -> Wire | None:
        inside = [self.place[target] for target in wire.targets if target in self.place]
        source = self.place.get(wire.source)
        if source is None and not inside:
            return None
        if len(inside) < len(wire.targets) and source is not None:
            inside.append(self._cut(wire))
        return replace(wire, source=self._cut(wire) if source is None else source, targets=tuple(inside))

    def _cut(self, wire: Wire) -> int:
        self.boxes.append(Box(Kind.CUT, "⋯", tooltip=f"{wire.tensor}: not drawn beyond here"))
        return len(self.boxes) - 1


@dataclass
class Sketch:
    """A scene while it is made."""

    boxes: list[Box] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    _wires: dict[tuple[int, str], dict[int, None]] = field(default_factory=dict)

    def add(self, box: Box) -> int:
        """Adds a box and returns its number."""
        self.boxes.append(box)
        return len(self.boxes) - 1

    def join(self, source: int, target: int, tensor: str) -> None:
        """Leads a value from one box to another."""
        self._wires.setdefault((source, tensor), {})[target] = None

    def scene(self, title: str, subtitle: str) -> Scene:
        """Returns the scene."""
        return Scene(title, subtitle, tuple(self.boxes), tuple(self._joined()), tuple(self.groups))

    def _joined(self) -> Iterator[Wire]:
        for (source, tensor), targets in self._wires.items():
            yield Wire(source, tuple(targets), tensor, coded=self.boxes[source].kind is Kind.PAIR)


def short_name(name: str, operator: str, longest: int = 26) -> str:
    """Returns the end of a path that still tells nodes apart: `/layer1/layer1.0/conv1/Conv` is `layer1.0/conv1`."""
    parts = [part for part in name.split("/") if part]
    if len(parts) > 1 and parts[-1].split("_")[0] == operator:
        parts.pop()
    kept = _without_repeats(parts)[-2:]
    shown = "/".join(kept)
    return shown if len(shown) <= longest else "…" + shown[1 - longest :]


def _without_repeats(parts: Iterable[str]) -> list[str]:
    """A module path repeats itself: of `blocks/blocks.0` only the longer part is kept."""
    kept: list[str] = []
    for part in parts:
        if kept and part.startswith(f"{kept[-1]}."):
            kept.pop()
        kept.append(part)
    return kept
