"""The engine, on patterns and models as small as they can be."""

from __future__ import annotations

import pytest
from models import match, parse, producer, read, why_not

from quantonnx.editing import Rewriter
from quantonnx.errors import PatternError
from quantonnx.matching import Matcher
from quantonnx.model import Model
from quantonnx.pattern import (
    INPUT,
    OUTPUT,
    RESIDUAL_INPUT,
    WEIGHT,
    Edge,
    Mismatch,
    Pattern,
    const,
    either,
    maybe,
    op,
    tensor,
    tensors,
)
from quantonnx.pattern_index import PatternIndex, root_operators


class ConvSiLU(Pattern):
    x = tensor()
    weight = const()
    bias = const(optional=True)
    conv = op.Conv(x, weight, bias)
    output = op.Mul(conv, op.Sigmoid(conv))
    qdq_points = (INPUT(x), WEIGHT(weight, axis=0))


class ConvRelu(Pattern):
    x = tensor()
    weight = const()
    conv = op.Conv(x, weight, ...)
    output = maybe(op.Relu(conv))


class AddRelu(Pattern):
    a, b = tensor(), tensor()
    add = op.Add(a, b)
    output = op.Relu(add)


CONV = "agraph (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,1,1] w, float[4] b>"


# ------------------------------------------------------------------------------------ operands and optional parts


@pytest.mark.parametrize("conv", ["Conv(x, w)", "Conv(x, w, b)"])
def test_an_optional_operand_may_be_absent(conv: str) -> None:
    model = read(f"{CONV} {{ c = {conv} s = Sigmoid(c) y = Mul(c, s) }}")
    found = match(ConvSiLU, model)
    assert found is not None
    assert (found.bias is None) == (conv == "Conv(x, w)")


def test_an_operand_left_empty_is_absent() -> None:
    class Clipped(Pattern):
        x = tensor()
        low, high = const(optional=True), const(optional=True)
        output = op.Clip(x, low, high)

    model = read("agraph (float[4] x) => (float[4] y) <float hi = {6}> { y = Clip(x, , hi) }")
    found = match(Clipped, model)
    assert found is not None
    assert found.low is None
    assert found.high.name == "hi"


def test_an_operand_beyond_the_declared_ones_refuses_unless_the_pattern_is_open_ended() -> None:
    class Closed(Pattern):
        x = tensor()
        weight = const()
        output = op.Conv(x, weight)

    model = read(f"{CONV} {{ y = Conv(x, w, b) }}")
    assert match(Closed, model) is None
    assert "has 3 inputs" in str(why_not(Closed, model))
    assert match(ConvRelu, model) is not None


@pytest.mark.parametrize("text", ["c = Conv(x, w) y = Relu(c)", "y = Conv(x, w)"])
def test_an_optional_node_may_be_absent(text: str) -> None:
    found = match(ConvRelu, read(f"{CONV} {{ {text} }}"))
    assert found is not None
    assert len(found.nodes) == text.count("=")
    assert (found.output is None) == ("Relu" not in text)
    assert found.result.name == "y"


def test_an_optional_node_inside_the_pattern_may_be_absent() -> None:
    class Tail(Pattern):
        x, residual = tensor(), tensor()
        weight = const()
        conv = op.Conv(x, weight)
        act = maybe(op.Relu(conv))
        output = op.Add(act, residual)

    for text in ("c = Conv(x, w) y = Add(c, r)", "c = Conv(x, w) a = Relu(c) y = Add(a, r)"):
        model = read(
            f"agraph (float[1,3,8,8] x, float[1,4,8,8] r) => (float[1,4,8,8] y) <float[4,3,1,1] w> {{ {text} }}"
        )
        found = match(Tail, model)
        assert found is not None
        assert (found.act is None) == ("Relu" not in text)


def test_a_constant_operand_must_be_a_constant() -> None:
    model = read("agraph (float[1,3,8,8] x, float[4,3,1,1] w) => (float[1,4,8,8] y) { y = Conv(x, w) }")
    assert why_not(ConvRelu, model) == "'w' is not a constant"


def test_a_tensor_may_be_a_constant() -> None:
    found = match(AddRelu, read("agraph (float[4] x) => (float[4] y) <float[4] k> { a = Add(x, k) y = Relu(a) }"))
    assert found is not None
    assert {found.a.name, found.b.name} == {"x", "k"}


# ------------------------------------------------------------------------------------ order, alternatives, sharing


@pytest.mark.parametrize("mul", ["Mul(c, s)", "Mul(s, c)"])
@pytest.mark.parametrize("first", ["c = Conv(x, w) s = Sigmoid(c)"])
def test_a_diamond_holds_in_any_operand_order(mul: str, first: str) -> None:
    found = match(ConvSiLU, read(f"{CONV} {{ {first} y = {mul} }}"))
    assert found is not None
    assert sorted(node.op for node in found.nodes) == ["Conv", "Mul", "Sigmoid"]


@pytest.mark.parametrize("inner", ["Add(r, g)", "Add(g, r)"])
@pytest.mark.parametrize("outer", ["Mul(c, t)", "Mul(t, c)"])
def test_nested_commutative_operators_backtrack(inner: str, outer: str) -> None:
    class Nested(Pattern):
        x = tensor()
        top = op.Neg(x)
        output = op.Mul(top, op.Add(op.Relu(top), op.Sigmoid(top)))

    model = read(
        f"agraph (float[4] x) => (float[4] y) {{ c = Neg(x) r = Relu(c) g = Sigmoid(c) t = {inner} y = {outer} }}"
    )
    assert match(Nested, model) is not None


def test_operators_that_do_not_commute_keep_their_order() -> None:
    class Scaled(Pattern):
        x = tensor()
        scale = const()
        output = op.Sub(x, scale)

    model = read("agraph (float[4] x) => (float[4] y) <float[4] k> { y = Sub(k, x) }")
    assert why_not(Scaled, model) == "'x' is not a constant"


def test_a_shared_declaration_must_be_one_tensor() -> None:
    class Square(Pattern):
        x = tensor()
        output = op.Sub(x, op.Neg(x))

    same = read("agraph (float[4] a, float[4] b) => (float[4] y) { n = Neg(a) y = Sub(a, n) }")
    other = read("agraph (float[4] a, float[4] b) => (float[4] y) { n = Neg(b) y = Sub(a, n) }")
    assert match(Square, same) is not None
    assert match(Square, other) is None
    assert why_not(Square, other) == "'b' stands where 'a' should stand again"


def test_a_shared_node_must_be_one_node() -> None:
    model = read(f"{CONV} {{ c = Conv(x, w) d = Conv(x, w) s = Sigmoid(d) y = Mul(c, s) }}")
    assert match(ConvSiLU, model) is None


def test_equal_nodes_without_names_are_not_confused() -> None:
    proto = parse(
        "agraph (float[1,3,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] z) <float[4,3,1,1] w> "
        "{ c = Conv(x, w) d = Conv(x, w) s = Sigmoid(c) t = Sigmoid(d) y = Mul(d, s) z = Mul(c, t) }"
    )
    assert not any(node.name for node in proto.graph.node)
    model = Model.read(proto)
    assert match(ConvSiLU, model, "y") is None
    assert match(ConvSiLU, model, "z") is None


@pytest.mark.parametrize(("operator", "holds"), [("Relu", True), ("Clip", True), ("Tanh", False)])
def test_alternatives_of_an_operator(operator: str, holds: bool) -> None:
    class Act(Pattern):
        x = tensor()
        output = (op.Relu | op.Clip)(op.Neg(x), ...)

    model = read(f"agraph (float[4] x) => (float[4] y) {{ n = Neg(x) y = {operator}(n) }}")
    assert (match(Act, model) is not None) == holds
    if not holds:
        assert why_not(Act, model) == "'y' comes from Tanh, not Relu or Clip"


def test_alternatives_of_a_subgraph_take_the_first_that_holds() -> None:
    class Linear(Pattern):
        x = tensor()
        weight = const()
        bias = const(optional=True)
        matmul = op.MatMul(x, weight)
        output = either(op.Gemm(x, weight, bias), op.Add(matmul, bias), matmul)

    head = "agraph (float[2,3] x) => (float[2,4] y) <float[3,4] w, float[4] b>"
    sizes = {"y = Gemm(x, w, b)": 1, "m = MatMul(x, w) y = Add(b, m)": 2, "y = MatMul(x, w)": 1}
    for text, size in sizes.items():
        found = match(Linear, read(f"{head} {{ {text} }}"))
        assert found is not None, text
        assert len(found.nodes) == size


def test_a_variadic_operand_takes_all_that_are_left() -> None:
    class Join(Pattern):
        branches = tensors()
        output = op.Concat(branches)
        qdq_points = (INPUT(branches), OUTPUT(output))

    model = read("agraph (float[2] a, float[2] b) => (float[6] y) { y = Concat<axis=0>(a, b, a) }")
    found = match(Join, model)
    assert found is not None
    assert [value.name for value in found.branches] == ["a", "b", "a"]
    assert [edge.index for edge in found.edges(Join.branches)] == [0, 1, 2]


# ------------------------------------------------------------------------------------ attributes and domains


@pytest.mark.parametrize(("attribute", "holds"), [("", True), ("<group=1>", True), ("<group=3>", False)])
def test_attribute_predicates_see_none_for_a_default(attribute: str, holds: bool) -> None:
    class Dense(Pattern):
        x = tensor()
        weight = const()
        output = op.Conv(x, weight, group=lambda g: g in (None, 1))

    weight = "float[3,1,1,1]" if "3" in attribute else "float[3,3,1,1]"
    model = read(f"agraph (float[1,3,8,8] x) => (float[1,3,8,8] y) <{weight} w> {{ y = Conv{attribute}(x, w) }}")
    assert (match(Dense, model) is not None) == holds
    if not holds:
        assert str(why_not(Dense, model)).endswith("has group=3")


def test_attribute_values_compare() -> None:
    class Axis(Pattern):
        x = tensor()
        output = op.Softmax(x, axis=1)

    for axis, holds in ((1, True), (0, False)):
        model = read(f"agraph (float[2,3] x) => (float[2,3] y) {{ y = Softmax<axis={axis}>(x) }}")
        assert (match(Axis, model) is not None) == holds


def test_an_operator_of_another_domain_is_another_operator() -> None:
    class Standard(Pattern):
        x = tensor()
        output = op.Gelu(x)

    class Contributed(Pattern):
        x = tensor()
        output = op("com.microsoft").Gelu(x)

    model = read("agraph (float[4] x) => (float[4] y) { y = com.microsoft.Gelu(x) }", domain="com.microsoft")
    assert match(Contributed, model) is not None
    assert match(Standard, model) is None
    assert why_not(Standard, model) == "'y' comes from com.microsoft.Gelu, not Gelu"


# ------------------------------------------------------------------------------------ privacy of inner values


def test_an_inner_value_that_is_read_outside_refuses() -> None:
    model = read("agraph (float[4] a, float[4] b) => (float[4] y, float[4] z) { s = Add(a, b) y = Relu(s) z = Neg(s) }")
    assert str(why_not(AddRelu, model)).startswith("'s' is also used outside it, ")


def test_an_inner_value_that_the_graph_gives_refuses() -> None:
    model = read("agraph (float[4] a, float[4] b) => (float[4] y, float[4] s) { s = Add(a, b) y = Relu(s) }")
    assert str(why_not(AddRelu, model)).startswith("'s' is also used outside it, ")


def test_an_inner_value_that_a_body_reads_refuses() -> None:
    model = read(
        "agraph (float[4] a, float[4] b, bool c) => (float[4] y, float[4] z) { s = Add(a, b) y = Relu(s) "
        "z = If(c) <then_branch = t () => (float[4] p) { p = Neg(s) }, "
        "else_branch = e () => (float[4] q) { q = Abs(s) }> }"
    )
    assert model.captured >= {"s"}
    assert str(why_not(AddRelu, model)).startswith("'s' is also used outside it, ")


def test_the_result_and_the_values_that_enter_may_be_read_elsewhere() -> None:
    model = read(
        "agraph (float[4] a, float[4] b) => (float[4] y, float[4] z, float[4] a2) "
        "{ a2 = Neg(a) s = Add(a2, b) y = Relu(s) z = Mul(y, a2) }"
    )
    assert match(AddRelu, model) is not None


def test_another_output_of_an_inner_node_counts_as_a_leak() -> None:
    class Pooled(Pattern):
        x = tensor()
        output = op.Relu(op.MaxPool(x))

    head = "agraph (float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] i)"
    model = read(f"{head} {{ p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) y = Relu(p) }}")
    assert str(why_not(Pooled, model)).startswith("'i' is also used outside it, ")


def test_a_leak_is_no_end_when_another_alternative_holds() -> None:
    class Either(Pattern):
        a, b = tensor(), tensor()
        inner = op.Neg(a)
        output = either(op.Add(inner, b), op.Add(a, b))

    model = read("agraph (float[4] u, float[4] v) => (float[4] y, float[4] n) { n = Neg(u) y = Add(n, v) }")
    found = match(Either, model)
    assert found is not None
    assert [node.op for node in found.nodes] == ["Add"]


# ------------------------------------------------------------------------------------ check, reasons, the index


def test_a_mismatch_gives_its_reason() -> None:
    class Picky(AddRelu):
        def check(self) -> None:
            raise Mismatch(f"{self.a.name!r} is not wanted")

    model = read("agraph (float[4] a, float[4] b) => (float[4] y) { s = Add(a, b) y = Relu(s) }")
    assert match(Picky, model) is None
    assert why_not(Picky, model) == "'b' is not wanted"  # the last order that was tried


def test_check_sees_each_order_until_one_is_wanted() -> None:
    class WantsB(AddRelu):
        def check(self) -> None:
            if self.a.name != "b":
                raise Mismatch("no")

    found = match(WantsB, read("agraph (float[4] a, float[4] b) => (float[4] y) { s = Add(a, b) y = Relu(s) }"))
    assert found is not None
    assert found.a.name == "b"
    assert found.edges(AddRelu.a) == (Edge(producer(found.model, "s").name, 1),)


def test_why_not_is_none_where_the_pattern_holds() -> None:
    model = read("agraph (float[4] a, float[4] b) => (float[4] y) { s = Add(a, b) y = Relu(s) }")
    assert why_not(AddRelu, model) is None


def test_why_not_tells_what_got_furthest() -> None:
    head = "agraph (float[4] a, float[4] b) => (float[4] y)"
    expected = {
        "y = Tanh(a)": "'y' comes from Tanh, not Relu",
        "s = Mul(a, b) y = Relu(s)": "'s' comes from Mul, not Add",
        "y = Relu(a)": "'a' is an input of the graph, not the result of Add",
    }
    for text, reason in expected.items():
        assert why_not(AddRelu, read(f"{head} {{ {text} }}")) == reason


def test_why_not_calls_a_constant_a_constant() -> None:
    model = read("agraph (float[4] x) => (float[4] y) <float[4] k> { z = Neg(x) y = Relu(k) }")
    assert why_not(AddRelu, model) == "'k' is a constant, not the result of Add"


def test_the_edges_of_one_tensor_keep_their_roles() -> None:
    class Residual(Pattern):
        x, residual = tensor(), tensor()
        weight = const()
        output = op.Add(op.Conv(x, weight), residual)
        qdq_points = (INPUT(x), RESIDUAL_INPUT(residual))

    model = read("agraph (float[1,3,8,8] x) => (float[1,3,8,8] y) <float[3,3,1,1] w> { c = Conv(x, w) y = Add(x, c) }")
    found = match(Residual, model)
    assert found is not None
    assert found.x is found.residual
    conv, add = producer(model, "c").name, producer(model, "y").name
    assert found.edges(Residual.x) == (Edge(conv, 0),)
    assert found.edges(Residual.residual) == (Edge(add, 0),)


def test_the_index_finds_every_operator_that_a_match_can_end_in() -> None:
    assert root_operators(ConvRelu) == {"Relu", "Conv"}
    assert root_operators(ConvSiLU) == {"Mul"}
    index = PatternIndex((AddRelu, ConvRelu, ConvSiLU))
    model = read("agraph (float[4] a, float[4] b) => (float[4] y) { s = Add(a, b) y = Relu(s) }")
    assert index.at(producer(model, "y")) == [AddRelu, ConvRelu]
    assert index.at(producer(model, "s")) == []


def test_the_index_leaves_out_what_the_operators_before_a_node_rule_out() -> None:
    index = PatternIndex((AddRelu, ConvRelu, ConvSiLU))
    model = read("agraph (float[4] a, float[4] b) => (float[4] y) { s = Add(a, b) y = Relu(s) }")
    assert index.fitting(producer(model, "y")) == [AddRelu]


@pytest.mark.parametrize("product", ["Mul(c, s)", "Mul(s, c)"])
@pytest.mark.parametrize(
    ("conv", "fits"), [("Conv(x, w, b)", True), ("Conv(x, w)", True), ("Conv(x, x)", False), ("Add(x, w)", False)]
)
def test_the_index_keeps_every_pattern_that_could_hold(product: str, conv: str, *, fits: bool) -> None:
    model = read(f"{CONV} {{ c = {conv} s = Sigmoid(c) y = {product} }}")
    assert PatternIndex((ConvSiLU,)).fitting(producer(model, "y")) == ([ConvSiLU] if fits else [])


def test_the_index_looks_at_the_graph_as_it_is_now() -> None:
    model = read(f"{CONV} {{ c = Conv(x, w) s = Sigmoid(c) y = Mul(c, s) }}")
    index, node = PatternIndex((ConvSiLU,)), producer(model, "y")
    assert index.fitting(node) == [ConvSiLU]
    Rewriter(model).set_input(node, 1, model.find("x"))
    assert index.fitting(node) == []


def test_operands_can_be_asked_to_be_constants() -> None:
    class Joined(Pattern):
        parts = tensors(constant=True)
        output = op.Concat(parts)

    graph = "agraph (float[1] x) => (float[2] y) <float[1] w> {{ y = Concat<axis=0>(w, {0}) }}"
    constant, computed = read(graph.format("w")), read(graph.format("x"))
    assert match(Joined, constant) is not None
    assert why_not(Joined, computed) == "'x' is not a constant"
    assert PatternIndex((Joined,)).fitting(producer(constant, "y")) == [Joined]
    assert PatternIndex((Joined,)).fitting(producer(computed, "y")) == []


def test_a_node_without_outputs_matches_nothing() -> None:
    model = read("agraph (float[4] a, float[4] b) => (float[4] y) { s = Add(a, b) y = Relu(s) }")
    node = producer(model, "y")
    list.clear(node.outputs)
    assert Matcher(model).match(AddRelu, node) is None


# ------------------------------------------------------------------------------------ bad declarations


def test_a_pattern_without_an_output_is_refused() -> None:
    with pytest.raises(PatternError, match="Nameless declares no output"):

        class Nameless(Pattern):
            x = tensor()
            conv = op.Relu(x)


def test_an_output_that_is_no_operator_is_refused() -> None:
    with pytest.raises(PatternError, match="Bare declares no output"):

        class Bare(Pattern):
            output = tensor()


def test_a_point_on_an_undeclared_value_is_refused() -> None:
    with pytest.raises(PatternError, match="INPUT of Astray stands on an undeclared value"):

        class Astray(Pattern):
            x = tensor()
            output = op.Relu(x)
            qdq_points = (INPUT(tensor()),)


def test_a_point_that_is_no_point_is_refused() -> None:
    with pytest.raises(PatternError, match="a Q/DQ point of Blunt is a ValueDeclaration"):

        class Blunt(Pattern):
            x = tensor()
            output = op.Relu(x)
            qdq_points = (x,)  # type: ignore[assignment]


def test_an_optional_value_is_refused() -> None:
    with pytest.raises(PatternError, match="maybe\\(\\) takes an operator"):
        maybe(tensor())


@pytest.mark.parametrize("operand", [3, "x", None, INPUT])
def test_an_operand_that_is_no_declaration_is_refused(operand: object) -> None:
    with pytest.raises(PatternError, match="operand 1 of op.Add is"):
        op.Add(tensor(), operand)


def test_alternatives_of_two_domains_are_refused() -> None:
    with pytest.raises(PatternError, match="two domains"):
        op.Relu | op("com.microsoft").Gelu
