from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from quantonnx.errors import CalibrationError, ConfigError
from quantonnx.formats import TensorFormat, dequantize, quantize

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
            onnx.numpy_helper.from_array(parameters.zero_point, "zero"),
        ],
    )
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
    ],
)
def test_codes_and_storage(fmt, qmin, qmax, storage):
    assert (fmt.qmin, fmt.qmax, fmt.dtype) == (qmin, qmax, np.dtype(storage))
    assert helper.tensor_dtype_to_np_dtype(fmt.onnx_dtype) == fmt.dtype


@pytest.mark.parametrize("n_bits", [1, 17, 8.0, True])
def test_bits_out_of_range_are_refused(n_bits):
    with pytest.raises(ConfigError, match="n_bits is"):
        TensorFormat(n_bits=n_bits)


def test_narrow_unsigned_is_refused():
    with pytest.raises(ConfigError, match="narrow_range"):
        TensorFormat(signed=False, narrow_range=True)


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
    with pytest.raises(CalibrationError, match="the range"):
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
