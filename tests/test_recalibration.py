"""Recalibration: anybody's Q/DQ file gets new numbers, and nothing else about it changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from branches import written
from models import parse

import quantonnx as qx
from quantonnx.errors import ModelError
from quantonnx.formats import TensorFormat
from quantonnx.insertion import integer_operators
from quantonnx.inspecting import find_pairs, inspect
from quantonnx.model import Model
from quantonnx.model_files import file_size
from quantonnx.recalibration import float_view, recalibrate
from quantonnx.verification import compare

BLOCK = """
    g (float[N,16,8,8] x) => (float[N,16,4,4] y) <float[16,16,3,3] a, float[16] bias, float[16,16,1,1] b> {
        one = Conv <pads: ints = [1, 1, 1, 1]> (x, a, bias)
        positive = Relu (one)
        pooled = MaxPool <kernel_shape: ints = [2, 2], strides: ints = [2, 2]> (positive)
        two = Conv (pooled, b)
        y = Add (two, pooled)
    }
"""
FOREIGN = """
    g (float[N,4] x) => (float[N,4] y)
    <int8[4,4] codes = {{1, -2, 3, 4, 5, 6, -7, 8, 9, 10, 11, -12, 13, 14, 15, 16}}> {{
        scale = Constant <value_float: float = 0.5> ()
        zero = Constant <value = {zero}> ()
        weight_scale = Constant <value_float: float = 0.01> ()
        q = QuantizeLinear (x, scale, zero)
        d = DequantizeLinear (q, scale, zero)
        w = DequantizeLinear (codes, weight_scale)
        y = MatMul (d, w)
    }}
"""


def feeds(factor: float = 1.0, shape: tuple[int, ...] = (1, 16, 8, 8)) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": (factor * rng.standard_normal(shape)).astype(np.float32)} for _ in range(6)]


def foreign(zero: str = "int8 {0}") -> onnx.ModelProto:
    return parse(FOREIGN.format(zero=zero))


def numbers(model: Model) -> dict[str, tuple[float, int]]:
    """Scale and zero point by quantized tensor."""
    return {
        pair.tensor: (float(model.array(pair.quantize.inputs[1])), int(model.array(pair.quantize.inputs[2])))
        for pair in find_pairs(model).activations
    }


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_our_own_files_get_the_numbers_of_new_data(target: str) -> None:
    proto = parse(BLOCK)
    quantized = qx.quantize(proto, feeds(), target=target).to_model()
    done = recalibrate(quantized.to_bytes(), feeds(4.0))
    wanted = numbers(qx.quantize(proto, feeds(4.0), target=target).to_model())
    found = numbers(done.model)
    assert done.pairs == len(found) == len(wanted)
    for name, (scale, zero_point) in wanted.items():
        assert found[name][0] == pytest.approx(scale, rel=0.03)
        assert abs(found[name][1] - zero_point) <= 2
    assert compare(proto.SerializeToString(), done.model, feeds(4.0)).sqnr_db > 30


def test_the_caller_s_model_is_not_changed() -> None:
    quantized = qx.quantize(parse(BLOCK), feeds(), target="onnxruntime").to_model()
    before = quantized.to_bytes()
    recalibrate(quantized, feeds(4.0))
    assert quantized.to_bytes() == before


def test_only_constants_change() -> None:
    quantized = qx.quantize(parse(BLOCK), feeds(), target="onnxruntime").to_model()
    done = recalibrate(quantized, feeds(4.0)).model
    assert [(node.op, node.name) for node in quantized.graph.nodes] == [
        (node.op, node.name) for node in done.graph.nodes
    ]
    assert set(numbers(quantized)) == set(numbers(done))


def test_biases_keep_their_value() -> None:
    quantized = qx.quantize(parse(BLOCK), feeds(), target="onnxruntime").to_model()
    done = recalibrate(quantized, feeds(4.0))
    assert done.biases == 1
    values = []
    for model in (quantized, done.model):
        conv = next(node for node in model.graph.nodes if node.op == "Conv" and len(node.inputs) == 3)
        x, weight, bias = (value.inputs[0] for value in conv.inputs)
        product = model.array(x.inputs[1]) * model.array(weight.inputs[1])
        assert np.allclose(model.array(bias.inputs[1]), product, rtol=1e-5)
        values.append(model.array(bias.inputs[0]) * model.array(bias.inputs[1]))
    assert np.allclose(*values, atol=float(product.max()))


def test_pairs_with_one_scale_keep_one_scale() -> None:
    done = recalibrate(qx.quantize(parse(BLOCK), feeds(), target="onnxruntime").to_model(), feeds(4.0)).model
    assert numbers(done)["positive"] == numbers(done)["pooled"]


def test_the_float_view_has_no_codes() -> None:
    view = float_view(qx.quantize(parse(BLOCK), feeds(), target="onnxruntime").to_model())
    assert not integer_operators(view.model)
    assert compare(parse(BLOCK).SerializeToString(), view.model, feeds()).sqnr_db > 30


def test_a_foreign_file_with_constant_nodes() -> None:
    done = recalibrate(foreign(), feeds(shape=(8, 4)))
    largest = max(float(np.abs(feed["x"]).max()) for feed in feeds(shape=(8, 4)))
    assert numbers(done.model) == {"x": (pytest.approx(largest / 127.5), 0)}
    assert (done.pairs, done.biases, done.left) == (1, 0, ())


def test_an_asymmetric_pair_stays_so() -> None:
    positive = [{"x": np.abs(feed["x"])} for feed in feeds(shape=(8, 4))]
    scale, zero_point = numbers(recalibrate(foreign("uint8 {3}"), positive).model)["x"]
    assert zero_point == 0
    assert scale == pytest.approx(max(feed["x"].max() for feed in positive) / 255)
    assert numbers(recalibrate(foreign("int8 {-128}"), positive).model)["x"][1] == -128


def test_a_float_model_is_refused() -> None:
    with pytest.raises(ModelError, match="quantonnx quantize"):
        recalibrate(parse(BLOCK), feeds())


def test_codes_that_leave_the_graph_are_left(tmp_path: Path) -> None:
    graph = """
        g (float[N,4] x) => (float[N,4] y, int8[N,4] r) <float scale = {0.5}, int8 zero = {0}> {
            q = QuantizeLinear (x, scale, zero)
            d = DequantizeLinear (q, scale, zero)
            y = Relu (d)
            e = Sigmoid (d)
            r = QuantizeLinear (e, scale, zero)
        }
    """
    done = recalibrate(parse(graph), feeds(shape=(8, 4)))
    assert done.pairs == 1
    assert [(item.name, item.reason) for item in done.left] == [("e", "the codes 'r' leave the graph")]


def test_a_pair_that_gives_an_output_of_the_graph() -> None:
    graph = """
        g (float[N,4] x) => (float[N,4] d) <float scale = {0.5}, int8 zero = {0}> {
            p = Relu (x)
            q = QuantizeLinear (p, scale, zero)
            moved = Reshape (q, shape)
            d = DequantizeLinear (moved, scale, zero)
        }
    """
    proto = parse(graph.replace("<float", "<int64[2] shape = {-1, 4}, float"))
    done = recalibrate(proto, feeds(shape=(8, 4)))
    assert done.pairs == 1
    assert (
        compare(
            parse("g (float[N,4] x) => (float[N,4] d) { d = Relu (x) }").SerializeToString(),
            done.model,
            feeds(shape=(8, 4)),
        ).sqnr_db
        > 35
    )


def test_no_relu_cuts_a_graph_input() -> None:
    graph = """
        g (float[N,4] x) => (float[N,4] y) <float scale = {0.1}, uint8 zero = {0}> {
            q = QuantizeLinear (x, scale, zero)
            d = DequantizeLinear (q, scale, zero)
            y = Identity (d)
        }
    """
    assert numbers(recalibrate(parse(graph), feeds(8.0, (8, 4))).model)["x"][1] > 0


@pytest.mark.parametrize(("scale", "highest"), [(0.1, None), (6 / 255, 6.0)])
def test_a_dropped_relu_comes_back(scale: float, highest: float | None) -> None:
    graph = f"""
        g (float[N,4] x) => (float[N,4] y) <float scale = {{{scale}}}, uint8 zero = {{0}}, float none = {{0}}> {{{{
            m = Neg (x)
            n = Add (m, none)
            q = QuantizeLinear (n, scale, zero)
            d = DequantizeLinear (q, scale, zero)
            y = Identity (d)
        }}}}
    """.replace("{{", "{").replace("}}", "}")
    found = numbers(recalibrate(parse(graph), feeds(8.0, (8, 4))).model)["n"]
    largest = max(float(-feed["x"].min()) for feed in feeds(8.0, (8, 4)))
    assert found == (pytest.approx((highest or largest) / 255), 0)


@pytest.mark.parametrize("method", ["minmax", "percentile:99.9", "mse", "entropy", "moving_average"])
def test_every_method(method: str) -> None:
    assert recalibrate(foreign(), feeds(shape=(8, 4)), method=method).pairs == 1


def test_inspection_counts_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    qx.quantize(parse(BLOCK), feeds(), target="onnxruntime").save(path)
    found = inspect(path)
    assert (found.weight_pairs, found.bias_pairs) == (2, 1)
    assert dict(found.operators)["QuantizeLinear"] == found.activation_pairs
    assert found.file_bytes == path.stat().st_size
    assert dict(found.bytes_by_type)["int8"] >= 16 * 16 * 10


def test_the_size_of_a_file_counts_external_data(tmp_path: Path) -> None:
    proto = parse("g (float[N,4] x) => (float[N,4] y) <float[4] w, float[4] v> { a = Add (x, w) y = Add (a, v) }")
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(500, np.float32), tensor.name))
    onnx.save(proto, tmp_path / "inside.onnx")
    assert file_size(tmp_path / "inside.onnx") == (tmp_path / "inside.onnx").stat().st_size
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert file_size(tmp_path / "m.onnx") == sum((tmp_path / name).stat().st_size for name in ("m.onnx", "m.data"))
    (tmp_path / "damaged.onnx").write_bytes(b"\xff" * 30)
    with pytest.raises(ModelError, match="cannot be read"):
        file_size(tmp_path / "damaged.onnx")


def test_pairs_in_a_row_that_saturate_together_are_left() -> None:
    proto = parse(
        "agraph (float[4,8] x) => (float[4,8] y0, float[4,8] y1) <float[8,8] w0, float[8,8] w1> "
        "{ y0 = MatMul(x, w0) y1 = MatMul(x, w1) }"
    )
    model = written(proto, [TensorFormat(axis=1)] * 2, [TensorFormat(4, False, False), TensorFormat()])
    result = recalibrate(model, feeds(shape=(4, 8)))
    assert (result.pairs, len(result.left)) == (1, 3)
    assert {decision.reason for decision in result.left} == {
        "pairs in a row share its scale, to saturate where fewer bits end"
    }
    before, after = numbers(model), numbers(result.model)
    assert all(before[tensor] == after[tensor] for tensor in before if tensor != "x")  # which the fourth pair reads too
