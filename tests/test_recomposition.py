"""What exporters take apart is put together again, exactly, and only where it is what it looks like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import transformer_examples as examples
from models import match, operators, parse, read, why_not
from quantonnx.patterns.conversions import RemoveCast
from quantonnx.patterns.normalization import LayerNorm
from quantonnx.patterns.recomposition import (
    RecomposeGelu,
    RecomposeLayerNorm,
    RecomposeRMSNorm,
    ScaleAfterProduct,
    attention_scales,
)
from transforming import TARGET, fused, sites, transformed

from quantonnx.model import Model
from quantonnx.pattern import Pattern, const, op, tensor

# ------------------------------------------------------------------------------------ a constant of one number


class Halves(Pattern):
    """x · ½."""

    x = tensor()
    half = const(0.5)
    output = op.Mul(x, half)


@pytest.mark.parametrize(
    ("constant", "holds"),
    [
        ("float half = {0.5}", True),
        ("float[1,1] half = {0.5}", True),
        ("float half = {0.500001}", True),
        ("double half = {0.5}", True),
        ("float half = {0.501}", False),
        ("float half = {-0.5}", False),
        ("float[2] half = {0.5, 0.5}", False),
        ("float half", False),
    ],
)
def test_a_constant_of_one_number(constant: str, holds: bool) -> None:
    kind = "double" if "double" in constant else "float"
    model = read(f"agraph ({kind}[2] x) => ({kind}[2] y) <{constant}> {{ y = Mul(half, x) }}")
    assert (match(Halves, model) is not None) == holds
    assert holds or "'half' is not the number 0.5" in str(why_not(Halves, model)) or "[2]" in constant


def test_a_computed_number_is_no_constant() -> None:
    model = read("agraph (float[2] x, float[1] half) => (float[2] y) { y = Mul(x, half) }")
    assert match(Halves, model) is None


# ------------------------------------------------------------------------------------ LayerNorm and RMSNorm


def _norms(forms: dict[str, str], *versions: int) -> list[object]:
    return [
        pytest.param(examples.norm(nodes, version=version), id=f"{form}-{version}")
        for version in versions
        for form, nodes in forms.items()
    ]


@pytest.mark.parametrize("graph", _norms(examples.LAYER_NORMS, 17, 18, 21))
def test_a_layer_norm_in_parts_becomes_the_operator(graph: str) -> None:
    done = transformed(parse(graph))
    assert operators(done.model) == ["LayerNormalization"]
    assert fused(done) == ["LayerNorm"]
    assert sum(step.pattern == "RecomposeLayerNorm" for step in done.plan.conversions) == 1


@pytest.mark.parametrize("graph", _norms(examples.LAYER_NORMS, 16))
def test_an_opset_without_the_operator_keeps_the_parts_as_one_region(graph: str) -> None:
    done = transformed(parse(graph))
    assert fused(done) == ["LayerNorm"]
    assert "LayerNormalization" not in operators(done.model)
    (step,) = (step for step in done.matches if step.apply)
    assert len(step.nodes) == len(done.model.graph.nodes)


@pytest.mark.parametrize("graph", _norms(examples.RMS_NORMS, 23))
def test_an_rms_norm_in_parts_becomes_the_operator(graph: str) -> None:
    done = transformed(parse(graph))
    assert operators(done.model) == ["RMSNormalization"]
    assert fused(done) == ["RMSNorm"]


@pytest.mark.parametrize("graph", _norms(examples.RMS_NORMS, 17))
def test_an_rms_norm_without_the_operator_is_one_region(graph: str) -> None:
    assert fused(transformed(parse(graph))) == ["RMSNorm"]


def test_the_inside_of_a_layer_norm_is_no_rms_norm() -> None:
    graph = examples.norm(examples.LAYER_NORMS["plain"], version=23)
    assert "inside of a LayerNorm" in str(why_not(RecomposeRMSNorm, read(graph), "g"))
    assert operators(transformed(parse(graph)).model) == ["LayerNormalization"]


def test_a_bias_that_follows_is_taken_in_not_left_behind() -> None:
    model = read(examples.norm(examples.LAYER_NORMS["plain"], version=17))
    assert "goes on to the bias" in str(why_not(RecomposeLayerNorm, model, "g"))


def test_a_norm_over_two_axes_and_factors_with_leading_ones() -> None:
    nodes = examples.LAYER_NORMS["plain"].replace("[-1]", "[-1,-2]")
    done = transformed(parse(examples.norm(nodes, version=17, factors="float[1,3,8] gamma, float[3,8] beta"), opset=17))
    (node,) = done.model.graph.nodes
    assert (node.op, node.attrs["axis"]) == ("LayerNormalization", -2)
    assert [tuple(value.shape) for value in node.inputs[1:]] == [(3, 8), (3, 8)]


@pytest.mark.parametrize(
    ("nodes", "factors", "reason"),
    [
        (examples.LAYER_NORMS["plain"].replace("[-1]", "[1]"), "float[3,1] gamma, float[3,1] beta", "over the last"),
        (examples.LAYER_NORMS["plain"], "float[1] gamma, float[8] beta", "one number for each"),
        (examples.LAYER_NORMS["plain"], "float[8] gamma, float[3,8] beta", "one number for each"),
        (examples.LAYER_NORMS["plain"].replace("n = ", "n = Neg(x) o = "), "float[8] gamma, float[8] beta", "Neg"),
        ("m = ReduceMean<axes=[-1]>(x) y = Sub(x, m)", "float[8] gamma, float[8] beta", "not"),
        (examples.LAYER_NORMS["plain"], "float[8] gamma, float[8] beta, float[8] eps", "epsilon"),
    ],
)
def test_what_is_no_layer_norm_over_the_last_axes_stays(nodes: str, factors: str, reason: str) -> None:
    graph = examples.norm(nodes, version=17, factors=factors)
    model = read(graph.replace("float eps = {1e-5}, ", "") if "eps" in factors else graph)
    assert match(RecomposeLayerNorm, model) is None
    assert reason in str(why_not(RecomposeLayerNorm, model))


def test_a_positive_axis_of_a_value_of_unknown_rank_is_not_known_to_be_the_last() -> None:
    nodes = "x = Mul(z, z) " + examples.LAYER_NORMS["positive_axis"]
    graph = examples.norm(nodes, version=17).replace("(float[2,3,8] x)", "(float z)")
    proto = parse(graph)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert "not known" in str(why_not(RecomposeLayerNorm, Model.read(proto)))


def test_a_norm_in_higher_precision_than_its_model_keeps_its_casts() -> None:
    model = read(examples.TRANSFORMERS["LayerNorm"]["half"].replace('"": 16', '"": 17'))
    assert match(LayerNorm, model) is not None
    assert "changes the precision inside" in str(why_not(RecomposeLayerNorm, model))


def test_an_inner_value_that_is_read_elsewhere_keeps_the_parts() -> None:
    graph = examples.norm(examples.LAYER_NORMS["plain"] + " z = Neg(c)", version=17)
    proto = parse(graph.replace("(float[2,3,8] y)", "(float[2,3,8] y, float[2,3,8] z)"))
    assert "LayerNormalization" not in operators(transformed(proto).model)


def test_a_norm_in_the_middle_keeps_the_name_of_its_result() -> None:
    nodes = examples.LAYER_NORMS["plain"].replace("y = ", "inner = ") + " y = Neg(inner)"
    done = transformed(parse(examples.norm(nodes, version=17)))
    assert operators(done.model) == ["LayerNormalization", "Neg"]
    assert done.model.graph.nodes[0].outputs[0].name == "inner"


# ------------------------------------------------------------------------------------ GELU


@pytest.mark.parametrize("form", examples.GELUS)
def test_a_gelu_in_parts_becomes_the_operator(form: str) -> None:
    done = transformed(parse(examples.activation(examples.GELUS[form]), opset=20))
    (node,) = done.model.graph.nodes
    assert (node.op, node.attrs["approximate"]) == ("Gelu", "tanh" if form.startswith("tanh") else "none")
    assert fused(done) == ["Gelu"]


@pytest.mark.parametrize("form", examples.GELUS)
def test_an_opset_without_gelu_keeps_the_parts_as_one_region(form: str) -> None:
    done = transformed(parse(examples.activation(examples.GELUS[form]), opset=19))
    assert fused(done) == ["Gelu"]


_NUMBERS_OF_GELU = [
    (form, name)
    for form, stage in examples.GELUS.items()
    for name in ("half", "one", "root", "inverse", "slope", "third")
    if f"{name})" in stage or f"{name}," in stage
]


@pytest.mark.parametrize(("form", "number"), _NUMBERS_OF_GELU)
def test_other_numbers_make_no_gelu(form: str, number: str) -> None:
    proto = parse(examples.activation(examples.GELUS[form]), opset=20)
    value = next(item for item in proto.graph.initializer if item.name == number)
    value.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(value) * np.float32(1.001), number))
    done = transformed(proto)
    assert "Gelu" not in operators(done.model)
    assert "Gelu" not in fused(done)


def test_a_gelu_in_float64_stays_in_parts() -> None:
    graph = examples.activation(examples.GELUS["erf_div"]).replace("float", "double")
    assert "no Gelu" in str(why_not(RecomposeGelu, read(graph, opset=20)))


@pytest.mark.parametrize("form", ["erf_div", "tanh_pow"])
def test_a_linear_layer_takes_the_gelu_behind_it(form: str) -> None:
    head = f"agraph (float[2,16] x) => (float[2,16] y) <float[16,16] w, float[16] b, {examples.GELU_NUMBERS}>"
    graph = f"{head} {{ h = MatMul(x, w) m = Add(b, h) {examples.GELUS[form].format(i='m', o='y')} }}"
    assert fused(transformed(parse(graph))) == ["LinearActivation"]
    assert [site.tensor for site in sites(graph)] == ["x", "w"]


# ------------------------------------------------------------------------------------ Casts that do nothing


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("a = Neg(x) b = Cast<to=1>(a) y = Relu(b)", ["Neg", "Relu"]),
        ("a = Cast<to=1>(x) b = Cast<to=1>(a) y = Relu(b)", ["Relu"]),
        ("a = Cast<to=11>(x) b = Cast<to=1>(a) y = Relu(b)", ["Cast", "Cast", "Relu"]),
        ("a = Shape(x) b = Cast<to=1>(a) y = Relu(b)", ["Shape", "Cast", "Relu"]),
        (
            "a = Cast<to=7>(x) b = Neg(a) c = Cast<to=7>(b) d = Cast<to=1>(c) y = Relu(d)",
            ["Cast", "Neg", "Cast", "Relu"],
        ),
    ],
)
def test_a_cast_to_the_type_that_is_there_goes_away(nodes: str, left: list[str]) -> None:
    done = transformed(parse(f"agraph (float[M] x) => (float[N] y) {{ {nodes} }}"))
    assert operators(done.model) == left


def test_the_type_of_a_looked_up_row_is_not_that_of_its_index() -> None:
    graph = (
        "agraph (float[4] x, int64[2] i) => (int64[2] y) "
        "{ a = Unknown.Op(x) b = Gather(a, i) c = Cast<to=7>(b) y = Neg(c) }"
    )
    model = read(graph, domain="Unknown")
    assert "makes int64 of 'b', float32" in str(why_not(RemoveCast, model, "c"))


# ------------------------------------------------------------------------------------ the scale of attention

BEHIND = replace(TARGET, conversions=(*TARGET.conversions, *attention_scales))
_REST = "p = Softmax<axis=-1>(s) y = MatMul(p, v)"


@pytest.mark.parametrize(
    ("nodes", "scale"),
    [
        ("a = Mul(q, scale) b = Mul(scale, k) s = MatMul(a, b)", 4.0),
        ("a = Mul(q, scale) s = MatMul(a, k)", 2.0),
        ("b = Mul(k, scale) s = MatMul(q, b)", 2.0),
        ("a = Div(q, scale) s = MatMul(a, k)", 0.5),
        ("a = Div(q, scale) b = Div(k, scale) s = MatMul(a, b)", 0.25),
    ],
)
def test_a_scale_before_the_product_moves_behind_it(nodes: str, scale: float) -> None:
    graph = examples.attention(f"{nodes} {_REST}")
    done = transformed(parse(graph), BEHIND)
    assert operators(done.model) == ["MatMul", "Mul", "Softmax", "MatMul"]
    assert float(done.model.array(done.model.graph.nodes[1].inputs[1])) == scale
    assert fused(done) == ["ScaledDotProductAttention"]
    assert [site.tensor for site in sites(graph, target=BEHIND)] == ["q", "k", "v"]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("a = Mul(q, each) s = MatMul(a, k)", "not one number"),
        ("a = Mul(q, scale) s = MatMul(a, w4)", "is a constant"),
        ("a = Mul(q, scale) t = MatMul(a, k) s = Relu(t)", "mask or Softmax"),
        ("a = Mul(q, mask) s = MatMul(a, k)", "not a constant"),
        ("a = Mul(q, scale) s = MatMul(a, k) z = MatMul(a, k)", ""),
    ],
)
def test_a_scale_that_must_stay_before_the_product(nodes: str, reason: str) -> None:
    constants = "float[4] each, float[4,6] w4, float scale"
    graph = examples.attention(f"{nodes} {_REST}").replace("float scale", constants)
    graph = graph.replace("float[2,1,5,6] mask", "float[2,1,5,4] mask")
    model, value = read(graph), "t" if "t =" in nodes else "s"
    assert match(ScaleAfterProduct, model, value) is None
    assert reason in str(why_not(ScaleAfterProduct, model, value))
