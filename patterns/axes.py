"""What operators do to the axes of values: the number of axes, and the length of each, counted from the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import onnx_graphsurgeon as gs

from quantonnx.weights import load_array

from .shapes import KEEPS_RANK, elements

_BROADCAST = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Where"}
)
_SAME_SHAPE = frozenset(
    {"Abs", "BatchNormalization", "Cast", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"}
    | {"Identity", "InstanceNormalization", "IsNaN", "LayerNormalization", "LeakyRelu", "Log", "Neg", "Not", "PRelu"}
    | {"Reciprocal", "Relu", "RMSNormalization", "ScatterND", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Tanh"}
)
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_LIKE_FIRST = KEEPS_RANK | _SAME_SHAPE | {"Concat", "Conv", "ConvTranspose", "GlobalAveragePool", "Resize"}


class Known(Protocol):
    """What is known of values so far."""

    def rank(self, value: gs.Tensor) -> int | None:
        """Returns the number of axes."""

    def size(self, value: gs.Tensor, axis: int) -> int | None:
        """Returns the length of an axis, counted from the end."""


def rank_after(node: gs.Node, known: Known) -> int | None:
    """Returns the number of axes of what a node gives; None where it is not known."""
    if node.op in ("Flatten", "Gemm"):
        return 2
    if node.op == "Reshape":
        return elements(node.inputs[-1])
    if node.op == "Transpose" and "perm" in node.attrs:
        return len(node.attrs["perm"])
    if node.op in _BROADCAST or node.op == "MatMul":
        ranks = [known.rank(operand) for operand in node.inputs]
        wanted = [count for count in ranks if count is not None and (count > 1 or node.op != "MatMul")]
        return max(wanted, default=None) if len(wanted) == len(ranks) else None
    first = known.rank(node.inputs[0]) if node.inputs else None
    if first is None or node.op in _LIKE_FIRST:
        return first
    if node.op in ("Squeeze", "Unsqueeze"):
        axes = _numbers(node, 1, "axes")
        return None if axes is None else first + (len(axes) if node.op == "Unsqueeze" else -len(axes))
    index = known.rank(node.inputs[1]) if node.op == "Gather" else None
    return None if index is None else first - 1 + index


def size_after(node: gs.Node, value: gs.Tensor, axis: int, known: Known) -> int | None:
    """Returns the length of an axis of `value`, which a node gives; None where it is not known."""
    if node.op in _SAME_SHAPE:
        size = known.size(node.inputs[0], axis)
        return known.size(node.inputs[1], -1) if size is None and axis == -1 and node.op in _NORMS else size
    if node.op in _BROADCAST:
        sizes = (known.size(operand, axis) for operand in node.inputs)
        return next((size for size in sizes if size not in (None, 1)), None)
    if node.op == "Split":
        return _split(node, value, axis, known)
    rule = _RULES.get(node.op)
    return rule(node, axis, known) if rule is not None else None


def _numbers(node: gs.Node, place: int, attribute: str) -> list[int] | None:
    """The numbers of a constant operand, or of the attribute that older opsets have for it."""
    if attribute in node.attrs:
        return [int(number) for number in node.attrs[attribute]]
    operand = node.inputs[place] if len(node.inputs) > place else None
    return load_array(operand).reshape(-1).tolist() if isinstance(operand, gs.Constant) else None


def _from_end(axes: list[int], count: int | None) -> list[int] | None:
    """Axes counted from the end, of a value with `count` of them."""
    if count is None and any(axis >= 0 for axis in axes):
        return None
    return [axis - (count or 0) if axis >= 0 else axis for axis in axes]


def _transpose(node: gs.Node, axis: int, known: Known) -> int | None:
    perm = node.attrs.get("perm", ())
    return known.size(node.inputs[0], perm[axis] - len(perm)) if len(perm) >= -axis else None


def _matmul(node: gs.Node, axis: int, known: Known) -> int | None:
    needed = node.inputs[1:] if axis == -1 else node.inputs
    if any((known.rank(operand) or 1) < 2 for operand in needed):
        return None
    if axis >= -2:
        return known.size(node.inputs[axis + 2], axis)
    sizes = (known.size(operand, axis) for operand in node.inputs)
    return next((size for size in sizes if size not in (None, 1)), None)


def _gemm(node: gs.Node, axis: int, known: Known) -> int | None:
    place = axis + 2
    turned = node.attrs.get("transB" if place else "transA", 0)
    return known.size(node.inputs[place], -3 - axis if turned else axis)


def _window(node: gs.Node, axis: int, known: Known) -> int | None:
    """Conv, pooling: weights give the channels, windows the spatial axes."""
    kernel = node.attrs.get("kernel_shape") or list(node.inputs[1].shape or ())[2:]
    if not kernel:
        return None
    if -axis > len(kernel):
        if node.op == "Conv" and -axis == len(kernel) + 1:
            return known.size(node.inputs[1], -len(kernel) - 2)
        return known.size(node.inputs[0], axis)
    size = known.size(node.inputs[0], axis)
    if size is None or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    at = len(kernel) + axis
    pads = node.attrs.get("pads") or [0] * (2 * len(kernel))
    step, dilation = (list(node.attrs.get(name) or [1] * len(kernel))[at] for name in ("strides", "dilations"))
    room = size + pads[at] + pads[at + len(kernel)] - dilation * (kernel[at] - 1) - 1
    if node.attrs.get("ceil_mode", 0) and room % step:
        return None
    return int(room // step + 1)


def _global_pool(node: gs.Node, axis: int, known: Known) -> int | None:
    count = known.rank(node.inputs[0])
    if count is None:
        return None
    return 1 if axis >= 2 - count else known.size(node.inputs[0], axis)


def _concat(node: gs.Node, axis: int, known: Known) -> int | None:
    along = _from_end([node.attrs["axis"]], known.rank(node.inputs[0]) if node.attrs["axis"] >= 0 else None)
    if along is None:
        return None
    sizes = [known.size(part, axis) for part in node.inputs]
    if along != [axis]:
        return next((size for size in sizes if size is not None), None)
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _slice(node: gs.Node, axis: int, known: Known) -> int | None:
    starts, ends = _numbers(node, 1, "starts"), _numbers(node, 2, "ends")
    if starts is None or ends is None:
        return None
    given = _optional(node, 3, "axes", list(range(len(starts))))
    steps = _optional(node, 4, "steps", [1] * len(starts))
    axes = None if given is None else _from_end(given, known.rank(node.inputs[0]) if max(given, default=0) >= 0 else None)
    size = known.size(node.inputs[0], axis) if axes is not None else None
    if axes is None or size is None or axis not in axes:
        return size
    at = axes.index(axis)
    if steps is None or steps[at] < 1:
        return None
    return len(range(size)[starts[at] : ends[at] : steps[at]])


def _optional(node: gs.Node, place: int, attribute: str, otherwise: list[int]) -> list[int] | None:
    absent = attribute not in node.attrs and (len(node.inputs) <= place or not node.inputs[place].name)
    return otherwise if absent else _numbers(node, place, attribute)


def _pad(node: gs.Node, axis: int, known: Known) -> int | None:
    pads, size = _numbers(node, 1, "pads"), known.size(node.inputs[0], axis)
    if pads is None or size is None or (len(node.inputs) > 3 and node.inputs[3].name):
        return None
    count = len(pads) // 2
    return size + pads[count + axis] + pads[axis]


def _reshape(node: gs.Node, axis: int, known: Known) -> int | None:
    shape = node.inputs[-1]
    wanted = element(shape, axis, elements(shape))
    if wanted is None or wanted > 0:
        return wanted
    if not isinstance(shape, gs.Constant):
        return None
    count = known.rank(node.inputs[0])
    numbers = [int(n) for n in load_array(shape)]
    if wanted == 0:
        place = len(numbers) + axis - (count or 0)
        return 0 if node.attrs.get("allowzero", 0) else known.size(node.inputs[0], place) if count else None
    return None if count is None or 0 in numbers else _rest(node.inputs[0], count, numbers, known)


def _rest(value: gs.Tensor, count: int, numbers: list[int], known: Known) -> int | None:
    sizes = [known.size(value, axis) for axis in range(-count, 0)]
    others = -math.prod(numbers)
    return None if None in sizes else math.prod(size for size in sizes if size is not None) // others


def element(shape: gs.Tensor, place: int, count: int | None) -> int | None:
    """Returns a number of a shape, counted from the end: of a constant, or of one put together from parts."""
    if isinstance(shape, gs.Constant):
        return int(load_array(shape)[place]) if len(shape.shape) == 1 and shape.shape[0] >= -place else None
    node = shape.inputs[0] if shape.inputs else None
    if node is None or node.domain or node.op != "Concat" or (count is not None and -place > count):
        return None
    for part in reversed(node.inputs):
        length = elements(part)
        if length is None:
            return None
        if -place <= length:
            return element(part, place, length)
        place += length
    return None


def _expand(node: gs.Node, axis: int, known: Known) -> int | None:
    wanted = element(node.inputs[1], axis, None)
    return wanted if wanted is not None and wanted > 1 else None


def _unsqueeze(node: gs.Node, axis: int, known: Known) -> int | None:
    axes = _numbers(node, 1, "axes")
    count = known.rank(node.inputs[0])
    new = None if axes is None else _from_end(axes, None if count is None else count + len(axes))
    if new is None or axis in new:
        return None if new is None else 1
    return known.size(node.inputs[0], axis + sum(place > axis for place in new))


def _squeeze(node: gs.Node, axis: int, known: Known) -> int | None:
    axes = _numbers(node, 1, "axes")
    gone = None if axes is None else _from_end(axes, known.rank(node.inputs[0]))
    for place in sorted(gone or (), reverse=True):
        axis -= place >= axis
    return None if gone is None else known.size(node.inputs[0], axis)


def _gather(node: gs.Node, axis: int, known: Known) -> int | None:
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


def _split(node: gs.Node, value: gs.Tensor, axis: int, known: Known) -> int | None:
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
    return size // len(node.outputs) if size is not None and size % len(node.outputs) == 0 else None


def _flatten(node: gs.Node, axis: int, known: Known) -> int | None:
    count, first = known.rank(node.inputs[0]), node.attrs.get("axis", 1)
    if count is None or first < 0 or axis < -2:
        return None
    joined = range(first - count, 0) if axis == -1 else range(-count, first - count)
    sizes = [known.size(node.inputs[0], place) for place in joined]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


_RULES: dict[str, Callable[[gs.Node, int, Any], int | None]] = {
    "AveragePool": _window,
    "Concat": _concat,
    "Conv": _window,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "MatMul": _matmul,
    "MaxPool": _window,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
