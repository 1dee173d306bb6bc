"""Branches that do not fit under one scale are found in the ranges, whatever they are called."""

from __future__ import annotations

import numpy as np
import pytest
from models import parse, run

from quantonnx.config import QuantConfig
from quantonnx.decisions import Decider
from quantonnx.pipeline import quantize
from quantonnx.quantized import QuantizedModel

HEAD = (
    "agraph (float[1,4,8,8] x) => (float[1,8,8,8] y) <float[4,4,1,1] w, float[4,4,1,1] v, float[4] large = "
    "{{{large}, {large}, {large}, {large}}}, float[4] none = {{0, 0, 0, 0}}> {{ a = Conv(x, w, large) c = Conv(x, v, none) "
    "s = Sigmoid(c) {tail} }}"
)
SAMPLES = [{"x": np.random.default_rng(seed).standard_normal((1, 4, 8, 8)).astype(np.float32)} for seed in range(4)]


def quantized(large: float, tail: str = "y = Concat<axis=1>(a, s)") -> QuantizedModel:
    config = QuantConfig(activation={"calibration_method": "minmax"})
    return quantize(parse(HEAD.format(large=large, tail=tail)), SAMPLES, target="onnxruntime", config=config)


def conflicts(found: QuantizedModel) -> list[str]:
    return [decision.name for decision in found.decisions if decision.decider is Decider.RANGES]


def test_pixels_beside_scores_are_not_put_under_one_scale() -> None:
    found = quantized(300)
    assert conflicts(found) == ["y"]
    assert "of 256 codes" in next(d.reason for d in found.decisions if d.name == "y")
    exact = run(parse(HEAD.format(large=300, tail="y = Concat<axis=1>(a, s)")), SAMPLES[0])["y"][:, 4:]
    assert np.abs(run(found.to_model(), SAMPLES[0])["y"][:, 4:] - exact).max() < 0.02


@pytest.mark.parametrize("large", [0, 2])
def test_branches_of_one_size_are_joined_as_codes(large: float) -> None:
    found = quantized(large)
    assert not conflicts(found)
    assert any(site.tensor == "y" for site in found.activation_sites)


def test_a_reader_in_integers_needs_the_scale_anyway() -> None:
    text = HEAD.replace("float[4,4,1,1] v", "float[4,4,1,1] v, float[8,8,1,1] u")
    model = parse(text.format(large=300, tail="j = Concat<axis=1>(a, s) y = Conv(j, u)"))
    assert not conflicts(quantize(model, SAMPLES, target="onnxruntime"))
