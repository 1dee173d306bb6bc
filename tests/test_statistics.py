from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantonnx.calibration.extremes import KEPT
from quantonnx.calibration.statistics import COUNTED_PER_SAMPLE, HALF_BINS, TensorStatistics
from quantonnx.errors import CalibrationError

NUMBERS = st.floats(-(2.0**66), 2.0**66, width=32, allow_subnormal=False)
SAMPLES = hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 40)), elements=NUMBERS)


def statistics(x, cuts=()):
    stats = TensorStatistics("t")
    for part in np.split(x, cuts):
        if len(part):
            stats.update(part, len(part))
    return stats


def heavy_tailed(rows, size, seed=0):
    return np.random.default_rng(seed).standard_t(2.5, (rows, size)).astype(np.float32)


def assert_same(a, b):
    assert (a.low, a.high, a.samples, a.count) == (b.low, b.high, b.samples, b.count)
    for constant in (0.001, 0.01, 0.3, 1.0):
        assert a.average(constant) == pytest.approx(b.average(constant), rel=1e-9)
    np.testing.assert_array_equal(a.edges, b.edges)
    np.testing.assert_array_equal(a.counts, b.counts)


@settings(deadline=None)
@given(x=SAMPLES, data=st.data())
def test_independent_of_batching(x, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)))))
    assert_same(statistics(x), statistics(x, cuts))


@settings(deadline=None)
@given(x=SAMPLES, data=st.data())
def test_merging_is_one_pass(x, data):
    cut = data.draw(st.integers(0, len(x)))
    left = statistics(x[:cut])
    left.merge(statistics(x[cut:]))
    assert_same(left, statistics(x))


def test_the_smallest_negative_numbers_merge_into_a_wide_range():
    x = np.array([[-1e-45], [1e30]], np.float32)
    left = statistics(x[:1])
    left.merge(statistics(x[1:]))
    assert_same(left, statistics(x))


def test_large_samples_do_not_depend_on_batching_or_merging():
    x = heavy_tailed(4, 5 * COUNTED_PER_SAMPLE)
    x[3] *= 100
    one = statistics(x)
    assert_same(one, statistics(x, [1, 2, 3]))
    left = statistics(x[:1])
    left.merge(statistics(x[1:]))
    assert_same(left, one)


@given(x=SAMPLES)
def test_extremes_and_counts_are_exact(x):
    stats = statistics(x)
    assert stats.low == min(x.min(), 0)
    assert stats.high == max(x.max(), 0)
    assert stats.count == stats.counts.sum() == x.size
    assert stats.edges[0] <= x.min()
    assert stats.edges[-1] > x.max()


def test_the_histogram_is_that_of_numpy():
    x = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    stats = statistics(x)
    np.testing.assert_array_equal(stats.counts, np.histogram(x.astype(np.float64), stats.edges)[0])


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999])
@pytest.mark.parametrize("relu", [False, True])
def test_quantiles_of_large_heavy_tailed_samples(quantile, relu):
    x = heavy_tailed(8, 400_000)
    if relu:
        x = np.maximum(x, 0)
    stats = statistics(x)
    below = np.cumsum(stats.counts)
    found = stats.edges[np.searchsorted(below, quantile * below[-1]) + 1]
    width = stats.edges[-1] / HALF_BINS
    assert found == pytest.approx(np.quantile(x, quantile), rel=0.03, abs=1.1 * width)


@pytest.mark.parametrize("constant", [1e-9, 0.001, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("samples", [1, 4, 20, KEPT])
def test_the_moving_average_with_any_constant_is_exact(constant, samples):
    highs = np.random.default_rng(0).random(samples).astype(np.float32) + 1
    stats = TensorStatistics("t", histogram=False)
    stats.update(highs[:, None], samples)
    weights = (1 - constant) ** np.arange(samples, dtype=np.float64)[::-1]
    assert stats.average(constant) == (0, pytest.approx((weights * highs).sum() / weights.sum()))


@pytest.mark.parametrize("constant", [1e-9, 0.0001, 0.01, 1.0])
def test_older_samples_count_as_their_mean(constant):
    values = np.random.default_rng(0).normal(size=(3 * KEPT + 5, 2)).astype(np.float32)
    stats = TensorStatistics("t", histogram=False)
    stats.update(values, len(values))
    highs = np.maximum(values.max(axis=1), 0).astype(np.float64)
    highs[:-KEPT] = highs[:-KEPT].mean()
    weights = (1 - constant) ** np.arange(len(highs), dtype=np.float64)[::-1]
    assert stats.average(constant)[1] == pytest.approx((weights * highs).sum() / weights.sum(), rel=1e-7)
    assert stats.average(1.0)[1] == highs[-1]


@pytest.mark.parametrize("cut", [0, 3, KEPT, KEPT + 7, 2 * KEPT, 2 * KEPT + 20])
def test_many_samples_merge_in_their_order(cut):
    values = np.random.default_rng(1).normal(size=(2 * KEPT + 20, 1)).astype(np.float32)
    one, left = (TensorStatistics("t", histogram=False) for _ in range(2))
    one.update(values, len(values))
    right = TensorStatistics("t", histogram=False)
    for stats, part in ((left, values[:cut]), (right, values[cut:])):
        stats.update(part, max(len(part), 1))
    left.merge(right)
    for constant in (0.0001, 0.01, 1.0):
        assert left.average(constant) == pytest.approx(one.average(constant), rel=1e-9)
    np.testing.assert_array_equal(left.recent.newest, one.recent.newest)
    assert left.recent.older == one.recent.older == KEPT + 20


def test_memory_of_extremes_is_bounded():
    stats = TensorStatistics("t", histogram=False)
    for _ in range(3):
        stats.update(np.ones((KEPT, 1), np.float32), KEPT)
    assert stats.recent._ring.nbytes == 8 * KEPT


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_by_name(bad):
    stats = TensorStatistics("conv1_out")
    with pytest.raises(CalibrationError, match="'conv1_out' holds NaN or infinity in sample 1"):
        stats.update(np.array([[1.0], [bad]], np.float32), 2)


def test_other_types_and_empty_tensors():
    stats = TensorStatistics("t")
    stats.update(np.zeros((0, 4), np.float32))
    assert stats.samples == 0
    stats.update(np.array([[1, -5]], np.int64))
    stats.update(np.array([[1.5]], np.float16))
    assert (stats.low, stats.high, stats.count) == (-5, 1.5, 3)


def test_memory_does_not_grow():
    stats = TensorStatistics("t")
    for exponent in range(0, 100, 5):
        stats.update(np.full((2, 50_000), 2.0**exponent, np.float32), 2)
    assert stats.counts.nbytes == 2 * HALF_BINS * 8


def test_merging_needs_the_same_kind():
    with pytest.raises(CalibrationError, match="only one has a histogram"):
        TensorStatistics("t").merge(TensorStatistics("t", histogram=False))
