from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import assert_same_results, parse

import quantonnx as qx
from quantonnx.decisions import Decider
from quantonnx.method_choice import output_decibels
from quantonnx.target import get_target

POST_NORM = """g (float[1,6,32] x) => (float[1,6,32] z)
<float[32] g, float[32] b, float[32,48] w1, float[48,32] w2>
{ n = LayerNormalization<axis=-1>(x, g, b) h = MatMul(n, w1) r = Relu(h) y = MatMul(r, w2) z = Add(y, n) }"""
PRE_NORM = """g (float[1,6,32] x) => (float[1,6,48] y)
<float[32] g, float[32] b, float[32,48] w1> { n = LayerNormalization<axis=-1>(x, g, b) y = MatMul(n, w1) }"""
SHARED = """g (float[1,6,32] x) => (float[1,6,32] y, float[1,6,32] z)
<float[32] g, float[32] b, float[32,32] w1>
{ n = LayerNormalization<axis=-1>(x, g, b) y = MatMul(n, w1) m = Add(n, x) z = MatMul(m, w1) }"""
SAMPLES = [{"x": each} for each in np.random.default_rng(2).normal(size=(24, 1, 6, 32)).astype(np.float32)]


def planted(text: str, size: float) -> onnx.ModelProto:
    """Returns the network with one channel of the norm `size` times as large, and its row of weights as much smaller."""
    proto = parse(text, opset=17)
    for item in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(item).copy()
        if item.name in ("g", "b"):
            array[3] *= size
        elif item.name == "w1":
            array[3] /= size
        item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))
    return proto


def quantized(proto: onnx.ModelProto, **settings: object) -> qx.QuantizedModel:
    config = qx.QuantConfig(keep_slow=True, activation={"calibration_method": "minmax"}, **settings)
    return qx.quantize(proto, SAMPLES, target="onnxruntime", config=config)


def decibels(proto: onnx.ModelProto, made: qx.QuantizedModel) -> float:
    runs = [ort.InferenceSession(each.SerializeToString()) for each in (proto, made.to_onnx())]
    exact, rough = ([run.run(None, feed) for feed in SAMPLES] for run in runs)
    return output_decibels(exact, rough)


def muls(made: qx.QuantizedModel) -> int:
    return sum(node.op == "Mul" for node in made.model.graph.nodes)


@pytest.mark.parametrize(("text", "count"), [(POST_NORM, 1), (PRE_NORM, 0)], ids=["Mul", "norm"])
def test_a_planted_outlier_costs_no_accuracy(text: str, count: int) -> None:
    proto = planted(text, 300)
    off, on = quantized(proto, recipe=[]), quantized(proto)
    assert muls(on) == count
    assert_same_results(proto, on.model)
    assert decibels(proto, on) > decibels(proto, off) + 10


def test_nothing_is_scaled_where_little_is_gained() -> None:
    assert muls(quantized(planted(POST_NORM, 1))) == 0
    assert muls(quantized(planted(POST_NORM, 300), recipe=[{"scale_inputs": {"least_gain": 99}}])) == 0


def test_other_readers_keep_the_activation_and_the_weight() -> None:
    proto = planted(SHARED, 300)
    made = quantized(proto, recipe=[{"scale_inputs": {"skip": ["re:z"]}}])
    assert muls(made) == 1
    assert_same_results(proto, made.model)


def test_it_is_told_and_layers_can_be_skipped() -> None:
    proto = planted(POST_NORM, 300)
    told = [decision for decision in quantized(proto).decisions if decision.decider is Decider.SCALE]
    assert [decision.name for decision in told] == ["n"]
    assert "channels are scaled by a Mul in front of" in told[0].reason
    assert muls(quantized(proto, recipe=[{"scale_inputs": {"skip": ["MatMul"]}}])) == 0


def test_samples_that_can_be_read_once_suffice() -> None:
    config = qx.QuantConfig(keep_slow=True)
    made = qx.quantize(planted(POST_NORM, 300), iter(SAMPLES), target="onnxruntime", config=config)
    assert muls(made) == 1
    assert sum(source.samples for source in made.data) == len(SAMPLES)


def test_samples_are_read_once_where_the_recipe_says_so_too() -> None:
    config = qx.QuantConfig(keep_slow=True, recipe=["scale_inputs"])
    made = qx.quantize(planted(POST_NORM, 300), iter(SAMPLES), target="onnxruntime", config=config)
    assert muls(made) == 1
    assert sum(source.samples for source in made.data) == len(SAMPLES)


def test_every_recipe_of_a_target_is_followed() -> None:
    target = replace(get_target("onnxruntime"), recipe=("smooth_quant",))
    config = qx.QuantConfig(keep_slow=True)
    made = qx.quantize(planted(PRE_NORM, 300), iter(SAMPLES), target=target, config=config)
    factors = next(node for node in made.model.graph.nodes if node.op == "LayerNormalization").inputs[1]
    before = onnx.numpy_helper.to_array(planted(PRE_NORM, 300).graph.initializer[0])
    assert not np.allclose(made.model.array(factors), before)


def test_a_forward_loop_goes_without_scaling_and_that_is_told() -> None:
    def loop(run: Callable[[Mapping[str, np.ndarray]], object]) -> None:
        for feed in SAMPLES:
            run(feed)

    config = qx.QuantConfig(keep_slow=True)
    made = qx.quantize(planted(POST_NORM, 300), forward_loop=loop, target="onnxruntime", config=config)
    assert muls(made) == 0
    assert any(each.name == "scale_inputs" and "forward loop" in each.reason for each in made.decisions)


def test_statistics_of_the_model_as_it_was_serve_without_scaling() -> None:
    proto = planted(POST_NORM, 300)
    known = qx.collect_statistics(proto, SAMPLES, target="onnxruntime")
    config = qx.QuantConfig(keep_slow=True)
    assert muls(qx.quantize(proto, statistics=known, target="onnxruntime", config=config)) == 0
