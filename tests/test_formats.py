from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from quantonnx.errors import CalibrationError, ConfigError
from quantonnx.formats import Rounding, ScaleType, Storage, TensorFormat, dequantize, quantize

FORMATS = [
    TensorFormat(),
    TensorFormat(narrow_range=True),
    TensorFormat(signed=False, symmetric=False),
    TensorFormat(signed=False),
    TensorFormat(symmetric=False),
    TensorFormat(n_bits=16),
    TensorFormat(n_bits=16, signed=False, symmetric=False),
]
NUMBERS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def runtime_codes(x, parameters, fmt):
    """Codes and values of ONNX Runtime's own operators, with no optimization."""
    axis = {} if fmt.axis is None else {"axis": fmt.axis}
    if fmt.group_size:
        axis["block_size"] = fmt.group_size
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], **axis),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"], **axis),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [
            helper.make_tensor_value_info("codes", fmt.onnx_dtype, x.shape),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape),
        ],
        [
            onnx.numpy_helper.from_array(parameters.scale, "scale"),
            onnx.numpy_helper.from_array(np.asarray(parameters.zero_point), "zero"),
        ],
    )
    if fmt.storage is Storage.NATIVE:
        del graph.output[0]  # no numpy array of ONNX Runtime has these codes
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize(
    ("fmt", "qmin", "qmax", "storage"),
    [
        (TensorFormat(), -128, 127, "int8"),
        (TensorFormat(narrow_range=True), -127, 127, "int8"),
        (TensorFormat(n_bits=2), -2, 1, "int8"),
        (TensorFormat(n_bits=5, signed=False), 0, 31, "uint8"),
        (TensorFormat(n_bits=9), -256, 255, "int16"),
        (TensorFormat(n_bits=16, signed=False), 0, 65535, "uint16"),
        (TensorFormat(n_bits=4, storage=Storage.NATIVE), -8, 7, ml_dtypes.int4),
        (TensorFormat(n_bits=4, signed=False, storage=Storage.NATIVE), 0, 15, ml_dtypes.uint4),
        (TensorFormat(n_bits=2, narrow_range=True, storage=Storage.NATIVE), -1, 1, ml_dtypes.int2),
        (TensorFormat(n_bits=2, signed=False, storage=Storage.NATIVE), 0, 3, ml_dtypes.uint2),
        (TensorFormat(n_bits=16, storage=Storage.NATIVE), -32768, 32767, "int16"),
        (TensorFormat(float8=True), -448, 448, ml_dtypes.float8_e4m3fn),
    ],
)
def test_codes_and_storage(fmt, qmin, qmax, storage):
    assert (fmt.qmin, fmt.qmax, fmt.dtype) == (qmin, qmax, np.dtype(storage))
    assert helper.tensor_dtype_to_np_dtype(fmt.onnx_dtype) == fmt.dtype


@pytest.mark.parametrize("n_bits", [1, 17, 8.0, True])
def test_bits_out_of_range_are_refused(n_bits):
    with pytest.raises(ConfigError, match="n_bits is"):
        TensorFormat(n_bits=n_bits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"signed": False, "narrow_range": True}, "narrow_range is set for unsigned codes; it needs signed=True"),
        ({"group_size": 32}, "group_size is 32, and no axis is set; set the axis of the groups"),
        ({"group_size": 0, "axis": 0}, "group_size is 0, expected an integer from 1 on"),
        ({"group_size": True, "axis": 0}, "group_size is True, expected an integer"),
        ({"float8": True, "n_bits": 4}, "float8 is set for other than 8 signed symmetric bits"),
        ({"float8": True, "symmetric": False}, "float8 is set for other than 8 signed symmetric bits"),
        ({"float8": True, "narrow_range": True}, "narrow_range is set for float8"),
        ({"float8": True, "group_size": 32, "axis": 0}, "group_size is set for float8"),
        ({"float8": True, "rounding": Rounding.FLOOR}, "rounding 'floor' is set for float8"),
        ({"n_bits": 3, "storage": Storage.NATIVE}, "no native type has 3 bits; use 2, 4, 8 or 16, or storage narrowed"),
        ({"n_bits": 12, "storage": Storage.NATIVE}, "no native type has 12 bits"),
        ({"seed": -1}, "seed is -1, expected an integer from 0 on"),
    ],
)
def test_combinations_without_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TensorFormat(**settings)


@pytest.mark.parametrize(
    ("fmt", "low", "high", "scale", "zero_point"),
    [
        (TensorFormat(), -1.0, 2.0, 2 / 127.5, 0),
        (TensorFormat(narrow_range=True), -1.0, 2.0, 2 / 127, 0),
        (TensorFormat(signed=False), 0.0, 2.0, 2 / 255, 0),
        (TensorFormat(signed=False), -1.0, 2.0, 2 / 127.5, 128),
        (TensorFormat(signed=False, symmetric=False), -1.0, 2.0, 3 / 255, 85),
        (TensorFormat(signed=False, symmetric=False), 1.0, 2.0, 2 / 255, 0),
        (TensorFormat(signed=False, symmetric=False), -2.0, -1.0, 2 / 255, 255),
        (TensorFormat(symmetric=False), 0.0, 2.0, 2 / 255, -128),
        (TensorFormat(), 0.0, 0.0, 1e-8 / 127.5, 0),
    ],
)
def test_parameters(fmt, low, high, scale, zero_point):
    parameters = fmt.parameters(low, high)
    assert parameters.scale == np.float32(scale)
    assert parameters.zero_point == zero_point
    assert parameters.scale.dtype == np.float32
    assert parameters.zero_point.dtype == fmt.dtype


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1), (-np.inf, 1), (0, np.inf), (2, 1)])
def test_a_range_without_scale_is_refused(low, high):
    with pytest.raises(CalibrationError, match="the range .*(no scale|upside down)"):
        TensorFormat().parameters(low, high)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@settings(max_examples=40, deadline=None)
@given(x=hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=9), elements=NUMBERS), low=NUMBERS, high=NUMBERS)
def test_equal_to_onnx_runtime_bit_for_bit(fmt, x, low, high):
    parameters = fmt.parameters(min(low, high), max(low, high))
    codes, values = runtime_codes(x, parameters, fmt)
    if fmt.narrow_range:
        codes = np.maximum(codes, fmt.qmin)
    ours = quantize(x, parameters, fmt)
    assert ours.dtype == codes.dtype
    np.testing.assert_array_equal(ours, codes)
    if not fmt.narrow_range:
        np.testing.assert_array_equal(dequantize(ours, parameters, fmt), values)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_channel_is_equal_to_onnx_runtime(axis):
    fmt = TensorFormat(axis=axis, symmetric=False, signed=False)
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    parameters = fmt.parameters(*fmt.extremes(x))
    assert parameters.scale.shape == (x.shape[axis],)
    codes, values = runtime_codes(x, parameters, fmt)
    np.testing.assert_array_equal(quantize(x, parameters, fmt), codes)
    np.testing.assert_array_equal(dequantize(codes, parameters, fmt), values)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@given(x=hnp.arrays(np.float32, 20, elements=st.floats(-1000, 1000, width=32)))
def test_inside_the_range_the_error_is_half_a_step(fmt, x):
    parameters = fmt.parameters(*fmt.extremes(x))
    error = np.abs(dequantize(quantize(x, parameters, fmt), parameters, fmt) - x)
    assert error.max() <= 0.5001 * parameters.scale + 1e-4 * np.abs(x).max()


@given(n_bits=st.integers(2, 16), signed=st.booleans(), symmetric=st.booleans(), low=NUMBERS, high=NUMBERS)
def test_zero_is_exact(n_bits, signed, symmetric, low, high):
    fmt = TensorFormat(n_bits, signed, symmetric)
    parameters = fmt.parameters(min(low, high), max(low, high))
    zero = quantize(np.zeros(1, np.float32), parameters, fmt)
    assert dequantize(zero, parameters, fmt) == 0
    assert fmt.qmin <= int(parameters.zero_point) <= fmt.qmax


def test_extremes_contain_zero_and_follow_the_axis():
    x = np.array([[1, 2], [-3, 4]], np.float32)
    assert [e.tolist() for e in TensorFormat(axis=0).extremes(x)] == [[0, -3], [2, 4]]
    assert [e.tolist() for e in TensorFormat().extremes(x)] == [-3, 4]
    assert [e.tolist() for e in TensorFormat(axis=1).extremes(np.zeros((0, 2), np.float32))] == [[0, 0], [0, 0]]


# ------------------------------------------------------------------------------------ the formulas, said once more


def stated(values, low, high, fmt):
    """Scale, zero point and codes of a list of numbers, in Python's own arithmetic."""
    lowest, highest = (-(2 ** (fmt.n_bits - 1)), 2 ** (fmt.n_bits - 1) - 1) if fmt.signed else (0, 2**fmt.n_bits - 1)
    lowest += fmt.narrow_range
    if fmt.symmetric:
        largest = max(abs(low), abs(high), 1e-8)
        whole = not fmt.signed and low >= 0
        scale = largest / highest if whole else largest / ((highest - lowest) / 2)
        zero_point = 0 if fmt.signed or whole else 2 ** (fmt.n_bits - 1)
    else:
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-8) / (highest - lowest)
        zero_point = min(max(round(lowest - low / scale), lowest), highest)
    return scale, zero_point, [min(max(round(x / scale) + zero_point, lowest), highest) for x in values]


@settings(max_examples=200, deadline=None)
@given(
    n_bits=st.integers(2, 16),
    signed=st.booleans(),
    symmetric=st.booleans(),
    narrow=st.booleans(),
    granularity=st.sampled_from(["tensor", "channel", "group"]),
    x=hnp.arrays(np.float32, (3, 7), elements=st.floats(-1000, 1000, width=32, allow_subnormal=False)),
)
def test_scale_zero_point_and_codes_are_the_formulas_to_one_code(n_bits, signed, symmetric, narrow, granularity, x):
    axis, size = {"tensor": (None, None), "channel": (0, None), "group": (1, 3)}[granularity]
    fmt = TensorFormat(n_bits, signed, symmetric, narrow and signed, axis=axis, group_size=size)
    parts = {
        "tensor": [np.s_[:, :]],
        "channel": [np.s_[row] for row in range(3)],
        "group": [np.s_[row, start : start + 3] for row in range(3) for start in (0, 3, 6)],
    }[granularity]
    parameters = fmt.parameters(*fmt.extremes(x))
    assert parameters.scale.size == len(parts)
    codes = quantize(x, parameters, fmt)
    assert fmt.qmin <= codes.min()
    assert codes.max() <= fmt.qmax
    for index, part in enumerate(parts):
        values = [float(value) for value in x[part].reshape(-1)]
        low, high = min(*values, 0.0), max(*values, 0.0)
        scale, zero_point, expected = stated(values, low, high, fmt)
        assert parameters.scale.flat[index] == pytest.approx(scale, rel=1e-6)
        assert abs(int(parameters.zero_point.flat[index]) - zero_point) <= 1
        assert np.abs(codes[part].reshape(-1).astype(int) - expected).max() <= 1


# ------------------------------------------------------------------------------------ groups


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("fmt", [TensorFormat(), TensorFormat(4, False, False, storage=Storage.NATIVE)], ids=str)
def test_groups_are_onnx_blocks(fmt, axis, size):
    fmt = TensorFormat(fmt.n_bits, fmt.signed, fmt.symmetric, axis=axis, group_size=size, storage=fmt.storage)
    x = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    parameters = fmt.parameters(*fmt.extremes(x))
    shape = list(x.shape)
    shape[axis] = math.ceil(shape[axis] / size)
    assert list(parameters.scale.shape) == list(parameters.zero_point.shape) == shape
    ours = quantize(x, parameters, fmt)
    assert ours.dtype == fmt.dtype
    np.testing.assert_array_equal(dequantize(ours, parameters, fmt), runtime_codes(x, parameters, fmt)[-1])


# ------------------------------------------------------------------------------------ kinds of scales


@given(n_bits=st.integers(2, 16), symmetric=st.booleans(), low=NUMBERS, high=NUMBERS)
def test_powers_of_two_are_the_nearest_exponents(n_bits, symmetric, low, high):
    low, high = min(low, high), max(low, high)
    free = TensorFormat(n_bits, symmetric, symmetric).parameters(low, high)
    fmt = TensorFormat(n_bits, symmetric, symmetric, scale_type=ScaleType.POWER_OF_TWO)
    parameters = fmt.parameters(low, high)
    assert math.frexp(float(parameters.scale))[0] == 0.5
    assert abs(math.log2(float(parameters.scale) / float(free.scale))) <= 0.5 + 1e-6
    if not symmetric:
        exact = -min(low, 0) / float(parameters.scale)
        assert abs(int(parameters.zero_point) - min(exact, fmt.qmax)) <= 0.5


@given(n_bits=st.integers(2, 16), symmetric=st.booleans(), high=st.floats(0, 1e30))
def test_float16_scales_are_numbers_of_float16(n_bits, symmetric, high):
    fmt = TensorFormat(n_bits, symmetric, symmetric, scale_type=ScaleType.FLOAT16)
    scale = fmt.parameters(-high / 3, high).scale
    assert scale.dtype == np.float32
    assert 0 < scale < np.inf
    assert scale == np.float32(np.float16(scale))


@pytest.mark.parametrize("kind", ScaleType)
@pytest.mark.parametrize("high", [0.0, 1e-20, 65000.0, 1e30])
def test_scales_in_float16_tensors_keep_every_code_finite(kind, high):
    fmt = TensorFormat(scale_type=kind)
    parameters = fmt.parameters(-high, high, "float16")
    assert parameters.scale.dtype == np.float16
    assert parameters.scale > 0
    assert np.isfinite(dequantize(np.array([-128, 127], np.int8), parameters, fmt)).all()


# ------------------------------------------------------------------------------------ rounding


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        (Rounding.HALF_EVEN, [-3, -2, -2, -2, 0, 0, 0, 2, 2, 2]),
        (Rounding.HALF_AWAY, [-3, -3, -2, -2, -1, 0, 1, 2, 2, 3]),
        (Rounding.FLOOR, [-3, -3, -3, -2, -1, 0, 0, 1, 2, 2]),
    ],
)
def test_rounding(rounding, expected):
    fmt = TensorFormat(rounding=rounding)
    parameters = fmt.parameters(-127.5, 127.5)
    assert parameters.scale == 1
    x = np.array([-2.75, -2.5, -2.25, -1.5, -0.5, 0, 0.5, 1.5, 2, 2.5], np.float32)
    assert quantize(x, parameters, fmt).tolist() == expected


def test_half_away_has_no_second_rounding():
    fmt = TensorFormat(rounding=Rounding.HALF_AWAY)
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert quantize(np.array([below, -below]), fmt.parameters(-127.5, 127.5), fmt).tolist() == [0, 0]


def test_stochastic_rounding_follows_from_seed_and_name_alone():
    fmt = TensorFormat(rounding=Rounding.STOCHASTIC, seed=3)
    parameters = fmt.parameters(-127.5, 127.5)
    x = np.full(12, 0.5, np.float32)
    codes = quantize(x, parameters, fmt, "layer1.weight")
    assert codes.tolist() == [1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0]
    assert codes.tolist() != quantize(x, parameters, fmt, "layer2.weight").tolist()
    assert (
        codes.tolist() != quantize(x, parameters, TensorFormat(rounding=Rounding.STOCHASTIC), "layer1.weight").tolist()
    )


def test_stochastic_rounding_is_right_on_average_and_leaves_whole_numbers():
    fmt = TensorFormat(rounding=Rounding.STOCHASTIC)
    parameters = fmt.parameters(-127.5, 127.5)
    for value in (-3.7, -0.25, 0.1, 2.5):
        codes = quantize(np.full(40_000, value, np.float32), parameters, fmt)
        assert set(codes.tolist()) == {math.floor(value), math.ceil(value)}
        assert codes.mean() == pytest.approx(value, abs=0.01)
    whole = np.arange(-128, 128, dtype=np.float32)
    np.testing.assert_array_equal(quantize(whole, parameters, fmt), whole)


# ------------------------------------------------------------------------------------ float8


@pytest.mark.parametrize("axis", [None, 0])
def test_float8_is_onnx_runtimes(axis):
    fmt = TensorFormat(float8=True, axis=axis)
    x = np.random.default_rng(0).normal(size=(4, 500)).astype(np.float32)
    parameters = fmt.parameters(*fmt.extremes(x))
    np.testing.assert_allclose(parameters.scale, np.abs(x).max(None if axis is None else 1) / 448, rtol=1e-6)
    x[:, 0] *= 3  # saturates
    _, values = runtime_codes(x, parameters, fmt)
    ours = dequantize(quantize(x, parameters, fmt), parameters, fmt)
    np.testing.assert_array_equal(ours, values)
    assert np.abs(ours[:, 1:] / x[:, 1:] - 1)[np.abs(x[:, 1:]) > 0.02].max() <= 1 / 16 * 1.001
