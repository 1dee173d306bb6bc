"""Attention, projections, and the regions of transformers that stay in float, in the forms that exporters write."""

from __future__ import annotations

import pytest
import transformer_examples as examples
from models import match, operators, parse, read, why_not
from quantonnx.patterns.activation import Gelu
from quantonnx.patterns.attention import AttentionOperator, ScaledDotProductAttention
from quantonnx.patterns.elementwise import elementwise
from quantonnx.patterns.linear import Embedding, Linear
from quantonnx.patterns.normalization import LayerNorm, LayerScale, RMSNorm
from transforming import TARGET, fused, sites, transformed

from quantonnx.config import QuantConfig
from quantonnx.pattern import INPUT
from quantonnx.placement import place
from quantonnx.rewriting import transform

# ------------------------------------------------------------------------------------ attention

_SCALED = "a = Mul(q, scale) b = Mul(k, scale) s = MatMul(a, b) p = Softmax<axis=-1>(s) y = MatMul(p, v)"


@pytest.mark.parametrize("form", [form for form in examples.ATTENTIONS if form != "transposed"])
def test_attention_has_pairs_on_q_k_and_v_right_at_the_products(form: str) -> None:
    graph = examples.attention(examples.ATTENTIONS[form])
    done = transformed(parse(graph))
    assert fused(done) == ["ScaledDotProductAttention"]
    found = sites(graph)
    assert [site.tensor for site in found] == ["q", "k", "v"]
    nodes = {node.name: node.op for node in done.model.graph.nodes}
    assert [(nodes[edge.node], edge.index) for site in found for edge in site.edges] == [
        ("MatMul", 0),
        ("MatMul", 1),
        ("MatMul", 1),
    ]


def test_a_scale_before_the_product_stays_outside_so_that_the_pair_stands_at_the_product() -> None:
    assert [site.tensor for site in sites(examples.attention(_SCALED))] == ["a", "b", "v"]


@pytest.mark.parametrize(
    ("form", "inner"), [("plain", "p"), ("without_nan", "p"), ("windows", "p"), ("transposed", "p")]
)
def test_a_target_may_want_a_pair_on_the_probabilities_too(form: str, inner: str) -> None:
    every = ScaledDotProductAttention.with_points(q=INPUT, k=INPUT, p=INPUT, v=INPUT)
    found = sites(examples.attention(examples.ATTENTIONS[form]), target=TARGET.with_patterns((every,)))
    (site,) = (site for site in found if site.tensor == inner)
    assert len(found) == 4
    assert len(site.edges) == 1


def test_one_value_as_query_key_and_value_has_one_pair_for_all_three() -> None:
    graph = (
        "agraph (float[1,2,4,4] q) => (float[1,2,4,4] y) "
        "{ k = Transpose<perm=[0,1,3,2]>(q) s = MatMul(q, k) p = Softmax<axis=-1>(s) y = MatMul(p, q) }"
    )
    found = sites(graph)
    assert {site.tensor for site in found} <= {"q", "k"}
    assert [len(site.edges) for site in found if site.tensor == "q"] == [3]


def test_two_layers_share_a_mask() -> None:
    second = "s2 = MatMul(y, k) u2 = Add(s2, mask) p2 = Softmax<axis=-1>(u2) z = MatMul(p2, v)"
    graph = examples.attention(examples.ATTENTIONS["div_and_mask"], tail=second)
    done = transformed(parse(graph.replace("(float[A,B,C,D] y)", "(float[A,B,C,D] z)")))
    assert fused(done) == ["ScaledDotProductAttention"] * 2


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("s = MatMul(q, k) p = Softmax<axis=2>(s) y = MatMul(p, v)", "over axis 2"),
        ("s = MatMul(q, k) p = Softmax<axis=-1>(s) y = MatMul(p, bias2)", "is a constant"),
        ("s = MatMul(q, k) p = Sigmoid(s) y = MatMul(p, v)", "not the result of"),
        ("p = Softmax<axis=-1>(mask) y = MatMul(p, v)", "'mask' is an input of the graph, not the result of"),
    ],
)
def test_what_is_no_attention(nodes: str, reason: str) -> None:
    graph = examples.attention(nodes).replace("float scale", "float[6,4] bias2, float scale")
    assert reason in str(why_not(ScaledDotProductAttention, read(graph)))


def test_a_layer_with_a_softmax_is_a_linear_layer() -> None:
    graph = (
        "agraph (float[2,20] x, float[32,32] v) => (float[2,32] y) <float[20,32] w> "
        "{ s = MatMul(x, w) p = Softmax<axis=-1>(s) y = MatMul(p, v) }"
    )
    assert fused(transformed(parse(graph))) == ["Linear"]


def test_the_operator_of_onnx_has_points_where_a_target_wants_them() -> None:
    graph = examples.TRANSFORMERS["AttentionOperator"]["plain"]
    assert sites(graph) == []
    wanted = TARGET.with_patterns((AttentionOperator.with_points(q=INPUT, k=INPUT, v=INPUT),))
    assert [site.tensor for site in sites(graph, target=wanted)] == ["q", "k", "v"]


# ------------------------------------------------------------------------------------ projections


@pytest.mark.parametrize("bias", ["Add(h, b)", "Add(b, h)"], ids=["last", "first"])
@pytest.mark.parametrize("weight", ["Transpose<perm=[1,0]>(wt)", "Identity(w)", "Cast<to=1>(w)"])
def test_a_projection_with_its_weight_behind_something(weight: str, bias: str) -> None:
    head = "agraph (float[2,3,4] x) => (float[2,3,6] y) <float[4,6] w, float[6,4] wt, float[6] b>"
    graph = f"{head} {{ u = {weight} h = MatMul(x, u) y = {bias} }}"
    done = transformed(parse(graph))
    assert operators(done.model) == ["MatMul", "Add"]
    assert fused(done) == ["Linear"]


@pytest.mark.parametrize(
    "parts",
    [
        "q, k, v = Split<axis=2>(h, sizes)",
        "q = Slice(h, i0, i16, two) k = Slice(h, i16, i32, two) v = Slice(h, i32, i48, two)",
    ],
    ids=["split", "slice"],
)
def test_a_packed_projection_of_gpt_2_is_one_linear_layer_before_attention(parts: str) -> None:
    graph = (
        "agraph (float[2,3,16] x) => (float[2,3,16] y) <float[16,48] w, float[48] b, int64[2] flat = {-1, 16}, "
        "int64[3] back = {2, 3, 48}, int64[3] sizes = {16, 16, 16}, int64[1] two = {2}, int64[1] i0 = {0}, "
        "int64[1] i16 = {16}, int64[1] i32 = {32}, int64[1] i48 = {48}> "
        f"{{ f = Reshape(x, flat) g = Gemm(f, w, b) h = Reshape(g, back) {parts} t = Transpose<perm=[0,2,1]>(k) "
        "s = MatMul(q, t) p = Softmax<axis=-1>(s) y = MatMul(p, v) }"
    )
    assert fused(transformed(parse(graph))) == ["Linear", "ScaledDotProductAttention"]


# ------------------------------------------------------------------------------------ regions that stay in float

_REGIONS = [
    (pattern.__name__, form)
    for pattern in (LayerNorm, RMSNorm, LayerScale, Gelu, Embedding)
    for form in examples.TRANSFORMERS[pattern.__name__]
]


@pytest.mark.parametrize(("pattern", "form"), _REGIONS)
def test_a_region_in_float_gets_no_pair_even_where_its_parts_would(pattern: str, form: str) -> None:
    target = TARGET.with_patterns(elementwise)
    done = transform(parse(examples.TRANSFORMERS[pattern][form]), target=target)
    placed = place(done.model, done.matches, QuantConfig())
    assert not placed.sites
    assert any(f"{pattern} declares no points" in decision.reason for decision in placed.decisions)


@pytest.mark.parametrize("gamma", ["float g", "float[1] g", "float[3,8] g", "float[2,3,8] g"])
def test_a_product_with_no_factor_for_each_channel_is_no_layer_scale(gamma: str) -> None:
    graph = f"agraph (float[2,3,8] x, float[2,3,8] r) => (float[2,3,8] y) <{gamma}> {{ m = Mul(x, g) y = Add(m, r) }}"
    assert "one factor for each channel" in str(why_not(LayerScale, read(graph)))


@pytest.mark.parametrize(
    ("table", "gather"),
    [("int64[5,2] t", "Gather(t, i)"), ("float[5] t", "Gather(t, i)"), ("float[5,2] t", "Gather<axis=1>(t, i)")],
)
def test_other_look_ups_are_no_embedding(table: str, gather: str) -> None:
    kind = table.split("[")[0]
    model = read(f"agraph (int64[2] i) => ({kind}[A,B] y) <{table}> {{ y = {gather} }}")
    assert match(Embedding, model) is None
    assert match(Linear, model) is None
