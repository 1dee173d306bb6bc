"""The models that come with onnx: whatever ONNX Runtime can run, `transform` keeps, and `quantize` does or refuses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import quantonnx as qx
from quantonnx.calibration.loading import open_session
from quantonnx.calibration.samples import input_specs, open_samples

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "robustness.py"


@pytest.fixture(scope="module")
def robustness() -> ModuleType:
    specification = importlib.util.spec_from_file_location("robustness", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules["robustness"] = module  # its dataclasses look themselves up
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "every", "least"),
    [
        ("simple", 1, 15),
        ("pytorch-converted", 1, 50),
        ("pytorch-operator", 1, 20),
        ("node", 96, 10),
        ("node-constant", 96, 7),
        pytest.param("light", 1, 9, marks=pytest.mark.real),
        pytest.param("node", 1, 1000, marks=pytest.mark.real),
        pytest.param("node-constant", 1, 800, marks=pytest.mark.real),
    ],
)
def test_onnx_own_models_survive(robustness, kind, every, least):
    failures = []
    outcomes = []

    def report(example, step, target, finding):
        outcomes.append(finding.outcome)
        if finding.failed:
            failures.append(f"{step} for {target}: {example.name}: {finding.reason}")

    robustness.sweep(robustness.examples(kind, every), report)
    assert failures == []
    assert outcomes.count("same") >= least * len(robustness.TARGETS)


def model(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 19]> {text}')
    parsed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return parsed


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    return lambda *shape: generator.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("stack", [(), (1,), (3,)])
def test_a_stack_of_matrices_gets_one_scale(target, stack, weights):
    float_model = model("g (float[3,8,32] x) => (float[3,8,24] y) { y = MatMul(x, w) }", w=weights(*stack, 32, 24))
    samples = [{"x": weights(3, 8, 32)}]
    quantized = qx.quantize(float_model, samples, target=target)
    expected, found = (open_session(m).run(None, samples[0])[0] for m in (float_model, quantized.to_onnx()))
    assert np.square(expected).sum() > 1000 * np.square(expected - found).sum()
    assert all((site.format.axis is None) == bool(stack) for site in quantized.weight_sites)


def test_a_dilated_average_stays_in_float():
    text = "g (float[1,4,16,16] x) => (y) { y = AveragePool<kernel_shape=[2,2], dilations=[%d,1]>(x) }"
    plans = [qx.make_plan(model(text % dilation)) for dilation in (1, 2)]
    assert [len(plan.fusions) for plan in plans] == [1, 0]


def test_a_batch_normalization_of_another_size_is_left_alone(weights):
    text = """g (float[1,4,8,8] x) => (y) {
        c = Conv<kernel_shape=[1,1]>(x, w)  y = BatchNormalization(c, n, n, n, n) }"""
    for size, folded in ((6, True), (5, False)):
        fused = qx.transform(model(text, w=weights(6, 4, 1, 1), n=abs(weights(size))))
        assert (len(fused.model.graph.nodes) == 1) == folded


def test_random_data_fills_a_fixed_batch():
    specs = input_specs(qx.Model.read(model("g (float[20,4] x, float[20] z) => (y) { y = MatMul(z, x) }")))
    samples = open_samples(None, specs, random=30)
    assert [feed["x"].shape for feed in samples] == [(20, 4), (20, 4)]
    assert len(samples) == 40


def test_random_data_keeps_first_axes_that_are_no_batch():
    specs = input_specs(qx.Model.read(model("g (float[N,4] x, float[4,5] z) => (y) { y = MatMul(x, z) }")))
    assert [feed["z"].shape for feed in open_samples(None, specs, random=2)] == [(4, 5), (4, 5)]
