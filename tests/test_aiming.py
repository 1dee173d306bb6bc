"""The weight that a layer aims at on changed inputs, against ridge regressions on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest

from quantonnx.algorithms.aiming import DAMPINGS, aimed
from quantonnx.algorithms.second_moments import Moments

Array = np.ndarray
INPUTS, OUTPUTS = 6, 3


def moments_of(x: Array, y: Array) -> Moments:
    found = Moments(1, x.shape[1], paired=True)
    if len(x):
        found.update(x[None].astype(np.float32), y[None].astype(np.float32))
    return found


def aim(weight: Array, x: Array, y: Array, *, centred: bool = False) -> Array:
    halves = moments_of(x[::2], y[::2]), moments_of(x[1::2], y[1::2])
    return aimed(weight[None], halves[0] + halves[1], halves, centred=centred)[0]


def ridge(weight: Array, x: Array, y: Array, percent: float) -> Array:
    """The change ΔW of least Σ |ΔW x − W (y − x)|² + n λ |ΔW|², by least squares on rows."""
    size = np.sqrt(percent * np.square(x).sum() / x.shape[1])
    rows = np.vstack([x, size * np.eye(x.shape[1])])
    wanted = np.vstack([(y - x) @ weight.T, np.zeros((x.shape[1], len(weight)))])
    return np.asarray(np.linalg.lstsq(rows, wanted, rcond=None)[0].T)


def cross_validated(weight: Array, x: Array, y: Array) -> Array:
    """The ridge regression with the damping under which each half, fitted, is nearest to the other's rows."""

    def error(change: Array, rows: Array, floats: Array) -> float:
        missed = rows @ change.T - (floats - rows) @ weight.T
        return float(np.square(missed).sum() / len(rows))

    one, other = (x[::2], y[::2]), (x[1::2], y[1::2])
    errors = [
        sum(error(ridge(weight, *fit, percent), *check) for fit, check in ((one, other), (other, one)))
        for percent in DAMPINGS
    ]
    errors.append(sum(error(np.zeros_like(weight), *half) for half in (one, other)))
    best = int(np.argmin(errors))
    return weight if best == len(DAMPINGS) else weight + ridge(weight, x, y, DAMPINGS[best])


def drawn(rows: int, noise: float, seed: int) -> tuple[Array, Array, Array]:
    """A weight, inputs x, and float inputs y of which a part follows from x and a part does not; as float32 holds."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, INPUTS)) @ rng.normal(size=(INPUTS, INPUTS))
    y = x + 0.1 * x @ rng.normal(size=(INPUTS, INPUTS)) + noise * rng.normal(size=x.shape)
    return rng.normal(size=(OUTPUTS, INPUTS)), *(each.astype(np.float32).astype(np.float64) for each in (x, y))


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_aim_is_a_cross_validated_ridge_regression(noise: float, seed: int) -> None:
    weight, x, y = drawn(20, noise, seed)
    np.testing.assert_allclose(aim(weight, x, y), cross_validated(weight, x, y), rtol=1e-3, atol=1e-5)


def test_every_damping_and_none_are_reached() -> None:
    """So that the test above can tell a wrong choice."""
    reached = set()
    for seed in range(60):
        weight, x, y = drawn(20, [0.0, 0.3, 1.0, 3.0][seed % 4], seed)
        changed = aim(weight, x, y) - weight
        sizes = [np.abs(ridge(weight, x, y, percent) - changed).max() for percent in DAMPINGS]
        reached.add(int(np.argmin(sizes)) if changed.any() else len(DAMPINGS))
    assert len(reached) >= 4


def test_centred_moments_leave_a_shift_to_the_bias() -> None:
    weight, x, _ = drawn(40, 0, 1)
    np.testing.assert_allclose(aim(weight, x, x + 5, centred=True), weight, atol=1e-3)
    assert np.abs(aim(weight, x, x + 5) - weight).max() > 0.01


def test_noise_of_few_samples_is_not_aimed_at() -> None:
    """With fewer rows than inputs a regression without damping meets its rows exactly, and only these."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(OUTPUTS, 40))
    x, fresh = (rng.normal(size=(rows, 40)) for rows in (24, 1000))
    y = x + 0.5 * rng.normal(size=x.shape)
    careless = ridge(weight, x, y, 0.01)
    assert np.square(fresh @ (aim(weight, x, y) - weight).T).sum() < np.square(fresh @ careless.T).sum() / 10


def test_one_sample_has_no_halves() -> None:
    weight, x, y = drawn(20, 0.1, 5)
    whole, nothing = moments_of(x, y), moments_of(x[:0], y[:0])
    found = aimed(weight[None], whole, (whole, nothing), centred=False)[0]
    np.testing.assert_allclose(found, weight + ridge(weight, x, y, 0.1), rtol=1e-3, atol=1e-5)
