"""Bias correction: after it, the mean of what a layer gives is that of the float layer."""

from __future__ import annotations

import numpy as np
import pytest
from models import parse, read, run

import quantonnx as qx
from quantonnx.algorithms.bias_correction import correct_biases, means_needed, means_possible
from quantonnx.formats import TensorFormat, dequantize, quantize
from quantonnx.model import Model, constant
from quantonnx.pattern import Edge, Role
from quantonnx.sites import Site

RNG = np.random.default_rng(2)
IMAGES = RNG.normal(1, 1, (4, 6, 5, 5)).astype(np.float32)
ROWS = RNG.normal(1, 1, (64, 6)).astype(np.float32)

LAYERS = {
    "Conv": ("float[N,6,5,5]", "y = Conv(x, w, b)", "float[8,6,3,3] w", "float[N,8,3,3] y"),
    "groups": ("float[N,6,5,5]", "y = Conv<group=3>(x, w, b)", "float[9,2,1,1] w", "float[N,9,5,5] y"),
    "depthwise": ("float[N,6,5,5]", "y = Conv<group=6>(x, w, b)", "float[6,1,1,1] w", "float[N,6,5,5] y"),
    "ConvTranspose": ("float[N,6,5,5]", "y = ConvTranspose<strides=[2,2]>(x, w, b)", "float[6,4,2,2] w", "float[N,4,10,10] y"),
    "ConvTranspose in groups": (
        "float[N,6,5,5]", "y = ConvTranspose<group=2>(x, w, b)", "float[6,4,1,1] w", "float[N,8,5,5] y"
    ),
    "Gemm": ("float[N,6]", "y = Gemm(x, w, b)", "float[6,7] w", "float[N,7] y"),
    "transposed Gemm": ("float[N,6]", "y = Gemm<transB=1>(x, w, b)", "float[7,6] w", "float[N,7] y"),
}  # fmt: skip


def layer(name: str) -> tuple[Model, Site]:
    x, body, weight, y = LAYERS[name]
    channels = y.split("[N,")[1].split(",")[0].split("]")[0]
    model = read(f"g ({x} x) => ({y}) <{weight}, float[{channels}] b> {{ {body} }}")
    (node,) = model.graph.nodes
    site = Site("w", (Role.WEIGHT,), TensorFormat(n_bits=3), (Edge(node.name, 1),), "", "y")
    return model, site


def with_rounded_weight(model: Model, site: Site) -> tuple[Model, dict[Site, object]]:
    twin = model.copy()
    weight = twin.find("w")
    numbers = site.format.parameters(*site.format.extremes(twin.array(weight)))
    rounded = dequantize(quantize(twin.array(weight), numbers, site.format), numbers, site.format)
    weight._values = constant("w", rounded)._values
    return twin, {site: numbers}


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_of_each_channel_is_that_of_the_float_layer(name: str) -> None:
    """Inputs that are the same everywhere in an image leave no border, so that the formula is exact."""
    model, site = layer(name)
    values = ROWS if "Gemm" in name else np.broadcast_to(IMAGES.mean(axis=(2, 3), keepdims=True), IMAGES.shape).copy()
    others = (0, *range(2, values.ndim))
    assert means_needed(model, (site,)) == means_possible(model) == {"x": "Gemm" not in name}
    rough, numbers = with_rounded_weight(model, site)
    corrected = correct_biases(model, (site,), numbers, {"x": values.mean(axis=others)})  # type: ignore[arg-type]
    better, _ = with_rounded_weight(corrected, site)
    exact, wrong, right = (run(each, {"x": values})["y"].mean(axis=others) for each in (model, rough, better))
    assert np.abs(wrong - exact).max() > 0.05
    np.testing.assert_allclose(right, exact, atol=1e-4)


LEFT_ALONE = {
    "no bias": "g (float[N,6] x) => (float[N,7] y) <float[6,7] w> { y = Gemm(x, w) }",
    "scaled": "g (float[N,6] x) => (float[N,7] y) <float[6,7] w, float[7] b> { y = Gemm<alpha=2.0>(x, w, b) }",
    "one bias for all": "g (float[N,6] x) => (float[N,7] y) <float[6,7] w, float b> { y = Gemm(x, w, b) }",
    "a bias that others read": (
        "g (float[N,6] x) => (float[N,7] y) <float[6,7] w, float[7] b> { m = Gemm(x, w, b) y = Add(m, b) }"
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_has_no_bias_of_its_own_is_left_alone(name: str) -> None:
    assert means_possible(read(LEFT_ALONE[name])) == {}


def test_quantized_models_keep_their_means() -> None:
    proto = parse(
        "g (float[N,6,5,5] x) => (float[N,8] y) <float[16,6,3,3] w, float[16] b, float[8,16] v, float[8] c> "
        "{ m = Conv(x, w, b) r = Relu(m) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, v, c) }"
    )
    feeds = [{"x": IMAGES[i : i + 1]} for i in range(4)]
    errors = []
    for bias_correction in (False, True):
        config = qx.QuantConfig(weight={"n_bits": 3}, bias_correction=bias_correction, keep_slow=True)  # type: ignore[arg-type]
        quantized = qx.quantize(proto, feeds, target="onnxruntime", config=config).to_onnx()
        found = np.mean([run(quantized, feed)["y"] - run(proto, feed)["y"] for feed in feeds], axis=0)
        errors.append(np.abs(found).mean())
    assert errors[1] < 0.5 * errors[0]
