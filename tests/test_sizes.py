"""What is known of the axes of values agrees with what ONNX Runtime makes, for every operator that has a rule."""

from __future__ import annotations

import pytest
from models import feeds_of, operators, parse, read, run, why_not
from quantonnx.patterns.dimensions import FillShape, FoldShape, RemoveExpandGuard
from quantonnx.patterns.sizes import Sizes, Unnamed
from transforming import converted, taken

CONSTANTS = (
    "float[5,4,3,3] w, float[6,7] m, float[7,6] mt, float[4,6] g, float[6] bias, int64[2] two = {1, 3}, "
    "int64[2] starts = {1, -4}, int64[2] ends = {9223372036854775807, -1}, int64[2] axes = {2, -1}, "
    "int64[2] steps = {2, 1}, int64[8] pads = {0, 1, 0, 2, 0, 0, 1, 0}, int64[4] flat = {0, 2, -1, 6}, "
    "int64[3] merged = {-1, 6, 6}, int64[2] new = {0, -1}, int64[1] last = {-1}, int64[2] index = {1, 0}, "
    "int64 zero = {0}, int64[4] wide = {1, 4, 1, 6}, int64[5] wider = {2, 1, 4, 6, 1}, float one = {1.0}, "
    "int64[1] front = {0}, int64[4,1] place = {0, 1, 0, 1}"
)
# what gives `v` of a value x with the axes [N, 4, 6, 6], and what is known of it, N by its name and `?` for the rest
KNOWN = {
    "relu": ("v = Relu(x)", ["N", 4, 6, 6]),
    "conv": ("v = Conv<pads=[1,0,1,0], strides=[2,1], dilations=[1,2]>(x, w)", ["N", 5, 3, 2]),
    "max_pool": ("v = MaxPool<kernel_shape=[3,2], strides=[2,2]>(x)", ["N", 4, 2, 3]),
    "average_pool": ("v = AveragePool<kernel_shape=[2,2], ceil_mode=1, strides=[2,2]>(x)", ["N", 4, 3, 3]),
    "rounded_up": ("v = MaxPool<kernel_shape=[3,3], ceil_mode=1, strides=[2,2]>(x)", ["N", 4, "?", "?"]),
    "padded_by_itself": ('v = MaxPool<kernel_shape=[3,3], auto_pad="SAME_UPPER">(x)', ["N", 4, "?", "?"]),
    "global_pool": ("v = GlobalAveragePool(x)", ["N", 4, 1, 1]),
    "matmul": ("v = MatMul(x, m)", ["N", 4, 6, 7]),
    "attention": ("t = Transpose<perm=[0,1,3,2]>(x) v = MatMul(x, t)", ["N", 4, 6, 6]),
    "gemm": ("f = Reshape(x, last_four) v = Gemm(f, g)", ["?", 6]),
    "flatten": ("v = Flatten<axis=1>(x)", ["N", 144]),
    "flatten_in_the_middle": ("v = Flatten<axis=2>(x)", ["?", 36]),
    "bias": ("v = Add(bias, x)", ["N", 4, 6, 6]),
    "outer": ("p = GlobalAveragePool(x) v = Mul(p, x)", ["N", 4, 6, 6]),
    "residual": ("r = Relu(x) v = Add(r, x)", ["N", 4, 6, 6]),
    "two_batches": ("v = Add(x, z)", ["?", 4, 6, 6]),
    "number": ("v = Mul(x, one)", ["N", 4, 6, 6]),
    "transpose": ("v = Transpose<perm=[1,3,0,2]>(x)", [4, 6, "N", 6]),
    "concat": ("v = Concat<axis=1>(x, x, c)", ["N", 12, 6, 6]),
    "concat_of_batches": ("v = Concat<axis=0>(x, x)", ["?", 4, 6, 6]),
    "slice": ("v = Slice(x, starts, ends, axes, steps)", ["N", 4, 3, 3]),
    "slice_of_batches": ("v = Slice(x, front, last)", ["?", 4, 6, 6]),
    "pad": ("v = Pad(x, pads)", ["N", 5, 7, 8]),
    "reshape": ("v = Reshape(x, flat)", ["N", 2, 12, 6]),
    "reshape_of_batches": ("v = Reshape(x, merged)", ["?", 6, 6]),
    "reshape_back": ("f = Flatten<axis=1>(x) v = Reshape(f, back)", ["N", 4, 6, 6]),
    "unsqueeze": ("v = Unsqueeze(x, new)", [1, "N", 4, 6, 6, 1]),
    "squeeze": ("u = Unsqueeze(x, new) v = Squeeze(u, new)", ["N", 4, 6, 6]),
    "gather": ("v = Gather<axis=1>(x, zero)", ["N", 6, 6]),
    "gather_several": ("v = Gather<axis=-1>(x, index)", ["N", 4, 6, 2]),
    "gather_rows": ("v = Gather<axis=1>(x, place)", ["N", 4, 1, 6, 6]),
    "split": ("a, v = Split<axis=1>(x, two)", ["N", 3, 6, 6]),
    "split_in_halves": ("a, v = Split<axis=-1>(x)", ["N", 4, 6, 3]),
    "expand": ("p = GlobalAveragePool(x) v = Expand(p, wide)", ["N", 4, 1, 6]),
    "expand_to_more_axes": ("a = Gather<axis=0>(x, zero) v = Expand(a, more)", [2, 4, 6, 6]),
    "shape": ("v = Shape(x)", [4]),
    "norm": ("v = LayerNormalization(x, bias)", ["N", 4, 6, 6]),
}


def model(nodes: str) -> str:
    constants = (
        CONSTANTS + ", int64[2] last_four = {-1, 4}, int64[4] back = {-1, 4, 6, 6}, int64[4] more = {2, 1, 1, 1}"
    )
    inputs = "float[N,4,6,6] input, float[M,4,6,6] z"
    given = "x = Identity(input) c = Neg(x)"
    return f"agraph ({inputs}) => (float[A] v) <{constants}> {{ {given} {nodes} }}"


@pytest.mark.parametrize("form", KNOWN)
def test_axes_are_those_that_the_runtime_makes(form: str) -> None:
    nodes, expected = KNOWN[form]
    text = model(nodes).replace("float[A] v", "int64[A] v" if form == "shape" else f"float[{axes(len(expected))}] v")
    proto = parse(text)
    loaded = read(text)
    value = loaded.graph.outputs[0]
    value.shape = None
    known = Sizes.of(loaded)
    assert known.rank(value) == len(expected)
    found = [known.size(value, axis) for axis in range(-len(expected), 0)]
    assert ["?" if isinstance(size, Unnamed) else size for size in found] == expected
    made = run(proto, feeds_of(proto))["v"].shape
    assert [2 if size == "N" else size for size in found if not isinstance(size, Unnamed)] == [
        size for size, name in zip(made, found, strict=True) if not isinstance(name, Unnamed)
    ]


def axes(count: int) -> str:
    return ",".join("ABCDEF"[:count])


def test_an_axis_that_a_value_does_not_have_is_unknown() -> None:
    loaded = read(model("v = Relu(x)"))
    loaded.graph.outputs[0].shape = None
    assert Sizes.of(loaded).size(loaded.graph.outputs[0], -5) is None


@pytest.mark.parametrize(
    "nodes", ["v = Unknown(x)", "a = Unknown(x) v = Add(a, x)", "a = Unknown(x) v = Reshape(x, a)"]
)
def test_nothing_is_known_of_an_unknown_operator(nodes: str) -> None:
    loaded = read(model(nodes))
    loaded.graph.outputs[0].shape = None
    assert Sizes.of(loaded).rank(loaded.graph.outputs[0]) is None


def test_a_network_of_many_branches_is_searched_only_so_far() -> None:
    """Every Add reads one value twice, so that a search along all ways would never end."""
    nodes = "a0 = Unknown(x) " + " ".join(f"a{i + 1} = Add(a{i}, a{i})" for i in range(50)) + " v = Relu(a50)"
    loaded = read(model(nodes))
    loaded.graph.outputs[0].shape = None
    assert Sizes.of(loaded).rank(loaded.graph.outputs[0]) is None


# ------------------------------------------------------------------------------------ shapes that become constants

PARTS = "int64 zero = {0}, int64 first = {1}, int64[1] front = {0}, int64[1] rest = {-1}, int64[1] four = {4}"
OPEN = "s = Shape(x) n = Gather(s, zero) b = Unsqueeze(n, front)"


def reshaped(nodes: str, *, attributes: str = "") -> str:
    return (
        f"agraph (float[N,M,4,6] input) => (float[A,B,C] y) <{PARTS}, int64[1] six = {{6}}, int64[1] twelve = {{12}}, int64[1] none = {{0}}> "
        f"{{ x = Relu(input) {nodes} y = Reshape{attributes}(x, t) }}"
    )


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        (f"{OPEN} t = Concat<axis=0>(b, four, twelve)", [-1, 4, 12]),
        (f"{OPEN} t = Concat<axis=0>(b, rest, six)", [0, -1, 6]),
        ("s = Shape(x) e = Slice(s, front, four) t = Concat<axis=0>(e, front)", None),
        ("s = Shape(x) i = Gather(s, front) t = Concat<axis=0>(i, rest, six)", [0, -1, 6]),
        (f"{OPEN} c = Gather(s, first) d = Unsqueeze(c, front) t = Concat<axis=0>(b, d, rest)", [0, 0, -1]),
        ("k = Relu(x) s = Shape(k) i = Gather(s, front) t = Concat<axis=0>(i, rest, six)", [0, -1, 6]),
        (f"{OPEN} t = Concat<axis=0>(b, none, rest)", [0, 0, -1]),
    ],
    ids=["one_open", "with_a_rest", "one_too_many", "list", "two_open", "of_another_value", "with_a_copy"],
)
def test_the_shape_of_a_reshape(nodes: str, shape: list[int] | None) -> None:
    text = reshaped(nodes)
    if shape is None:
        assert why_not(FillShape, read(text))
        return
    done = converted(text)
    assert operators(done.model) in (["Relu", "Reshape"], ["Relu", "Relu", "Reshape"])
    assert "FillShape" in taken(done)
    assert done.model.array(done.model.graph.nodes[-1].inputs[1]).tolist() == shape


@pytest.mark.parametrize(
    ("nodes", "attributes", "reason"),
    [
        (f"{OPEN} t = Concat<axis=0>(rest, b, six)", "", "open numbers of 't'"),
        (f"{OPEN} t = Concat<axis=0>(b, rest, six)", "<allowzero=1>", "open numbers of 't'"),
        (f"{OPEN} t = Concat<axis=0>(b, b, rest)", "", "open numbers of 't'"),
        ("u = Unknown(x) t = Concat<axis=0>(u, rest, six)", "", "unknown number of elements"),
    ],
    ids=["at_another_place", "zero_means_zero", "twice", "unknown_length"],
)
def test_a_shape_with_open_numbers_stays(nodes: str, attributes: str, reason: str) -> None:
    assert reason in str(why_not(FillShape, read(reshaped(nodes, attributes=attributes))))


def test_the_shape_of_a_value_without_open_axes_is_a_constant() -> None:
    done = converted(
        "agraph (float[1,2,6,6] x) => (float[N,C,H,W] y) <float[3,2,3,3] w> { c = Conv(x, w) s = Shape(c) "
        "o = ConstantOfShape(s) y = Add(c, o) }"
    )
    assert operators(done.model) == ["Conv", "Add"]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [("Shape(x)", "fixes all dimensions"), ("Shape<start=1>(x)", "only some"), ("Shape(u)", "unknown number of axes")],
)
def test_another_shape_stays(shape: str, reason: str) -> None:
    text = f"agraph (float[N,3] x) => (int64[A] y) {{ u = Unknown(x) s = {shape} y = Neg(s) }}"
    assert reason in str(why_not(FoldShape, read(text), "s"))


GUARD = (
    "agraph (float[N,1] x, int64[2] given) => (float[N,4] y) "
    "<int64 zero = {{0}}, int64[1] front = {{0}}, int64[1] last = {{{last}}}, int64[{n}] minus = {{{minus}}}, "
    "int64[2] ones = {{1, 1}}> {{ s = Shape(x) n = Gather(s, zero) b = Unsqueeze(n, front) "
    "t = Concat<axis=0>(b, last) e = Equal({shape}, minus) g = Where(e, ones, {shape}) y = Expand(x, g) }}"
)


def guard(*, shape: str = "t", last: int = 4, minus: str = "-1, -1", n: int = 2) -> str:
    return GUARD.format(shape=shape, last=last, minus=minus, n=n)


def test_the_guard_before_an_expand_goes_away() -> None:
    done = converted(guard().replace(", int64[2] given", ""))
    assert operators(done.model) == ["Shape", "Gather", "Unsqueeze", "Concat", "Expand"]
    assert "RemoveExpandGuard" in taken(done)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (guard(last=-1), "negative"),
        (guard(shape="given"), "negative"),
        (guard(minus="-1, 4"), "not -1"),
        (guard(minus="-1", n=1), "not -1"),
    ],
    ids=["negative", "computed", "another_number", "another_length"],
)
def test_another_guard_stays(text: str, reason: str) -> None:
    assert reason in str(why_not(RemoveExpandGuard, read(text), "g"))
