"""Ranges of weights: the search against brute force, and what a configuration makes of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from models import feeds_of, parse

import quantonnx as qx
from quantonnx.calibration.weight_ranges import least_error_range
from quantonnx.formats import ScaleType, TensorFormat
from quantonnx.model import Model

RNG = np.random.default_rng(11)
WEIGHT = RNG.standard_t(4, size=(6, 400)).astype(np.float32)
SIGNED = [TensorFormat(n_bits=n, narrow_range=narrow, axis=0) for n in (2, 3, 4, 6, 8) for narrow in (False, True)]
UNSIGNED = [TensorFormat(n_bits=n, signed=False, symmetric=False, axis=0) for n in (2, 4, 8)]


def squared_error(row: np.ndarray, low: float, high: float, fmt: TensorFormat) -> float:
    """What rounding and clipping do to one channel, from the definition of affine quantization."""
    numbers = fmt.parameters(low, high)
    scale, zero_point = float(numbers.scale), float(numbers.zero_point)
    codes = np.clip(np.round(row / scale) + zero_point, fmt.qmin, fmt.qmax)
    return float(np.square(scale * (codes - zero_point) - row.astype(np.float64)).sum())


def by_brute_force(row: np.ndarray, fmt: TensorFormat) -> float:
    """The least error over a fine grid of thresholds."""
    low, high = min(float(row.min()), 0.0), max(float(row.max()), 0.0)
    if fmt.symmetric:
        return min(squared_error(row, low * share, high * share, fmt) for share in np.linspace(0.05, 1.05, 400))
    shares = itertools.product(np.linspace(0.1, 1.05, 24), repeat=2)
    return min(squared_error(row, low * one, high * other, fmt) for one, other in shares)


@pytest.mark.parametrize("fmt", SIGNED, ids=str)
def test_the_range_is_nearly_the_best_that_brute_force_finds(fmt: TensorFormat) -> None:
    low, high = least_error_range(WEIGHT, fmt)
    for row, *ends in zip(WEIGHT, low, high, strict=True):
        assert squared_error(row, *ends, fmt) <= 1.06 * by_brute_force(row, fmt)


@pytest.mark.parametrize("fmt", UNSIGNED, ids=str)
def test_each_end_is_searched_where_they_may_differ(fmt: TensorFormat) -> None:
    skewed = np.where(WEIGHT > 0, 3 * WEIGHT, WEIGHT)[:3]
    low, high = least_error_range(skewed, fmt)
    for row, *ends in zip(skewed, low, high, strict=True):
        assert squared_error(row, *ends, fmt) <= 1.15 * by_brute_force(row, fmt)


@pytest.mark.parametrize("n_bits", [*range(2, 17)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_it_is_never_worse_than_the_whole_range(n_bits: int, symmetric: bool) -> None:
    fmt = TensorFormat(n_bits=n_bits, signed=symmetric, symmetric=symmetric, axis=0)
    found, whole = least_error_range(WEIGHT, fmt), fmt.extremes(WEIGHT)
    for row, low, high, least, most in zip(WEIGHT, *found, *whole, strict=True):
        assert squared_error(row, low, high, fmt) <= squared_error(row, least, most, fmt) * (1 + 1e-6) + 1e-9


def test_every_channel_is_searched_by_itself() -> None:
    weight = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    fmt = TensorFormat(n_bits=4, axis=1)
    whole = least_error_range(weight, fmt)
    for index in range(4):
        alone = least_error_range(weight[:, index : index + 1], fmt)
        assert (whole[0][index], whole[1][index]) == (alone[0][0], alone[1][0])


def test_every_group_is_searched_by_itself() -> None:
    fmt = TensorFormat(n_bits=4, axis=1, group_size=16)
    low, high = least_error_range(WEIGHT, fmt)
    assert low.shape == high.shape == (6, 25)
    for index in range(25):
        part = WEIGHT[:, 16 * index : 16 * index + 16]
        np.testing.assert_array_equal(least_error_range(part, TensorFormat(n_bits=4, axis=0))[1], high[:, index])


def test_a_large_tensor_with_one_scale_is_seen_as_a_whole() -> None:
    weight = RNG.normal(size=(300, 300)).astype(np.float32)
    weight[299, 299] = 30
    assert least_error_range(weight, TensorFormat(n_bits=4))[1] < 6


def test_scales_may_be_powers_of_two() -> None:
    fmt = TensorFormat(n_bits=4, axis=0, scale_type=ScaleType.POWER_OF_TWO)
    found, whole = least_error_range(WEIGHT, fmt), fmt.extremes(WEIGHT)
    for row, low, high, least, most in zip(WEIGHT, *found, *whole, strict=True):
        around = [squared_error(row, factor * least, factor * most, fmt) for factor in (0.25, 0.5, 1, 2)]
        assert squared_error(row, low, high, fmt) <= min(around) * (1 + 1e-6)


def test_a_channel_of_zeros_stays_one() -> None:
    low, high = least_error_range(np.zeros((2, 3), np.float32), TensorFormat(n_bits=4, axis=0))
    assert not low.any()
    assert not high.any()


# ------------------------------------------------------------------------------------------------- configurations

NET = parse("g (float[1,8,6,6] x) => (float[1,8,4,4] y) <float[8,8,3,3] w, float[8] b> { y = Conv(x, w, b) }")


def weight_scale(**weight: object) -> np.ndarray:
    config = qx.QuantConfig(weight=weight, keep_slow=True)  # type: ignore[arg-type]
    quantized = qx.quantize(NET, [feeds_of(NET)], target="onnxruntime", config=config)
    (site,) = quantized.weight_sites
    assert quantized.parameters is not None
    return quantized.parameters[site].scale


@pytest.mark.parametrize("shape", [{}, {"per_channel": False}, {"n_bits": 3}])
def test_a_configuration_chooses_how_weights_are_clipped(shape: dict[str, object]) -> None:
    bits = {"n_bits": 4, **shape}
    whole, least = weight_scale(**bits), weight_scale(**bits, calibration_method="mse")
    np.testing.assert_array_equal(whole, weight_scale(**bits, calibration_method="minmax"))
    assert least.shape == whole.shape
    assert (least <= whole * 1.05).all()
    assert least.mean() < whole.mean()


def test_a_rule_for_one_weight_chooses_for_it_alone() -> None:
    proto = parse(
        "g (float[1,8,6,6] x) => (float[1,8,2,2] y) <float[8,8,3,3] w, float[8,8,3,3] v> "
        "{ m = Conv(x, w) y = Conv(m, v) }"
    )
    rules = {"v": {"calibration_method": "mse"}}
    config = qx.QuantConfig(weight={"n_bits": 4}, tensors=rules, keep_slow=True)  # type: ignore[arg-type]
    quantized = qx.quantize(proto, [feeds_of(proto)], target="onnxruntime", config=config)
    model, scales = (
        Model.read(proto),
        {site.tensor: quantized.parameters[site].scale for site in quantized.weight_sites},
    )  # type: ignore[index]
    whole = {name: np.abs(model.array(model.find(name))).max(axis=(1, 2, 3)) / 7 for name in scales}
    np.testing.assert_allclose(scales["w"], whole["w"], rtol=1e-6)
    assert scales["v"].mean() < whole["v"].mean()
