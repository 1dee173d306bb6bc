"""Explanations: for any node or tensor, which pattern has it, which almost did, and why a pair stands there or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import parse

from quantonnx.config import QuantConfig
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
