"""Points into sites: where pairs stand, where none does, and the reason for each refusal."""

from __future__ import annotations

import time

import pytest
from models import parse, producer

from quantonnx.config import FixedRange, OpsToSkip, QuantConfig, TensorQuantConfig
from quantonnx.errors import ConfigError, PatternError, TargetError
from quantonnx.pattern import BIAS, INPUT, WEIGHT, Edge, Pattern, Role, const, op, tensor
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import transform
from quantonnx.sites import Site
from quantonnx.summary import left_in_float

BLOCK = (
    "agraph (float[1,16,6,6] x) => (float[1,16,6,6] y) <float[16,16,3,3] w1, float[16,16,3,3] w2, float[16] b1, "
    "float[16] b2, float[16] gamma, float[16] beta, float[16] mean, float[16] variance> { "
    "c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) n1 = BatchNormalization(c1, gamma, beta, mean, variance) r1 = Relu(n1) "
    "c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2) s = Add(c2, x) y = Relu(s) }"
)
CLASSIFIER = (
    "agraph (float[1,16,6,6] x) => (float[1,32] y) <float[16,16,1,1] w, float[16,32] v, float[16] b, float[32] d> { "
    "c = Conv(x, w, b) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, v, d) }"
)


def placed(graph: str, target: str, **config: object) -> QuantizedModel:
    fused = transform(parse(graph), target=target)
    return insert_qdq(fused.model, fused.matches, QuantConfig(**config))


def on(quantized: QuantizedModel, tensor_name: str) -> Site:
    """Returns the only activation site on a tensor."""
    (found,) = [site for site in quantized.activation_sites if site.tensor == tensor_name]
    return found


def stands(quantized: QuantizedModel) -> list[str]:
    return sorted(site.tensor for site in quantized.activation_sites)


def reasons(quantized: QuantizedModel) -> dict[str, str]:
    return {decision.name: decision.reason for decision in quantized.decisions}


def edge(quantized: QuantizedModel, gives: str, index: int) -> Edge:
    return Edge(producer(quantized.model, gives).name, index)


# ------------------------------------------------------------------------------------ TensorRT


def test_a_residual_block_has_pairs_at_conv_inputs_and_the_residual_only() -> None:
    quantized = placed(BLOCK, "tensorrt")
    assert stands(quantized) == ["r1", "x"]
    assert on(quantized, "r1").edges == (edge(quantized, "c2", 0),)
    assert on(quantized, "x").roles == (Role.INPUT, Role.RESIDUAL_INPUT)
    assert set(on(quantized, "x").edges) == {edge(quantized, "n1", 0), edge(quantized, "s", 1)}
    assert not any(site.whole for site in quantized.sites)


def test_tensorrt_is_symmetric_int8_per_channel_with_float_bias() -> None:
    quantized = placed(BLOCK, "tensorrt")
    assert all(site.format.symmetric and site.format.signed for site in quantized.sites)
    assert [(site.tensor, site.format.axis) for site in quantized.weight_sites] == [("n1_weight", 0), ("w2", 0)]
    assert not any(Role.BIAS in site.roles for site in quantized.sites)


@pytest.mark.parametrize("add", ["Add(c, x)", "Add(x, c)"])
def test_one_tensor_with_both_roles_has_one_pair(add: str) -> None:
    quantized = placed(
        f"agraph (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w> {{ c = Conv(x, w) y = {add} }}", "tensorrt"
    )
    site = on(quantized, "x")
    assert site.roles == (Role.INPUT, Role.RESIDUAL_INPUT)
    assert set(site.edges) == {edge(quantized, "c", 0), edge(quantized, "y", 0 if add == "Add(x, c)" else 1)}
    assert len(quantized.activation_sites) == 1


def test_a_conv_that_feeds_the_skip_of_another_is_quantized_there_as_a_residual() -> None:
    quantized = placed(
        "agraph (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w1, float[4,4,1,1] w2> "
        "{ a = Conv(x, w1) b = Conv(x, w2) s = Add(a, b) y = Relu(s) }",
        "tensorrt",
    )
    assert stands(quantized) == ["b", "x"]
    assert on(quantized, "b").roles == (Role.RESIDUAL_INPUT,)
    assert len(on(quantized, "x").edges) == 2


def test_a_reader_that_no_pattern_claims_reads_the_float_value() -> None:
    quantized = placed(
        "agraph (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] z) <float[4,4,1,1] w> "
        "{ a = Exp(x) y = Conv(a, w) z = Softplus(a) }",
        "tensorrt",
    )
    assert on(quantized, "a").edges == (edge(quantized, "y", 0),)


def test_pooling_and_classifier_share_a_pair_across_the_flatten() -> None:
    quantized = placed(CLASSIFIER, "tensorrt")
    assert stands(quantized) == ["p", "r", "x"]
    site = on(quantized, "p")
    assert site.roles == (Role.OUTPUT, Role.INPUT)
    assert site.whole
    assert "before Flatten" in site.reason


@pytest.mark.parametrize("moves", ["f = Flatten(p)", "t = Transpose<perm=[0,2,3,1]>(p) f = Reshape(t, to)"])
def test_a_pair_moves_through_a_chain_of_operators_that_only_move_data(moves: str) -> None:
    graph = CLASSIFIER.replace("f = Flatten(p)", moves).replace(
        "<float[16,16,1,1] w", "<int64[2] to = {1, 16}, float[16,16,1,1] w"
    )
    assert stands(placed(graph, "tensorrt")) == ["p", "r", "x"]
    assert on(placed(graph, "onnxruntime"), "f").source == "p"  # ONNX Runtime wants a pair on both sides, of one scale


def test_a_small_product_stays_in_float() -> None:
    quantized = placed("agraph (float[2,16] x) => (float[2,4] y) <float[16,4] w> { y = MatMul(x, w) }", "tensorrt")
    assert not quantized.sites
    assert reasons(quantized) == {"y": "the weight 'w' is only 16×4: under 16, int8 gains nothing"}


def test_squeeze_and_excite_stays_in_float_where_a_pattern_says_so() -> None:
    graph = (
        "agraph (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] w, float[2,8,1,1] w1, float[8,2,1,1] w2> { "
        "c = Conv(x, w) p = GlobalAveragePool(c) a = Conv(p, w1) r = Relu(a) b = Conv(r, w2) g = Sigmoid(b) y = Mul(c, g) }"
    )
    for target in ("tensorrt", "openvino"):
        quantized = placed(graph, target)
        assert [site.tensor for site in quantized.weight_sites] == ["w"]
        assert "declares no points" in reasons(quantized)["y"]
    assert {site.tensor for site in placed(graph, "onnxruntime").weight_sites} == {"w", "w1", "w2"}


# ------------------------------------------------------------------------------------ ONNX Runtime


def test_a_residual_block_is_closed_for_onnxruntime() -> None:
    quantized = placed(BLOCK, "onnxruntime")
    assert stands(quantized) == ["c2", "r1", "x", "y"]
    assert {site.tensor for site in quantized.activation_sites if site.whole} == {"c2", "r1", "y"}
    assert all(not site.format.signed and not site.format.symmetric for site in quantized.activation_sites)
    assert on(quantized, "y").roles == (Role.OUTPUT,)


def _origins(site: Site) -> tuple[str, str, int | None]:
    assert site.derived_from is not None
    return site.derived_from.activation, site.derived_from.weight, site.derived_from.weight_format.axis


def test_biases_take_the_product_of_two_scales() -> None:
    quantized = placed(BLOCK, "onnxruntime")
    biases = {site.tensor: _origins(site) for site in quantized.sites if site.roles == (Role.BIAS,)}
    assert biases == {"n1_bias": ("x", "n1_weight", 0), "b2": ("r1", "w2", 0)}


def test_the_bias_of_a_classifier_follows_its_input_through_the_flatten() -> None:
    quantized = placed(CLASSIFIER, "onnxruntime")
    biases = {site.tensor: _origins(site) for site in quantized.sites if site.roles == (Role.BIAS,)}
    assert biases == {"b": ("x", "w", 0), "d": ("f", "v", 1)}
    assert on(quantized, "f").source == "p"


@pytest.mark.parametrize("shape", ["[1]", "[1,32]", ""])
def test_a_bias_that_is_not_one_number_per_channel_stays_in_float(shape: str) -> None:
    quantized = placed(CLASSIFIER.replace("float[32] d", f"float{shape} d"), "onnxruntime")
    assert [site.tensor for site in quantized.sites if site.roles == (Role.BIAS,)] == ["b"]


def test_an_add_next_to_a_float_operator_is_left_out() -> None:
    quantized = placed(
        "agraph (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w> { c = Conv(x, w) e = Exp(x) y = Add(c, e) }",
        "onnxruntime",
    )
    assert stands(quantized) == ["c", "x"]
    assert reasons(quantized)["y"] == "its input 'e' is not quantized, so integer codes gain nothing"


def test_glue_after_glue_that_was_left_out_is_left_out_too() -> None:
    quantized = placed(
        "agraph (float[1,4,6,6] x) => (float[1,4,1,1] y) <float[4,4,1,1] w> "
        "{ c = Conv(x, w) e = Exp(x) a = Add(c, e) m = MaxPool<kernel_shape=[2,2]>(a) y = GlobalAveragePool(m) }",
        "onnxruntime",
    )
    assert stands(quantized) == ["c", "x"]
    assert "'m' is not quantized" in reasons(quantized)["y"]


def test_maxpool_has_one_scale_on_both_sides() -> None:
    quantized = placed(
        "agraph (float[1,4,6,6] x) => (float[N,C,H,W] y) <float[4,4,1,1] w1, float[4,4,1,1] w2> "
        "{ a = Conv(x, w1) r = Relu(a) m = MaxPool<kernel_shape=[2,2]>(r) y = Conv(m, w2) }",
        "onnxruntime",
    )
    assert on(quantized, "m").source == "r"
    assert on(quantized, "r").source == "r"
    assert "same scale as 'r'" in on(quantized, "m").reason


def test_a_maxpool_of_a_float_value_has_its_own_scale() -> None:
    quantized = placed(
        "agraph (float[1,4,6,6] x) => (float[N,C,H,W] y) <float[4,4,1,1] w> "
        "{ e = Exp(x) m = MaxPool<kernel_shape=[2,2]>(e) y = Conv(m, w) }",
        "onnxruntime",
    )
    assert on(quantized, "m").source == "m"


def test_a_flatten_whose_result_is_an_output_of_the_graph_keeps_its_float_value() -> None:
    graph = CLASSIFIER.replace("(float[1,32] y)", "(float[1,32] y, float[1,16] f)")
    assert stands(placed(graph, "tensorrt")) == ["f", "p", "r", "x"]


def test_a_transposed_conv_stays_in_float() -> None:
    quantized = placed(
        "agraph (float[1,4,6,6] x) => (float[N,C,H,W] y) <float[4,4,2,2] w> { y = ConvTranspose(x, w) }", "onnxruntime"
    )
    assert not quantized.sites
    assert "has no integer kernel in ONNX Runtime" in reasons(quantized)["y"]


@pytest.mark.parametrize(("target", "axis"), [("tensorrt", 1), ("onnxruntime", 1)])
def test_a_matmul_is_quantized_per_output_channel(target: str, axis: int) -> None:
    quantized = placed("agraph (float[2,16] x) => (float[2,32] y) <float[16,32] w> { y = MatMul(x, w) }", target)
    assert [site.format.axis for site in quantized.weight_sites] == [axis]


def test_a_grouped_transposed_conv_has_one_scale() -> None:
    graph = "agraph (float[1,4,6,6] x) => (float[N,C,H,W] y) <float[4,2,2,2] w> { y = ConvTranspose<group=2>(x, w) }"
    assert [site.format.axis for site in placed(graph, "tensorrt").weight_sites] == [None]


def test_a_shared_weight_is_one_site() -> None:
    quantized = placed(
        "agraph (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w> { a = Conv(x, w) r = Relu(a) y = Conv(r, w) }",
        "tensorrt",
    )
    (site,) = quantized.weight_sites
    assert site.edges == (edge(quantized, "a", 1), edge(quantized, "y", 1))


# ------------------------------------------------------------------------------------ joined branches, attention

JOIN = (
    "agraph (float[1,4,6,6] x) => (float[N,C,H,W] y) <float[4,4,1,1] w, float[4,8,1,1] u, float[4,12,1,1] t> "
    "{ a = Conv(x, w) r = Relu(a) b = Conv(r, w) j = Concat<axis=1>(r, b) REST }"
)


def test_branches_of_a_concat_share_the_scale_of_the_whole_on_tensorrt() -> None:
    quantized = placed(JOIN.replace("REST", "y = Conv(j, u)"), "tensorrt")
    assert {site.tensor: site.source for site in quantized.activation_sites} == {"x": "x", "r": "j", "b": "j", "j": "j"}
    assert set(on(quantized, "r").edges) == {edge(quantized, "b", 0), edge(quantized, "j", 0)}


def test_a_concat_of_concats_has_the_scale_of_the_outermost() -> None:
    quantized = placed(JOIN.replace("REST", "k = Concat<axis=1>(j, a) y = Conv(k, t)"), "tensorrt")
    assert {site.source for site in quantized.activation_sites if site.tensor != "x"} == {"k"}
    assert {"r", "b", "j", "a", "k"} <= set(stands(quantized))


def test_a_branch_of_two_concats_keeps_its_own_scale() -> None:
    quantized = placed(
        JOIN.replace("REST", "k = Concat<axis=1>(r, a) p = Conv(j, u) q = Conv(k, u) y = Add(p, q)"), "tensorrt"
    )
    assert {site.tensor: site.source for site in quantized.activation_sites if site.tensor in "rjk"} == {
        "r": "r",
        "j": "j",
        "k": "k",
    }


def test_a_concat_that_nothing_in_integers_reads_is_left_alone() -> None:
    assert stands(placed(JOIN.replace("REST", "y = Neg(j)"), "tensorrt")) == ["r", "x"]


ATTENTION = (
    "agraph (float[1,2,5,4] q, float[1,2,4,5] k, float[1,2,5,4] v) => (float[1,2,5,4] y) "
    "{ s = MatMul(q, k) p = Softmax<axis=-1>(s) y = MatMul(p, v) }"
)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tensorrt", {"q": True, "k": True, "v": True}),
        ("openvino", {"q": True, "k": True, "p": True, "v": True}),
        ("onnxruntime", {"p": False, "v": True}),
    ],
)
def test_products_of_activations_get_the_formats_that_kernels_want(target: str, expected: dict[str, bool]) -> None:
    """ONNX Runtime multiplies uint8 by int8 fast, OpenVINO int8 by int8 only; scores are in float everywhere."""
    quantized = placed(ATTENTION, target)
    assert {site.tensor: site.format.signed for site in quantized.activation_sites} == expected


# ------------------------------------------------------------------------------------ what the user asks for


@pytest.mark.parametrize("rule", ["c2", "Add", "re:^c2$", "y"])
def test_an_excluded_operator_stays_in_float(rule: str) -> None:
    quantized = placed(BLOCK, "tensorrt", exclude=(rule,))
    assert stands(quantized) == ["x"]
    assert on(quantized, "x").roles == (Role.INPUT,)
    assert reasons(quantized)["y"] == f"excluded by {rule!r}"


def test_an_operator_that_was_folded_can_be_excluded_by_its_name() -> None:
    name = transform(parse(BLOCK)).matches[0].nodes[1]
    assert "BatchNormalization" in name
    assert reasons(placed(BLOCK, "tensorrt", exclude=(name,)))["r1"] == f"excluded by {name!r}"


def test_excluding_an_operator_of_a_closed_region_opens_it() -> None:
    quantized = placed(BLOCK, "onnxruntime", exclude=("c2",))
    assert stands(quantized) == ["r1", "x"]
    assert "is not quantized" in reasons(quantized)["y"]


def test_skipping_activations_leaves_the_weight() -> None:
    quantized = placed(BLOCK, "onnxruntime", skip=OpsToSkip(stub=("n1",)))
    assert {"n1_weight", "w2"} == {site.tensor for site in quantized.weight_sites}
    assert "n1_bias" not in {site.tensor for site in quantized.sites}
    assert reasons(quantized)["r1"].endswith("skipped by 'n1'")


def test_skipping_a_weight_leaves_the_activations() -> None:
    quantized = placed(BLOCK, "onnxruntime", skip=OpsToSkip(weight=("c2",)))
    assert [site.tensor for site in quantized.weight_sites] == ["n1_weight"]
    assert "b2" not in {site.tensor for site in quantized.sites}
    assert "r1" in stands(quantized)


@pytest.mark.parametrize("field", ["exclude", "stub", "weight"])
def test_a_name_that_matches_nothing_suggests_a_near_one(field: str) -> None:
    config = {"exclude": ("Convv",)} if field == "exclude" else {"skip": OpsToSkip(**{field: ("Convv",)})}
    with pytest.raises(ConfigError, match="nothing in the model is called 'Convv'; did you mean Conv"):
        placed(BLOCK, "tensorrt", **config)


def test_an_expression_that_matches_nothing_or_is_none() -> None:
    with pytest.raises(ConfigError, match=r"'re:\^layer9' matches nothing"):
        placed(BLOCK, "tensorrt", exclude=("re:^layer9",))
    with pytest.raises(ConfigError, match=r"'re:\(' is no regular expression"):
        placed(BLOCK, "tensorrt", exclude=("re:(",))


def test_a_fixed_range_needs_a_pair() -> None:
    placed(BLOCK, "tensorrt", fixed={"r1": FixedRange(scale=0.1)})
    with pytest.raises(ConfigError, match="fixed: nothing in the model is called 'rr1'; did you mean r1"):
        placed(BLOCK, "tensorrt", fixed={"rr1": FixedRange(scale=0.1)})


def test_a_fixed_range_on_a_tensor_that_follows_another_names_that_one() -> None:
    graph = (
        "agraph (float[1,4,6,6] x) => (float[N,C,H,W] y) <float[4,4,1,1] w1, float[4,4,1,1] w2> "
        "{ a = Conv(x, w1) m = MaxPool<kernel_shape=[2,2]>(a) y = Conv(m, w2) }"
    )
    with pytest.raises(ConfigError, match="'m' takes its scale from 'a'"):
        placed(graph, "onnxruntime", fixed={"m": FixedRange(scale=0.1)})


def test_bits_and_granularity_come_from_the_configuration() -> None:
    quantized = placed(
        BLOCK,
        "onnxruntime",
        activation=TensorQuantConfig(n_bits=16),
        weight=TensorQuantConfig(n_bits=4, per_channel=False),
    )
    assert {site.format.n_bits for site in quantized.activation_sites} == {16}
    assert {(site.format.n_bits, site.format.axis) for site in quantized.weight_sites} == {(4, None)}


def test_what_the_plan_switched_off_is_told() -> None:
    fused = transform(parse(BLOCK))
    fused.matches[1].apply = False
    quantized = insert_qdq(fused.model, fused.matches)
    assert stands(quantized) == ["x"]
    assert reasons(quantized)["y"] == "switched off in the plan"


def test_placement_is_a_pure_function() -> None:
    fused = transform(parse(BLOCK), target="onnxruntime")
    before = fused.model.to_bytes()
    first, second = (insert_qdq(fused.model, fused.matches) for _ in range(2))
    assert first.sites == second.sites
    assert first.decisions == second.decisions
    assert fused.model.to_bytes() == before


def test_a_pattern_that_does_not_survive_its_rewrite_is_told() -> None:
    class Fragile(Pattern):
        x = tensor()
        output = op.Neg(op.Neg(x))
        qdq_points = (INPUT(x),)

        def rewrite(self, graph) -> None:  # type: ignore[no-untyped-def]
            graph.set_input(self.output, 0, self.x)

    proto = parse("agraph (float[2] x) => (float[2] y) { a = Neg(x) y = Neg(a) }")
    fused = transform(proto, patterns=(Fragile,))
    quantized = insert_qdq(fused.model, fused.matches)
    assert "no longer holds" in reasons(quantized)["y"]


def test_a_depthwise_convolution_is_quantized_only_between_integer_operators() -> None:
    depthwise = "d = Conv<group=8>(v, wd)"
    weights = "<float[8,8,1,1] w, float[8,1,1,1] wd, float[8,8,1,1] w2>"
    ends = "agraph (float[1,8,6,6] x) => (float[1,8,6,6] y)"
    alone = placed(f"{ends} {weights} {{ v = Softplus(x) {depthwise} y = Conv(d, w2) }}", "onnxruntime")
    between = placed(f"{ends} {weights} {{ v = Conv(x, w) {depthwise} y = Conv(d, w2) }}", "onnxruntime")
    assert [site.tensor for site in alone.weight_sites] == ["w2"]
    assert [site.tensor for site in between.weight_sites] == ["w", "wd", "w2"]


@pytest.mark.parametrize("asked", [{"symmetric": False}, {"signed": False}, {"n_bits": 16}])
def test_tensorrt_refuses_formats_that_it_does_not_have(asked: dict[str, object]) -> None:
    graph = "agraph (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] w> { y = Conv(x, w) }"
    with pytest.raises(
        TargetError, match="tensorrt refuses the format of INPUT 'x' of ConvBN that `activation` asks for"
    ):
        placed(graph, "tensorrt", activation=TensorQuantConfig(**asked))


def test_a_product_of_two_constants_stays_in_float() -> None:
    quantized = placed(
        "agraph (float[16,32] x) => (float[16,32] y) <float[16,16] c, float[16,32] w> { p = MatMul(c, w) y = Add(p, x) }",
        "tensorrt",
    )
    assert not quantized.sites
    assert reasons(quantized)["p"] == "'c' is a constant: nothing to calibrate"


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_an_operator_of_another_domain_moves_no_codes(target: str) -> None:
    graph = CLASSIFIER.replace("f = Flatten(p)", "f = other.Flatten(p)")
    fused = transform(parse(graph, domain="other"), target=target)
    quantized = insert_qdq(fused.model, fused.matches)
    assert on(quantized, "f").source == "f"
    assert any("no pattern" in reason for reason in reasons_of_rest(quantized))


def reasons_of_rest(quantized: QuantizedModel) -> list[str]:
    return [decision.reason for decision in left_in_float(quantized)]


def test_a_bias_without_one_input_and_one_weight_is_an_error_of_the_pattern() -> None:
    class TwoInputs(Pattern):
        a, b, bias = tensor(), tensor(), const()
        output = op.Add(op.Mul(a, b), bias)
        qdq_points = (INPUT(a), INPUT(b), BIAS(bias))

    class NoInput(Pattern):
        x, weight, bias = tensor(), const(), const()
        output = op.Conv(x, weight, bias)
        qdq_points = (WEIGHT(weight, axis=0), BIAS(bias))

    product = parse(
        "agraph (float[2,4] x, float[2,4] z) => (float[2,4] y) <float[4] b> { m = Mul(x, z) y = Add(m, b) }"
    )
    fused = transform(product, target="onnxruntime", patterns=(TwoInputs,))
    with pytest.raises(PatternError, match="TwoInputs declares a BIAS with 2 values as INPUT"):
        insert_qdq(fused.model, fused.matches)
    conv = parse("agraph (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w, float[4] b> { y = Conv(x, w, b) }")
    fused = transform(conv, target="onnxruntime", patterns=(NoInput,))
    with pytest.raises(PatternError, match="NoInput declares a BIAS with 0 values as INPUT"):
        insert_qdq(fused.model, fused.matches)


def test_a_maxpool_next_to_a_quantized_reader_reads_codes_too() -> None:
    quantized = placed(
        "agraph (float[1,4,6,6] x) => (float[N,C,H,W] y, float[N,C,H,W] z) <float[4,4,1,1] w> "
        "{ l = LeakyRelu(x) p = MaxPool<kernel_shape=[2,2]>(l) y = Conv(p, w) z = Conv(l, w) }",
        "onnxruntime",
    )
    assert on(quantized, "p").source == "l"
    assert set(on(quantized, "l").edges) == {edge(quantized, "z", 0), edge(quantized, "p", 0)}


def test_an_add_of_skipped_activations_is_left_out() -> None:
    quantized = placed(BLOCK, "onnxruntime", skip=OpsToSkip(stub=("n1", "c2")))
    assert not quantized.activation_sites
    assert "is not quantized" in reasons(quantized)["y"]


def test_unsigned_weights_use_all_codes() -> None:
    quantized = placed(BLOCK, "onnxruntime", weight=TensorQuantConfig(signed=False))
    assert {(site.format.qmin, site.format.qmax) for site in quantized.weight_sites} == {(0, 255)}


@pytest.mark.parametrize(
    "graph",
    [
        "agraph (float[1,64,32,32] x) => (float[N,C,H,W] y) {convs} y = Concat<axis=1>({values}) }",
        "agraph (float[1,64,32,32] x) => (float[N,C,H,W] y) {convs} y = Sum({values}) }",
    ],
    ids=["concat", "shared weight"],
)
def test_placement_is_linear(graph: str) -> None:
    """4000 branches, or 4000 readers of one weight; quadratic, they took 20 s."""
    names = [f"v{i}" for i in range(4000)]
    convs = "<float[64,64,1,1] w> { " + " ".join(f"{name} = Conv(x, w)" for name in names)
    fused = transform(
        parse(graph.replace("{convs}", convs).replace("{values}", ", ".join(names))), target="onnxruntime"
    )
    start = time.process_time()
    quantized = insert_qdq(fused.model, fused.matches)
    assert time.process_time() - start < 5
    assert len(quantized.weight_sites) == 1
