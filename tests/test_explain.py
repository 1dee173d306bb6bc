"""Explanations: for any node or tensor, which pattern has it, which almost did, and why a pair stands there or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from models import parse

from quantonnx.config import QuantConfig
from quantonnx.costs import Cost, CostModel
from quantonnx.errors import ConfigError, ModelError
from quantonnx.explaining import Explainer
from quantonnx.pattern import INPUT, Pattern, op, tensor
from quantonnx.summary import excluded, grouped, left_in_float, pattern_counts
from quantonnx.target import get_target

RESIDUAL = """
    g (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] mixed)
    <float[16,16,3,3] a, float[16,16,3,3] b, float[16] gamma, float[16] beta, float[16] mean, float[16] variance> {
        [first] one = Conv <pads: ints = [1, 1, 1, 1]> (x, a)
        [norm] normal = BatchNormalization (one, gamma, beta, mean, variance)
        [relu] positive = Relu (normal)
        [second] two = Conv <pads: ints = [1, 1, 1, 1]> (positive, b)
        [sum] total = Add (two, x)
        [last] y = Relu (total)
        [sine] mixed = Sin (x)
    }
"""


def explainer(target: str = "tensorrt", **options: object) -> Explainer:
    return Explainer(parse(RESIDUAL).SerializeToString(), get_target(target), **options)  # type: ignore[arg-type]


def test_every_node_and_tensor_has_an_answer() -> None:
    for target in ("tensorrt", "onnxruntime"):
        found = explainer(target)
        for node in found.original.graph.nodes:
            assert node.name in found.node(node.name).answer
        for name in found.original.tensors():
            assert name in found.tensor(name).answer


def test_a_quantized_node_names_its_pattern_and_pairs() -> None:
    found = explainer().node("first")
    assert found.kind == "Conv node"
    assert "is quantized as part of ConvBNRelu" in found.answer
    assert [step.pattern for step in found.claims] == ["ConvBNRelu"]
    assert {site.tensor for site in found.sites if site.on_activation} == {"x"}


def test_a_folded_node_is_still_known() -> None:
    found = explainer().node("norm")
    assert "ConvBNRelu" in found.answer


def test_an_operator_without_a_pattern() -> None:
    assert explainer().node("sine").answer == "Sin 'sine' stays in float: tensorrt has no pattern about Sin"


def test_patterns_that_almost_held() -> None:
    attempts = {attempt.pattern: attempt.reason for attempt in explainer().node("second").attempts}
    assert attempts
    assert all(attempts.values())


def test_an_excluded_node() -> None:
    found = explainer(config=QuantConfig(exclude=("second",))).node("second")
    assert found.answer == "Conv 'second' stays in float: excluded by 'second'"
    assert found.decisions[0].reason == "excluded by 'second'"


def test_a_tensor_with_a_pair() -> None:
    found = explainer().tensor("x")
    assert found.kind == "input of the graph"
    assert found.answer.startswith("a pair stands on 'x'")
    assert {role.name for site in found.sites for role in site.roles} == {"INPUT", "RESIDUAL_INPUT"}


def test_a_tensor_inside_a_fused_group() -> None:
    assert "it is inside ConvBNRelu" in explainer().tensor("normal").answer
    assert "which runs as one kernel" in explainer().tensor("one").answer


def test_a_constant() -> None:
    assert explainer().tensor("gamma").kind == "constant"


def test_an_output_without_a_pattern() -> None:
    assert explainer().tensor("mixed").answer.startswith("no pair stands on 'mixed'")


def test_find_takes_both() -> None:
    assert explainer().find("first").kind == "Conv node"
    assert explainer().find("positive").kind == "tensor"


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("node", "frist", "did you mean first"),
        ("node", "total", "use --tensor"),
        ("tensor", "positiv", "did you mean positive"),
        ("tensor", "last", "use --node"),
    ],
)
def test_unknown_names_get_a_hint(kind: str, name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        getattr(explainer(), kind)(name)


def test_a_wrong_setting_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        explainer(config=QuantConfig(exclude=("nosuch",)))


def test_a_plan_step_switched_off() -> None:
    found = explainer()
    step = next(step for step in found.plan.fusions if "first" in step.nodes)
    step.apply = False
    again = explainer(plan=found.plan).node("first")
    assert "switched off in the plan" in again.answer


def test_a_users_pattern_says_why_not() -> None:
    class SineRelu(Pattern):
        """Sin → Relu."""

        x = tensor()
        output = op.Relu(op.Sin(x))
        qdq_points = (INPUT(x),)

    found = Explainer(parse(RESIDUAL), get_target("tensorrt").with_patterns((SineRelu,)))
    attempts = {attempt.pattern: attempt for attempt in found.node("last").attempts}
    assert attempts["SineRelu"].reason == "'total' comes from Add, not Sin"


def test_what_stays_in_float_is_grouped(tmp_path: Path) -> None:
    quantized = explainer(config=QuantConfig(exclude=("Conv",))).quantized
    groups = {group.reason: group.names for group in grouped(left_in_float(quantized))}
    assert len(groups["excluded by …"]) == 2
    assert groups["no pattern of tensorrt holds at this Sin"] == ("sine",)
    assert {"name", "reason"} == set(excluded(quantized)[0])


def test_patterns_are_counted() -> None:
    counts = {row.pattern: row for row in pattern_counts(explainer().quantized)}
    assert counts["ConvBNRelu"].weights == 1
    assert sum(row.activations for row in counts.values()) == len(explainer().quantized.activation_sites)


MIXED = """
    g (float[1,16,8,8] x, bool[] flag, float[1,1,16] q, float[16,16,3,3] u) =>
      (float[1,16,8,8] y, float[16,64] r, float[1,1,1,4] h, float[1,16,8,8] z, float[1,16,8,8] t)
    <float[16,16,3,3] a, float[16] bias, float[1,16,16] w, float[1,16,4] rec> {
        [conv] one = Conv <pads: ints = [1, 1, 1, 1]> (x, a, bias)
        [relu] positive = Relu (one)
        [same] copy = Identity (positive)
        [sine] y = Sin (copy)
        [shape] flat = Reshape <allowzero: int = 0> (x, sizes)
        [turn] r = Transpose <perm: ints = [1, 0]> (flat)
        [made] v = Neg (u)
        [free] t = Conv <pads: ints = [1, 1, 1, 1]> (copy, v)
        [branch] z = If (flag) <
            then_branch = yes () => (float[1,16,8,8] inner) { [hidden] inner = Conv <pads: ints = [1, 1, 1, 1]> (x, a) },
            else_branch = no () => (float[1,16,8,8] other) { [plain] other = Relu (x) }
        >
        [memory] h = LSTM <hidden_size: int = 4> (q, w, rec)
    }
"""


def mixed(target: str = "tensorrt") -> Explainer:
    text = MIXED.replace("<float[16,16,3,3] a,", "<int64[2] sizes = {64, 16}, float[16,16,3,3] a,")
    return Explainer(parse(text), get_target(target))


def test_near_misses_name_every_operator_that_would_have_fitted() -> None:
    attempts = {attempt.pattern: attempt for attempt in explainer().node("second").attempts}
    assert attempts["ConvBNRelu"].reason == "'total' comes from Add, not BatchNormalization, Conv or ConvTranspose"
    assert attempts["ConvBNRelu"].matched == 1
    assert attempts["ConvBN"].holds
    assert "applied" not in attempts["ConvBN"].reason


def test_every_answer_names_the_rule_that_decided() -> None:
    for found in (explainer(), explainer("onnxruntime"), mixed(), mixed("openvino")):
        for name in (*found.original.tensors(), *(node.name for node in found.original.graph.nodes)):
            explanation = found.find(name)
            assert explanation.rule, explanation.answer


def test_folded_nodes_say_into_what() -> None:
    assert "is folded into Conv 'first' by ConvBNRelu at 'positive'" in explainer().node("norm").answer
    found = mixed().node("same")
    assert "is folded into what Sin 'sine' reads by RemoveIdentity" in found.answer
    assert found.rule.startswith("the conversion RemoveIdentity")


def test_operators_without_an_integer_kernel() -> None:
    found = mixed().node("memory")
    assert found.answer == "LSTM 'memory' stays in float: tensorrt has no integer kernel for LSTM"
    reasons = {entry["name"]: entry["reason"] for entry in excluded(mixed().quantized)}
    assert reasons["memory"] == "tensorrt has no integer kernel for LSTM"


def test_bodies_of_control_flow() -> None:
    found = mixed()
    assert "Conv 'hidden' is quantized as part of ConvBN at 'inner'" in found.node("hidden").answer
    assert "Relu 'plain' stays in float" in found.node("plain").answer
    assert "only runs its bodies" in found.node("branch").answer
    assert "control flow" in found.node("branch").rule


def test_constants() -> None:
    found = mixed()
    assert "integer codes stand for 'a'" in found.tensor("a").answer
    assert "tensorrt takes the bias of ConvBNRelu at 'positive' in float" in found.tensor("bias").answer
    folded = explainer().tensor("a").answer
    assert "(folded into 'normal_weight')" in folded
    assert "'gamma' is folded: BatchNormalization 'norm'" in explainer().tensor("gamma").answer
    assert explainer("onnxruntime").tensor("b").rule == "the point WEIGHT of ConvBN"


def test_a_weight_that_is_computed_would_have_to_be_a_constant() -> None:
    found = mixed().node("free")
    assert "'v' is not a constant" in found.answer
    assert any("make it a constant" in change for change in found.changes)


def test_readers_in_float_are_named() -> None:
    assert explainer().tensor("x").answer.endswith("read in float by Sin 'sine'")


def test_values_that_are_no_real_numbers() -> None:
    assert "it holds bool, not real numbers" in mixed().tensor("flag").answer


def test_a_target_that_wants_the_output() -> None:
    changes = explainer("openvino").tensor("y").changes
    assert any(change.startswith("another target: onnxruntime has OUTPUT of") for change in changes)


def test_what_would_change_a_decision() -> None:
    excluded_ = explainer(config=QuantConfig(exclude=("second",))).node("second")
    assert excluded_.rule == "the setting `exclude`"
    assert "take the entry out of `exclude`" in excluded_.changes[0]
    quantized = explainer().node("second")
    assert quantized.changes[0] == "leave it in float: --exclude 'second'"
    assert "`apply: false` at output: y in a plan" in quantized.changes


def test_data_movement_between_a_pair_and_its_reader() -> None:
    text = """
        g (float[4,64] x) => (float[4,32] y, float[4,32] z) <int64[2] sizes = {4, 64}, float[64,32] w> {
            [beside] z = MatMul (x, w)
            [shape] flat = Reshape (x, sizes)
            [product] y = MatMul (flat, w)
        }
    """
    found = Explainer(parse(text), get_target("tensorrt"))
    assert "the pair on 'x' before serves it too" in found.tensor("flat").answer
    assert "one pair before it serves" in found.node("shape").answer
    assert found.node("shape").rule == "`transparent` of tensorrt lists Reshape"


def test_costs_decide_and_say_so() -> None:
    text = """
        g (float[1,64,56,56] x) => (float[1,8,56,56] y, float[1,64,56,56] z) <float[8,64,1,1] w> {
            [small] y = Conv (x, w)
            [root] z = Sqrt (x)
        }
    """
    costs = CostModel(
        {name: Cost(0, 1, 1) for name in ("Conv", "QuantizeLinear", "DequantizeLinear")}, {"Conv": Cost(0, 2, 1)}
    )
    found = Explainer(parse(text), replace(get_target("openvino"), costs=costs)).node("small")
    assert "float is faster here: integers would be" in found.answer
    assert found.rule == "the target's cost model (openvino)"
    assert "costs=None" in found.changes[1]


def test_concatenations_may_be_undone_by_calibration() -> None:
    text = """
        g (float[1,16,8,8] x) => (float[1,32,8,8] y) <float[16,16,1,1] a, float[16,16,1,1] b> {
            [left] one = Conv (x, a)
            [right] two = Conv (x, b)
            [join] y = Concat <axis: int = 1> (one, two)
        }
    """
    found = Explainer(parse(text), replace(get_target("onnxruntime"), costs=None)).node("join")
    assert "is quantized" in found.answer
    assert "calibration can still leave it in float" in found.notes[0]
