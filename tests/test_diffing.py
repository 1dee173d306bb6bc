"""`diff` finds what differs between two quantized models, and nothing where nothing does."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from models import parse
from onnx import numpy_helper

import quantonnx as qx
from quantonnx import cli
from quantonnx.diffing import diff
from quantonnx.errors import ModelError

NETWORK = """
    network (float[N,3,8,8] image) => (float[N,5] scores)
    <float[8,3,3,3] weight, float[8] bias, float[8,8,1,1] inner, float[8] shift, float[8,5] matrix, float[5] offset> {
        first = Conv <pads: ints = [1, 1, 1, 1]> (image, weight, bias)
        positive = Relu (first)
        second = Conv (positive, inner, shift)
        total = Add (second, positive)
        pooled = GlobalAveragePool (total)
        flat = Flatten (pooled)
        scores = Gemm (flat, matrix, offset)
    }
"""
X = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)


def quantized(target="onnxruntime", x=X, **config):
    settings = qx.QuantConfig(**({"keep_slow": True, "bias_correction": False} | config))
    return qx.quantize(parse(NETWORK), {"image": x}, target=target, config=settings).to_onnx()


def changed(model, name, change):
    """Returns a copy of a model whose initializer `name` holds `change(values)`."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    (found,) = (item for item in twin.graph.initializer if item.name == name)
    found.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(found).copy()), name))
    return twin


def with_metadata(model, **entries):
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    onnx.helper.set_model_props(twin, {f"quantonnx.{key}": value for key, value in entries.items()})
    return twin


def differing(a, b):
    """Returns the groups in which two models differ."""
    return {name for name, changes in diff(a, b).groups().items() if changes}


@pytest.fixture(scope="module")
def model():
    return quantized()


def test_a_model_does_not_differ_from_itself(model):
    assert diff(model, model).equal
    assert differing(model, quantized()) <= {"provenance"}


@pytest.mark.parametrize(("factor", "relative"), [(2.0, 0.5), (0.9, 0.1)])
def test_a_scale(model, factor, relative):
    found = diff(model, changed(model, "positive_scale", lambda scale: scale * np.float32(factor)))
    (change,) = found.scales
    assert (change.kind, change.name) == ("activation", "positive")
    assert change.amount == pytest.approx(relative, abs=1e-6)
    assert not found.equal


def test_the_scale_of_one_channel_and_the_largest_first(model):
    def third(scale):
        scale[2] *= 4
        return scale

    other = changed(changed(model, "weight_scale", third), "positive_scale", lambda scale: scale * np.float32(1.25))
    found = diff(model, other).scales
    assert [(change.kind, change.name) for change in found] == [("weight", "weight"), ("activation", "positive")]
    assert found[0].amount == pytest.approx(0.75)
    assert found[0].a.endswith("(channel 2)")


def test_a_zero_point(model):
    (change,) = diff(model, changed(model, "image_zero_point", lambda zero: zero + np.uint8(3))).zero_points
    assert (change.name, change.amount) == ("image", 3)


def test_codes(model):
    def one(codes):
        codes[0, 0, 0] += 1
        return codes

    (change,) = diff(model, changed(model, "weight_quantized", one)).codes
    assert (change.kind, change.name, change.b) == ("weight", "weight", "3 differ")
    assert change.amount == pytest.approx(3 / 216)


def test_formats():
    found = diff(quantized("openvino"), quantized("openvino", weight={"per_channel": False}))
    assert {change.name for change in found.formats} >= {"weight", "inner"}
    assert found.formats[0].a.startswith("int8 per channel of axis")
    assert found.formats[0].b == "int8 per tensor"
    assert not found.only_in_a
    assert not found.only_in_b


def test_bits_that_share_a_type_show_in_codes_and_scales():
    found = diff(quantized(), quantized(weight={"n_bits": 4}))
    assert {change.name for change in found.codes if change.kind == "weight"} == {"weight", "inner", "matrix"}
    assert {change.name for change in found.scales} >= {"weight", "inner", "matrix"}


def test_pairs_that_only_one_has(model):
    found = diff(model, quantized(exclude=["Gemm"]))
    assert {(change.kind, change.name) for change in found.only_in_a} >= {("weight", "matrix"), ("bias", "offset")}
    assert not found.only_in_b
    assert all(change.b == "" and change.a for change in found.only_in_a)
    assert {change.name for change in diff(quantized(exclude=["Gemm"]), model).only_in_b} == {
        change.name for change in found.only_in_a
    }
    assert "DequantizeLinear" in {change.name for change in found.operators}


def test_what_reads_a_quantized_value():
    text = """g (float[N,4] x) => (float[N,4] a, float[N,4] b) <float s = {{0.5}}, uint8 z = {{3}}> {{
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) a = Relu(d) b = Neg({})
    }}"""
    (change,) = diff(parse(text.format("d")), parse(text.format("x"))).readers
    assert (change.name, change.a, change.b) == ("x", "Neg, Relu", "Relu")


def test_targets_differ_in_places_and_formats():
    found = diff(quantized("onnxruntime"), quantized("tensorrt"))
    assert found.only_in_a
    assert next(change for change in found.formats if change.name == "image").b == "int8 per tensor"


def test_a_weight_with_another_name_is_found_by_where_it_is_read(model):
    text = onnx.ModelProto()
    text.CopyFrom(model)
    for item in text.graph.initializer:
        item.name = item.name.replace("weight_quantized", "stored_weight")
    for node in text.graph.node:
        node.input[:] = [name.replace("weight_quantized", "stored_weight") for name in node.input]
    assert diff(model, text).equal


def test_float_constants(model):
    one, other = quantized(bias=None), quantized(bias=None, bias_correction=True)
    found = diff(one, other)
    assert {change.name for change in found.constants} >= {"bias"}
    assert not found.codes


def test_what_made_them(model):
    one, other = with_metadata(model, method="mse", seed="1"), with_metadata(model, method="minmax", seed="1")
    (change,) = diff(one, other).provenance
    assert (change.name, change.a, change.b) == ("method", "mse", "minmax")


def test_the_interface():
    one = parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    other = parse("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }", opset=18)
    assert {change.name for change in diff(one, other).interface} == {"opset", "input x", "output y"}


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ModelError):
        diff(tmp_path / "none.onnx", tmp_path / "none.onnx")


@pytest.fixture
def files(tmp_path, model):
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    other = changed(model, "positive_scale", lambda scale: scale * np.float32(2))
    (tmp_path / "b.onnx").write_bytes(other.SerializeToString())
    return tmp_path


def test_the_command(files, capsys):
    a, b, result = (str(files / name) for name in ("a.onnx", "b.onnx", "result.json"))
    assert cli.run(["diff", a, a, "--exit-code"]) == 0
    assert "no difference" in capsys.readouterr().out
    assert cli.run(["diff", a, b]) == 0
    assert cli.run(["diff", a, b, "--exit-code", "--json", result]) == 1
    shown = capsys.readouterr().out
    assert "Scales: 1" in shown
    assert "activation positive" in shown
    assert "50.0 %" in shown
    told = json.loads((files / "result.json").read_text())
    assert told["equal"] is False
    assert told["difference"]["scales"][0]["name"] == "positive"
    assert cli.run(["diff", a, str(files / "none.onnx")]) == 2


def test_long_tables_are_cut(tmp_path, model, capsys):
    for name in "ab":
        told = with_metadata(model, **{f"key{i:02}": name for i in range(15)})
        (tmp_path / f"{name}.onnx").write_bytes(told.SerializeToString())
    files = [str(tmp_path / f"{name}.onnx") for name in "ab"]
    assert cli.run(["diff", *files]) == 0
    shown = capsys.readouterr().out
    assert "key09" in shown
    assert "key10" not in shown
    assert "… 5 more: --verbose shows all" in shown
    assert cli.run(["diff", *files, "--verbose"]) == 0
    assert "key14" in capsys.readouterr().out
