"""Layers as products, and the network run stage by stage: what algorithms that move weights stand on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import read, run

from quantonnx.algorithms.second_moments import Moments, damped, squared_error
from quantonnx.algorithms.stages import stages_at
from quantonnx.algorithms.weight_layers import WeightLayer, weight_layers
from quantonnx.calibration.staging import Stream
from quantonnx.errors import CalibrationError, DataError
from quantonnx.formats import Rounding, TensorFormat
from quantonnx.model import Model
from quantonnx.pattern import Edge, Role
from quantonnx.sites import Site

RNG = np.random.default_rng(5)


def site_of(model: Model, tensor: str = "w", fmt: TensorFormat | None = None) -> Site:
    fmt = fmt or TensorFormat(n_bits=4)
    readers = [(node, index) for node in model.graph.nodes for index, v in enumerate(node.inputs) if v.name == tensor]
    edges = tuple(Edge(node.name, index) for node, index in readers)
    return Site(tensor, (Role.WEIGHT,), fmt, edges, "test", "y")


def layer_of(model: Model, fmt: TensorFormat | None = None) -> WeightLayer:
    (layer,), refused = weight_layers(model, [site_of(model, fmt=fmt)])
    assert not refused
    return layer


PRODUCTS = {
    "MatMul": ("float[3,5,4] x", "float[4,6] w", "y = MatMul(x, w)"),
    "MatMul of one row": ("float[1,4] x", "float[4,6] w", "y = MatMul(x, w)"),
    "weight on the left": ("float[2,4,5] x", "float[6,4] w", "y = MatMul(w, x)"),
    "Gemm": ("float[5,4] x", "float[4,6] w", "y = Gemm(x, w)"),
    "Gemm, weight transposed": ("float[5,4] x", "float[6,4] w", "y = Gemm<transB=1>(x, w)"),
    "Gemm, input transposed": ("float[4,5] x", "float[4,6] w", "y = Gemm<transA=1>(x, w)"),
    "1×1 Conv": ("float[2,4,3,5] x", "float[6,4,1,1] w", "y = Conv(x, w)"),
    "1×1 Conv with a stride": ("float[2,4,3,5] x", "float[6,4,1,1] w", "y = Conv<strides=[2,2]>(x, w)"),
    "3×3 Conv": ("float[2,4,7,6] x", "float[6,4,3,3] w", "y = Conv<pads=[1,0,1,2]>(x, w)"),
    "all of Conv": (
        "float[1,4,9,8] x",
        "float[6,2,3,2] w",
        "y = Conv<pads=[1,2,0,1],strides=[2,1],dilations=[1,2],group=2>(x, w)",
    ),
    "depthwise Conv": ("float[2,4,6,6] x", "float[4,1,3,3] w", "y = Conv<pads=[1,1,1,1],group=4>(x, w)"),
    "Conv of one axis": ("float[2,4,9] x", "float[6,4,3] w", "y = Conv<strides=[2]>(x, w)"),
    "Conv of three axes": ("float[1,2,4,5,3] x", "float[3,2,2,2,2] w", "y = Conv(x, w)"),
    "SAME_UPPER": ("float[1,3,7,6] x", "float[4,3,3,2] w", 'y = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w)'),
    "SAME_LOWER": ("float[1,3,7,6] x", "float[4,3,2,2] w", 'y = Conv<auto_pad="SAME_LOWER">(x, w)'),
    "VALID": ("float[1,3,7,6] x", "float[4,3,2,2] w", 'y = Conv<auto_pad="VALID">(x, w)'),
}


def graph(given: str, weights: str, body: str, out: str = "float y") -> str:
    return f"g ({given}) => ({out}) <{weights}> {{ {body} }}"


@pytest.mark.parametrize("name", PRODUCTS)
def test_matrix_times_rows_is_what_the_operator_gives(name: str) -> None:
    given, weights, body = PRODUCTS[name]
    model = read(graph(given, weights, body))
    layer = layer_of(model)
    shape = [int(size) for size in given[given.index("[") + 1 : given.index("]")].split(",")]
    x = RNG.normal(size=shape).astype(np.float32)
    expected = run(model, {"x": x})["y"]
    matrix = layer.matrix(model.array(model.find("w")))
    found = np.concatenate([np.matmul(rows, matrix.swapaxes(1, 2)) for rows in layer.rows(x)], axis=1)
    channels = 1 if layer.node.op == "Conv" else -2 if layer.index == 0 else -1
    outputs = np.moveaxis(expected, channels, -1).reshape(-1, layer.outputs)
    np.testing.assert_allclose(np.moveaxis(found, 0, 1).reshape(-1, layer.outputs), outputs, rtol=1e-4, atol=1e-4)
    assert matrix.shape == (layer.groups, layer.outputs // layer.groups, layer.inputs)
    np.testing.assert_array_equal(layer.tensor(matrix), model.array(model.find("w")))


def test_patches_of_large_images_come_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(read(graph(*PRODUCTS["3×3 Conv"])))
    x = RNG.normal(size=(1, 4, 7, 6)).astype(np.float32)
    (whole,) = layer.rows(x)
    monkeypatch.setattr("quantonnx.algorithms.weight_layers._MOST_NUMBERS", 400)
    bands = list(layer.rows(x))
    assert len(bands) > 2
    np.testing.assert_array_equal(np.concatenate(bands, axis=1), whole)


REFUSED = {
    "2 operators read it": ("y = MatMul(x, w) z = MatMul(x, w)", "float[4,4] w", TensorFormat(n_bits=4)),
    "output of the graph": ("y = MatMul(x, w) z = Identity(x)", "float[4,4] w", TensorFormat(n_bits=4)),
    "it is the weight of ConvTranspose": ("y = ConvTranspose(x, w)", "float[4,4,2,2] w", TensorFormat(n_bits=4)),
    "3 axes": ("y = MatMul(x, w)", "float[2,4,4] w", TensorFormat(n_bits=4)),
    "16 bits": ("y = MatMul(x, w)", "float[4,4] w", TensorFormat(n_bits=16)),
    "'floor'": ("y = MatMul(x, w)", "float[4,4] w", TensorFormat(n_bits=4, rounding=Rounding.FLOOR)),
    "not multiplied with an activation": ("y = MatMul(v, w)", "float[4,4] w, float[4,4] v", TensorFormat(n_bits=4)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_moved_is_refused_with_the_reason(reason: str) -> None:
    body, weights, fmt = REFUSED[reason]
    out = "float y, float z" if " z = " in body else "float y"
    model = read(graph("float[4,4] x", weights, body, out))
    if reason == "output of the graph":
        model.graph.outputs[1] = model.find("w")
    layers, refused = weight_layers(model, [site_of(model, fmt=fmt)])
    assert not layers
    assert reason in refused["w"]


BIASES = {
    "Gemm": ("y = Gemm(x, w, b)", "b"),
    "Conv": ("y = Conv(x, w, b)", "b"),
    "Add behind": ("p = MatMul(x, w) y = Add(b, p)", "b"),
    "Gemm with alpha": ("y = Gemm<alpha=0.5>(x, w, b)", None),
    "two readers": ("p = MatMul(x, w) q = Add(p, b) y = Mul(p, q)", None),
    "shared": ("p = MatMul(x, w) q = Add(p, b) y = Add(q, b)", None),
    "none": ("y = MatMul(x, w)", None),
}


@pytest.mark.parametrize("name", BIASES)
def test_the_bias_of_a_layer(name: str) -> None:
    body, expected = BIASES[name]
    given, weights = ("float[1,4,3,3] x", "float[4,4,1,1] w") if "Conv" in body else ("float[3,4] x", "float[4,4] w")
    bias = layer_of(read(graph(given, f"{weights}, float[4] b", body))).bias
    assert (None if bias is None else bias.name) == expected


BRANCHES = (
    "g (float[N,4] x) => (float[N,4] y) <float[4,4] a, float[4,4] b, float[4,4] c, float[4,4] d> "
    "{ [first] p = MatMul(x, a) q = Relu(p) [second] r = MatMul(q, b) [third] s = MatMul(q, c) t = Tanh(r) "
    "u = Add(t, s) v = Add(u, x) [fourth] z = MatMul(v, d) y = Softmax(z) }"
)


def test_every_node_before_the_last_layer_runs_once() -> None:
    stages = list(stages_at(read(BRANCHES), ["first", "second", "third", "fourth"]))
    assert [stage.layers for stage in stages] == [(), ("first",), ("second", "third"), ("fourth",)]
    assert [[node.op_type for node in stage.nodes] for stage in stages] == [
        [],
        ["MatMul", "Relu"],
        ["MatMul", "MatMul", "Tanh", "Add", "Add"],
        [],
    ]


def test_each_layer_sees_what_the_whole_network_gives(tmp_path: Path) -> None:
    model = read(BRANCHES)
    samples = [{"x": RNG.normal(size=(rows, 4)).astype(np.float32)} for rows in (1, 3)]
    stages = stages_at(model, ["first", "second", "third", "fourth"])
    stream = Stream(stages, tmp_path / "s", samples, 1)
    b = model.array(model.find("b")) * 2
    for stage in stages:
        if stage.layers == ("second", "third"):
            seen = list(stream.values("q"))
        if stage.layers == ("fourth",):
            last = list(stream.values("v"))
        stream.advance(stage, {"b": b})
    a, c = (model.array(model.find(name)) for name in "ac")
    for index, sample in enumerate(samples):
        q = np.maximum(sample["x"] @ a, 0)
        np.testing.assert_allclose(seen[index], q, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last[index], np.tanh(q @ b) + q @ c + sample["x"], rtol=1e-5, atol=1e-6)
    assert not list((tmp_path / "s").iterdir())


def test_no_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        Stream(stages_at(read(BRANCHES), ["first"]), tmp_path / "s", [], 1)


def test_moments_are_those_of_all_rows_together() -> None:
    x, y = RNG.normal(size=(2, 2, 50, 3)).astype(np.float32)
    moments = Moments(2, 3, paired=True)
    for part in (slice(0, 20), slice(20, 50)):
        moments.update(x[:, part], y[:, part])
    np.testing.assert_allclose(moments.second(), np.einsum("gni,gnj->gij", x, x) / 50, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.cross(), np.einsum("gni,gnj->gij", y, x) / 50, rtol=1e-4, atol=1e-5)
    for group in range(2):
        centred = np.cov(x[group], rowvar=False, bias=True)
        np.testing.assert_allclose(moments.second(centred=True)[group], centred, rtol=1e-4, atol=1e-5)


def test_the_squared_error_is_that_of_the_outputs() -> None:
    x, change = RNG.normal(size=(1, 50, 3)).astype(np.float32), RNG.normal(size=(1, 2, 3))
    moments = Moments(1, 3)
    moments.update(x)
    expected = ((x[0] @ change[0].T) ** 2).sum(axis=1).mean()
    assert squared_error(change, moments.second()) == pytest.approx(expected, rel=1e-4)


def test_damping_adds_a_share_of_the_mean_and_mends_dead_inputs() -> None:
    second = np.array([[[3.0, 1, 0], [1, 1, 0], [0, 0, 0]]])
    np.testing.assert_allclose(damped(second, 0.3)[0], [[3.4, 1, 0], [1, 1.4, 0], [0, 0, 1]])


def test_infinity_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        Moments(1, 2).update(np.full((1, 2, 2), np.inf, np.float32))
