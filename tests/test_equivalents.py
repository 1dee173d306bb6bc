"""What exporters write in different ways comes out as one form, and only what is the same does."""

from __future__ import annotations

import pytest
from models import operators, read, why_not
from quantonnx.patterns.equivalents import (
    RemoveAddOfZero,
    RemoveConcatOfOne,
    RemoveView,
    RemoveZeroBias,
    ReshapeToFlatten,
)
from transforming import converted, taken

from quantonnx.pattern import Conversion

IMAGE = "agraph (float[1,2,6,6] x) => (float[N,C,H,W] y)"

# ------------------------------------------------------------------------------------ Concat of one, Add of zero


def test_a_concat_of_one_value_goes_away() -> None:
    done = converted("agraph (float[2,3] x) => (float[2,3] y) { a = Neg(x) b = Concat<axis=1>(a) y = Relu(b) }")
    assert operators(done.model) == ["Neg", "Relu"]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("agraph (float[2,3] x) => (float[2,6] y) { y = Concat<axis=1>(x, x) }", "joins 2 values"),
        ("agraph (float[2,3] x) => (float[2,3] y) { y = Concat<axis=1>(x) }", "name must stay"),
    ],
)
def test_another_concat_stays(graph: str, reason: str) -> None:
    assert operators(converted(graph).model) == ["Concat"]
    assert reason in str(why_not(RemoveConcatOfOne, read(graph)))


@pytest.mark.parametrize("zero", ["float zero = {0}", "float[1] zero = {0}", "float[1,1] zero = {0}"])
def test_adding_zero_goes_away(zero: str) -> None:
    done = converted(f"agraph (float[2,3] x) => (float[2,3] y) <{zero}> {{ a = Neg(x) b = Add(zero, a) y = Relu(b) }}")
    assert operators(done.model) == ["Neg", "Relu"]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (
            "agraph (float[2] x) => (float[1,2] y) <float[1,1] zero = {0}> { a = Neg(x) y = Add(a, zero) }",
            "the axes of",
        ),
        ("agraph (float[2] x) => (float[2] y) <float zero = {0}> { y = Add(x, zero) }", "name must stay"),
        ("agraph (float[2] x) => (float[2] y) <float zero = {0.1}> { a = Neg(x) y = Add(a, zero) }", "constant"),
        ("agraph (float[2] x) => (float[2] y) <float[2] zero = {0, 0}> { a = Neg(x) y = Add(a, zero) }", "constant"),
    ],
    ids=["more_axes", "public", "another_number", "several_numbers"],
)
def test_another_addition_stays(graph: str, reason: str) -> None:
    assert operators(converted(graph).model)[-1] == "Add"
    assert reason in str(why_not(RemoveAddOfZero, read(graph)))


# ------------------------------------------------------------------------------------ a bias of zeros


@pytest.mark.parametrize(
    "graph",
    [
        f"{IMAGE} <float[3,2,3,3] w, float[3] b = {{0, 0, 0}}> {{ y = Conv(x, w, b) }}",
        f"{IMAGE} <float[2,3,3,3] w, float[3] b = {{0, 0, 0}}> {{ y = ConvTranspose(x, w, b) }}",
        "agraph (float[2,3] x) => (float[2,2] y) <float[3,2] w, float[2] b = {0, 0}> { y = Gemm(x, w, b) }",
        "agraph (float[2,3] x) => (float[2,2] y) <float[3,2] w, float b = {0}> { y = Gemm<beta=2.0>(x, w, b) }",
        "agraph (float16[2,3] x) => (float16[2,2] y) <float16[3,2] w, float16[2] b = {0, 0}> { y = Gemm(x, w, b) }",
    ],
    ids=["conv", "conv_transpose", "gemm", "one_zero", "float16"],
)
def test_a_bias_of_zeros_goes_away(graph: str) -> None:
    done = converted(graph)
    (node,) = done.model.graph.nodes
    assert len(node.inputs) == 2
    assert taken(done) == ["RemoveZeroBias"]


def test_a_bias_with_one_number_stays() -> None:
    graph = f"{IMAGE} <float[3,2,3,3] w, float[3] b = {{0, 0.001, 0}}> {{ y = Conv(x, w, b) }}"
    assert len(converted(graph).model.graph.nodes[0].inputs) == 3
    assert "'b' is not zero" in str(why_not(RemoveZeroBias, read(graph)))


def test_a_gemm_that_must_have_a_bias_keeps_it() -> None:
    graph = "agraph (float[2,3] x) => (float[2,2] y) <float[3,2] w, float[2] b = {0, 0}> { y = Gemm(x, w, b) }"
    assert len(converted(graph, opset=10).model.graph.nodes[0].inputs) == 3
    assert "opset 11" in str(why_not(RemoveZeroBias, read(graph, opset=10)))


# ------------------------------------------------------------------------------------ Reshape that is Flatten

FLAT = "agraph (float[N,2,3,3] x) => (float[N,M] y)"


@pytest.mark.parametrize("shape", ["-1, 18", "0, -1", "0, 18", "2, 18"])
def test_a_reshape_that_keeps_the_first_axis_is_flatten(shape: str) -> None:
    done = converted(f"{FLAT} <int64[2] s = {{{shape}}}> {{ y = Reshape(x, s) }}")
    assert operators(done.model) == ["Flatten"]


def test_the_sizes_may_come_from_the_weight_of_a_conv() -> None:
    done = converted(
        "agraph (float[N,2,H,W] x) => (float[N,M] y) <float[5,2,1,1] w, int64[2] s = {-1, 5}> "
        "{ c = Conv(x, w) p = GlobalAveragePool(c) y = Reshape(p, s) }"
    )
    assert operators(done.model) == ["Conv", "GlobalAveragePool", "Flatten"]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ("y = Reshape(x, s)", "int64[2] s = {-1, 9}"),
        ("y = Reshape(x, s)", "int64[2] s = {9, -1}"),
        ("y = Reshape(x, s)", "int64[2] s = {4, -1}"),
        ("y = Reshape<allowzero=1>(e, s)", "int64[2] s = {0, 18}, int64[4] none = {0, 0, 0, 0}"),
        ("u = Reshape(x, two) a = Neg(u) y = Reshape(a, s)", "int64[2] s = {-1, 18}, int64[2] two = {-1, 6}"),
    ],
    ids=["more_rows", "fewer_rows", "fixed_rows", "real_zero", "of_two_axes"],
)
def test_another_reshape_stays(nodes: str, constants: str) -> None:
    empty = "e = Slice(x, none, none)" if "none" in constants else ""
    graph = f"{FLAT} <{constants}> {{ {empty} {nodes} }}"
    assert "Flatten" not in operators(converted(graph).model)
    assert why_not(ReshapeToFlatten, read(graph))


# ------------------------------------------------------------------------------------ a view of all elements

VIEW = (
    "agraph (float[N,2,3] x) => (float[N,2,3] y) <float[N,2,3] a, {shape} v, int64[1] all = {{-1}}, int64 zero = {{0}}, "
    "int64 one = {{1}}, int64[2] axes = {{1, 2}}, int64[1] first = {{0}}, int64 stride = {{{stride}}}, "
    "int64[1,2,3] places = {{{places}}}> "
    "{{ a = Neg(x) s = Shape(x) n = Gather(s, zero) f = Reshape(a, all) r = Range(zero, n, one) m = Mul(r, stride) "
    "u = Unsqueeze(m, axes) i = Add(u, places) v = Gather<axis=0>(f, i) y = Relu(v) }}"
)


def view(*, shape: str = "float[N,2,3]", stride: int = 6, places: str = "0, 1, 2, 3, 4, 5") -> str:
    return VIEW.format(shape=shape, stride=stride, places=places)


def test_a_view_of_every_element_at_its_place_goes_away() -> None:
    done = converted(view())
    assert operators(done.model) == ["Neg", "Relu"]
    assert "RemoveView" in taken(done)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (view(places="0, 2, 4, 1, 3, 5"), "another order"),
        (view(stride=3), "apart"),
        (view(shape="float[M,2,3]"), "shape of 'a'"),
        (view().replace("float[N,2,3] a, ", ""), "shape of 'a'"),
    ],
    ids=["transposed", "overlapping", "other_rows", "undeclared"],
)
def test_another_view_stays(graph: str, reason: str) -> None:
    assert operators(converted(graph).model)[-2:] == ["Gather", "Relu"]
    assert reason in str(why_not(RemoveView, read(graph), "v"))


# ------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("conversion", "graph"),
    [
        (RemoveConcatOfOne, "{ y = Neg(x) z = Concat<axis=0>(y) }"),
        (RemoveAddOfZero, "{ y = Neg(x) z = Add(y, zero) }"),
    ],
)
def test_what_joins_two_outputs_stays(conversion: type[Conversion], graph: str) -> None:
    text = f"agraph (float[2] x) => (float[2] y, float[2] z) <float zero = {{0}}> {graph}"
    assert "name must stay" in str(why_not(conversion, read(text), "z"))
    assert len(operators(converted(text, outputs=("y", "z")).model)) == 2
