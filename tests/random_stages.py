"""The stages that random graphs grow by: each adds one or more operators, as one of the exporters would write them."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, prod, sqrt
from typing import Any

import numpy as np
from growing import BATCH, Graph
from onnx import TensorProto

IMAGES, SEQUENCES = (4, 3, 5), (3, 2, 4)


# --------------------------------------------------------------------------------- convolutions


def convolution(g: Graph) -> str:
    x = g.value(*IMAGES)
    channels, spatial = g.shapes[x][1], g.shapes[x][2:]
    group = g.pick(*dict.fromkeys((1, channels, *(i for i in (2, 3) if channels % i == 0))))
    out = group * g.pick(1, 16, 2, 3)
    kernel = [min(g.pick(1, 3, 2), size) for size in spatial]
    transposed = not g.number(0, 3)
    shape = [channels, out // group, *kernel] if transposed else [out, channels // group, *kernel]
    weight = g.weight(shape, (channels // group * prod(kernel)) ** -0.5)
    bias = [g.weight([out], 0.5)] if g.flag() else [g.constant(np.zeros(out, np.float32))] if not g.number(0, 5) else []
    op = "ConvTranspose" if transposed else "Conv"
    attrs = _windows(g, spatial, kernel, transposed=transposed)
    return normalized(g, g.node(op, _padded(g, x, attrs), weight, *bias, group=group, **attrs), out)


def _windows(g: Graph, spatial: list[int], kernel: list[int], *, transposed: bool) -> dict[str, Any]:
    attrs: dict[str, Any] = {"kernel_shape": kernel} if g.flag() else {}
    if g.flag():
        attrs["strides"] = [g.pick(1, 2)] * len(kernel)
    if g.flag() and not transposed:
        attrs["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    elif g.flag():
        attrs["pads"] = [size // 2 for size in kernel] * 2
        if all(size > 3 for size in spatial) and g.flag():
            attrs["dilations"] = [g.pick(1, 2) for _ in kernel]
    if transposed and attrs.get("strides", [1])[0] > 1 and "auto_pad" not in attrs and g.flag():
        attrs["output_padding"] = [1] * len(kernel)
    return attrs


def _padded(g: Graph, x: str, attrs: dict[str, Any]) -> str:
    return pad(g, x) if not g.number(0, 5) and "auto_pad" not in attrs else x


def normalized(g: Graph, value: str, channels: int) -> str:
    if not g.flag():
        return value
    factors = [g.weight([channels], positive=True), g.weight([channels]), g.weight([channels])]
    return g.node(
        "BatchNormalization", value, *factors, g.weight([channels], positive=True), epsilon=g.pick(1e-5, 1e-2)
    )


def batch_normalization(g: Graph) -> str:
    x = g.value(*IMAGES)
    return normalized(g, x, g.shapes[x][1])


def squeeze_excite(g: Graph) -> str:
    x = g.value(4)
    channels, inner = g.shapes[x][1], 2
    squeezed = g.node("GlobalAveragePool", x)
    first = g.node("Conv", squeezed, g.weight([inner, channels, 1, 1], channels**-0.5), g.weight([inner]))
    second = g.node("Conv", activation(g, first), g.weight([channels, inner, 1, 1]), g.weight([channels]))
    return g.swapped("Mul", x, g.node(g.pick("Sigmoid", "HardSigmoid"), second))


# --------------------------------------------------------------------------------- activations


def activation(g: Graph, x: str = "") -> str:
    x = x or g.value(4, 3, 2, 5)
    kind = g.pick("Relu", "clip", "LeakyRelu", "Sigmoid", "silu", "Tanh", "Elu", "HardSigmoid", "prelu", "HardSwish")
    if kind == "clip":
        low, high = g.pick((0.0, 6.0), (None, 1.0), (-1.0, 1.0), (0.0, None))
        bounds = ["" if number is None else g.constant(np.float32(number)) for number in (low, high)]
        return g.node("Clip", x, *(bounds if bounds[1] else bounds[:1]))
    if kind == "silu" or (kind == "HardSwish" and g.opset < 14):
        return g.swapped("Mul", x, g.node(g.pick("Sigmoid", "HardSigmoid"), x))
    if kind == "prelu":
        shape = g.shapes[x]
        slopes = [[1], [shape[1]] + [1] * (len(shape) - 2)]
        return g.node("PRelu", x, g.weight(g.pick(*slopes) if len(shape) > 1 else [1], 0.3))
    return g.node(kind, x)


def gelu(g: Graph) -> str:
    x = g.value(*SEQUENCES)
    kind = g.pick("erf", "tanh", "quick", "operator")
    if kind == "quick":
        return g.swapped("Mul", x, g.node("Sigmoid", g.swapped("Mul", x, g.scalar(1.702))))
    if kind == "operator" and g.opset >= 20:
        return g.node("Gelu", x, approximate=g.pick("none", "tanh"))
    gate = _tanh_gate(g, x) if kind == "tanh" else _erf_gate(g, x)
    order = g.number(0, 2)
    if order == 0:
        return g.swapped("Mul", g.swapped("Mul", x, gate), g.scalar(0.5))
    if order == 1:
        return g.swapped("Mul", g.swapped("Mul", x, g.scalar(0.5)), gate)
    return g.swapped("Mul", x, g.swapped("Mul", gate, g.scalar(0.5)))


def _erf_gate(g: Graph, x: str) -> str:
    inner = g.node("Div", x, g.scalar(sqrt(2))) if g.flag() else g.swapped("Mul", x, g.scalar(1 / sqrt(2)))
    return g.swapped("Add", g.node("Erf", inner), g.scalar(1.0))


def _tanh_gate(g: Graph, x: str) -> str:
    cube = g.node("Pow", x, g.scalar(3.0)) if g.flag() else g.swapped("Mul", g.node("Mul", x, x), x)
    bracket = g.swapped("Add", x, g.swapped("Mul", cube, g.scalar(0.044715)))
    return g.swapped("Add", g.node("Tanh", g.swapped("Mul", bracket, g.scalar(sqrt(2 / pi)))), g.scalar(1.0))


# --------------------------------------------------------------------------------- two operands


def joined(g: Graph) -> str:
    """Add, Mul, Sub or Div of two branches, or of a branch and a constant of some shape that broadcasts."""
    x = g.value(4, 3, 2, 5)
    op, shape = g.pick("Add", "Mul", "Sub", "Div", "Sum", "Max"), g.shapes[x]
    others = [name for name in g.values if g.shapes[name] == shape]
    if op in ("Add", "Mul", "Sub", "Sum", "Max") and g.flag():
        return g.swapped(op, x, g.pick(*reversed(others)))
    smaller = [name for name in g.values if _broadcasts(g.shapes[name], shape)]
    if op in ("Add", "Sub") and smaller and g.flag():
        return g.swapped(op, x, g.pick(*smaller))
    wide = shape if shape[0] != BATCH else [1, *shape[1:]]
    channel = [shape[1]] + [1] * (len(shape) - 2) if len(shape) > 2 else shape[1:]
    constant = g.weight(g.pick(channel, [1], [], shape[-1:], wide), positive=op in ("Div", "Mul"))
    return g.node("Div", x, constant) if op == "Div" else g.swapped(op, x, constant)


def _broadcasts(shape: list[int], to: list[int]) -> bool:
    tail = to[len(to) - len(shape) :]
    return len(shape) <= len(to) and shape != to and all(a in (1, b) for a, b in zip(shape, tail, strict=False))


def concat(g: Graph) -> str:
    x = g.value(4, 3, 2)
    shape = g.shapes[x]
    axis = g.pick(*range(1, len(shape)))
    fitting = [
        name
        for name in g.values
        if len(g.shapes[name]) == len(shape)
        and all(a == b for i, (a, b) in enumerate(zip(g.shapes[name], shape, strict=True)) if i != axis)
    ]
    parts = [x, *(g.pick(*fitting) for _ in range(g.number(0, 2)))]
    return g.node("Concat", *parts, axis=g.pick(axis, axis - len(shape)))


# --------------------------------------------------------------------------------- images


def pool(g: Graph) -> str:
    x = g.value(*IMAGES)
    op = g.pick("MaxPool", "AveragePool", "GlobalAveragePool", "mean")
    if op == "GlobalAveragePool":
        return g.node(op, x)
    if op == "mean":
        return mean(g, x, g.pick([2, 3], [-1, -2]) if len(g.shapes[x]) == 4 else [-1])
    spatial = g.shapes[x][2:]
    kernel = [min(g.pick(2, 3, 1), size) for size in spatial]
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if g.flag():
        attrs["strides"] = [g.pick(2, 1)] * len(kernel)
    if g.flag():
        attrs["pads"] = [size // 2 for size in kernel] * 2
    if op == "AveragePool":
        attrs["count_include_pad"] = g.number(0, 1)
    return g.node(op, x, **attrs)


def mean(g: Graph, x: str, axes: list[int]) -> str:
    keeps = g.number(0, 1)
    if g.opset < 18:
        return g.node("ReduceMean", x, axes=axes, keepdims=keeps)
    return g.node("ReduceMean", x, g.constant(axes), keepdims=keeps)


def resize(g: Graph) -> str:
    x = g.value(4)
    height, width = g.shapes[x][2:]
    mode = g.pick("nearest", "linear")
    attrs = {"mode": mode, "coordinate_transformation_mode": g.pick("asymmetric", "half_pixel")}
    if mode == "nearest" and g.flag():
        attrs["nearest_mode"] = "floor"
    roi = g.constant(np.zeros(0, np.float32)) if g.opset < 13 else ""
    if g.flag():
        return g.node("Resize", x, roi, g.constant(np.asarray([1, 1, 2, 2], np.float32)), **attrs)
    sizes = g.constant([*g.shapes[x][:2], height * 2, width * 2])
    return g.node("Resize", x, roi, g.constant(np.zeros(0, np.float32)) if g.opset < 13 else "", sizes, **attrs)


def pad(g: Graph, x: str = "") -> str:
    x = x or g.value(4, 3)
    rank = len(g.shapes[x])
    inner = [0, 0] + [g.pick(1, 0, 2) for _ in range(rank - 2)]
    pads = g.constant([*inner, *inner])
    mode = g.pick("constant", "edge")
    number = [g.constant(np.float32(g.pick(0.0, 0.5)))] if mode == "constant" and g.flag() else []
    return g.node("Pad", x, pads, *number, mode=mode)


def shuffle(g: Graph) -> str:
    """The channel shuffle of ShuffleNet."""
    x = g.value(4)
    n, c, h, w = g.shapes[x]
    groups = 2 if c % 2 == 0 else 1
    parts = reshape(g, x, [n, groups, c // groups, h, w])
    return reshape(g, g.node("Transpose", parts, perm=[0, 2, 1, 3, 4]), [n, c, h, w])


# --------------------------------------------------------------------------------- shapes


def reshape(g: Graph, x: str, shape: list[int]) -> str:
    """Reshape to a shape that is written as numbers, or with 0 and -1 for what they may stand for."""
    wanted = list(shape)
    if shape[0] == g.shapes[x][0] and g.flag():
        wanted[0] = 0
    elif g.flag():
        wanted[g.number(0, len(shape) - 1)] = -1
    return g.node("Reshape", x, g.constant(wanted))


def flatten(g: Graph) -> str:
    x = g.value(4, 3, 5)
    shape = g.shapes[x]
    if g.flag():
        return g.node("Flatten", x)
    return reshape(g, x, g.pick([shape[0], prod(shape[1:])], [shape[0], shape[1], prod(shape[2:])]))


def computed_reshape(g: Graph) -> str:
    """A flattening whose shape is computed from the value's own, as TorchScript writes it."""
    x = g.value(4, 3)
    axis = g.pick(0, 1)
    size = g.node("Gather", g.node("Shape", x), g.constant(np.asarray(axis)), axis=0)
    shape = g.node("Concat", _unsqueezed(g, size, [0]), g.constant([-1]), axis=0)
    kept = g.shapes[x][axis]
    return g.node("Reshape", x, shape, shape=[kept, prod(g.shapes[x]) // kept])


def transpose(g: Graph) -> str:
    x = g.value(4, 3, 2)
    rank = len(g.shapes[x])
    perms = {4: ([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2]), 3: ([0, 2, 1],), 2: ([0, 1],)}
    return g.node("Transpose", x, perm=g.pick(*perms[rank]))


def split(g: Graph) -> str:
    x = g.value(4, 3, 2)
    axis = g.pick(*range(1, len(g.shapes[x])))
    size = g.shapes[x][axis]
    if size < 2:
        return g.node("Identity", x)
    first = g.number(1, size - 1)
    attrs: dict[str, Any] = {"axis": g.pick(axis, axis - len(g.shapes[x]))}
    if g.opset < 13:
        return g.split("Split", x, outputs=2, split=[first, size - first], **attrs)[0]
    return g.split("Split", x, g.constant([first, size - first]), outputs=2, **attrs)[0]


def cut(g: Graph) -> str:
    x = g.value(4, 3, 2)
    axis = g.pick(*range(1, len(g.shapes[x])))
    size = g.shapes[x][axis]
    start, step = g.number(0, size - 1), g.pick(1, 2)
    numbers = [g.constant([number]) for number in (start, g.pick(size, 2**31 - 1), axis)]
    return g.node("Slice", x, *numbers, *([g.constant([step])] if step > 1 else []))


def _unsqueezed(g: Graph, x: str, axes: list[int]) -> str:
    return g.node("Unsqueeze", x, axes=axes) if g.opset < 13 else g.node("Unsqueeze", x, g.constant(axes))


def unsqueezed(g: Graph) -> str:
    x = g.value(2, 3)
    new = _unsqueezed(g, x, [g.pick(1, len(g.shapes[x]))])
    if g.flag():
        return new
    axes = [i for i, size in enumerate(g.shapes[new]) if size == 1 and i][:1]
    return g.node("Squeeze", new, axes=axes) if g.opset < 13 else g.node("Squeeze", new, g.constant(axes))


def passing(g: Graph) -> str:
    """What does nothing, or nothing but move or round."""
    x = g.value(4, 3, 2)
    kind = g.pick("Identity", "Dropout", "Cast", "double", "Softmax", "Neg", "Abs")
    if kind == "double":
        return g.node("Cast", g.node("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    if kind == "Cast":
        return g.node("Cast", x, to=TensorProto.FLOAT)
    if kind == "Softmax":
        return g.node("Softmax", x, axis=g.pick(-1, 1, len(g.shapes[x]) - 1))
    return g.node("Dropout", x) if kind == "Dropout" else g.node(kind, x)


# --------------------------------------------------------------------------------- products


def linear(g: Graph) -> str:
    x = g.value(*SEQUENCES)
    width, out = g.shapes[x][-1], g.pick(16, 4, 8, 1, 3)
    product = g.node("MatMul", x, g.weight([width, out], width**-0.5))
    bias = g.pick("vector", "none", "zero", "wide")
    if bias == "none":
        return product
    shape = [out] if bias != "wide" else [1] * (len(g.shapes[x]) - 1) + [out]
    return g.swapped("Add", product, g.constant(np.zeros(out, np.float32)) if bias == "zero" else g.weight(shape))


def gemm(g: Graph) -> str:
    x = g.value(2)
    rows, width = g.shapes[x]
    out, turned = g.pick(16, 8, 3), g.number(0, 1)
    turned_x = g.number(0, 1) if rows != BATCH else 0
    depth = rows if turned_x else width
    weight = g.weight([out, depth] if turned else [depth, out], depth**-0.5)
    bias = [g.weight(g.pick([out], [1], [1, out], []))] if g.flag() else []
    attrs = {"transB": turned, "transA": turned_x}
    if g.flag():
        attrs |= {"alpha": g.pick(1.0, 0.5), "beta": g.pick(1.0, 2.0)}
    return g.node("Gemm", x, weight, *bias, **attrs)


def left_product(g: Graph) -> str:
    """A product whose first operand is the weight."""
    x = g.value(3, 4)
    depth = g.shapes[x][-2]
    return g.node("MatMul", g.weight([g.pick(3, 5), depth], depth**-0.5), x)


def stacked_product(g: Graph) -> str:
    """A product with a stack of matrices."""
    x = g.value(3)
    width = g.shapes[x][-1]
    return g.node("MatMul", x, g.weight([g.shapes[x][0] if g.flag() else 1, width, 4], width**-0.5))


def attention(g: Graph) -> str:
    x = g.value(3)
    length, width = g.shapes[x][1:]
    head = g.pick(4, 2)
    q, k, v = (_head(g, x, width, head) for _ in range(3))
    scale = g.pick("after", "before", "both", "div", "none")
    if scale in ("before", "both"):
        q = g.swapped("Mul", q, g.scalar(0.7))
    turned = g.node("Transpose", k, perm=[0, 2, 1])
    if scale == "both":
        turned = g.swapped("Mul", turned, g.scalar(0.7))
    scores = g.node("MatMul", q, turned)
    if scale == "after":
        scores = g.swapped("Mul", scores, g.scalar(0.5))
    if scale == "div":
        scores = g.node("Div", scores, g.scalar(2.0))
    if g.flag():
        scores = g.swapped("Add", scores, g.weight([1, length, length]))
    chances = g.node("Softmax", scores, axis=g.pick(-1, 2))
    return g.node("MatMul", chances, v)


def _head(g: Graph, x: str, width: int, head: int) -> str:
    product = g.node("MatMul", x, g.weight([width, head], width**-0.5))
    return g.swapped("Add", product, g.weight([head])) if g.flag() else product


# --------------------------------------------------------------------------------- norms


def layer_norm(g: Graph) -> str:
    x = g.value(*SEQUENCES)
    width = g.shapes[x][-1]
    gamma, beta = g.weight([width], positive=True), g.weight([width])
    if g.opset >= 17 and g.flag():
        return g.node("LayerNormalization", x, gamma, *([beta] if g.flag() else []), axis=-1, epsilon=1e-2)
    centered = x if (rms := g.flag()) else g.node("Sub", x, _last_mean(g, x))
    square = g.node("Pow", centered, g.scalar(2.0)) if g.flag() else g.node("Mul", centered, centered)
    root = g.node("Sqrt", g.swapped("Add", _last_mean(g, square), g.scalar(1e-2)))
    if g.flag():
        normal = g.node("Div", centered, root)
    elif g.flag():
        normal = g.swapped("Mul", centered, g.node("Reciprocal", root))
    else:
        normal = g.swapped("Mul", centered, g.node("Div", g.scalar(1.0), root))
    scaled = g.swapped("Mul", normal, gamma)
    return scaled if rms else g.swapped("Add", scaled, beta)


def _last_mean(g: Graph, x: str) -> str:
    axes = [g.pick(-1, len(g.shapes[x]) - 1)]
    return g.node("ReduceMean", x, axes=axes) if g.opset < 18 else g.node("ReduceMean", x, g.constant(axes))


def layer_scale(g: Graph) -> str:
    x = g.value(3, 4)
    other = g.pick(*reversed([name for name in g.values if g.shapes[name] == g.shapes[x]]))
    return g.swapped("Add", g.swapped("Mul", x, g.weight([g.shapes[x][-1]], 0.3)), other)


def embedding(g: Graph) -> str:
    index = g.input([BATCH, 5], TensorProto.INT64)
    return g.node("Gather", g.weight([9, g.pick(4, 8)]), index)


STAGES: tuple[Callable[[Graph], Any], ...] = (
    *(convolution, convolution, convolution, linear, activation, joined, linear, gemm, activation, joined),
    *(batch_normalization, squeeze_excite, gelu, concat, pool, resize, pad, shuffle, flatten, computed_reshape),
    *(transpose, split, cut, unsqueezed, passing, left_product, stacked_product, attention, layer_norm),
    *(layer_scale, embedding),
)
