from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantonnx.calibration.ranges import Method, RangeMethod, _ErrorMeasure, choose_range, parse_method
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.errors import CalibrationError, ConfigError
from quantonnx.formats import TensorFormat, dequantize, quantize

S8 = TensorFormat()
U8 = TensorFormat(signed=False, symmetric=False)
S4 = TensorFormat(n_bits=4, narrow_range=True)
RNG = np.random.default_rng(0)
DATA = {
    "normal": RNG.normal(size=(8, 20_000)),
    "relu": np.maximum(RNG.normal(size=(8, 20_000)), 0),
    "heavy": RNG.standard_t(2.5, (8, 20_000)),
    "relu heavy": np.maximum(RNG.standard_t(2.5, (8, 20_000)), 0),
    "laplace": RNG.laplace(size=(8, 20_000)),
    "skewed": RNG.gamma(1, 2, (8, 20_000)) - 0.3,
    "uniform": RNG.random((8, 20_000)),
}


def statistics(x, *, histogram=True):
    stats = TensorStatistics("t", histogram=histogram)
    stats.update(x.astype(np.float32), len(x))
    return stats


def error(x, bounds, fmt):
    parameters = fmt.parameters(*bounds)
    return float(np.mean((dequantize(quantize(x, parameters, fmt), parameters, fmt) - x) ** 2))


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("minmax", RangeMethod(Method.MINMAX)),
        ("max", RangeMethod(Method.MINMAX)),
        ("moving_average", RangeMethod(Method.MOVING_AVERAGE)),
        ("percentile", RangeMethod(Method.PERCENTILE, 99.99)),
        ("Percentile:99.9", RangeMethod(Method.PERCENTILE, 99.9)),
        ("entropy", RangeMethod(Method.ENTROPY)),
        ("histogram", RangeMethod(Method.MSE)),
        ("tf_enhanced", RangeMethod(Method.MSE)),
        (Method.MSE, RangeMethod(Method.MSE)),
        ("moving_average:0.05", RangeMethod(Method.MOVING_AVERAGE, averaging_constant=0.05)),
        ("moving_average:1", RangeMethod(Method.MOVING_AVERAGE, averaging_constant=1.0)),
        ("moving_average:1e-05", RangeMethod(Method.MOVING_AVERAGE, averaging_constant=0.00001)),
        ("mse:1024", RangeMethod(Method.MSE, bins=1024)),
        ({"method": "minmax"}, RangeMethod()),
        ({"method": "percentile", "percentile": 99.9}, RangeMethod(Method.PERCENTILE, 99.9)),
        (
            {"method": "moving_average_minmax", "averaging_constant": 0.05},
            RangeMethod(Method.MOVING_AVERAGE, averaging_constant=0.05),
        ),
        ({"method": "kl", "bins": 1024}, RangeMethod(Method.ENTROPY, bins=1024)),
    ],
)
def test_parse_method(text, method):
    assert parse_method(text) == method
    assert parse_method(method) is method
    assert parse_method(str(method)) == method


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("entropi", "did you mean 'entropy'"),
        ("mse:3", "bins is 3, expected 16 to 8192"),
        ("mse:16.5", "expected mse:BINS"),
        ("minmax:3", "minmax takes no number"),
        ("percentile:x", "percentile:PERCENTILE, a number"),
        ("percentile:101", "expected 50 to 100"),
        ("moving_average:0", "above 0 and at most 1"),
        ({"method": "entropi"}, "did you mean 'entropy'"),
        ({"percentile": 99}, "has no name"),
        ({"method": "percentile", "bins": 100}, "'percentile' has no parameter 'bins'; it takes 'percentile'"),
        ({"method": "minmax", "percentile": 99.99}, "'minmax' has no parameter 'percentile'; it takes none"),
        ({"method": "mse", "bins": "many"}, "bins is 'many', expected a whole number"),
        ({"method": "percentile", "percentile": True}, "percentile is True, expected a number"),
    ],
)
def test_parse_method_refuses(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_method(text)


def test_minmax_and_moving_average():
    stats = statistics(np.array([[-1.0, 2.0], [0.0, 10.0]]), histogram=False)
    assert choose_range(stats, parse_method("minmax"), S8) == (-1, 10)
    low, high = choose_range(stats, parse_method("moving_average"), S8)
    assert low == pytest.approx(-0.5, abs=0.01)
    assert high == pytest.approx(6, abs=0.05)


def test_a_method_refuses_the_parameter_of_another():
    with pytest.raises(ConfigError, match="'mse' has no parameter 'averaging_constant'; it takes 'bins'"):
        RangeMethod(Method.MSE, averaging_constant=0.5)


@pytest.mark.parametrize("constant", [0.001, 0.5, 1.0])
def test_the_averaging_constant_is_chosen_afterwards(constant):
    highs = np.array([[1.0], [4.0], [2.0]])
    weights = (1 - constant) ** np.array([2.0, 1.0, 0.0])
    method = RangeMethod(Method.MOVING_AVERAGE, averaging_constant=constant)
    found = choose_range(statistics(highs, histogram=False), method, S8)
    assert found == (0, pytest.approx((weights @ highs).item() / weights.sum()))


@pytest.mark.parametrize("bins", [16, 100, 1024, 8192])
def test_errors_are_summed_over_at_most_so_many_bins(bins):
    for x in DATA.values():
        assert len(_ErrorMeasure(statistics(x), U8, bins).counts) <= bins


@pytest.mark.parametrize("fmt", [S4, U8], ids=["s4", "u8"])
def test_fewer_bins_find_a_range_nearly_as_good(fmt):
    x = DATA["laplace"].astype(np.float32)
    fine, coarse = (choose_range(statistics(x), parse_method(f"mse:{bins}"), fmt) for bins in (8192, 512))
    assert error(x, coarse, fmt) == pytest.approx(error(x, fine, fmt), rel=0.15)


@pytest.mark.parametrize(("method", "bins"), [("mse", 16), ("entropy", 512)])
def test_bins_change_what_is_seen(method, bins):
    stats = statistics(DATA["laplace"])
    assert choose_range(stats, parse_method(f"{method}:{bins}"), U8) != choose_range(stats, parse_method(method), U8)


@pytest.mark.parametrize("percentile", [90, 99, 99.9, 99.99])
def test_percentile_symmetric_is_the_quantile_of_magnitudes(percentile):
    x = DATA["normal"]
    low, high = choose_range(statistics(x), RangeMethod(Method.PERCENTILE, percentile), S8)
    assert high == -low == pytest.approx(np.percentile(np.abs(x), percentile), abs=0.02)


def test_percentile_asymmetric_splits_what_it_cuts():
    x = DATA["skewed"]
    low, high = choose_range(statistics(x), RangeMethod(Method.PERCENTILE, 99), U8)
    assert low == pytest.approx(np.percentile(x, 0.5), abs=0.02)
    assert high == pytest.approx(np.percentile(x, 99.5), abs=0.02)


def test_percentile_100_is_minmax():
    stats = statistics(DATA["heavy"])
    assert choose_range(stats, RangeMethod(Method.PERCENTILE, 100), U8) == (stats.low, stats.high)


@pytest.mark.parametrize("fmt", [S8, U8, S4], ids=["s8", "u8", "s4"])
@pytest.mark.parametrize("name", DATA)
def test_mse_is_at_least_as_good_as_every_other_method(name, fmt):
    x = DATA[name].astype(np.float32)
    stats = statistics(x)
    found = error(x, choose_range(stats, parse_method("mse"), fmt), fmt)
    for other in ("minmax", "moving_average", "percentile", "percentile:99.9", "entropy"):
        assert found <= 1.02 * error(x, choose_range(stats, parse_method(other), fmt), fmt), other


@pytest.mark.parametrize("fmt", [S8, U8, S4], ids=["s8", "u8", "s4"])
@settings(max_examples=60, deadline=None)
@given(x=hnp.arrays(np.float32, (3, 30), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)))
def test_mse_is_never_worse_than_minmax_by_its_own_measure(fmt, x):
    stats = statistics(x)
    if stats.low == stats.high:
        return
    low, high = choose_range(stats, parse_method("mse"), fmt)
    measure = _ErrorMeasure(stats, fmt)
    ours, plain = measure(np.array([low, stats.low]), np.array([high, stats.high]))
    assert ours <= plain * (1 + 1e-9)
    assert stats.low <= low <= 0 <= high <= stats.high


@pytest.mark.parametrize("fmt", [S8, U8, S4], ids=["s8", "u8", "s4"])
def test_the_measure_is_the_error_of_quantizing(fmt):
    x = DATA["laplace"].astype(np.float32)
    stats = statistics(x)
    for factor in (1.0, 0.5, 0.1):
        bounds = stats.low * factor, stats.high * factor
        measured = _ErrorMeasure(stats, fmt)(*(np.array([bound]) for bound in bounds))[0] / x.size
        assert measured == pytest.approx(error(x, bounds, fmt), rel=0.02)


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_relu_keeps_its_zero(method):
    low, high = choose_range(statistics(DATA["relu heavy"]), parse_method(method), U8)
    assert low == 0
    assert 0 < high <= DATA["relu heavy"].max()


@pytest.mark.parametrize("fmt", [S8, U8], ids=["s8", "u8"])
def test_entropy_clips_heavy_tails_and_hardly_anything_else(fmt):
    heavy = statistics(DATA["heavy"])
    low, high = choose_range(heavy, parse_method("entropy"), fmt)
    assert high < 0.6 * max(heavy.high, -heavy.low)
    uniform = statistics(DATA["uniform"])
    assert choose_range(uniform, parse_method("entropy"), fmt)[1] > 0.95 * uniform.high
    assert -low == pytest.approx(high, rel=0.3)


def test_entropy_agrees_with_the_definition():
    stats = statistics(DATA["laplace"])
    counts = (stats.counts[4096:] + stats.counts[:4096][::-1]).astype(float)
    counts = counts[: np.flatnonzero(counts)[-1] + 1]
    counts[0] = 0
    threshold = choose_range(stats, parse_method("entropy"), S8)[1]
    grid = np.arange(128, len(counts), 40)
    best = grid[np.argmin([divergence(counts, size, 128) for size in grid])]
    assert threshold == pytest.approx(best * stats.edges[-1] / 4096, rel=0.1)


def divergence(counts, size, levels):
    """KL(P || Q) of Migacz 2017 in plain loops."""
    p = counts[:size].copy()
    p[-1] += counts[size:].sum()
    q = np.zeros(size)
    cuts = size * np.arange(levels + 1) // levels
    for start, stop in itertools.pairwise(cuts):
        occupied = p[start:stop] > 0
        if occupied.any():
            q[start:stop][occupied] = max(counts[start:stop].sum(), 1e-3) / occupied.sum()
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@pytest.mark.parametrize("method", ["minmax", "mse", "percentile"])
def test_no_data_is_refused_by_name(method):
    with pytest.raises(CalibrationError, match="'conv1' saw no data"):
        choose_range(TensorStatistics("conv1"), parse_method(method), S8)


def test_a_missing_histogram_is_refused():
    with pytest.raises(CalibrationError, match="no histogram, which 'mse' needs"):
        choose_range(statistics(DATA["relu"], histogram=False), parse_method("mse"), S8)


@pytest.mark.parametrize("method", [method.value for method in Method])
@pytest.mark.parametrize("fmt", [S8, U8, TensorFormat(n_bits=2), TensorFormat(n_bits=16)], ids=str)
@pytest.mark.parametrize(
    "x", [np.zeros((2, 5)), np.full((1, 1), 3.0), np.full((1, 1), -1e-30), np.array([[-1e9, 1e-9]])]
)
def test_odd_tensors_have_a_range(method, fmt, x):
    stats = statistics(x)
    low, high = choose_range(stats, parse_method(method), fmt)
    assert stats.low <= low <= 0 <= high <= stats.high
    assert fmt.parameters(low, high).scale > 0


@pytest.mark.parametrize(("method", "seconds"), [("percentile", 0.3), ("mse", 0.3), ("entropy", 1.5)])
def test_choosing_is_fast(method, seconds):
    stats = statistics(DATA["heavy"])
    start = time.process_time()
    for _ in range(30):
        choose_range(stats, parse_method(method), U8)
    assert time.process_time() - start < 2 * seconds * 30 / 120
