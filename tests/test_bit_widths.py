"""Every bit width on Conv, Gemm and MatMul: what the written model computes, and which kernels ONNX Runtime runs.

Numbers are compared with the formulas of the formats, written down once more here. All formats of a test stand side by
side in one model, so that a few sessions serve hundreds of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from branches import HIGH, LOW, OUT_HIGH, OUT_LOW, written
from models import Feeds, feeds_of, parse, run

from quantonnx.formats import Storage, TensorFormat
from quantonnx.model import Model

WIDTHS = range(2, 17)
GROUP = 3  # eight values make groups of 3, 3 and 2
GRANULARITIES = ("tensor", "channel", "group")


@dataclass(frozen=True)
class Operator:
    """One line of ONNX text with `{i}` for the branch, shapes, and where channels and groups of the weight lie."""

    line: str
    x: str
    y: str
    weight: str
    channels: int
    inputs: int
    kernel: str


OPERATORS = {
    "Conv": Operator(
        "y{i} = Conv<pads=[1,1,1,1]>(x, w{i})",
        "2,8,5,5",
        "2,6,5,5",
        "6,8,3,3",
        channels=0,
        inputs=1,
        kernel="QLinearConv",
    ),
    "Gemm": Operator("y{i} = Gemm(x, w{i}, b)", "4,8", "4,6", "8,6", channels=1, inputs=0, kernel="QGemm"),
    "MatMul": Operator("y{i} = MatMul(x, w{i})", "4,8", "4,6", "8,6", channels=1, inputs=0, kernel="QLinearMatMul"),
}


def weight_format(operator: Operator, n_bits: int, symmetric: bool, granularity: str) -> TensorFormat:
    axis = {"tensor": None, "channel": operator.channels, "group": operator.inputs}[granularity]
    size = GROUP if granularity == "group" else None
    return TensorFormat(n_bits, signed=symmetric, symmetric=symmetric, axis=axis, group_size=size)


def activation_format(n_bits: int, symmetric: bool) -> TensorFormat:
    return TensorFormat(n_bits, signed=symmetric, symmetric=symmetric)


# ------------------------------------------------------------------------------------ the formulas, once more


def rounded(x: np.ndarray, low: np.ndarray, high: np.ndarray, n_bits: int, symmetric: bool) -> np.ndarray:
    """What is left of `x`, rows of which share a scale, in −2^(n−1)…2^(n−1)−1 or 0…2^n−1."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    lowest, highest = (-(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1) if symmetric else (0, 2**n_bits - 1)
    if symmetric:
        scale = np.float32(np.maximum(-low, high) / ((highest - lowest) / 2))
        zero_point = 0.0
    else:
        scale = np.float32((high - low) / (highest - lowest))
        zero_point = np.clip(np.rint(-low / scale.astype(np.float64)), lowest, highest)
    codes = np.clip(np.rint(x / scale).astype(np.float64) + zero_point, lowest, highest)
    return (codes - zero_point) * scale


def rounded_activation(x: np.ndarray, fmt: TensorFormat, low: float = LOW, high: float = HIGH) -> np.ndarray:
    return rounded(x, np.float64(low), np.float64(high), fmt.n_bits, fmt.symmetric)


def rounded_weight(w: np.ndarray, fmt: TensorFormat) -> np.ndarray:
    def alike(part: np.ndarray) -> np.ndarray:
        return rounded(part, np.float64(part.min()), np.float64(part.max()), fmt.n_bits, fmt.symmetric)

    if fmt.axis is None:
        return alike(w)
    moved = np.moveaxis(w.astype(np.float64), fmt.axis, -1)
    result = np.empty_like(moved)
    step = fmt.group_size or 1
    for start in range(0, moved.shape[-1], step):
        part = np.moveaxis(w, fmt.axis, -1)[..., start : start + step]
        rows = np.ndindex(part.shape[:-1]) if fmt.group_size else [...]
        for row in rows:
            result[..., start : start + step][row] = alike(part[row])
    return np.moveaxis(result, -1, fmt.axis)


def computed(name: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    if name != "Conv":
        return x @ w + (0 if bias is None else bias)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))
    return np.einsum("ncyxhw,ochw->noyx", windows, w)


# ------------------------------------------------------------------------------------ models


def graph(name: str, branches: int) -> onnx.ModelProto:
    operator, every = OPERATORS[name], range(branches)
    outputs = ", ".join(f"float[{operator.y}] y{i}" for i in every)
    weights = ", ".join(f"float[{operator.weight}] w{i}" for i in every)
    lines = " ".join(operator.line.format(i=i) for i in every)
    return parse(f"agraph (float[{operator.x}] x) => ({outputs}) <{weights}, float[6] b> {{ {lines} }}")


def emulated(name: str, proto: onnx.ModelProto, feeds: Feeds, weights: list[TensorFormat], acts=None, outputs=False):  # type: ignore[no-untyped-def]
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in proto.graph.initializer}
    bias = constants["b"] if name == "Gemm" else None
    for i, fmt in enumerate(weights):
        x = rounded_activation(feeds["x"], acts[i]) if acts else feeds["x"].astype(np.float64)
        y = computed(name, x, rounded_weight(constants[f"w{i}"], fmt), bias)
        yield f"y{i}", rounded_activation(np.float32(y), acts[i], OUT_LOW, OUT_HIGH) if outputs else y


def optimized(model: Model, feeds: Feeds, folder: Path) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """The outputs with all optimizations, and how many operators of each type ONNX Runtime made of the model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = ort.InferenceSession(model.to_bytes(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = dict(zip(names, session.run(names, feeds), strict=True))
    return results, Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def assert_near(found: np.ndarray, expected: np.ndarray, relative: float, what: object) -> None:
    assert np.abs(found - expected).max() <= relative * np.abs(expected).max(), what


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("options", "granularities", "opset"),
    [({}, GRANULARITIES, 21), ({"float_weights": True}, GRANULARITIES, 21), ({"contrib": True}, GRANULARITIES[:2], 17)],
    ids=["codes", "float", "contrib"],
)
@pytest.mark.parametrize("name", OPERATORS)
def test_every_width_is_the_formula(
    name: str, options: dict[str, bool], granularities: tuple[str, ...], opset: int
) -> None:
    cases = [(bits, kind, parts) for bits in WIDTHS for kind in (True, False) for parts in granularities]
    weights = [weight_format(OPERATORS[name], *case) for case in cases]
    activations = [activation_format(bits, kind) for bits, kind, _ in cases]
    proto = graph(name, len(cases))
    feeds = feeds_of(proto)
    model = written(proto, weights, activations, **options)
    assert model.opset == opset
    found = run(model, feeds)
    for case, (output, expected) in zip(cases, emulated(name, proto, feeds, weights, activations), strict=True):
        assert_near(found[output], expected, 1e-5, case)


@pytest.mark.parametrize("name", OPERATORS)
def test_native_types_are_the_formula(name: str) -> None:
    """Weights of 4 bits in int4 and uint4, 2 bits in int2 and uint2; the latter need opset 25."""
    cases = [(bits, kind, parts) for bits in (2, 4) for kind in (True, False) for parts in GRANULARITIES]
    weights = [replace(weight_format(OPERATORS[name], *case), storage=Storage.NATIVE) for case in cases]
    proto = graph(name, len(cases))
    feeds = feeds_of(proto)
    model = written(proto, weights)
    assert model.opset == 25
    found = run(model, feeds)
    for case, (output, expected) in zip(cases, emulated(name, proto, feeds, weights), strict=True):
        assert_near(found[output], expected, 1e-5, case)


# ------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", OPERATORS)
def test_weights_under_8_bits_keep_integer_kernels(name: str, symmetric: bool, tmp_path: Path) -> None:
    cases = [(bits, parts) for bits in range(2, 9) for parts in ("tensor", "channel")]
    weights = [weight_format(OPERATORS[name], bits, symmetric, parts) for bits, parts in cases]
    assert_integer(name, weights, [activation_format(8, symmetric=False)] * len(cases), tmp_path)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", OPERATORS)
def test_activations_under_8_bits_keep_integer_kernels(name: str, symmetric: bool, tmp_path: Path) -> None:
    activations = [activation_format(bits, symmetric) for bits in range(2, 9)]
    assert_integer(name, [weight_format(OPERATORS[name], 8, True, "channel")] * len(activations), activations, tmp_path)


def test_a_relu_before_an_activation_under_8_bits_stays_part_of_the_kernel(tmp_path: Path) -> None:
    """The first of the pairs after it starts at zero, which is all that a Relu does."""
    proto = parse(
        "agraph (float[2,8,5,5] x) => (float[2,6,5,5] y0) <float[6,8,3,3] w0> "
        "{ c = Conv<pads=[1,1,1,1]>(x, w0) y0 = Relu(c) }"
    )
    weight, activation = TensorFormat(axis=0), TensorFormat(4, signed=False, symmetric=False)
    model = written(proto, [weight], [activation], outputs=True, low=0.0)
    found, kernels = optimized(model, feeds_of(proto), tmp_path)
    assert (kernels["QLinearConv"], kernels["Relu"], kernels["FusedConv"]) == (1, 0, 0)
    np.testing.assert_allclose(found["y0"], run(model, feeds_of(proto))["y0"], atol=1e-6)


def assert_integer(name: str, weights: list[TensorFormat], activations: list[TensorFormat], folder: Path) -> None:
    proto = graph(name, len(weights))
    feeds = feeds_of(proto)
    found, kernels = optimized(written(proto, weights, activations, outputs=True), feeds, folder)
    assert kernels[OPERATORS[name].kernel] == len(weights), kernels
    assert kernels[name] == 0
    results = emulated(name, proto, feeds, weights, activations, outputs=True)
    for fmt, (output, expected) in zip(activations, results, strict=True):
        step = fmt.parameters(OUT_LOW, OUT_HIGH).scale
        away = np.abs(found[output] - expected) / step
        assert away.max() <= 1.001, fmt  # a tie may fall either way
        assert np.mean(away > 0.5) < (0.2 if name == "Gemm" else 0.01), fmt  # its float bias becomes int32


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["MatMul", "Gemm"])
def test_int4_weights_in_groups_are_one_kernel(name: str, symmetric: bool, tmp_path: Path) -> None:
    text = {
        "MatMul": "agraph (float[4,40] x) => (float[4,24] y0) <float[40,24] w0> { y0 = MatMul(x, w0) }",
        "Gemm": "agraph (float[4,40] x) => (float[4,24] y0) <float[40,24] w0, float[24] b> { y0 = Gemm(x, w0, b) }",
    }[name]
    proto = parse(text)
    fmt = TensorFormat(4, signed=symmetric, symmetric=symmetric, axis=0, group_size=16, storage=Storage.NATIVE)
    model, feeds = written(proto, [fmt]), feeds_of(proto)
    found, kernels = optimized(model, feeds, tmp_path)
    assert kernels == {"MatMulNBits": 1}
    ((_, expected),) = emulated(name, proto, feeds, [fmt])
    assert_near(found["y0"], expected, 0.02, "MatMulNBits rounds activations to 8 bits in its inner loop")
    assert_near(run(model, feeds)["y0"], expected, 1e-5, "without optimizations")
