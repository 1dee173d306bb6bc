"""Other tools' files of scales and ranges: what is written is read back, and ONNX Runtime's own functions agree."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import NETWORK, parse
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType, calibrate, quantize_static, static_quantize_runner

import quantonnx as qx
from quantonnx import cli
from quantonnx.compat.configuring import to_config
from quantonnx.compat.encodings import Encoding, numbers
from quantonnx.compat.files import read_encodings, write_encodings
from quantonnx.compat.kinds import Kind
from quantonnx.compat.models import model_encodings, quantized_encodings
from quantonnx.errors import ModelError, OutputError

AIMET = (Kind.AIMET_0_6_1, Kind.AIMET_1_0_0, Kind.AIMET_2_0_0)
FILES = (Kind.TENSORRT, *AIMET, Kind.ORT_RANGES, Kind.ORT_OVERRIDES)


@cache
def calibrated(target: str, bits: int = 8) -> qx.QuantizedModel:
    rng = np.random.default_rng(0)
    samples = [{"image": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(3)]
    config = qx.QuantConfig(keep_slow=True, weight=qx.TensorQuantConfig(n_bits=bits))
    return qx.quantize(parse(NETWORK), samples, target=target, config=config)


@cache
def quantized(target: str) -> bytes:
    return calibrated(target).to_onnx().SerializeToString()


def in_model(target: str) -> tuple[Encoding, ...]:
    return model_encodings(quantized(target)).encodings


def stored(target: str) -> dict[str, np.ndarray]:
    graph = onnx.load_from_string(quantized(target)).graph
    return {item.name: numpy_helper.to_array(item) for item in graph.initializer}


def again(encodings: tuple[Encoding, ...], kind: Kind, folder: Path) -> dict[str, Encoding]:
    """Returns what is read from the file that is written, whose name says nothing of its format."""
    path = folder / "file"
    path.write_text(write_encodings(encodings, kind).text, encoding="utf-8")
    found = read_encodings(path)
    assert found.kind is kind
    return {encoding.name: encoding for encoding in found.contents.encodings}


def read_text(text: str, folder: Path) -> tuple[Encoding, ...]:
    path = folder / "given"
    path.write_text(text, encoding="utf-8")
    return read_encodings(path).contents.encodings


def integers(name: str = "t", bits: int = 8, scale: Any = 0.1, zero: Any = 0, **others: Any) -> Encoding:
    signed = others.pop("signed", True)
    symmetric = others.pop("symmetric", not np.any(zero))
    return Encoding(name, n_bits=bits, signed=signed, symmetric=symmetric, **numbers(scale, zero), **others)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "openvino"])
def test_a_model_holds_what_is_read_from_it(target: str) -> None:
    constants = stored(target)
    encodings = in_model(target)
    scales = {name.removesuffix("_scale") for name in constants if name.endswith("_scale")}
    assert {encoding.name for encoding in encodings} == scales
    for encoding in encodings:
        np.testing.assert_array_equal(encoding.scale, constants[f"{encoding.name}_scale"])
        np.testing.assert_array_equal(encoding.zero_point, constants[f"{encoding.name}_zero_point"])
        dtype = constants[f"{encoding.name}_zero_point"].dtype
        assert (encoding.n_bits, encoding.signed) == (8 * dtype.itemsize, dtype.kind == "i")
        assert encoding.parameter == (encoding.name in {"weight", "bias", "inner", "matrix", "offset"})


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_calibrated_model_has_the_encodings_of_its_file(target: str) -> None:
    found = {encoding.name: encoding for encoding in quantized_encodings(calibrated(target)).encodings}
    assert sorted(found) == sorted(encoding.name for encoding in in_model(target))
    for encoding in in_model(target):
        other = found[encoding.name]
        np.testing.assert_array_equal(other.scale, encoding.scale)
        np.testing.assert_array_equal(other.zero_point, encoding.zero_point)
        same = [(e.n_bits, e.signed, e.axis, e.parameter) for e in (other, encoding)]
        assert same[0] == same[1]


def test_a_calibrated_model_knows_bits_under_8(tmp_path: Path) -> None:
    encodings = quantized_encodings(calibrated("tensorrt", 4)).encodings
    assert {encoding.name: encoding.n_bits for encoding in encodings if encoding.parameter} == {"weight": 4, "inner": 4}
    for kind in AIMET:
        assert again(encodings, kind, tmp_path)["weight"].n_bits == 4


def test_the_axis_of_channels_is_read() -> None:
    axes = {encoding.name: encoding.axis for encoding in in_model("onnxruntime")}
    assert axes == {"weight": 0, "bias": 0, "inner": 0, "matrix": 1, "offset": 0} | dict.fromkeys(
        ["image", "positive", "second", "total", "pooled", "flat"]
    )


def test_a_pair_on_a_graph_output_has_the_name_of_the_output() -> None:
    text = "g (float[4] a) => (float[4] out) <float s = {0.5}, int8 z = {0}>"
    model = parse(text + "{out_float = Relu(a) c = QuantizeLinear(out_float, s, z) out = DequantizeLinear(c, s, z)}")
    (encoding,) = model_encodings(model.SerializeToString()).encodings
    assert encoding.name == "out"


def test_float_weights_and_float8_are_read() -> None:
    text = """g (float[2,4] a) => (float[2,3] y) <float[4,3] w, float s = {0.5}, int16 z = {0}> {
        c = QuantizeLinear(w, s, z) d = DequantizeLinear(c, s, z)
        f = QuantizeLinear <output_dtype = 17> (a, s) e = DequantizeLinear(f, s)
        y = MatMul(e, d)
    }"""
    found = {
        encoding.name: encoding for encoding in model_encodings(parse(text, opset=21).SerializeToString()).encodings
    }
    assert (found["w"].n_bits, found["w"].signed, found["w"].parameter) == (16, True, True)
    assert (found["a"].floating, found["a"].n_bits, found["a"].parameter) == (True, 8, False)


def test_what_has_no_constant_scale_is_left_with_a_reason() -> None:
    text = """g (float[4] a, float s) => (float[4] y) <float t = {0.5}, int8 z = {0}> {
        c = QuantizeLinear(a, s, z) d = DequantizeLinear(c, s, z)
        e = QuantizeLinear(d, t, z) y = DequantizeLinear(e, t, z)
    }"""
    contents = model_encodings(parse(text).SerializeToString())
    assert [encoding.name for encoding in contents.encodings] == ["d"]
    assert [(left.name, left.reason) for left in contents.left] == [("a", "its scale is computed in the graph")]


def test_a_tensorrt_cache_read_back_has_the_same_scales(tmp_path: Path) -> None:
    before = {encoding.name: encoding for encoding in in_model("tensorrt") if not encoding.parameter}
    after = again(in_model("tensorrt"), Kind.TENSORRT, tmp_path)
    assert list(after) == list(before)
    for name, encoding in after.items():
        assert np.float32(encoding.scale).tobytes() == stored("tensorrt")[f"{name}_scale"].tobytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1),
    st.floats(2.0**-149, 2.0**127, width=32),
)
def test_any_name_and_scale_pass_through_a_tensorrt_cache(tmp_path: Path, name: str, scale: float) -> None:
    (encoding,) = again((integers(name, scale=scale),), Kind.TENSORRT, tmp_path).values()
    assert (encoding.name, encoding.scale) == (name, scale)


def test_a_tensorrt_cache_as_tensorrt_writes_it(tmp_path: Path) -> None:
    text = "TRT-8205-EntropyCalibration2\ninput: 3c010a14\n(Unnamed Layer* 22) [Constant]_output: 3a4b050c\na: b:0: 0\n"
    first, second = read_text(text, tmp_path)
    assert first.scale == pytest.approx(1 / 127, rel=1e-3)  # the values of an image, 0 to 1
    assert second.name == "(Unnamed Layer* 22) [Constant]_output"


@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        (integers("x", signed=False, zero=128), "'x' has zero point 128"),
        (integers("x", signed=False), "'x' has unsigned codes"),
        (integers("x", bits=16), "'x' has 16 bits"),
        (integers("x", scale=1e-60), "'x' has scale 1e-60"),
        (integers("x\ny"), "more than one line"),
        (Encoding("x", **numbers(0.1)), "a type that its file does not say"),
    ],
)
def test_what_a_tensorrt_cache_cannot_say_is_refused(encoding: Encoding, says: str) -> None:
    with pytest.raises(OutputError, match=says):
        write_encodings((integers("fine"), encoding), Kind.TENSORRT)


def test_ranges_become_tensorrt_scales() -> None:
    ranges = Encoding("x", low=np.array(-254.0), high=np.array(12.0))
    assert write_encodings((ranges,), Kind.TENSORRT).text.split()[-1] == "40000000"


@pytest.mark.parametrize("kind", [Kind.TENSORRT, Kind.CONFIG])
def test_ranges_of_zero_are_left_out(kind: Kind) -> None:
    ranges = [Encoding(name, low=np.array(0.0), high=np.array(end)) for name, end in (("dead", 0.0), ("alive", 1.0))]
    written = write_encodings(ranges, kind)
    assert "alive" in written.text
    assert [(left.name, left.reason.split(":")[0]) for left in written.left] == [("dead", "its range is 0")]


@pytest.mark.parametrize("kind", AIMET)
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_aimet_encodings_make_a_round_trip(kind: Kind, target: str, tmp_path: Path) -> None:
    before, after = in_model(target), again(in_model(target), kind, tmp_path)
    for encoding in before:
        found = after[encoding.name]
        np.testing.assert_array_equal(found.scale, encoding.scale)
        np.testing.assert_array_equal(found.zero_point, encoding.zero_point)
        assert (found.n_bits, found.signed, found.parameter) == (encoding.n_bits, encoding.signed, encoding.parameter)
        assert kind is not Kind.AIMET_2_0_0 or found.axis == encoding.axis
    written = write_encodings(before, kind).text
    assert write_encodings(after.values(), kind).text == written


@given(
    st.integers(2, 16), st.booleans(), st.booleans(), st.floats(1e-30, 1e30), st.integers(0, 65535), st.integers(1, 3)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_aimet_offsets_keep_the_grid(
    tmp_path: Path, bits: int, signed: bool, narrow: bool, scale: float, zero: int, channels: int
) -> None:
    """Whatever the format, the real values of the lowest and highest code come back: 0.6.1 says them as well."""
    narrow = narrow and signed
    zero = 0 if narrow else zero % (1 << bits) - signed * (1 << (bits - 1))
    shape = () if channels == 1 else (channels,)
    given_ = integers("t", bits, np.full(shape, scale), zero, signed=signed, narrow_range=narrow)
    for kind in AIMET[:2]:
        (found,) = again((given_,), kind, tmp_path).values()
        for code, other in zip(given_.codes, found.codes, strict=True):
            np.testing.assert_array_equal(
                (code - given_.zero_point) * given_.scale, (other - found.zero_point) * found.scale
            )
    entry = json.loads(write_encodings((given_,), Kind.AIMET_0_6_1).text)["activation_encodings"]["t"][0]
    low, high = ((code - zero) * scale for code in given_.codes)
    np.testing.assert_allclose((entry["min"], entry["max"]), (low, high))


def test_aimet_0_6_1_as_aimet_writes_it(tmp_path: Path) -> None:
    image = {
        "bitwidth": 8,
        "dtype": "int",
        "is_symmetric": "False",
        "max": 3.4,
        "min": -3.4,
        "offset": -127,
        "scale": 0.02,
    }
    channel = {
        "bitwidth": 4,
        "dtype": "int",
        "is_symmetric": "True",
        "max": 0.7,
        "min": -0.8,
        "offset": -8,
        "scale": 0.1,
    }
    strict = channel | {"min": -0.7, "offset": -7}
    content = {
        "version": "0.6.1",
        "activation_encodings": {"image": [image], "half": [{"bitwidth": 16, "dtype": "float"}]},
        "param_encodings": {"w": [channel, channel | {"scale": 0.2}], "v": [strict]},
        "quantizer_args": {"quant_scheme": "post_training_tf"},
    }
    found = {encoding.name: encoding for encoding in read_text(json.dumps(content), tmp_path)}
    assert (found["image"].signed, found["image"].zero_point, found["image"].symmetric) == (False, 127, False)
    assert (found["w"].signed, found["w"].n_bits, found["w"].parameter) == (True, 4, True)
    assert (found["w"].scale.tolist(), found["w"].zero_point.tolist()) == ([0.1, 0.2], [0, 0])
    assert (found["v"].narrow_range, found["v"].codes) == (True, (-7, 7))
    assert (found["half"].floating, found["half"].n_bits) == (True, 16)


def test_aimet_1_0_0_low_power_blocks_are_blocks(tmp_path: Path) -> None:
    entry = {"name": "w", "enc_type": "LPBQ", "dtype": "INT", "bw": 8, "compressed_bw": 4, "is_sym": True}
    entry |= {"scale": [0.5, 2.0], "offset": [-128, -128], "per_block_int_scale": [1, 2, 3, 4], "block_size": 16}
    (found,) = read_text(json.dumps({"version": "1.0.0", "param_encodings": [entry]}), tmp_path)
    assert (found.n_bits, found.block_size, found.scale.tolist()) == (4, 16, [0.5, 1.0, 6.0, 8.0])


def test_aimet_2_0_0_as_its_specification_shows_it(tmp_path: Path) -> None:
    block = {"name": "b", "y_scale": [[0.01, 0.02], [0.03, 0.04]], "axis": 1, "block_size": 32, "output_dtype": "int4"}
    low = {"name": "l", "per_block_int_scale": [[3, 5], [7, 16]], "per_channel_float_scale": [[0.5], [2.0]]}
    low |= {"axis": 1, "block_size": 32, "output_dtype": "int4"}
    tensor = {"name": "t", "y_scale": 0.01, "y_zero_point": 41, "output_dtype": "uint8"}
    content = {"version": "2.0.0", "encodings": [block, low, tensor]}
    found = {encoding.name: encoding for encoding in read_text(json.dumps(content), tmp_path)}
    assert found["b"].scale.shape == (2, 2)
    assert found["l"].scale.tolist() == [[1.5, 2.5], [14.0, 32.0]]
    assert (found["t"].zero_point, found["t"].parameter, found["b"].parameter) == (41, False, True)
    kept = again((found["b"],), Kind.AIMET_2_0_0, tmp_path)["b"]
    assert (kept.axis, kept.block_size, kept.scale.tolist()) == (1, 32, block["y_scale"])


@pytest.mark.parametrize(
    ("axis", "channels"), [(1, [0.5, 2.0]), (-1, [[0.5], [2.0]]), (0, [[0.5, 2.0]]), (0, [0.5, 2.0])]
)
def test_channels_of_low_power_blocks_stand_across_the_blocks(axis: int, channels: Any, tmp_path: Path) -> None:
    entry = {"name": "w", "per_block_int_scale": [[3, 5], [7, 16]], "per_channel_float_scale": channels}
    entry |= {"axis": axis, "block_size": 2, "output_dtype": "int4"}
    (found,) = read_text(json.dumps({"version": "2.0.0", "encodings": [entry]}), tmp_path)
    assert found.scale.tolist() == ([[1.5, 2.5], [14.0, 32.0]] if axis else [[1.5, 10.0], [3.5, 32.0]])


@pytest.mark.parametrize(
    ("encoding", "kind", "says"),
    [
        (integers(scale=[0.1, 0.2]), Kind.AIMET_2_0_0, "does not say along which axis"),
        (integers(scale=[0.1, 0.2]), Kind.ORT_OVERRIDES, "does not say their axis"),
        (integers(scale=[0.1, 0.2], block_size=2), Kind.AIMET_0_6_1, "which 0.6.1 cannot say"),
        (integers(bits=6), Kind.AIMET_2_0_0, "has 6 bits"),
        (integers(bits=6), Kind.ORT_OVERRIDES, "has 6 bits"),
        (Encoding("t", low=np.array(0.0), high=np.array(1.0)), Kind.AIMET_1_0_0, "has no scale, only a range"),
        (Encoding("t", n_bits=8, floating=True, **numbers(0.5)), Kind.AIMET_0_6_1, "use 2.0.0"),
        (integers(parameter=True), Kind.ORT_RANGES, "no activation"),
    ],
)
def test_what_a_format_cannot_say_is_refused(encoding: Encoding, kind: Kind, says: str) -> None:
    with pytest.raises(OutputError, match=says):
        write_encodings((encoding,), kind)


def float_model(folder: Path) -> Path:
    path = folder / "float.onnx"
    path.write_bytes(parse(NETWORK).SerializeToString())
    return path


def by_onnxruntime(folder: Path, **options: Any) -> dict[str, Encoding]:
    out = folder / "by_onnxruntime.onnx"
    quantize_static(float_model(folder), out, None, **options)
    return {encoding.name: encoding for encoding in model_encodings(out).encodings}


def test_onnxruntime_reads_the_range_cache_that_is_written(tmp_path: Path) -> None:
    before = {encoding.name: encoding for encoding in in_model("tensorrt") if not encoding.parameter}
    path = tmp_path / "ranges.json"
    path.write_text(write_encodings(before.values(), Kind.ORT_RANGES).text)
    loaded = calibrate.load_tensors_data(path)
    assert loaded.calibration_method is CalibrationMethod.MinMax
    for name, encoding in before.items():
        np.testing.assert_allclose(loaded[name].range_value[1], encoding.scale * 127, rtol=1e-6)
        np.testing.assert_allclose(loaded[name].range_value[0], encoding.scale * -127, rtol=1e-6)


def test_the_range_cache_that_onnxruntime_writes_is_read(tmp_path: Path) -> None:
    pairs = {"a": (np.float32(-1.5), np.float32(0.1)), "b": (np.zeros(1, np.float32), np.ones(1, np.float32))}
    data = calibrate.TensorsData(
        CalibrationMethod.MinMax, {name: tuple(map(np.asarray, ends)) for name, ends in pairs.items()}
    )
    path = tmp_path / "ranges"
    calibrate.save_tensors_data(data, path)
    found = read_encodings(path)
    assert found.kind is Kind.ORT_RANGES
    for encoding in found.contents.encodings:
        assert (encoding.low, encoding.high) == tuple(np.float64(end).item() for end in pairs[encoding.name])
    after = again(found.contents.encodings, Kind.ORT_RANGES, tmp_path)
    assert {name: (float(e.low), float(e.high)) for name, e in after.items()} == {
        name: (float(low), float(high)) for name, (low, high) in (("a", pairs["a"]), ("b", (0.0, 1.0)))
    }


def test_onnxruntime_quantizes_with_the_overrides_that_are_written(tmp_path: Path) -> None:
    """All activations get the scales and zero points of another model, bit for bit."""
    written = write_encodings(in_model("onnxruntime"), Kind.ORT_OVERRIDES)
    path = tmp_path / "overrides.json"
    path.write_text(written.text)
    assert [(left.name, left.reason.split()[0]) for left in written.left][-2:] == [
        ("activation_type", "QUInt8"),
        ("weight_type", "QInt8"),
    ]
    overrides = static_quantize_runner.get_tensor_quant_overrides(path)
    ranges = tmp_path / "ranges.json"
    whole = [Encoding(name, low=np.array(-1.0), high=np.array(1.0)) for name in ("first", "scores")]
    ranges.write_text(write_encodings((*in_model("onnxruntime"), *whole), Kind.ORT_RANGES).text)
    found = by_onnxruntime(
        tmp_path,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibration_cache_path=ranges,
        extra_options={"TensorQuantOverrides": overrides},
    )
    shared = [encoding for encoding in in_model("onnxruntime") if encoding.n_bits == 8 and encoding.name in found]
    assert len(shared) >= 7
    for encoding in shared:
        np.testing.assert_array_equal(found[encoding.name].scale, encoding.scale)
        np.testing.assert_array_equal(found[encoding.name].zero_point, encoding.zero_point)


def test_overrides_make_a_round_trip(tmp_path: Path) -> None:
    mixed = (
        integers("a", signed=False, zero=3),
        integers("b", bits=16),
        integers("w", scale=[0.1, 0.2], axis=1, parameter=True),
    )
    after = again(mixed, Kind.ORT_OVERRIDES, tmp_path)
    for encoding in mixed:
        np.testing.assert_array_equal(after[encoding.name].scale, encoding.scale)
        np.testing.assert_array_equal(after[encoding.name].zero_point, encoding.zero_point)
        assert after[encoding.name].axis == encoding.axis
    assert [(after[name].n_bits, after[name].signed) for name in "ab"] == [(8, False), (16, True)]
    assert write_encodings(after.values(), Kind.ORT_OVERRIDES).text == write_encodings(mixed, Kind.ORT_OVERRIDES).text


def test_overrides_with_ranges_are_read(tmp_path: Path) -> None:
    text = '{"a": [{"rmin": -1, "rmax": [2.5], "symmetric": false, "quant_type": "QuantType.QUInt8"}], "b": [{}]}'
    (found,) = read_text(text, tmp_path)
    assert (found.n_bits, found.signed, found.symmetric, float(found.low), float(found.high)) == (
        8,
        False,
        False,
        -1,
        2.5,
    )


def test_configuration_says_activations_fixed_and_weights_by_format() -> None:
    written = write_encodings(in_model("onnxruntime"), Kind.CONFIG)
    rules = yaml.safe_load(written.text)["tensors"]
    constants = stored("onnxruntime")
    for name in ("image", "positive", "second", "total", "pooled", "flat"):
        rule = rules.pop(name)
        assert np.float32(rule.pop("scale")) == constants[f"{name}_scale"]
        zero_point = int(constants[f"{name}_zero_point"])
        assert rule == {"n_bits": 8, "signed": False, "symmetric": False, "zero_point": zero_point, "optional": True}
    same = {"n_bits": 8, "signed": True, "symmetric": True, "per_channel": True, "optional": True}
    assert rules == {"weight": same | {"axis": 0}, "inner": same | {"axis": 0}, "matrix": same | {"axis": 1}}
    assert {left.name for left in written.left} == {"weight", "bias", "inner", "matrix", "offset"}


def test_a_configuration_divides_weights_into_groups_as_the_model_does() -> None:
    model = parse("agraph (float[2,64] x) => (float[2,32] y) <float[64,32] w> { y = MatMul(x, w) }")
    asked = {"n_bits": 4, "storage": "native", "group_size": 16}
    first = qx.quantize(model, target="onnxruntime", config=qx.QuantConfig(activation=None, weight=asked))
    config, _ = to_config(model_encodings(first.to_onnx().SerializeToString()).encodings)
    again = qx.quantize(model, target="onnxruntime", config=qx.QuantConfig(activation=None, **config))
    divided = [(site.format.axis, site.format.group_size) for found in (first, again) for site in found.sites]
    assert divided == [(0, 16), (0, 16)]


@pytest.mark.parametrize(
    ("encoding", "rule"),
    [
        (Encoding("t", low=np.array(-1.0), high=np.array(np.float32(0.1), np.float64)), {"range": [-1.0, 0.1]}),
        (
            Encoding("t", n_bits=8, floating=True, **numbers(0.5)),
            {"dtype": "float8e4m3fn", "scale": 0.5, "zero_point": 0},
        ),
        (
            integers(bits=4, scale=[[0.1, 0.2]], axis=1, block_size=32, parameter=True),
            {"n_bits": 4, "signed": True, "symmetric": True, "group_size": 32, "axis": 1},
        ),
        (
            integers(narrow_range=True, parameter=True),
            {"n_bits": 8, "signed": True, "symmetric": True, "narrow_range": True, "per_channel": False},
        ),
        (Encoding("t", low=np.array(-3.0), high=np.array(-3.0)), {"range": [-3.0, 0.0]}),
        (integers(scale=1e-40), None),
        (Encoding("t", n_bits=16, floating=True), None),
        (integers(bits=32, parameter=True), None),
    ],
)
def test_configuration_of_one_tensor(encoding: Encoding, rule: dict[str, Any] | None) -> None:
    config, left = to_config([encoding])
    qx.QuantConfig(**config)
    assert config == {"tensors": {} if rule is None else {"t": rule | {"optional": True}}}
    assert bool(left) == (rule is None or encoding.parameter)


def other_samples() -> list[dict[str, np.ndarray]]:
    """Returns samples by which calibration would find other numbers."""
    return [{"image": 9 * np.random.default_rng(7).standard_normal((2, 3, 8, 8)).astype(np.float32)}]


@pytest.mark.parametrize(
    ("target", "kind"),
    [("onnxruntime", Kind.MODEL), ("tensorrt", Kind.TENSORRT), *(("onnxruntime", kind) for kind in AIMET)],
)
def test_quantizing_with_the_configuration_gives_the_same_numbers(target: str, kind: Kind, tmp_path: Path) -> None:
    """Whatever tool's file the numbers come from, and whatever the samples say."""
    encodings = in_model(target) if kind is Kind.MODEL else tuple(again(in_model(target), kind, tmp_path).values())
    path = tmp_path / "config.yaml"
    path.write_text(write_encodings(encodings, Kind.CONFIG).text)
    config = qx.QuantConfig.load(path)
    config.keep_slow = True
    made = qx.quantize(parse(NETWORK), other_samples(), target=target, config=config).to_onnx()
    found = {encoding.name: encoding for encoding in model_encodings(made.SerializeToString()).encodings}
    for encoding in in_model(target):
        np.testing.assert_array_equal(found[encoding.name].scale, encoding.scale)
        np.testing.assert_array_equal(found[encoding.name].zero_point, encoding.zero_point)


def test_ranges_of_onnxruntime_are_those_of_the_configuration(tmp_path: Path) -> None:
    ranges = [Encoding(name, low=np.array(-1.5), high=np.array(3.0)) for name in ("image", "total", "unknown")]
    config = yaml.safe_load(write_encodings(again(tuple(ranges), Kind.ORT_RANGES, tmp_path).values(), Kind.CONFIG).text)
    config = qx.QuantConfig(**config, keep_slow=True)
    made = qx.quantize(parse(NETWORK), other_samples(), target="onnxruntime", config=config).to_onnx()
    found = {encoding.name: encoding for encoding in model_encodings(made.SerializeToString()).encodings}
    for name in ("image", "total"):
        assert (np.float32(found[name].scale), found[name].zero_point) == (np.float32(4.5 / 255), 85)


def aimet(**changes: Any) -> str:
    entry = {
        "name": "w",
        "enc_type": "PER_TENSOR",
        "dtype": "INT",
        "bw": 8,
        "is_sym": True,
        "scale": [0.1],
        "offset": [-128],
    }
    return json.dumps({"version": "1.0.0", "param_encodings": [entry | changes]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty; expected a quantized .onnx model"),
        ("hello", "starts with 'hello'; expected a quantized .onnx model"),
        ("{", "is no JSON"),
        ("[" * 100_000, r"starts with '\[\["),
        ('{"a":' + "[" * 100_000, "is nested too deeply"),
        ('{"a": 1}', "is JSON with 'a'; expected"),
        ('{"a": [], "a": []}', "the key 'a' is there twice"),
        ("TRT-8501\n", "starts with 'TRT-8501'; expected a header such as 'TRT-8501-EntropyCalibration2'"),
        ("TRT-8501-MinMax\nx: 3c0", "^((?!line).)*$"),
        ("TRT-8501-MinMax\nx: 3c010a14\ny 3c", "line 3 is 'y 3c'; expected `name: ` and 8 hexadecimal digits"),
        ("TRT-8501-MinMax\nx: bf800000", "'x': its scale is -1, expected positive numbers"),
        ("TRT-8501-MinMax\nx: 3f800000\nx: 3f800000", "'x' is there twice"),
        ("TRT-8501-MinMax\n", "says nothing of any tensor"),
        (aimet(bw=1), r"param_encodings\[0\]: bw is 1; expected a whole number from 2 to 32"),
        (aimet(bw="8"), "bw is '8'"),
        (aimet(enc_type="PER_ROW"), "enc_type is 'PER_ROW'; expected PER_TENSOR, PER_CHANNEL, PER_BLOCK or LPBQ"),
        (aimet(scale=[0.1, 0.2]), "offset is a list of 1; expected as many numbers as scale has"),
        (aimet(scale=[True]), "scale is a list of 1; expected numbers"),
        (aimet(scale=[float("nan")]), "its scale is nan"),
        (aimet(is_sym=False, offset=[3]), "its zero point is -3, its codes are 0 to 255"),
        (aimet(name="\ud800"), r"name is '\\ud800'; expected text"),
        (aimet(zero_point_shift=[0.5]), "whole zero points only"),
        ('{"version": "0.6.1", "param_encodings": {"w": 3}}', "'w' is no list of encodings"),
        (
            '{"version": "2.1.0", "encodings": [{"name": "w", "output_dtype": "int4", "y_scale": {"x": 1}}]}',
            "y_scale is an object",
        ),
        (
            '{"version": "2.0.0", "encodings": [{"name": "w", "output_dtype": "int8", "y_scale": [1, 2]}]}',
            "axis is absent",
        ),
        ('{"CLS": "TensorsData", "data": {"a": {"avg": 1}}}', "'a': lowest is absent; expected numbers"),
        ('{"CLS": "TensorsData", "data": {"a": {"lowest": 2, "highest": 1}}}', "upside down: 2 to 1"),
        (
            '{"a": [{"scale": 1, "zero_point": 0, "convert": {"quant_type": "QInt16"}}]}',
            "convert is an object; expected no change",
        ),
        ('{"a": [{"scale": 1}]}', "zero_point is absent"),
        ('{"a": [{"scal": 1}]}', "scal is 1; expected one of axis, "),
        ('{"a": [{"scale": 1, "zero_point": 0, "quant_type": "QInt9"}]}', "quant_type is 'QInt9'; expected QInt4"),
    ],
)
def test_bad_files_are_one_line(text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad"
    path.write_text(text)
    code = cli.run(["convert-encodings", str(path), "-o", str(tmp_path / "out"), "--to", "config"])
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    if says.startswith("^"):
        assert code == 0
        return
    assert code == 2
    assert len(errors) == 1
    assert str(path) in errors[0]
    with pytest.raises(ModelError, match=says):
        read_encodings(path)
    assert not (tmp_path / "out").exists()


def convert_to_all(path: Path) -> None:
    """Fails with anything but the errors that become one line."""
    with suppress(ModelError):
        encodings = read_encodings(path).contents.encodings
        for to in (*FILES, Kind.CONFIG):
            with suppress(OutputError):
                write_encodings(encodings, to)


def valid(kind: Kind) -> bytes:
    if kind is Kind.MODEL:
        return quantized("tensorrt")
    return write_encodings(in_model("tensorrt"), kind).text.encode()


@pytest.mark.parametrize("kind", [*FILES, Kind.MODEL])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_show_a_traceback(kind: Kind, data: st.DataObject, tmp_path: Path) -> None:
    raw = bytearray(valid(kind))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    convert_to_all(path)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Returns every (container, key) in a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *places(value[key]))]


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind is not Kind.TENSORRT])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_json_with_other_values_never_shows_a_traceback(kind: Kind, data: st.DataObject, tmp_path: Path) -> None:
    content = json.loads(valid(kind))
    container, key = data.draw(st.sampled_from(places(content)))
    container[key] = data.draw(ANYTHING)
    path = tmp_path / "changed"
    path.write_text(json.dumps(content))
    convert_to_all(path)


@pytest.mark.parametrize("to", [kind.value for kind in (*FILES, Kind.CONFIG)])
def test_the_command_writes_every_format(to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "out"
    model.write_bytes(quantized("tensorrt"))
    assert cli.run(["convert-encodings", str(model), "-o", str(out), "--to", to, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["from"], result["to"], result["error"]) == ("onnx", to, None)
    assert result["tensors"] == {"activations": 4, "constants": 2}
    assert out.read_text() == write_encodings(in_model("tensorrt"), Kind(to)).text
    assert cli.run(["convert-encodings", str(model), "-o", str(out), "--to", to]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.run(["convert-encodings", str(model), "-o", str(out), "--to", to, "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing", "-o", "out", "--to", "config"], "'missing' cannot be read: No such file or directory"),
        (["missing", "-o", "out", "--to", "onnx"], "--to is 'onnx'; expected one of tensorrt, "),
        (["missing", "-o", "missing", "--to", "config"], "is given twice"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["convert-encodings", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_float_model_has_no_encodings(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no Q/DQ pair with constant numbers; quantize it first"):
        read_encodings(float_model(tmp_path))


PAIR = "c = QuantizeLinear({q}) y = DequantizeLinear(c, s, z)"


@pytest.mark.parametrize(
    ("constants", "quantize", "says"),
    [
        ("float s = {-1}, int8 z = {0}", "a, s, z", "'a': its scale is -1"),
        ("float s = {0}, int8 z = {0}", "a, s, z", "'a': its scale is 0"),
        ("float[0] s = {}, int8 z = {0}", "a, s, z", "'a': its scale is float32 of the shape"),
        ("int8 s = {1}, int8 z = {0}", "a, s, z", "'a': its scale is int8 of the shape"),
        ("float s = {1}, int8[3] z = {0, 0, 0}", "a, s, z", "'a': its zero point is int8 of the shape"),
        ("float[2,2] s = {1, 1, 1, 1}, int8 z = {0}", "a, s, z", "'a': its scale has 2 axes"),
        ("float s = {1}, int32 z = {0}", "a", "has 1 inputs, expected 2 to 3"),
    ],
)
def test_numbers_of_a_model_that_make_no_sense(constants: str, quantize: str, says: str) -> None:
    text = f"g (float[2,2] a) => (float[2,2] y) <{constants}> {{{PAIR.format(q=quantize)}}}"
    with pytest.raises(ModelError, match=says):
        model_encodings(parse(text).SerializeToString())


def test_blocks_of_a_weight_are_read() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w_quantized", "s"], ["w"], axis=0, block_size=2),
            helper.make_node("MatMul", ["a", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
        [
            helper.make_tensor("w_quantized", onnx.TensorProto.INT4, [4, 3], [1] * 12),
            numpy_helper.from_array(np.arange(1, 7, dtype=np.float32).reshape(2, 3), "s"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (found,) = model_encodings(model.SerializeToString()).encodings
    assert (found.name, found.n_bits, found.axis, found.block_size, found.scale.shape) == ("w", 4, 0, 2, (2, 3))
