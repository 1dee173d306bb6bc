"""Applying plans: longest first, overlaps with a reason, edits by identity, and a user's own patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import assert_same_results, operators, parse, producer, read

from quantonnx.editing import Rewriter
from quantonnx.errors import PatternError, TargetError
from quantonnx.model import Model
from quantonnx.pattern import INPUT, WEIGHT, Conversion, Pattern, const, op, tensor
from quantonnx.rewriting import Transformed, choose_target, make_plan, transform
from quantonnx.target import get_target

BLOCK = (
    "agraph (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,3,3] w1, float[4,4,3,3] w2, float[4] b1, float[4] b2, "
    "float[4] gamma, float[4] beta, float[4] mean, float[4] variance> { "
    "c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) n1 = BatchNormalization(c1, gamma, beta, mean, variance) r1 = Relu(n1) "
    "c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2) n2 = BatchNormalization(c2, gamma, beta, mean, variance) "
    "s = Add(n2, x) y = Relu(s) }"
)


def steps(done: Transformed) -> list[tuple[str, str]]:
    return [(step.pattern, step.output) for step in done.matches if step.apply]


# ------------------------------------------------------------------------------------ transform


def test_a_residual_block_is_fused_for_tensorrt() -> None:
    proto = parse(BLOCK)
    done = transform(proto, target="tensorrt")
    assert_same_results(proto, done.model)
    assert operators(done.model) == ["Conv", "Relu", "Conv", "Add", "Relu"]
    assert steps(done) == [("ConvBNRelu", "r1"), ("ConvBNAddRelu", "y")]
    assert done.report.counts == {"ConvBNRelu": 1, "ConvBNAddRelu": 1}


def test_a_residual_block_is_fused_for_onnxruntime() -> None:
    proto = parse(BLOCK)
    done = transform(proto, target="onnxruntime")
    assert_same_results(proto, done.model)
    assert steps(done) == [("ConvBNRelu", "r1"), ("ConvBN", "n2"), ("Add", "y")]


def test_a_batch_normalization_shared_by_two_convs_is_folded_into_each() -> None:
    model = transform(parse(BLOCK)).model
    names = {node.inputs[1].name for node in model.graph.nodes if node.op == "Conv"}
    assert names == {"n1_weight", "n2_weight"}


def test_two_convs_that_share_a_weight_are_folded_apart() -> None:
    proto = parse(BLOCK.replace("(r1, w2, b2)", "(r1, w1, b1)"))
    done = transform(proto)
    assert_same_results(proto, done.model)
    assert steps(done) == [("ConvBNRelu", "r1"), ("ConvBNAddRelu", "y")]


def test_both_branches_of_an_add_are_convs_and_one_is_the_residual() -> None:
    proto = parse(
        "agraph (float[1,2,4,4] x) => (float[1,4,4,4] y) <float[4,2,1,1] w1, float[4,2,1,1] w2> "
        "{ a = Conv(x, w1) b = Conv(x, w2) s = Add(a, b) y = Relu(s) }"
    )
    assert steps(transform(proto)) == [("ConvBN", "b"), ("ConvBNAddRelu", "y")]


def test_an_overlap_is_recorded_with_its_winner() -> None:
    """The longer match takes the Neg that the tail would end before, and the tail is told who has it."""

    class Long(Pattern):
        a, b = tensor(), tensor()
        output = op.Neg(op.Relu(op.Add(a, b)))

    class Tail(Pattern):
        x = tensor()
        output = op.Abs(op.Neg(x))

    proto = parse("agraph (float[2] u, float[2] v) => (float[2] y) { s = Add(u, v) r = Relu(s) n = Neg(r) y = Abs(n) }")
    plan = make_plan(proto, patterns=(Long, Tail))
    assert [(s.pattern, s.apply) for s in plan] == [("Long", True), ("Tail", False)]
    assert plan.fusions[1].reason == "overlaps Long at 'n', which comes first"


def test_a_second_transform_changes_nothing_on_a_whole_block() -> None:
    for name in ("tensorrt", "onnxruntime"):
        first = transform(parse(BLOCK), target=name)
        second = transform(first.model, target=name)
        assert second.model.to_bytes() == first.model.to_bytes()
        assert steps(second) == steps(first)


def test_results_are_the_same_each_time() -> None:
    assert transform(parse(BLOCK)).model.to_bytes() == transform(parse(BLOCK)).model.to_bytes()


def test_matches_resolve_on_a_copy_of_the_fused_model() -> None:
    done = transform(parse(BLOCK))
    assert [step.output for step, _ in done.matches.resolve(done.model.copy())] == ["r1", "y"]
    done.matches[0].apply = False
    assert [step.output for step, _ in done.matches.resolve(done.model)] == ["y"]


def test_a_long_chain_needs_no_recursion() -> None:
    nodes = "".join(f"r{i} = Relu(v{i}) v{i + 1} = Identity(r{i}) " for i in range(3000)).replace("(v0)", "(x)")
    done = transform(parse(f"agraph (float[2] x) => (float[2] y) {{ {nodes} y = Neg(v3000) }}"))
    assert operators(done.model) == ["Relu"] * 3000 + ["Neg"]


# ------------------------------------------------------------------------------------ a user's own patterns


class ConvRelu(Pattern):
    """Conv → Relu on our NPU."""

    x = tensor()
    weight = const()
    output = op.Relu(op.Conv(x, weight, ...))
    qdq_points = (INPUT(x), WEIGHT(weight, axis=0))


SIMPLE = "agraph (float[1,2,4,4] x) => (float[1,4,4,4] y) <float[4,2,1,1] w> { c = Conv(x, w) y = Relu(c) }"


def test_a_users_pattern_is_tried_before_the_shipped_ones() -> None:
    assert steps(transform(parse(SIMPLE), patterns=(ConvRelu,))) == [("ConvRelu", "y")]


def test_a_pattern_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from quantonnx import INPUT, WEIGHT, Pattern, const, op, tensor\n"
        "class Mine(Pattern):\n"
        "    x = tensor()\n    weight = const()\n    output = op.Relu(op.Conv(x, weight, ...))\n"
        "    qdq_points = (INPUT(x), WEIGHT(weight, axis=0))\n"
        "patterns = (Mine,)\n"
    )
    assert steps(transform(parse(SIMPLE), patterns=file)) == [("Mine", "y")]
    assert [step.pattern for step in make_plan(parse(SIMPLE), patterns=str(file))] == ["Mine"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "defines no patterns"),
        ("patterns = 3", "defines no patterns"),
        ("patterns = (int,)", "defines no patterns"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("from quantonnx import op\nop.Conv(3)", "operand 0 of op.Conv is 3"),
        ("def", "SyntaxError"),
    ],
)
def test_a_bad_pattern_file_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(PatternError, match=message) as caught:
        transform(parse(SIMPLE), patterns=file)
    assert "\n" not in str(caught.value)


def test_a_pattern_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(PatternError, match="does not exist"):
        transform(parse(SIMPLE), patterns=tmp_path / "none.py")


def test_a_users_conversion_runs_with_the_shipped_ones() -> None:
    class DoubleNeg(Conversion):
        x = tensor()
        output = op.Neg(op.Neg(x))

        def rewrite(self, graph: Rewriter) -> None:
            graph.bypass(self.output, self.x)

    proto = parse("agraph (float[2] x) => (float[2] y) { a = Neg(x) b = Identity(a) c = Neg(b) y = Relu(c) }")
    done = transform(proto, patterns=(DoubleNeg,))
    assert_same_results(proto, done.model)
    assert operators(done.model) == ["Relu"]


def test_a_conversion_that_never_ends_is_an_error() -> None:
    class Endless(Conversion):
        x = tensor()
        output = op.Relu(x)

        def rewrite(self, graph: Rewriter) -> None:
            graph.touched.append(self.output)

    with pytest.raises(PatternError, match="conversion Endless never ends"):
        transform(parse(SIMPLE), patterns=(Endless,))


def test_an_unknown_target_suggests_one() -> None:
    with pytest.raises(TargetError, match="did you mean tensorrt"):
        transform(parse(SIMPLE), target="tensort")


def test_a_target_file(tmp_path: Path) -> None:
    file = tmp_path / "npu.py"
    file.write_text(
        "from dataclasses import replace\nfrom quantonnx import get_target\n"
        "target = replace(get_target('tensorrt'), name='npu')\n"
    )
    assert choose_target(file).name == "npu"
    assert steps(transform(parse(SIMPLE), target=file)) == [("ConvBNRelu", "y")]


def test_a_target_with_more_patterns_leaves_the_first_as_it_was() -> None:
    before = get_target("tensorrt").patterns
    choose_target("tensorrt", (ConvRelu,))
    assert get_target("tensorrt").patterns == before


# ------------------------------------------------------------------------------------ the narrow interface to the graph


def test_set_input_unlinks_by_identity_not_by_content() -> None:
    model = read("agraph (float[2] x, float[2] z) => (float[2] y, float[2] t) { y = Add(x, x) t = Add(x, x) }")
    first, second = producer(model, "y"), producer(model, "t")
    value = next(tensor for tensor in model.graph.inputs if tensor.name == "z")
    Rewriter(model).set_input(second, 0, value)
    x = first.inputs[0]
    assert [node.name for node in x.outputs].count(first.name) == 2
    assert [node.name for node in x.outputs].count(second.name) == 1
    assert [value.name for value in second.inputs] == ["z", "x"]


def test_set_input_beyond_the_inputs_adds_one() -> None:
    model = read(SIMPLE)
    editor = Rewriter(model)
    conv = producer(model, "c")
    editor.set_input(conv, 2, editor.constant("bias", np.zeros(4, np.float32)))
    assert [value.name for value in conv.inputs] == ["x", "w", "bias"]


def test_new_names_never_collide() -> None:
    model = read(SIMPLE)
    editor = Rewriter(model)
    assert [editor.constant("w", np.zeros(1)).name for _ in range(2)] == ["w_1", "w_2"]


def test_bypass_of_a_public_value_without_a_way_out_is_an_error() -> None:
    model = read("agraph (float[2] x) => (float[2] y) { y = Identity(x) }")
    editor, node = Rewriter(model), producer(model, "y")
    assert not editor.can_bypass(node, node.inputs[0])
    with pytest.raises(PatternError, match="ask can_bypass"):
        editor.bypass(node, node.inputs[0])


def test_deferred_constants_are_computed_when_they_are_read() -> None:
    model = read(SIMPLE)
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.ones((4, 2, 1, 1), np.float32)

    editor = Rewriter(model)
    editor.set_input(producer(model, "c"), 1, editor.deferred("late", (4, 2, 1, 1), 1, compute))
    assert not calls
    assert Model.read(model.to_proto()).array(model.find("late")).sum() == 8  # type: ignore[arg-type]
    assert calls
