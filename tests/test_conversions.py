"""The conversions: exact in float, applied until nothing changes, refused wherever a name or a number would suffer."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import assert_same_results, match, operators, parse, read, why_not
from quantonnx.patterns.conversions import MeanToGlobalPool, PadIntoConv, RemoveDropout, RemoveIdentity, conversions
from transforming import converted, taken

from quantonnx.matching import Matcher
from quantonnx.model import Model
from quantonnx.rewriting import transform
from quantonnx.target import get_target

IMAGE = "agraph (float[1,2,6,6] x) => (float[N,C,H,W] y)"


# ------------------------------------------------------------------------------------ constants


def test_the_two_constants_of_an_exported_relu6_become_initializers() -> None:
    done = converted(
        f"{IMAGE} <float[3,2,3,3] w> {{ c = Conv(x, w) lo = Constant<value = float {{0}}>() "
        "hi = Constant<value = float {6}>() y = Clip(c, lo, hi) }"
    )
    assert operators(done.model) == ["Conv", "Clip"]
    assert taken(done) == ["ConstantToInitializer"] * 2
    assert [step.pattern for step in done.matches] == ["ConvBNRelu"]


@pytest.mark.parametrize(
    "constant",
    ["value = float[2] {1, 2}", "value_float = 3.0", "value_floats = [1.0, 2.0]", "value = float {3}"],
)
def test_every_form_of_a_float_constant(constant: str) -> None:
    done = converted(f"agraph (float[4,2] x) => (float[4,2] y) {{ k = Constant<{constant}>() y = Mul(x, k) }}")
    assert operators(done.model) == ["Mul"]


@pytest.mark.parametrize("constant", ["value_ints = [2, 4]", "value = int64[2] {2, 4}"])
def test_every_form_of_an_integer_constant(constant: str) -> None:
    done = converted(f"agraph (float[4,2] x) => (float[2,4] y) {{ k = Constant<{constant}>() y = Reshape(x, k) }}")
    assert operators(done.model) == ["Reshape"]


def test_a_constant_whose_name_is_public_stays() -> None:
    graph = "agraph (float[2] x) => (float[2] y, float[2] k) { k = Constant<value = float[2] {1, 2}>() y = Mul(x, k) }"
    assert operators(converted(graph, outputs=("y", "k")).model) == ["Constant", "Mul"]


def test_a_constant_that_a_body_reads_stays() -> None:
    done = converted(
        "agraph (float[2] x) => (float[2] y) { c = Constant<value = bool {1}>() k = Constant<value = float[2] {1, 2}>() "
        "y = If(c) <then_branch = t () => (float[2] p) { p = Mul(x, k) }, else_branch = e () => (float[2] q) { q = Neg(x) }> }"
    )
    assert operators(done.model) == ["Constant", "If"]


def test_a_constant_of_text_stays() -> None:
    graph = 'agraph (float[2] x) => (float[2] y) { k = Constant<value_strings = ["a"]>() y = Neg(x) }'
    assert operators(converted(graph).model) == ["Neg"]  # dropped because nothing reads it, not converted


# ------------------------------------------------------------------------------------ Identity and Dropout


def test_a_chain_of_identities_inside_goes_away() -> None:
    done = converted("agraph (float[2] x) => (float[2] y) { a = Neg(x) b = Identity(a) c = Identity(b) y = Relu(c) }")
    assert operators(done.model) == ["Neg", "Relu"]


def test_identities_at_both_ends_keep_the_public_names() -> None:
    done = converted(
        "agraph (float[2] x) => (float[2] y) { a = Identity(x) b = Neg(a) c = Identity(b) y = Identity(c) }"
    )
    assert operators(done.model) == ["Neg"]


def test_an_identity_between_two_public_names_stays() -> None:
    done = converted("agraph (float[2] x) => (float[2] y) { a = Identity(x) b = Identity(a) y = Identity(b) }")
    assert operators(done.model) == ["Identity"]


def test_two_outputs_of_one_value_keep_one_identity() -> None:
    graph = "agraph (float[2] x) => (float[2] y, float[2] z) { a = Neg(x) y = Identity(a) z = Identity(a) }"
    assert operators(converted(graph, outputs=("y", "z")).model) == ["Neg", "Identity"]


def test_an_identity_of_an_output_stays() -> None:
    graph = "agraph (float[2] x) => (float[2] y, float[2] z) { z = Neg(x) y = Identity(z) }"
    assert operators(converted(graph, outputs=("y", "z")).model) == ["Neg", "Identity"]


def test_the_other_readers_of_a_value_that_takes_the_public_name_follow() -> None:
    graph = "agraph (float[2] x) => (float[2] y, float[2] z) { a = Neg(x) y = Identity(a) b = Mul(a, a) z = Relu(b) }"
    assert operators(converted(graph, outputs=("y", "z")).model) == ["Neg", "Mul", "Relu"]


def test_an_identity_of_a_weight_gives_the_weight() -> None:
    done = converted(f"{IMAGE} <float[3,2,3,3] w> {{ v = Identity(w) y = Conv(x, v) }}")
    assert operators(done.model) == ["Conv"]
    assert len(done.matches) == 1


def test_an_identity_that_a_body_reads_stays() -> None:
    done = converted(
        "agraph (float[2] x, bool c) => (float[2] y) { a = Identity(x) "
        "y = If(c) <then_branch = t () => (float[2] p) { p = Neg(a) }, else_branch = e () => (float[2] q) { q = Abs(a) }> }"
    )
    assert operators(done.model) == ["Identity", "If"]


@pytest.mark.parametrize("dropout", ["Dropout(a)", "Dropout(a, ratio)", "Dropout(a, ratio, no)"])
def test_dropout_goes_away(dropout: str) -> None:
    done = converted(
        f"agraph (float[2] x) => (float[2] y) <float ratio = {{0.5}}, bool no = {{0}}> {{ a = Neg(x) b = {dropout} y = Relu(b) }}"
    )
    assert operators(done.model) == ["Neg", "Relu"]


def test_dropout_whose_mask_nobody_reads_goes_away() -> None:
    done = converted("agraph (float[2] x) => (float[2] y) { a = Neg(x) b, m = Dropout(a) y = Relu(b) }")
    assert operators(done.model) == ["Neg", "Relu"]


@pytest.mark.parametrize(
    ("outputs", "tail"), [("float[2] y, bool[2] m", ""), ("float[2] y, bool[2] k", "k = Not(m)")], ids=["given", "read"]
)
def test_dropout_whose_mask_is_used_stays(outputs: str, tail: str) -> None:
    model = read(f"agraph (float[2] x) => ({outputs}) {{ a = Neg(x) b, m = Dropout(a) y = Relu(b) {tail} }}")
    assert match(RemoveDropout, model, "b") is None
    assert "'m' is" in str(why_not(RemoveDropout, model, "b"))


def test_dropout_in_training_stays() -> None:
    head = "agraph (float[2] x) => (float[2] y) <float ratio = {0.5}, bool yes = {1}>"
    model = read(f"{head} {{ a = Neg(x) b = Dropout(a, ratio, yes) y = Relu(b) }}")
    assert str(why_not(RemoveDropout, model, "b")).endswith("is in training mode")


# ------------------------------------------------------------------------------------ Sum


def test_a_sum_of_two_becomes_an_add_that_fuses() -> None:
    done = converted(
        "agraph (float[1,2,6,6] x) => (float[1,2,6,6] y) <float[2,2,1,1] w> { c = Conv(x, w) s = Sum(c, x) y = Relu(s) }"
    )
    assert operators(done.model) == ["Conv", "Add", "Relu"]
    assert [step.pattern for step in done.matches] == ["ConvBNAddRelu"]


@pytest.mark.parametrize("operands", ["x", "x, x, x"])
def test_other_sums_stay(operands: str) -> None:
    done = converted(f"agraph (float[2] x) => (float[2] y) {{ a = Sum({operands}) y = Neg(a) }}")
    assert operators(done.model) == ["Sum", "Neg"]


# ------------------------------------------------------------------------------------ Pad


def padded(pads: str, conv: str = "Conv(p, w)", *, mode: str = "", rest: str = "", constants: str = "") -> str:
    fields = f"<float[3,2,3,3] w, int64[8] pads = {{{pads}}}{constants}>"
    return f"{IMAGE} {fields} {{ p = Pad{mode}(x, pads{rest}) y = {conv} }}"


@pytest.mark.parametrize("pads", ["0,0,1,1,0,0,1,1", "0,0,0,1,0,0,1,2", "0,0,0,0,0,0,0,0"])
@pytest.mark.parametrize("own", ["", "<pads=[1,0,2,1]>", '<auto_pad="VALID">', "<strides=[2,2], pads=[1,1,1,1]>"])
def test_zero_padding_goes_into_the_conv(pads: str, own: str) -> None:
    done = converted(padded(pads, f"Conv{own}(p, w)"))
    assert operators(done.model) == ["Conv"]
    assert [step.points for step in done.matches] == [("INPUT", "WEIGHT")]


@pytest.mark.parametrize("shape", ["", "[1]"], ids=["scalar", "one element"])
def test_zero_padding_with_a_given_zero_goes_into_the_conv(shape: str) -> None:
    done = transform(parse(padded("0,0,1,1,0,0,1,1", rest=", zero", constants=f", float{shape} zero = {{0}}")))
    assert operators(done.model) == ["Conv"]


def test_the_attribute_form_of_opset_10() -> None:
    done = converted(f"{IMAGE} <float[3,2,3,3] w> {{ p = Pad<pads=[0,0,0,1,0,0,2,1]>(x) y = Conv(p, w) }}", opset=10)
    assert operators(done.model) == ["Conv"]
    assert done.model.graph.nodes[0].attrs["pads"] == [0, 1, 2, 1]


REFUSED_PADS = {
    "reflect": (padded("0,0,1,1,0,0,1,1", mode='<mode="reflect">'), "does not pad with zeros"),
    "ones": (padded("0,0,1,1,0,0,1,1", rest=", one", constants=", float one = {1}"), "does not pad with zeros"),
    "channels": (
        padded("0,1,1,1,0,0,1,1", constants=", float[3,3,3,3] u").replace("Conv(p, w)", "Conv(p, u)"),
        "batch or channel axis",
    ),
    "batch": (padded("1,0,1,1,0,0,1,1"), "batch or channel axis"),
    "crops": (padded("0,0,-1,1,0,0,1,1"), "crops"),
    "auto_pad": (padded("0,0,1,1,0,0,1,1", 'Conv<auto_pad="SAME_UPPER">(p, w)'), "auto_pad"),
}


@pytest.mark.parametrize(("graph", "reason"), REFUSED_PADS.values(), ids=REFUSED_PADS)
def test_padding_that_a_conv_cannot_do_stays(graph: str, reason: str) -> None:
    assert operators(converted(graph).model) == ["Pad", "Conv"]
    assert reason in str(why_not(PadIntoConv, read(graph)))


def test_padding_of_chosen_axes_stays() -> None:
    done = converted(
        f"{IMAGE} <float[3,2,3,3] w, int64[4] pads = {{1,1,1,1}}, int64[2] axes = {{2,3}}> "
        "{ p = Pad(x, pads, , axes) y = Conv(p, w) }",
        opset=18,
    )
    assert operators(done.model) == ["Pad", "Conv"]


def test_padding_that_is_computed_stays() -> None:
    graph = f"{IMAGE.replace(' x)', ' x, int64[8] pads)')} <float[3,2,3,3] w> {{ p = Pad(x, pads) y = Conv(p, w) }}"
    assert "is not a constant over all axes" in str(why_not(PadIntoConv, read(graph)))


def test_padding_that_another_node_reads_stays() -> None:
    graph = (
        "agraph (float[1,2,6,6] x) => (float[N,C,H,W] y, float[N,C,H,W] z) "
        "<float[3,2,3,3] w, int64[8] pads = {0,0,1,1,0,0,1,1}> { p = Pad(x, pads) y = Conv(p, w) z = Neg(p) }"
    )
    assert operators(converted(graph, outputs=("y", "z")).model) == ["Pad", "Conv", "Neg"]


# ------------------------------------------------------------------------------------ ReduceMean


@pytest.mark.parametrize("axes", ["[2,3]", "[3,2]", "[-1,-2]"])
@pytest.mark.parametrize(("keepdims", "shape"), [(1, "[1,2,1,1]"), (0, "[1,2]")])
def test_a_mean_over_space_is_global_pooling(axes: str, keepdims: int, shape: str) -> None:
    done = converted(
        f"agraph (float[1,2,6,6] x) => (float{shape} y) {{ y = ReduceMean<axes={axes}, keepdims={keepdims}>(x) }}"
    )
    assert operators(done.model) == (["GlobalAveragePool"] if keepdims else ["GlobalAveragePool", "Flatten"])
    assert [step.pattern for step in done.matches] == ["AveragePool"]


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("form", ["<int64[2] axes = {2, 3}> { ", "{ axes = Constant<value_ints = [2, 3]>() "])
def test_a_mean_with_its_axes_as_an_input(keepdims: int, form: str) -> None:
    shape = "[1,2,1,1]" if keepdims else "[1,2]"
    done = converted(
        f"agraph (float[1,2,6,6] x) => (float{shape} y) {form} y = ReduceMean<keepdims={keepdims}>(x, axes) }}",
        opset=18,
    )
    assert operators(done.model)[0] == "GlobalAveragePool"


def test_a_mean_after_a_conv_needs_no_declared_shape() -> None:
    graph = f"{IMAGE} <float[3,2,3,3] w> {{ c = Conv(x, w) r = Relu(c) y = ReduceMean<axes=[2,3]>(r) }}"
    assert operators(converted(graph).model) == ["Conv", "Relu", "GlobalAveragePool"]


@pytest.mark.parametrize(
    "mean", ["ReduceMean<axes=[1]>(x)", "ReduceMean<axes=[1,2,3]>(x)", "ReduceMean(x)", "ReduceMean<axes=[2]>(x)"]
)
def test_other_means_stay(mean: str) -> None:
    assert operators(converted(f"{IMAGE} {{ y = {mean} }}").model) == ["ReduceMean"]


@pytest.mark.parametrize("shape", ["[2,3,4]", "[2,3,4,5,6]"])
def test_a_mean_of_another_rank_stays(shape: str) -> None:
    last = shape.count(",")
    graph = f"agraph (float{shape} x) => (float y) {{ r = ReduceMean<axes=[{last - 1},{last}]>(x) y = ReduceMean<keepdims=0>(r) }}"
    assert why_not(MeanToGlobalPool, read(graph), "r") == "'x' is not known to have four axes"


# ------------------------------------------------------------------------------------ what stays, fixpoint


def test_a_batch_normalization_without_a_conv_is_kept() -> None:
    graph = f"{IMAGE} <float[2] gamma, float[2] beta, float[2] mean, float[2] variance> "
    done = converted(graph + "{ y = BatchNormalization(x, gamma, beta, mean, variance) }")
    assert operators(done.model) == ["BatchNormalization"]


def test_one_conversion_makes_way_for_the_next() -> None:
    done = converted(
        f"{IMAGE} <float[3,2,3,3] w, float[3] gamma, float[3] beta, float[3] mean, float[3] variance> {{ "
        "pads = Constant<value_ints = [0,0,1,1,0,0,1,1]>() i = Identity(x) p = Pad(i, pads) q = Dropout(p) "
        "c = Conv(q, w) d = Identity(c) y = BatchNormalization(d, gamma, beta, mean, variance) }"
    )
    assert operators(done.model) == ["Conv"]
    assert sorted(set(taken(done))) == ["ConstantToInitializer", "PadIntoConv", "RemoveDropout", "RemoveIdentity"]


@given(st.lists(st.sampled_from(["Identity", "Dropout", "Neg", "Sum2", "Relu"]), min_size=1, max_size=8), st.data())
def test_random_graphs_reach_a_fixpoint_and_keep_their_results(ops: list[str], data: st.DataObject) -> None:
    values, nodes = ["x"], []
    for position, operator in enumerate(ops):
        read_ = data.draw(st.sampled_from(values))
        operands = [read_, data.draw(st.sampled_from(values))] if operator == "Sum2" else [read_]
        values.append(f"v{position}")
        nodes.append(onnx.helper.make_node(operator.rstrip("2"), operands, [values[-1]]))
    names = sorted({values[-1], data.draw(st.sampled_from(values[1:]))})
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", *names)]
    graph = onnx.helper.make_graph(nodes, "g", shape[:1], shape[1:])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model = transform(proto, target=get_target("tensorrt")).model
    assert_same_results(proto, model)
    matcher = Matcher(model)
    assert not any(matcher.match(c, node) for c in conversions for node in model.graph.nodes)
    assert transform(model).model.to_bytes() == model.to_bytes()


def test_why_an_identity_stays_is_told() -> None:
    model = Model.read(parse("agraph (float[2] x) => (float[2] y) { y = Identity(x) }"))
    assert str(why_not(RemoveIdentity, model)).startswith("'y' is an output of the graph")


# ------------------------------------------------------------------------------------ constants of constants


def test_a_rearranged_weight_is_a_weight() -> None:
    done = converted(
        "agraph (float[2,3] x) => (float[2,4] y) <float[4,3] w, float[1,4] b, int64[1] flat = {-1}> "
        "{ t = Transpose<perm=[1,0]>(w) m = MatMul(x, t) c = Reshape(b, flat) y = Add(m, c) }"
    )
    assert operators(done.model) == ["MatMul", "Add"]
    assert [step.pattern for step in done.matches] == ["Linear"]


def test_shape_arithmetic_on_constants_is_computed_once() -> None:
    done = converted(
        "agraph (float[2,6] x) => (float[3,4] y) <float[3,4] w> "
        "{ s = Shape(w) z = Constant<value_int = 0>() n = Gather(s, z) u = Constant<value_ints = [0]>() "
        "k = Unsqueeze(n, u) m = Constant<value_ints = [-1]>() t = Concat<axis=0>(k, m) y = Reshape(x, t) }"
    )
    assert operators(done.model) == ["Reshape"]


@pytest.mark.parametrize(
    "large",
    [
        "ConstantOfShape(n)",
        "Expand(one, n)",
        "Tile(row, n)",
        "Add(row, column)",
        "Where(yes, row, column)",
        "Gather(row, many)",
    ],
)
def test_a_large_new_constant_stays_an_operator(large: str) -> None:
    done = transform(
        parse(
            "agraph (float[1] x) => (float y) <int64[2] n = {2048, 2048}, float one = {1}, float[1,2048] row, "
            "bool[1] yes = {1}, float[2048,1] column, int64[1024,4] many> { c = " + large + " y = Exp(c) }"
        )
    )
    assert operators(done.model) == [large.split("(")[0], "Exp"]


def test_a_large_weight_that_is_only_rearranged_is_computed() -> None:
    graph = "agraph (float[2,1100] x) => (float[2,1100] y) <float[1100,1100] w> "
    done = transform(parse(graph + "{ t = Transpose<perm=[1,0]>(w) s = Mul(t, t) y = MatMul(x, s) }"))
    assert operators(done.model) == ["MatMul"]


def test_what_cannot_be_computed_is_left_to_the_runtime() -> None:
    graph = (
        "agraph (float[2] x) => (float[2] y) <int64[2] a, int64[3] b> { c = Add(a, b) d = Cast<to=1>(c) y = Mul(x, d) }"
    )
    assert operators(transform(parse(graph)).model) == ["Add", "Cast", "Mul"]
