"""What operators do to the axes of values: the number of axes, and the length of each, counted from the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx_graphsurgeon as gs

from .cutting import concat, gather, numbers, pad, sliced, split, squeeze, unsqueeze
from .shapes import KEEPS_RANK, Known, Size, element, elements, is_whole_shape

_BROADCAST = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul"}
    | {"Or", "Pow", "Sub", "Where"}
)
_SAME_SHAPE = frozenset(
    {"Abs", "BatchNormalization", "Cast", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"}
    | {"Identity", "InstanceNormalization", "IsNaN", "LayerNormalization", "LeakyRelu", "Log", "Neg", "Not", "PRelu"}
    | {"Reciprocal", "Relu", "RMSNormalization", "ScatterND", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Tanh"}
)
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_LIKE_FIRST = KEEPS_RANK | _SAME_SHAPE | {"Conv", "ConvTranspose", "GlobalAveragePool", "Resize"}


def rank_after(node: gs.Node, known: Known) -> int | None:
    """Returns the number of axes of what a node gives; None where it is not known."""
    if node.op in ("Flatten", "Gemm"):
        return 2
    if node.op == "Shape":
        return 1
    if node.op == "Reshape":
        return elements(node.inputs[-1])
    if node.op == "Transpose" and "perm" in node.attrs:
        return len(node.attrs["perm"])
    if node.op in _BROADCAST or node.op == "MatMul":
        ranks = [known.rank(operand) for operand in node.inputs]
        wanted = [count for count in ranks if count is not None and (count > 1 or node.op != "MatMul")]
        return max(wanted, default=None) if len(wanted) == len(ranks) else None
    if node.op == "Concat":
        return next((count for part in node.inputs if (count := known.rank(part)) is not None), None)
    if node.op == "GatherElements":
        return known.rank(node.inputs[1])
    first = known.rank(node.inputs[0]) if node.inputs else None
    if first is None or node.op in _LIKE_FIRST:
        return first
    if node.op == "Expand":
        length = elements(node.inputs[1])
        return None if length is None else max(first, length)
    if node.op in ("Squeeze", "Unsqueeze"):
        axes = numbers(node, 1, "axes")
        return None if axes is None else first + (len(axes) if node.op == "Unsqueeze" else -len(axes))
    index = known.rank(node.inputs[1]) if node.op == "Gather" else None
    return None if index is None else first - 1 + index


def size_after(node: gs.Node, value: gs.Tensor, axis: int, known: Known) -> Size:
    """Returns the length of an axis of `value`, which a node gives; None where it is not known."""
    if node.op in _SAME_SHAPE:
        size = known.size(node.inputs[0], axis)
        return known.size(node.inputs[1], -1) if size is None and axis == -1 and node.op in _NORMS else size
    if node.op in _BROADCAST:
        return _broadcast({_size_or_one(operand, axis, known) for operand in node.inputs})
    if node.op == "Split":
        return split(node, value, axis, known)
    rule = _RULES.get(node.op)
    return rule(node, axis, known) if rule is not None else None


def _broadcast(sizes: set[Size]) -> Size:
    """A number over 1 wins; an open size does where every other operand has the same, or 1."""
    number = next((size for size in sizes if isinstance(size, int) and size != 1), None)
    if number is not None or None in sizes:
        return number
    return next(iter(sizes - {1} or {1})) if len(sizes - {1}) < 2 else None


def _size_or_one(value: gs.Tensor, axis: int, known: Known) -> Size:
    size = known.size(value, axis)
    count = known.rank(value) if size is None else None
    return 1 if count is not None and count < -axis else size


def _product(sizes: list[Size]) -> int | None:
    numbers = [size for size in sizes if isinstance(size, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None


def _transpose(node: gs.Node, axis: int, known: Known) -> Size:
    perm = node.attrs.get("perm", ())
    return known.size(node.inputs[0], perm[axis] - len(perm)) if len(perm) >= -axis else None


def _matmul(node: gs.Node, axis: int, known: Known) -> Size:
    needed = node.inputs[1:] if axis == -1 else node.inputs
    if any((known.rank(operand) or 1) < 2 for operand in needed):
        return None
    if axis >= -2:
        return known.size(node.inputs[axis + 2], axis)
    return _broadcast({_size_or_one(operand, axis, known) for operand in node.inputs})


def _gemm(node: gs.Node, axis: int, known: Known) -> Size:
    place = axis + 2
    turned = node.attrs.get("transB" if place else "transA", 0)
    return known.size(node.inputs[place], -3 - axis if turned else axis)


def _window(node: gs.Node, axis: int, known: Known) -> Size:
    """Conv, pooling: weights give the channels, windows the spatial axes."""
    kernel = node.attrs.get("kernel_shape") or list(node.inputs[1].shape or ())[2:]
    if not kernel:
        return None
    if -axis > len(kernel):
        if node.op == "Conv" and -axis == len(kernel) + 1:
            return known.size(node.inputs[1], -len(kernel) - 2)
        return known.size(node.inputs[0], axis)
    size = known.size(node.inputs[0], axis)
    if not isinstance(size, int) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    at = len(kernel) + axis
    pads = node.attrs.get("pads") or [0] * (2 * len(kernel))
    step, dilation = (list(node.attrs.get(name) or [1] * len(kernel))[at] for name in ("strides", "dilations"))
    room = size + pads[at] + pads[at + len(kernel)] - dilation * (kernel[at] - 1) - 1
    if node.attrs.get("ceil_mode", 0) and room % step:
        return None
    return int(room // step + 1)


def _global_pool(node: gs.Node, axis: int, known: Known) -> Size:
    count = known.rank(node.inputs[0])
    if count is None:
        return None
    return 1 if axis >= 2 - count else known.size(node.inputs[0], axis)


def _reshape(node: gs.Node, axis: int, known: Known) -> Size:
    shape = node.inputs[-1]
    wanted = element(shape, axis, known)
    if not isinstance(wanted, int) or wanted > 0:
        return wanted
    count, length = known.rank(node.inputs[0]), elements(shape)
    if count is None or length is None:
        return None
    if wanted == 0:
        return 0 if node.attrs.get("allowzero", 0) else known.size(node.inputs[0], length + axis - count)
    others = [_reshape(node, place, known) for place in range(-length, 0) if place != axis]
    return _rest([known.size(node.inputs[0], place) for place in range(-count, 0)], others)


def _rest(sizes: list[Size], others: list[Size]) -> Size:
    """What is left of all elements for one axis: a number, or the one open size where the numbers cancel out."""
    open_ = Counter(size for size in sizes if not isinstance(size, int))
    taken = Counter(size for size in others if not isinstance(size, int))
    numbers, divisor = (math.prod(size for size in each if isinstance(size, int)) for each in (sizes, others))
    left = list((open_ - taken).elements())
    if None in open_ or None in taken or taken - open_ or not divisor or len(left) > 1:
        return None
    if left:
        return left[0] if numbers == divisor else None
    return numbers // divisor


def _expand(node: gs.Node, axis: int, known: Known) -> Size:
    length = elements(node.inputs[1])
    wanted = 1 if length is not None and length < -axis else element(node.inputs[1], axis, known)
    return _broadcast({_size_or_one(node.inputs[0], axis, known), wanted})


def _flatten(node: gs.Node, axis: int, known: Known) -> Size:
    count, first = known.rank(node.inputs[0]), node.attrs.get("axis", 1)
    if count is None or first < 0 or axis < -2:
        return None
    joined = range(first - count, 0) if axis == -1 else range(-count, first - count)
    sizes = [known.size(node.inputs[0], place) for place in joined]
    return sizes[0] if len(sizes) == 1 else _product(sizes)


def _shape(node: gs.Node, axis: int, known: Known) -> Size:
    return known.rank(node.inputs[0]) if is_whole_shape(node) else None


_RULES: dict[str, Callable[[gs.Node, int, Any], Size]] = {
    "AveragePool": _window,
    "Concat": concat,
    "Conv": _window,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "MatMul": _matmul,
    "MaxPool": _window,
    "Pad": pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": sliced,
    "Squeeze": squeeze,
    "Transpose": _transpose,
    "Unsqueeze": unsqueeze,
}
