"""Shapes of all tensors and the products that operators add up, for any model."""

from __future__ import annotations

import time
from math import prod

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import feeds_of, parse, read

from quantonnx.model import Model
from quantonnx.shapes import infer_shapes, multiply_accumulates


def work(model: Model) -> dict[str, int]:
    shapes = infer_shapes(model)
    return {node.outputs[0].name: multiply_accumulates(node, shapes) for node in model.graph.nodes}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("(float[1,3,8,8] x) => (float[1,4,6,6] y) <float[4,3,3,3] w> { y = Conv(x, w) }", 4 * 6 * 6 * 3 * 9),
        ("(float[1,4,8,8] x) => (float[1,4,6,6] y) <float[4,1,3,3] w> { y = Conv<group=4>(x, w) }", 4 * 6 * 6 * 9),
        ("(float[1,3,8] x) => (float[1,4,6] y) <float[4,3,3] w> { y = Conv(x, w) }", 4 * 6 * 9),
        ("(float[1,3,4,4] x) => (y) <float[3,5,2,2] w> { y = ConvTranspose<strides=[2,2]>(x, w) }", 3 * 16 * 5 * 4),
        ("(float[2,8] x) => (y) <float[8,5] w> { y = Gemm(x, w) }", 2 * 8 * 5),
        ("(float[8,2] x) => (y) <float[5,8] w> { y = Gemm<transA=1, transB=1>(x, w) }", 2 * 8 * 5),
        ("(float[2,7,8] x) => (y) <float[8,5] w> { y = MatMul(x, w) }", 2 * 7 * 8 * 5),
        ("(float[2,7,8] a, float[2,8,5] b) => (y) { y = MatMul(a, b) }", 2 * 7 * 8 * 5),
        ("(float[8] a, float[8] b) => (y) { y = MatMul(a, b) }", 8),
        ("(float[2,8] x) => (y) { y = Relu(x) }", 0),
        ("(uint8[2,8] x) => (y) <int8[8,5] w> { y = MatMulInteger(x, w) }", 2 * 8 * 5),
        ("(uint8[1,3,8,8] x) => (y) <int8[4,3,3,3] w> { y = ConvInteger(x, w) }", 4 * 36 * 27),
    ],
)
def test_products_of_one_operator(body: str, expected: int) -> None:
    assert work(read(f"m {body}"))["y"] == expected


QLINEAR = "<float s = {0.1}, uint8 z = {0}, int8 zw = {0}"


def test_integer_operators_count_as_the_float_ones_do() -> None:
    body = f"m (uint8[1,3,8,8] x) => (y) {QLINEAR}, int8[4,3,3,3] w> {{ y = QLinearConv(x, s, z, w, s, zw, s, z) }}"
    assert work(read(body))["y"] == 4 * 36 * 27


def test_operators_of_onnx_runtime_s_own_domain_pass_shapes_on() -> None:
    body = f"""m (uint8[2,8] x) => (y) {QLINEAR}, int8[8,6] w> {{
        a = com.microsoft.QGemm(x, s, z, w, s, zw, "", s, z)
        b = com.microsoft.QLinearAdd(a, s, z, a, s, z, s, z)
        c = com.microsoft.DequantizeLinear(b, s, z)
        y = com.microsoft.Gelu(c) }}"""
    model = read(body, domain="com.microsoft")
    assert infer_shapes(model)["y"] == (2, 6)
    assert work(model)["a"] == 2 * 8 * 6


@pytest.mark.parametrize(
    "attention",
    [
        "(float[2,4,7,8] q, float[2,4,9,8] k, float[2,4,9,5] v) => (y) { y = Attention(q, k, v) }",
        "(float[2,7,32] q, float[2,9,32] k, float[2,9,20] v) => (y) { y = Attention<q_num_heads=4, kv_num_heads=4>(q, k, v) }",
    ],
)
def test_attention_is_two_products(attention: str) -> None:
    assert work(read(f"m {attention}", opset=23))["y"] == 2 * 4 * 7 * 9 * (8 + 5)


def test_pairs_do_not_change_the_work() -> None:
    exact = read("m (float[1,3,8,8] x) => (y) <float[4,3,3,3] w> { y = Conv(x, w) }")
    paired = read(
        """m (float[1,3,8,8] x) => (y) <float s = {0.1}, uint8 z = {0}, int8[4,3,3,3] w> {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        f = DequantizeLinear(w, s)
        y = Conv(d, f) }"""
    )
    assert work(paired)["y"] == work(exact)["y"] > 0


@pytest.mark.parametrize(
    ("inputs", "sizes", "expected"),
    [
        ('float["N",3,"H","W"] x', None, (1, 3, 224, 224)),
        ('float["N","T",16] x', None, (1, 128, 16)),
        ("float[N,N] x", None, (1, 1)),
        ("float[N,T] x", {"x": (4, 60)}, (4, 60)),
        ("float[N,3] x", {"x": (4, 3, 9)}, (1, 3)),  # not this model's rank: no help
    ],
)
def test_open_dimensions_get_typical_sizes(
    inputs: str, sizes: dict[str, tuple[int, ...]] | None, expected: object
) -> None:
    model = read(f"m ({inputs.replace(chr(34), '')}) => (y) {{ y = Relu(x) }}")
    assert infer_shapes(model, sizes)["y"] == expected


def test_a_size_that_is_given_binds_its_name_everywhere() -> None:
    model = read("m (float[N,T] x, float[N,T,4] z) => (y) { y = Identity(z) }")
    assert infer_shapes(model, {"x": (2, 50)})["y"] == (2, 50, 4)


def test_shapes_computed_from_shapes_are_followed() -> None:
    model = read(
        """m (float[N,6,8] x) => (y) <int64 zero = {0}, int64[1] rest = {-1}, int64[1] axis = {0}> {
        shape = Shape(x)
        batch = Gather(shape, zero)
        first = Unsqueeze(batch, axis)
        target = Concat<axis=0>(first, rest)
        y = Reshape(x, target) }"""
    )
    assert infer_shapes(model)["y"] == (1, 48)


def test_weights_in_constant_nodes_count() -> None:
    weight = onnx.numpy_helper.from_array(np.ones((40, 50), np.float32))
    proto = parse("m (float[2,40] x) => (float[a,b] y) <float[40,50] w> { y = MatMul(x, w) }")
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weight))
    assert work(Model.read(proto))["y"] == 2 * 40 * 50


def test_an_unknown_operator_hides_only_what_it_gives() -> None:
    body = """m (float[2,8] x) => (a, b) <float[8,4] w> {
        u = acme.Mystery(x)
        a = Relu(u)
        b = MatMul(x, w) }"""
    shapes = infer_shapes(read(body, domain="acme"))
    assert "a" not in shapes
    assert shapes["b"] == (2, 4)


def test_what_the_file_says_helps_behind_an_unknown_operator() -> None:
    proto = parse("m (float[2,8] x) => (y) { u = acme.Mystery(x)  y = Relu(u) }", domain="acme")
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("u", 1, [3, 5]))
    assert infer_shapes(Model.read(proto))["y"] == (3, 5)


@pytest.mark.parametrize("opset", [9999, 6])
def test_never_raises(opset: int) -> None:
    model = read("m (float[2,8] x) => (y) <float[7,4] w> { u = MatMul(x, w)  v = Upsample(u)  y = Nonsense(v) }")
    model.graph.opset = opset
    assert infer_shapes(model)["w"] == (7, 4)


def test_the_model_is_not_changed() -> None:
    model = read("m (float[N,8] x) => (y) <float[8,4] w> { y = MatMul(x, w) }")
    before = model.to_bytes()
    infer_shapes(model)
    assert model.to_bytes() == before


def test_as_onnx_runtime_finds_them() -> None:
    body = """m (float[1,3,17,15] x) => (a, b, c) <float[4,3,3,3] w, float[16,5] f> {
        a = Conv<pads=[1,0,1,0], strides=[2,2]>(x, w)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(a)
        b = GlobalAveragePool(p)
        t = Transpose<perm=[0,2,3,1]>(p)
        c = ReduceMean<axes=[1], keepdims=0>(t) }"""
    proto = parse(body)
    shapes = infer_shapes(Model.read(proto))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, value in zip("abc", session.run(list("abc"), feeds_of(proto)), strict=True):
        assert shapes[name] == value.shape


def chain(nodes: int) -> Model:
    body = [onnx.helper.make_node("Conv", [f"v{i}", "w"], [f"v{i + 1}"]) for i in range(nodes)]
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 2, 4, 4]) for name in ("v0", f"v{nodes}")]
    weight = onnx.numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")
    graph = onnx.helper.make_graph(body, "chain", ends[:1], ends[1:], [weight])
    return Model.read(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8))


def test_time_is_linear_and_short() -> None:
    model = chain(20_000)
    started = time.process_time()
    shapes = infer_shapes(model)
    total = sum(multiply_accumulates(node, shapes) for node in model.graph.nodes)
    assert total == 20_000 * prod((2, 4, 4, 2))
    assert time.process_time() - started < 4  # 0.4 s on an idle machine
