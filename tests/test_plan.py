"""Plans: text that a person edits, which then does exactly what it says, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from models import assert_same_results, operators, parse

from quantonnx.errors import PlanError
from quantonnx.plan import Plan, Step
from quantonnx.rewriting import make_plan, transform

MODEL = """agraph (float[1,2,6,6] x) => (float[N,C,H,W] y)
<float[2,2,1,1] w1, float[2,2,1,1] w2, float[2] gamma, float[2] beta, float[2] mean, float[2] variance> {
    i = Identity(x)
    [layer1_conv1] a = Conv(i, w1)
    [layer1_bn1] b = BatchNormalization(a, gamma, beta, mean, variance)
    [layer1_relu] c = Relu(b)
    [layer2_conv1] d = Conv(c, w2)
    [layer2_relu] y = Relu(d)
}"""


@pytest.fixture
def proto():  # type: ignore[no-untyped-def]
    model = parse(MODEL)
    for node in model.graph.node:
        node.name = "/" + node.name.replace("_", "/") if node.name else ""
    return model


def test_a_plan_lists_what_will_be_done(proto) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan(proto, target="tensorrt")
    assert plan.target == "tensorrt"
    assert [(s.pattern, s.output) for s in plan.conversions] == [("RemoveIdentity", "i")]
    assert [(s.pattern, s.output, s.points) for s in plan] == [
        ("ConvBNRelu", "c", ("INPUT", "WEIGHT")),
        ("ConvBNRelu", "y", ("INPUT", "WEIGHT")),
    ]
    assert plan.fusions[0].nodes == ("/layer1/conv1", "/layer1/bn1", "/layer1/relu")
    assert len(plan) == 2


def test_a_plan_names_the_file_it_was_made_for(tmp_path: Path, proto) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    assert make_plan(path).model == "net.onnx"


def test_yaml_round_trip(tmp_path: Path, proto) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan(proto)
    plan.fusions[0].apply, plan.fusions[0].reason = False, "hurts: accuracy 'drops' → 3 %"
    plan.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml") == plan


def test_yaml_is_plain_and_short(proto) -> None:  # type: ignore[no-untyped-def]
    text = make_plan(proto).to_yaml()
    assert "reason" not in text
    assert "!!" not in text
    assert list(yaml.safe_load(text)) == ["model", "target", "conversions", "fusions"]


# ------------------------------------------------------------------------------------ finding steps


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("c", "c"),
        ("/layer1/bn1", "c"),
        ("layer1.conv1", "c"),
        ("layer1", "c"),
        ("layer2.conv1", "y"),
        ("/layer2/", "y"),
    ],
)
def test_a_step_is_found_by_value_node_or_part_of_a_path(proto, name: str, output: str) -> None:  # type: ignore[no-untyped-def]
    assert make_plan(proto)[name].output == output


def test_an_unknown_name_suggests_a_near_one(proto) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError, match="no step of the plan is called 'layer1.conv7'; did you mean") as caught:
        make_plan(proto)["layer1.conv7"]
    assert "/layer1/conv1" in caught.value.hint


def test_a_name_of_several_steps_says_so(proto) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError, match="'conv1' names 2 steps"):
        make_plan(proto)["conv1"]


def test_a_part_is_a_whole_part(proto) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError, match="no step"):
        make_plan(proto)["layer"]


def test_of_overlapping_steps_the_applied_one_is_meant() -> None:
    plan = Plan("", "", fusions=[Step("Long", "n", ("r", "n")), Step("Tail", "y", ("n", "a"), apply=False)])
    assert plan["n"].pattern == "Long"
    assert plan["a"].pattern == "Tail"


# ------------------------------------------------------------------------------------ applying an edited plan


def test_transform_takes_an_edited_plan(proto) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan(proto)
    plan["layer1"].apply = False
    plan.conversions[0].apply = False
    done = transform(proto, plan=plan)
    assert_same_results(proto, done.model)
    assert operators(done.model) == ["Identity", "Conv", "BatchNormalization", "Relu", "Conv", "Relu"]
    assert [step.output for step in done.report.applied] == ["y"]
    assert {step.output for step in done.report.skipped} == {"i", "c"}


def test_a_plan_that_went_through_a_file_does_the_same(tmp_path: Path, proto) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan(proto)
    plan.save(tmp_path / "plan.yaml")
    assert (
        transform(proto, plan=Plan.load(tmp_path / "plan.yaml")).model.to_bytes() == transform(proto).model.to_bytes()
    )


def test_an_empty_plan_does_nothing(proto) -> None:  # type: ignore[no-untyped-def]
    done = transform(proto, plan=Plan("", "tensorrt"))
    assert operators(done.model) == [node.op_type for node in proto.graph.node]


def test_the_callers_plan_is_not_changed(proto) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan(proto)
    plan.fusions[0].output = "gone"
    before = plan.to_yaml()
    transform(proto, plan=plan)
    assert plan.to_yaml() == before


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("output", "nowhere", "the model has no value 'nowhere'"),
        ("pattern", "Magic", "the target has no pattern Magic"),
        ("pattern", "SqueezeExcite", "'c' comes from Relu, not Mul"),
    ],
)
def test_a_step_that_does_not_hold_is_skipped_with_the_reason(proto, field: str, value: str, reason: str) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan(proto)
    setattr(plan.fusions[0], field, value)
    done = transform(proto, plan=plan)
    assert [step.reason for step in done.report.skipped] == [reason]
    assert_same_results(proto, done.model)


def test_a_conversion_that_does_not_hold_is_skipped_with_a_reason(proto) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan(proto)
    plan.conversions.append(Step("RemoveDropout", "c"))
    done = transform(proto, plan=plan)
    assert [step.reason for step in done.report.skipped] == ["it no longer holds on this model"]


def test_switching_an_overlap_on_does_not_apply_both() -> None:
    proto = parse(
        "agraph (float[1,2,6,6] x) => (float[N,C,H,W] y) <float[2,2,1,1] w1, float[2,2,1,1] w2> "
        "{ a = Conv(x, w1) b = Conv(a, w2) s = Add(a, b) y = Relu(s) }"
    )
    plan = make_plan(proto)
    plan.fusions.append(Step("ConvBN", "b", ("Conv_1",)))
    done = transform(proto, plan=plan)
    assert [(s.pattern, s.output) for s in done.report.applied] == [("ConvBN", "a"), ("ConvBNAddRelu", "y")]
    assert "overlaps ConvBNAddRelu at 'y'" in done.report.skipped[0].reason


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "is not a plan"),
        ("- a", "is not a plan; expected the keys"),
        ("", "is not a plan"),
        ("fusion: []", "expected the keys bodies, conversions, fusions, left_in_float, model, target"),
        ("fusions: [3]", r"fusions\[0\] is 3; expected a mapping"),
        ("fusions: 3", "fusions is 3"),
        ("fusions: [{pattern: A}]", r"fusions\[0\] names no pattern and output"),
        ("fusions: [{pattern: A, output: y, aply: true}]", "unknown key 'aply'; did you mean apply"),
        ("fusions: [{pattern: A, output: y, apply: 'no'}]", "has apply: 'no'; expected true or false"),
        ("conversions: [{pattern: A, output: y}, x]", r"conversions\[1\] is 'x'"),
        ("fusions: [{pattern: A, output: y, nodes: 3}]", "nodes"),
    ],
)
def test_a_bad_plan_file_says_which_entry(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message) as caught:
        Plan.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_plan_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="none.yaml is not a plan: .*No such file"):
        Plan.load(tmp_path / "none.yaml")


def test_a_plan_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(PlanError, match="is not a plan"):
        Plan.load(tmp_path / "plan.yaml")


def test_a_plan_tells_what_placement_decides_against_and_takes_it_back(tmp_path: Path) -> None:
    plan = make_plan(parse(MODEL))
    plan.left_in_float = [{"name": "y", "reason": "float is faster here"}]
    plan.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml").left_in_float == plan.left_in_float
