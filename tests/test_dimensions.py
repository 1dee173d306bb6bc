"""Dimensions that operators fix are folded; those that a caller chooses stay open."""

from __future__ import annotations

import pytest
from models import assert_same_results, match, operators, parse, read, why_not
from quantonnx.patterns.dimensions import FoldDimension

from quantonnx.rewriting import transform

# what gives `v`, and the last dimension that is fixed by it
FIXED = {
    "reshape": ("v = Reshape(x, heads)", 4),
    "reshape_from_parts": (
        "n = Shape(x) b = Gather(n, zero) u = Unsqueeze(b, first) "
        "t = Concat<axis=0>(u, minus, two, four) v = Reshape(x, t)",
        4,
    ),
    "matmul": ("v = MatMul(x, w)", 6),
    "bias": ("m = MatMul(x, z) v = Add(bias, m)", 8),
    "gemm": ("f = Flatten<axis=2>(x) v = Gemm(f, w)", 6),
    "gemm_transposed": ("f = Flatten<axis=2>(x) v = Gemm<transB=1>(f, wt)", 6),
    "norm": ("v = LayerNormalization<axis=-1>(x, bias)", 8),
    "activation": ("m = MatMul(x, w) v = Softmax<axis=-1>(m)", 6),
    "transposed": (
        "r = Reshape(x, heads) t = Transpose<perm=[2,0,3,1]>(r) u = Transpose<perm=[1,3,0,2]>(t) v = Neg(u)",
        4,
    ),
    "picked": ("r = Reshape(x, heads) t = Transpose<perm=[2,0,1,3]>(r) v = Gather<axis=0>(t, zero)", 4),
    "split": ("r = Reshape(x, heads) t = Transpose<perm=[2,0,1,3]>(r) a, v = Split<axis=0>(t, halves)", 4),
    "squeezed": ("r = Reshape(x, single) t = Transpose<perm=[2,0,1,3]>(r) v = Squeeze(t, first)", 8),
}
CONSTANTS = (
    "float[8,6] w, float[6,8] wt, float[8] bias, int64[4] heads = {0, 0, 2, 4}, int64[4] single = {0, 0, 1, 8}, "
    "int64[1] minus = {-1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] first = {0}, int64 zero = {0}, "
    "int64[2] halves = {1, 1}, int64 last = {-1}, int64[1] last_one = {-1}, int64[1] end = {9223372036854775807}, "
    "int64[1] step = {1}, int64[1] steps = {2}, int64 second = {1}"
)
LAST = {
    "gather": "s = Shape(v) d = Gather(s, last)",
    "slice": "s = Shape(v) d = Slice(s, last_one, end)",
    "slice_in_full": "s = Shape(v) d = Slice(s, last_one, end, first, step)",
}


def graph(nodes: str, outputs: str = "float[N,3,8] y") -> str:
    """Returns a model that multiplies a value by a dimension `d` of a value `v`; nothing declares inner shapes."""
    declared = "float[N,3,8] x, float[1,8,8] z"
    return f"agraph ({declared}) => ({outputs}) <{CONSTANTS}> {{ e = Identity(x) {nodes} c = Cast<to=1>(d) y = Mul(e, c) }}"


@pytest.mark.parametrize("taken", LAST.values(), ids=LAST)
@pytest.mark.parametrize("form", FIXED)
def test_a_dimension_that_operators_fix_is_a_constant(form: str, taken: str) -> None:
    nodes, size = FIXED[form]
    proto = parse(graph(f"{nodes} {taken}"))
    done = transform(proto, target="tensorrt")
    assert_same_results(proto, done.model)
    assert operators(done.model) == ["Mul"]
    assert ("FoldDimension", "d") in [(step.pattern, step.output) for step in done.plan.conversions]
    (number,) = (value for value in done.model.graph.nodes[0].inputs if value.name != "x")
    assert done.model.array(number).reshape(-1).tolist() == [size]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("v = Unknown(x) s = Shape(v) d = Gather(s, last)", "fixes"),
        ("m = MatMul(x, w) v = Transpose<perm=[0,2,1]>(m) s = Shape(v) d = Gather(s, last)", "fixes"),
        ("v = MatMul(x, w) s = Shape(v) d = Gather(s, second)", "fixes"),
        ("v = Reshape(x, minus) s = Shape(v) d = Gather(s, last)", "fixes"),
        ("v = Unknown(x) s = Shape(v) d = Gather(s, second)", "unknown number"),
        ("v = MatMul(x, w) s = Shape(v) d = Slice(s, last_one, end, first, steps)", "takes steps"),
        ("v = MatMul(x, w) s = Shape<start=1>(v) d = Gather(s, last)", "whole shape"),
        ("v = MatMul(x, w) d = Gather(v, last)", "whole shape"),
        ("v = Add(x, one_last) s = Shape(v) d = Gather(s, last)", "fixes"),
    ],
)
def test_an_open_dimension_stays(nodes: str, reason: str) -> None:
    text = (
        graph(nodes)
        .replace("float[N,3,8] x", "float[N,M,K] x")
        .replace("float[8,6] w", "float[1] one_last, float[8,6] w")
    )
    model = read(text)
    assert match(FoldDimension, model, "d") is None
    assert reason in str(why_not(FoldDimension, model, "d"))


def test_a_dimension_that_is_an_output_stays() -> None:
    model = read(graph("v = MatMul(x, w) s = Shape(v) d = Gather(s, last)", "float[2,3,8] y, int64 d"))
    assert "name must stay" in str(why_not(FoldDimension, model, "d"))
