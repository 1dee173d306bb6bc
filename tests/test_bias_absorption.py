"""High-bias absorption: biases become smaller, and what the model computes on its samples stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import parse, run
from onnx import numpy_helper

import quantonnx as qx
from quantonnx.algorithms.bias_absorption import absorb_biases
from quantonnx.algorithms.equalization import equalize
from quantonnx.decisions import Decider
from quantonnx.model import Model

RNG = np.random.default_rng(8)
FEEDS = [{"x": RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
ROWS = [{"x": RNG.normal(size=(16, 5)).astype(np.float32)} for _ in range(4)]
HIGH = np.array([40, 0, 3, -5, 60, 1], np.float32)

CONV = (
    "g (float[N,3,8,8] x) => (float[N,5,6,6] y) <float[6,3,3,3] w, float[6] b, float[5,6,1,1] v, float[5] c> "
    "{ m = Conv(x, w, b) r = Relu(m) y = Conv(r, v, c) }"
)
GROUPS = (
    "g (float[N,3,8,8] x) => (float[N,6,4,4] y) <float[6,3,3,3] w, float[6] b, float[6,1,3,3] v, float[6] c> "
    "{ m = Conv(x, w, b) r = Relu(m) y = Conv<group=6>(r, v, c) }"
)
GEMM = (
    "g (float[N,5] x) => (float[N,4] y) <float[5,6] w, float[6] b, float[4,6] v, float[4] c> "
    "{ m = Gemm(x, w, b) r = Relu(m) y = Gemm<transB=1>(r, v, c) }"
)


def high(text: str) -> onnx.ModelProto:
    """The model of a text whose first bias is high in two channels."""
    proto = parse(text)
    item = next(item for item in proto.graph.initializer if item.name == "b")
    item.CopyFrom(numpy_helper.from_array(HIGH, "b"))
    return proto


@pytest.mark.parametrize(("text", "feeds"), [(CONV, FEEDS), (GROUPS, FEEDS), (GEMM, ROWS)])
def test_high_biases_move_to_the_next_layer(text: str, feeds: list[dict[str, np.ndarray]]) -> None:
    proto = high(text)
    found = absorb_biases(Model.read(proto), feeds)
    (absorbed,) = found.absorbed
    assert (absorbed.amount > 10).tolist() == [True, False, False, False, True, False]
    for feed in feeds:
        exact, same = run(proto, feed)["y"], run(found.model, feed)["y"]
        assert np.abs(exact - same).max() <= 1e-4 * np.abs(exact).max()


def test_the_amount_is_that_of_the_paper_up_to_the_lowest_value() -> None:
    proto = high(CONV)
    shown = parse(
        CONV.replace("(float[N,5,6,6] y)", "(float[N,6,6,6] m)").replace(" r = Relu(m) y = Conv(r, v, c)", "")
    )
    del shown.graph.initializer[:]
    shown.graph.initializer.extend(proto.graph.initializer)
    values = np.concatenate([run(shown, feed)["m"] for feed in FEEDS]).transpose(0, 2, 3, 1).reshape(-1, 6)
    expected = np.maximum(np.minimum(values.mean(axis=0) - 3 * values.std(axis=0), values.min(axis=0)), 0)
    (absorbed,) = absorb_biases(Model.read(proto), FEEDS).absorbed
    np.testing.assert_allclose(absorbed.amount, expected, rtol=1e-3, atol=1e-3)


REFUSED = {
    "pads with zeros": CONV.replace("Conv(r,", "Conv<pads=[1,1,1,1]>(r,").replace("5,6,6] y", "5,8,8] y"),
    "LeakyRelu stands behind Conv": CONV.replace("Relu(m)", "LeakyRelu(m)"),
    "nothing stands behind Conv": CONV.replace("r = Relu(m) y = Conv(r", "y = Conv(m"),
    "a Gemm multiplies": GEMM.replace("Gemm(x", "Gemm<beta=2.0>(x"),
    "multiplies by alpha or beta": GEMM.replace("Gemm<transB", "Gemm<alpha=0.5, transB"),
    "both layers need a bias": CONV.replace("Conv(r, v, c)", "Conv(r, v)"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_where_it_would_change_results_it_is_refused(reason: str) -> None:
    proto = high(REFUSED[reason])
    found = absorb_biases(Model.read(proto))
    assert not found.absorbed
    assert any(reason in refused.reason for refused in found.refused)
    assert found.model.to_bytes() == Model.read(proto).to_bytes()


def test_channels_that_fall_to_zero_keep_their_biases() -> None:
    proto = parse(CONV)
    found = absorb_biases(Model.read(proto), FEEDS)
    assert not found.absorbed
    assert found.model.to_bytes() == Model.read(proto).to_bytes()


def test_it_narrows_what_equalization_widened() -> None:
    balanced = equalize(Model.read(high(CONV)))
    found = absorb_biases(balanced.model, FEEDS)
    (absorbed,) = found.absorbed
    before, after = (np.abs(each.array(bias(each))).max() for each in (balanced.model, found.model))
    assert after < before / 2
    assert absorbed.amount.max() > 0


def test_absorption_as_a_step_of_a_recipe() -> None:
    config = qx.QuantConfig(recipe=["equalize", "absorb_biases"], bias_correction=False)  # type: ignore[list-item]
    quantized = qx.quantize(high(CONV), FEEDS, target="tensorrt", config=config)
    expected = absorb_biases(equalize(Model.read(high(CONV))).model, FEEDS).model
    np.testing.assert_allclose(quantized.model.array(bias(quantized.model)), expected.array(bias(expected)), rtol=1e-4)
    assert any(decision.decider is Decider.ABSORB and decision.name == "y" for decision in quantized.decisions)
    skipped = qx.QuantConfig(recipe=[{"absorb_biases": {"skip": ["Conv"]}}], bias_correction=False)  # type: ignore[list-item]
    plain = qx.quantize(high(CONV), FEEDS, target="tensorrt", config=skipped)
    np.testing.assert_array_equal(plain.model.array(bias(plain.model)), HIGH)


def bias(model: Model):  # type: ignore[no-untyped-def]  # onnx-graphsurgeon ships no types
    return next(node for node in model.graph.nodes if node.outputs[0].name == "m").inputs[2]
