"""One set of laws that every shipped pattern of every target keeps, each on small examples of all its forms."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import pytest
from models import assert_same_results, match, parse, producer
from pattern_examples import EXAMPLES

from quantonnx.editing import Rewriter
from quantonnx.matching import COMMUTATIVE
from quantonnx.model import Model
from quantonnx.pattern import Pattern, Role
from quantonnx.rewriting import make_plan, transform
from quantonnx.target import Target, known_targets

Case = tuple[Target, type[Pattern], onnx.ModelProto]


def _cases() -> Iterator[object]:
    for target in known_targets().values():
        for pattern in target.patterns:
            for form, text in EXAMPLES.get(pattern.__name__, {}).items():
                yield pytest.param((target, pattern, text), id=f"{target.name}-{pattern.__name__}-{form}")


@pytest.fixture(params=_cases())
def case(request: pytest.FixtureRequest) -> Case:
    target, pattern, text = request.param
    return target, pattern, parse(text)


def _matched(pattern: type[Pattern], proto: onnx.ModelProto) -> Pattern:
    model = Model.read(proto)
    found = match(pattern, model)
    assert found is not None, f"{pattern.__name__} does not hold on its own example"
    return found


def _names(found: Pattern) -> set[str]:
    return {node.name for node in found.nodes}


@pytest.mark.parametrize("target", known_targets().values(), ids=known_targets())
def test_every_shipped_pattern_has_examples(target: Target) -> None:
    assert {pattern.__name__ for pattern in target.patterns} <= set(EXAMPLES)


def test_a_rewrite_keeps_the_results(case: Case) -> None:
    _, pattern, proto = case
    found = _matched(pattern, proto)
    found.rewrite(Rewriter(found.model))
    found.model.sort()
    assert_same_results(proto, found.model)


def test_a_rewrite_still_matches_and_changes_nothing_again(case: Case) -> None:
    _, pattern, proto = case
    model = _matched(pattern, proto).model
    match(pattern, model).rewrite(Rewriter(model))  # type: ignore[union-attr]
    model.sort()
    once = model.to_bytes()
    again = match(pattern, model)
    assert again is not None
    again.rewrite(Rewriter(model))
    model.sort()
    assert model.to_bytes() == once


def test_the_target_takes_the_pattern_and_a_second_transform_changes_nothing(case: Case) -> None:
    target, pattern, proto = case
    first = transform(proto, target=target)
    assert [(step.pattern, step.output) for step in first.report.applied] == [(pattern.__name__, "y")]
    second = transform(first.model, target=target)
    assert second.model.to_bytes() == first.model.to_bytes()
    assert [(step.pattern, step.output) for step in second.report.applied] == [(pattern.__name__, "y")]
    assert len(list(first.matches.resolve(first.model))) == 1


def test_the_callers_model_is_never_changed(case: Case) -> None:
    target, _, proto = case
    proto_before, model = proto.SerializeToString(deterministic=True), Model.read(proto)
    before = model.to_bytes()
    make_plan(model, target=target)
    transform(model, target=target)
    transform(proto, target=target)
    assert model.to_bytes() == before
    assert proto.SerializeToString(deterministic=True) == proto_before


def test_no_match_holds_a_value_that_leaks(case: Case) -> None:
    _, pattern, proto = case
    found = _matched(pattern, proto)
    inner = [out.name for node in found.nodes for out in node.outputs if out is not found.result]
    for name in inner:
        for leaky in (_as_output(proto, name), _with_reader(proto, name)):
            model = Model.read(leaky)
            again = match(pattern, model)
            assert again is None or producer(model, name).name not in _names(again), name


def test_any_operand_order_of_commutative_operators_holds(case: Case) -> None:
    _, pattern, proto = case
    expected = _names(_matched(pattern, proto))
    for index, node in enumerate(proto.graph.node):
        if node.op_type in COMMUTATIVE and len(node.input) == 2:
            swapped = onnx.ModelProto()
            swapped.CopyFrom(proto)
            swapped.graph.node[index].input[:] = reversed(node.input)
            assert _names(_matched(pattern, swapped)) == expected


def test_points_stand_on_edges_that_enter_the_group_or_a_product_in_it(case: Case) -> None:
    _, pattern, proto = case
    found = _matched(pattern, proto)
    inside = _names(found)
    nodes = {node.name: node for node in found.nodes}
    for point in pattern.qdq_points:
        values = found.values(point.declaration)
        if point.role is Role.OUTPUT:
            assert values == (found.result,)
            continue
        edges = found.edges(point.declaration)
        read = {id(nodes[edge.node].inputs[edge.index]) for edge in edges}
        assert read >= {id(value) for value in values}
        enters = not any(giver.name in inside for value in values for giver in value.inputs)
        moved = all(nodes[edge.node].op in ("MatMul", "Transpose") for edge in edges)
        assert enters or moved, "a product inside reads codes, perhaps transposed"
        assert all(not value.inputs for value in values if not point.role.on_activation), "a weight is a constant"


def test_the_rewrite_names_new_constants_after_the_value_that_they_feed(case: Case) -> None:
    _, pattern, proto = case
    found = _matched(pattern, proto)
    before = set(found.model.tensors())
    found.rewrite(Rewriter(found.model))
    found.model.sort()
    assert all(name.startswith(("y_", "v")) for name in set(found.model.tensors()) - before)


def _as_output(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    leaky = onnx.ModelProto()
    leaky.CopyFrom(proto)
    leaky.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return leaky


def _with_reader(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    leaky = _as_output(proto, "leak")
    leaky.graph.node.append(onnx.helper.make_node("Neg", [name], ["leak"]))
    return leaky
