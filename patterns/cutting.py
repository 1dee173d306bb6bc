"""Operators that cut, join, add and drop axes: what they make of the length of one, counted from the end."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from quantonnx.weights import load_array

from .shapes import Known, Size


def numbers(node: gs.Node, place: int, attribute: str) -> list[int] | None:
    """Returns the numbers of a constant operand, or of the attribute that older opsets have for it."""
    if attribute in node.attrs:
        return [int(number) for number in node.attrs[attribute]]
    operand = node.inputs[place] if len(node.inputs) > place else None
    return load_array(operand).reshape(-1).tolist() if isinstance(operand, gs.Constant) else None


def _from_end(axes: list[int], count: int | None) -> list[int] | None:
    """Axes counted from the end, of a value with `count` of them."""
    if count is None and any(axis >= 0 for axis in axes):
        return None
    return [axis - (count or 0) if axis >= 0 else axis for axis in axes]


def _optional(node: gs.Node, place: int, attribute: str, otherwise: list[int]) -> list[int] | None:
    absent = attribute not in node.attrs and (len(node.inputs) <= place or not node.inputs[place].name)
    return otherwise if absent else numbers(node, place, attribute)


def concat(node: gs.Node, axis: int, known: Known) -> Size:
    """Concat: the sum along its axis, elsewhere what any part has."""
    along = _from_end([node.attrs["axis"]], known.rank(node.outputs[0]))
    if along is None:
        return None
    sizes = [known.size(part, axis) for part in node.inputs]
    fixed = [size for size in sizes if isinstance(size, int)]
    if along != [axis]:
        return fixed[0] if fixed else sizes[0]
    return sum(fixed) if len(fixed) == len(sizes) else None


def sliced(node: gs.Node, axis: int, known: Known) -> Size:
    """Slice with constant bounds and steps forward."""
    starts, ends = numbers(node, 1, "starts"), numbers(node, 2, "ends")
    if starts is None or ends is None:
        return None
    given = _optional(node, 3, "axes", list(range(len(starts))))
    steps = _optional(node, 4, "steps", [1] * len(starts))
    axes = None if given is None else _from_end(given, known.rank(node.inputs[0]))
    size = known.size(node.inputs[0], axis) if axes is not None else None
    if axes is None or axis not in axes:
        return size
    at = axes.index(axis)
    if steps is None or steps[at] < 1 or not isinstance(size, int):
        return None
    return len(range(size)[starts[at] : ends[at] : steps[at]])


def pad(node: gs.Node, axis: int, known: Known) -> Size:
    """Pad with constant pads."""
    pads, size = numbers(node, 1, "pads"), known.size(node.inputs[0], axis)
    if pads is None or size is None or (len(node.inputs) > 3 and node.inputs[3].name):
        return None
    added = pads[len(pads) // 2 + axis] + pads[axis]
    return size + added if isinstance(size, int) else None if added else size


def unsqueeze(node: gs.Node, axis: int, known: Known) -> Size:
    """Unsqueeze at constant axes."""
    axes = numbers(node, 1, "axes")
    count = known.rank(node.inputs[0])
    new = None if axes is None else _from_end(axes, None if count is None else count + len(axes))
    if new is None or axis in new:
        return None if new is None else 1
    return known.size(node.inputs[0], axis + sum(place > axis for place in new))


def squeeze(node: gs.Node, axis: int, known: Known) -> Size:
    """Squeeze of constant axes."""
    axes = numbers(node, 1, "axes")
    gone = None if axes is None else _from_end(axes, known.rank(node.inputs[0]))
    for place in sorted(gone or (), reverse=True):
        axis -= place >= axis
    return None if gone is None else known.size(node.inputs[0], axis)


def gather(node: gs.Node, axis: int, known: Known) -> Size:
    """Gather: the axes of the index stand for one axis."""
    along = _from_end([node.attrs.get("axis", 0)], known.rank(node.inputs[0]))
    if along is None:
        return None
    if axis > along[0]:
        return known.size(node.inputs[0], axis)
    index = known.rank(node.inputs[1])
    if index is None:
        return None
    inside = axis - along[0] - 1
    if -inside <= index:
        return known.size(node.inputs[1], inside)
    return known.size(node.inputs[0], axis + index - 1)


def split(node: gs.Node, value: gs.Tensor, axis: int, known: Known) -> Size:
    """Split: equal parts, or constant ones."""
    along = _from_end([node.attrs.get("axis", 0)], known.rank(node.inputs[0]))
    if along is None:
        return None
    size = known.size(node.inputs[0], axis)
    if along != [axis]:
        return size
    parts = _optional(node, 1, "split", [])
    if parts is None or parts:
        place = next(i for i, output in enumerate(node.outputs) if output is value)
        return None if parts is None else parts[place]
    return size // len(node.outputs) if isinstance(size, int) and size % len(node.outputs) == 0 else None
