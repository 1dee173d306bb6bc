from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import assert_same_results, feeds_of, parse, read, run
from onnx import numpy_helper

import quantonnx as qx
from quantonnx.algorithms.equalization import Equalization, equalize
from quantonnx.model import Model

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from fetch_models import DEFAULT_CACHE, fetch
from package_download import Unavailable

RNG = np.random.default_rng(5)
IMAGE, IN, OUT = "float[N,3,8,8]", "float[6,3,3,3] w, float[6] b", "float[5,6,1,1] v, float[5] c"


def graph(body: str, weights: str, *, x: str = IMAGE, y: str = "float[N,5,6,6] y") -> str:
    return f"g ({x} x) => ({y}) <{weights}> {{ {body} }}"


def values(model: Model, name: str) -> np.ndarray:
    return model.array(model.find(name))


def equalized(text: str, **options: object) -> tuple[Model, Equalization]:
    before = read(text)
    found = equalize(before, **options)  # type: ignore[arg-type]
    assert_same_results(before, found.model)
    return before, found


def by_hand(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Equation 11 of the paper for [outputs, inputs, positions] and ungrouped convolutions, one number at a time."""
    scale = []
    for channel in range(len(first)):
        r1 = max(abs(number) for number in first[channel].ravel())
        r2 = max(abs(number) for number in second[:, channel].ravel())
        scale.append((r1 * r2) ** 0.5 / r2)
    return np.array(scale)


PLAIN = graph("m = Conv(x, w, b) r = Relu(m) y = Conv(r, v, c)", f"{IN}, {OUT}")


def test_the_formula_of_the_paper() -> None:
    before, found = equalized(PLAIN)
    expected = by_hand(values(before, "w"), values(before, "v"))
    (pair,) = found.equalized
    assert (pair.activation, found.refused[0].activation) == ("m", "y")
    np.testing.assert_allclose(pair.scale, expected, rtol=1e-5)
    np.testing.assert_allclose(values(found.model, "w"), values(before, "w") / expected[:, None, None, None], rtol=1e-5)
    np.testing.assert_allclose(values(found.model, "b"), values(before, "b") / expected, rtol=1e-5)
    np.testing.assert_allclose(values(found.model, "v"), values(before, "v") * expected[:, None, None], rtol=1e-5)


PAIRS = {
    "ReLU": PLAIN,
    "nothing": graph("m = Conv(x, w, b) y = Conv(m, v, c)", f"{IN}, {OUT}"),
    "no bias": graph("m = Conv(x, w) r = Relu(m) y = Conv(r, v)", f"{IN}, {OUT}"),
    "LeakyRelu": graph("m = Conv(x, w, b) r = LeakyRelu<alpha=0.3>(m) y = Conv(r, v, c)", f"{IN}, {OUT}"),
    "PRelu": graph("m = Conv(x, w, b) r = PRelu(m, s) y = Conv(r, v, c)", f"{IN}, {OUT}, float[6,1,1] s"),
    "Clip without an end": graph(
        "m = Conv(x, w, b) r = Clip(m, zero) y = Conv(r, v, c)", f"{IN}, {OUT}, float zero = {{0.0}}"
    ),
    "an addend": graph("m = Conv(x, w) a = Add(b2, m) y = Conv(a, v)", f"{IN}, {OUT}, float[1,6,1,1] b2"),
    "MaxPool": graph("m = Conv(x, w, b) p = MaxPool<kernel_shape=[1,1]>(m) y = Conv(p, v, c)", f"{IN}, {OUT}"),
    "groups": graph(
        "m = Conv(x, w, b) r = Relu(m) y = Conv<group=2>(r, g)", f"{IN}, float[4,3,1,1] g", y="float[N,4,6,6] y"
    ),
    "groups first": graph("m = Conv<group=3>(x, g) r = Relu(m) y = Conv(r, v, c)", f"float[6,1,3,3] g, {OUT}"),
    "ConvTranspose": graph(
        "m = Conv(x, w, b) r = Relu(m) y = ConvTranspose(r, t)", f"{IN}, float[6,5,3,3] t", y="float[N,5,8,8] y"
    ),
    "ConvTranspose in groups": graph(
        "m = ConvTranspose<group=3>(x, t, b) r = Relu(m) y = Conv(r, v, c)",
        f"float[3,2,1,1] t, float[6] b, {OUT}",
        y="float[N,5,8,8] y",
    ),
    "grouped ConvTranspose reads": graph(
        "m = Conv(x, w, b) r = Relu(m) y = ConvTranspose<group=2>(r, t)",
        f"{IN}, float[6,2,1,1] t",
        y="float[N,4,6,6] y",
    ),
    "pooled": graph(
        "m = Conv(x, w, b) p = GlobalAveragePool(m) f = Flatten(p) y = Gemm<transB=1>(f, l, c)",
        f"{IN}, float[5,6] l, float[5] c",
        y="float[N,5] y",
    ),
    "Gemm": graph(
        "m = Gemm<transB=1, alpha=2.0, beta=0.5>(x, w, b) r = Relu(m) y = Gemm(r, v)",
        "float[6,8] w, float[1,6] b, float[6,5] v",
        x="float[N,8]",
        y="float[N,5] y",
    ),
    "MatMul": graph(
        "m = MatMul(x, w) a = Add(m, b) r = Relu(a) y = MatMul(r, v)",
        "float[8,6] w, float[6] b, float[6,5] v",
        x="float[N,3,8]",
        y="float[N,3,5] y",
    ),
    "one axis": graph(
        "m = Conv(x, w, b) r = Relu(m) y = Conv(r, v)",
        "float[6,3,3] w, float[6] b, float[5,6,1] v",
        x="float[N,3,8]",
        y="float[N,5,6] y",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_layers_become_equally_large_and_compute_the_same(name: str) -> None:
    _, found = equalized(PAIRS[name])
    (pair,) = found.equalized
    assert pair.scale.min() < 1 < pair.scale.max() or len(set(pair.scale)) == 6
    again = equalize(found.model)
    np.testing.assert_allclose(again.equalized[0].scale, 1, rtol=1e-3)


def test_a_depthwise_convolution_between_two_makes_three_equal() -> None:
    weights = "float[6,3,1,1] w, float[6] b, float[6,1,3,3] d, float[6] e, float[5,6,1,1] v"
    body = "m = Conv(x, w, b) r = Relu(m) n = Conv<group=6>(r, d, e) s = Relu(n) y = Conv(s, v)"
    before, found = equalized(graph(body, weights))
    given = np.abs(values(before, "w")).max(axis=(1, 2, 3))
    inner = np.abs(values(before, "d")).max(axis=(1, 2, 3))
    read_by = np.abs(values(before, "v")).max(axis=(0, 2, 3))
    equal = np.cbrt(given * inner * read_by)
    np.testing.assert_allclose(np.abs(values(found.model, "w")).max(axis=(1, 2, 3)), equal, rtol=1e-3)
    np.testing.assert_allclose(np.abs(values(found.model, "d")).max(axis=(1, 2, 3)), equal, rtol=1e-3)
    np.testing.assert_allclose(np.abs(values(found.model, "v")).max(axis=(0, 2, 3)), equal, rtol=1e-3)
    assert found.rounds < 40


REFUSED = {
    "Clip '.*' ends at 0 and 6, where a scaled channel": graph(
        "m = Conv(x, w, b) r = Clip(m, zero, six) y = Conv(r, v, c)",
        f"{IN}, {OUT}, float zero = {{0.0}}, float six = {{6.0}}",
    ),
    "Sigmoid '.*' reads it": graph("m = Conv(x, w, b) r = Sigmoid(m) y = Conv(r, v, c)", f"{IN}, {OUT}"),
    "'m' is read 2 times": graph(
        "m = Conv(x, w, b) r = Relu(m) q = Conv(r, v, c) y = Conv(m, v2)",
        f"{IN}, {OUT}, float[5,6,1,1] v2",
        y="float[N,5,6,6] q, float[N,5,6,6] y",
    ),
    "'m' is an output": graph(
        "m = Conv(x, w, b) y = Conv(m, v, c)", f"{IN}, {OUT}", y="float[N,6,6,6] m, float[N,5,6,6] y"
    ),
    "adds 'x', which is computed": graph(
        "m = Conv(x, w) a = Add(m, x) y = Conv(a, v)", "float[3,3,1,1] w, float[5,3,1,1] v", y="float[N,5,8,8] y"
    ),
    r"is \[1\], not one number": graph("m = Conv(x, w) a = Add(m, b1) y = Conv(a, v)", f"{IN}, {OUT}, float[1] b1"),
    "read by others": graph("m = Conv(x, w) n = Conv(m, w) y = Conv(n, w)", "float[3,3,1,1] w", y="float[N,3,8,8] y"),
    "along another axis": graph(
        "m = Conv(x, w) y = MatMul(m, v)", "float[6,3,1,1] w, float[8,5] v", y="float[N,6,8,5] y"
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_exact_is_left_alone_with_a_reason(reason: str) -> None:
    before, found = equalized(REFUSED[reason])
    assert not found.equalized
    assert found.model.to_bytes() == before.to_bytes()
    assert any(re.search(reason, refused.reason) for refused in found.refused)


def test_layers_that_a_user_skips_are_left_alone() -> None:
    _, found = equalized(PLAIN, skip=lambda names: "y" if "y" in names else None)
    assert not found.equalized
    assert "is skipped by 'y'" in found.refused[0].reason


def test_dead_channels_keep_their_biases() -> None:
    proto = parse(PLAIN)
    weight = numpy_helper.to_array(next(item for item in proto.graph.initializer if item.name == "w")).copy()
    weight[1], weight[2] = 0, 1e-12
    change(proto, "w", weight)
    found = equalize(Model.read(proto))
    assert list(found.equalized[0].scale[1:3]) == [1, 1]
    assert_same_results(proto, found.model)


def test_weights_that_are_not_finite_are_left_alone() -> None:
    proto = parse(PLAIN)
    change(proto, "v", np.full((5, 6, 1, 1), np.nan, np.float32))
    found = equalize(Model.read(proto))
    assert [refused.reason for refused in found.refused][-1] == "'v' holds NaN or infinity"


def test_a_bias_that_others_read_keeps_its_values_for_them() -> None:
    text = graph(
        "m = Conv(x, w, b) r = Relu(m) s = Conv(r, v, b) y = Add(s, k)",
        "float[3,3,1,1] w, float[3] b, float[3,3,1,1] v, float[1] k",
        y="float[N,3,8,8] y",
    )
    before, found = equalized(text)
    np.testing.assert_array_equal(values(found.model, "b"), values(before, "b"))
    assert len(found.equalized) == 1


# ---------------------------------------------------------------------------------------------- planted imbalance

MOBILE = f"""g ({IMAGE} x) => (float[N,10] y) <
    float[16,3,3,3] w0, float[16] b0, float[16,1,3,3] d1, float[16] e1, float[8,16,1,1] p1, float[8] c1,
    float[32,8,1,1] w2, float[32] b2, float[32,1,3,3] d2, float[32] e2, float[12,32,1,1] p2, float[12] c2,
    float[10,12] l, float[10] k> {{
    a = Conv<pads=[1,1,1,1]>(x, w0, b0) a1 = Relu(a) b = Conv<group=16, pads=[1,1,1,1]>(a1, d1, e1) b1r = Relu(b)
    c = Conv(b1r, p1, c1) d = Conv(c, w2, b2) d1r = Relu(d) e = Conv<group=32, pads=[1,1,1,1]>(d1r, d2, e2)
    e1r = Relu(e) f = Conv(e1r, p2, c2) h = GlobalAveragePool(f) i = Flatten(h) y = Gemm<transB=1>(i, l, k) }}"""

CHAIN = (
    ("w0", "b0", "d1"),
    ("d1", "e1", "p1"),
    ("p1", "c1", "w2"),
    ("w2", "b2", "d2"),
    ("d2", "e2", "p2"),
    ("p2", "c2", "l"),
)


def change(proto: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    item = next(item for item in proto.graph.initializer if item.name == name)
    item.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))


def plant(proto: onnx.ModelProto, chain: tuple[tuple[str, str, str], ...], decades: float) -> None:
    """Divides what a layer gives by random factors over so many decades, and multiplies what reads it by them."""
    arrays = {item.name: numpy_helper.to_array(item).copy() for item in proto.graph.initializer}
    for first, bias, second in chain:
        factor = 10 ** RNG.uniform(-decades / 2, decades / 2, len(arrays[bias])).astype(np.float32)
        arrays[first] = (arrays[first].T * factor).T
        arrays[bias] = arrays[bias] * factor
        depthwise = arrays[second].shape[1] == 1
        axis = 0 if depthwise else 1
        arrays[second] = np.moveaxis(np.moveaxis(arrays[second], axis, -1) / factor, -1, axis)
    for name, array in arrays.items():
        if array.dtype == np.float32:
            change(proto, name, array)


def per_tensor_sqnr(model: Model, reference: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> float:
    config = qx.QuantConfig(weight={"per_channel": False}, keep_slow=True)
    quantized = qx.quantize(model, feeds, target="onnxruntime", config=config)
    return qx.compare(reference, quantized.to_onnx(), feeds).sqnr_db


def test_planted_imbalance_is_taken_out() -> None:
    proto = parse(MOBILE)
    plant(proto, CHAIN, decades=3)
    found = equalize(Model.read(proto))
    assert len(found.equalized) == 6
    feeds = [feeds_of(proto, seed=seed) for seed in range(4)]
    exact, same = run(proto, feeds[0])["y"], run(found.model, feeds[0])["y"]
    assert np.abs(exact - same).max() <= 1e-4 * np.abs(exact).max()
    before, after = (per_tensor_sqnr(model, proto, feeds) for model in (Model.read(proto), found.model))
    assert after >= before + 10
    assert after > 25


@pytest.mark.real
def test_planted_imbalance_is_taken_out_of_mobilenet() -> None:
    """Its clips at 6 are ReLUs here, through which factors can be planted; its layers are as trained."""
    cache = Path(os.environ.get("QUANTONNX_CACHE", DEFAULT_CACHE))
    try:
        path = fetch("mobilenet_v2", cache)
    except Unavailable as reason:
        pytest.skip(f"mobilenet_v2: {reason}")
    proto = qx.transform(path, target="onnxruntime").model.to_proto()
    readers = {node.input[0]: node for node in proto.graph.node}
    for node in proto.graph.node:
        if node.op_type == "Clip":
            node.op_type = "Relu"
            del node.input[1:]
    chain = []
    for node in proto.graph.node:
        relu = readers.get(node.output[0]) if node.op_type == "Conv" else None
        second = readers.get(relu.output[0]) if relu is not None and relu.op_type == "Relu" else None
        if second is not None and second.op_type == "Conv":
            chain.append((node.input[1], node.input[2], second.input[1]))
    plant(proto, tuple(chain), decades=3)
    found = equalize(Model.read(proto))
    feeds = [{"input": image[None]} for image in np.load(path.with_name("photos_mobilenet_calib.npz"))["input"][:6]]
    assert qx.compare(proto, found.model.to_proto(), feeds).sqnr_db > 80
    before, after = (per_tensor_sqnr(model, proto, feeds) for model in (Model.read(proto), found.model))
    assert after >= before + 10


def test_equalization_as_a_step_of_a_recipe(tmp_path: Path) -> None:
    """The file holds the codes of the equalized weights, and what could not be equalized is among the decisions."""
    samples = [{"x": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    config = qx.QuantConfig(recipe=["equalize"], bias_correction=False)
    quantized = qx.quantize(parse(PLAIN), samples, target="tensorrt", config=config)
    _, expected = equalized(PLAIN)
    np.testing.assert_allclose(values(quantized.model, "w"), values(expected.model, "w"), rtol=1e-5)
    assert any(decision.name == "y" and "graph" in decision.reason for decision in quantized.decisions)
    skipped = qx.QuantConfig(recipe=[{"equalize": {"skip": ["Conv"]}}], bias_correction=False)
    plain = qx.quantize(parse(PLAIN), samples, target="tensorrt", config=skipped)
    np.testing.assert_array_equal(values(plain.model, "w"), values(read(PLAIN), "w"))
    with pytest.raises(qx.errors.PlanError, match="equalize changes the model"):
        qx.quantize(
            parse(PLAIN), statistics=qx.collect_statistics(parse(PLAIN), samples, target="tensorrt"), config=config
        )
