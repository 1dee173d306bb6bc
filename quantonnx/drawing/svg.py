"""Pictures as SVG text: nothing but shapes, selectable text and tooltips; no script, no font, no other file.

Colours are a blue and an amber that colour-blind people tell apart and that differ in lightness on paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import copysign

from quantonnx.drawing.layout import Route, Stretch
from quantonnx.drawing.picture import LINE, Picture, Place, weight_text
from quantonnx.drawing.scene import Box, Group, Kind, Region, Wire
from quantonnx.drawing.text import attribute, content, number, width_of

_MARGIN = 20.0
_BETWEEN = 44.0
_TITLE = 46.0
_ABOVE_LEGEND = 26.0
_ROW = 20.0
_NARROWEST = 260.0
_BEND = 5.0
_STRAIGHT = 0.05
_RULES = (
    ("text", 'font-family:ui-sans-serif,system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#17222e'),
    (".title", "font-size:15px;font-weight:600"),
    (".sub", "font-size:11px;fill:#51606f"),
    (".key", "font-size:11px;fill:#51606f"),
    (".integer>rect", "fill:#b9d8f2;stroke:#1f6fb2;stroke-width:1.2"),
    (".float>rect", "fill:#fff0cf;stroke:#c07c00;stroke-width:1.2"),
    (".other>rect", "fill:#eceff2;stroke:#8895a3;stroke-width:1.2"),
    (".group.integer>rect", "fill:#e9f3fc"),
    (".group.float>rect", "fill:#fffaf0;stroke-dasharray:5 3"),
    (".label", "font-size:10px;font-weight:600;stroke-width:4px;stroke-linejoin:round;paint-order:stroke"),
    (".label.integer", "fill:#1a5c94;stroke:#e9f3fc"),
    (".label.float", "fill:#8a5900;stroke:#fffaf0"),
    (".h", "font-size:12.5px;font-weight:600"),
    (".d", "font-size:10px;font-weight:400;fill:#3d4b59"),
    (".n", "font-size:10px;fill:#51606f"),
    (".pair rect", "fill:#0f3d66"),
    (".pair text", "font-size:9px;font-weight:600;fill:#fff"),
    (".input rect", "fill:#fff;stroke:#51606f;stroke-width:1.2"),
    (".output rect", "fill:#fff;stroke:#51606f;stroke-width:1.2"),
    (".cut rect", "fill:none"),
    (".cut text", "font-size:12px;fill:#51606f"),
    (".wire path", "fill:none;stroke:#93a0ad;stroke-width:1.4"),
    (".coded path", "stroke:#1f6fb2;stroke-width:1.8"),
    (".w rect", "fill:#0f3d66"),
    (".op .w", "fill:#0f3d66;stroke:none"),
)
_STYLE = "".join(f".quantonnx {selector}{{{rules}}}\n" for selector, rules in _RULES)  # inside a page it styles no more


def written(pictures: Sequence[Picture]) -> str:
    """Returns an SVG document with the pictures side by side, titles above and the legend below."""
    widths = [max(picture.size.width, _title_width(picture)) for picture in pictures]
    room = max(sum(widths) + _BETWEEN * (len(pictures) - 1), _NARROWEST)
    keys = list(_in_rows(_legend(pictures), room))
    legend = _MARGIN + _TITLE + max((picture.size.height for picture in pictures), default=0.0) + _ABOVE_LEGEND
    bottom = legend + _ROW * (1 + max((key.row for key in keys), default=0))
    parts = [_opening(room + 2 * _MARGIN, bottom)]
    x = _MARGIN
    for picture, width in zip(pictures, widths, strict=True):
        parts += _panel(picture, x, width)
        x += width + _BETWEEN
    parts += [_drawn_key(key, legend) for key in keys]
    return "\n".join([*parts, "</svg>", ""])


def _opening(width: float, height: float) -> str:
    size = f'width="{number(width)}" height="{number(height)}" viewBox="0 0 {number(width)} {number(height)}"'
    card = f'<rect x="0" y="0" width="{number(width)}" height="{number(height)}" rx="10" fill="#fbfcfd"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="quantonnx" {size}>\n<style>{content(_STYLE)}</style>\n{card}'
    )


def _title_width(picture: Picture) -> float:
    return max(width_of(picture.scene.title, 15, bold=True), width_of(picture.scene.subtitle, 11))


def _panel(picture: Picture, x: float, room: float) -> Iterator[str]:
    middle = (room - picture.size.width) / 2
    yield f'<g class="panel" transform="translate({number(x)} {number(_MARGIN)})">'
    yield f'<text class="title" x="0" y="14">{content(picture.scene.title)}</text>'
    yield f'<text class="sub" x="0" y="30">{content(picture.scene.subtitle)}</text>'
    yield f'<g transform="translate({number(middle)} {number(_TITLE)})">'
    groups = list(zip(picture.scene.groups, picture.groups, strict=True))
    yield from (_group(group, place) for group, place in groups)
    for wire, routes in zip(picture.scene.wires, picture.routes, strict=True):
        yield _wire(wire, routes)
    yield from (_label(group, place) for group, place in groups)
    for box, place in zip(picture.scene.boxes, picture.boxes, strict=True):
        yield _box(box, place)
    yield "</g></g>"


def _group(group: Group, place: Place) -> str:
    return f'<g class="group {group.region.value}">{_tooltip(group.tooltip)}{_rect(place, 9)}</g>'


def _label(group: Group, place: Place) -> str:
    """A label stands before the wires, which break behind it."""
    return _text(f"label {group.region.value}", place.x + 9, place.y + 13, group.label)


def _wire(wire: Wire, routes: Sequence[Route]) -> str:
    path = "".join(_path(route) for route in routes)
    classes = "wire coded" if wire.coded else "wire"
    return f'<g class="{classes}">{_tooltip(wire.tensor)}<path d="{path}"/></g>'


def _path(route: Route) -> str:
    parts = [f"M{number(route[0].x)} {number(route[0].start)}"]
    for upper, lower in pairwise(route):
        parts.append(_turn(upper, lower) if upper.end == lower.start else _curve(upper, lower))
    return "".join([*parts, f"V{number(route[-1].end)}"])


def _curve(upper: Stretch, lower: Stretch) -> str:
    """The end of one stretch and the way to the next, between two layers."""
    down = "" if upper.start == upper.end else f"V{number(upper.end)}"
    if abs(upper.x - lower.x) < _STRAIGHT:
        return f"{down}L{number(lower.x)} {number(lower.start)}"
    x, middle = number(lower.x), number((upper.end + lower.start) / 2)
    return f"{down}C{number(upper.x)} {middle} {x} {middle} {x} {number(lower.start)}"


def _turn(upper: Stretch, lower: Stretch) -> str:
    """A level line to the next stretch, with round corners: from column to column."""
    comes, goes = copysign(_BEND, upper.end - upper.start), copysign(_BEND, lower.end - lower.start)
    aside, level = copysign(_BEND, lower.x - upper.x), number(upper.end)
    corner = f"V{number(upper.end - comes)}Q{number(upper.x)} {level} {number(upper.x + aside)} {level}"
    return (
        f"{corner}H{number(lower.x - aside)}Q{number(lower.x)} {level} {number(lower.x)} {number(lower.start + goes)}"
    )


def _box(box: Box, place: Place) -> str:
    if box.kind is Kind.OPERATOR:
        return _operator(box, place)
    pill = box.kind in (Kind.INPUT, Kind.OUTPUT)
    x, y = number(place.x + place.width / 2), number(place.y + place.height / 2 + (4 if pill else 3))
    label = f'<text{_class("h" if pill else "")} x="{x}" y="{y}" text-anchor="middle">{_first_line(box)}</text>'
    return _marked(box.kind.value, box, _rect(place, place.height / 2) + label)


def _first_line(box: Box) -> str:
    details = f' <tspan class="d">{content(box.details)}</tspan>' if box.details else ""
    return content(box.heading) + details


def _marked(kind: str, box: Box, shapes: str) -> str:
    name = box.key or next(iter(box.aliases), "")
    return f'<g class="{kind}" data-name={attribute(name)}>{_tooltip(box.tooltip)}{shapes}</g>'


def _operator(box: Box, place: Place) -> str:
    x, y = place.x + 10, place.y + 17
    parts = [_rect(place, 6), f'<text class="h" x="{number(x)}" y="{number(y)}">{_first_line(box)}</text>']
    if box.name:
        y += LINE
        parts.append(_text("n", x, y, box.name))
    if weight_text(box):
        y += LINE
        if box.codes:
            parts.append(f'<rect class="w" x="{number(x)}" y="{number(y - 7)}" width="6" height="6" rx="1"/>')
        parts.append(_text("n", x + (9 if box.codes else 0), y, weight_text(box)))
    return _marked(f"op {box.region.value}", box, "".join(parts))


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text{_class(kind)} x="{number(x)}" y="{number(y)}">{content(text)}</text>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _rect(place: Place, radius: float) -> str:
    corner = f'x="{number(place.x)}" y="{number(place.y)}"'
    size = f'width="{number(place.width)}" height="{number(place.height)}"'
    return f'<rect {corner} {size} rx="{number(radius)}"/>'


def _tooltip(text: str) -> str:
    return f"<title>{content(text)}</title>" if text else ""


@dataclass(frozen=True)
class _Key:
    """One entry of the legend: the class of its sample, the words beside it, and where it stands."""

    kind: str
    words: str
    left: float = 0.0
    row: int = 0

    @property
    def width(self) -> float:
        """How much room it takes."""
        return 48 + width_of(self.words, 11)


def _legend(pictures: Sequence[Picture]) -> Iterator[_Key]:
    """Yields what needs explaining in these pictures."""
    boxes = [box for picture in pictures for box in picture.scene.boxes]
    regions = {box.region for box in boxes if box.kind is Kind.OPERATOR}
    words = {Region.INTEGER: "runs on integers", Region.FLOAT: "runs in float", Region.OTHER: "shapes and indices"}
    yield from (_Key(f"op {region.value}", words[region]) for region in Region if region in regions)
    if any(picture.scene.groups for picture in pictures):
        yield _Key("group integer", "fused into one kernel")
    if any(box.kind is Kind.PAIR for box in boxes):
        yield _Key("pair", "Q→DQ pair on a tensor")
    if any(box.codes for box in boxes):
        yield _Key("w", "weight stored as integers")


def _in_rows(keys: Iterable[_Key], room: float) -> Iterator[_Key]:
    """Puts the keys side by side, in as many rows as they need."""
    left, row = 0.0, 0
    for key in keys:
        if left and left + key.width > room:
            left, row = 0.0, row + 1
        yield replace(key, left=left, row=row)
        left += key.width


def _drawn_key(key: _Key, top: float) -> str:
    x, y = _MARGIN + key.left, top + _ROW * key.row
    width, height = (6.0, 6.0) if key.kind == "w" else (22.0, 12.0)
    place = Place(x + (22 - width) / 2, y - height / 2, width, height)
    sample = f'<g class="{key.kind}">{_rect(place, 1 if key.kind == "w" else 3)}</g>'
    return f'<g class="legend">{sample}{_text("key", x + 30, y + 4, key.words)}</g>'
