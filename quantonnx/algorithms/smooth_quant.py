"""SmoothQuant: large channels of activations become smaller, and the rows of weights that read them larger.

After a normalization a few channels are many times as large as the rest, and one scale for all of them leaves the
others hardly any codes. Dividing channel j by s_j = max|X_j|^α / max|W_j|^(1−α) at γ and β, and multiplying the input
rows of the weights by it, changes no result in float (Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training
Quantization for Large Language Models", ICML 2023, section 4). It comes before calibration, which then sees the
smoothed activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.algorithms.norm_readers import NormReaders, Operand, Refused, Skip, norm_readers
from quantonnx.algorithms.operand_scaling import OperandScaler
from quantonnx.calibration.feeds import ForwardLoop, Progress
from quantonnx.calibration.session import Collector
from quantonnx.errors import ConfigError
from quantonnx.model import Model
from quantonnx.weights import load_array

Array = NDArray[Any]
Alpha = float | Literal["auto"]

_LEAST_WEIGHT = 1e-5
"""An input channel with weights smaller than this counts as having this weight: its factor stays finite."""

_ALPHAS = np.linspace(0, 1, 21)
_MAXIMUM_TO_RMS = 4.0
"""How far the largest value of a channel is taken to lie above the root of its mean square: samples of a normal
distribution, some ten thousand of them."""


@dataclass(frozen=True)
class Smoothed:
    """A norm's result that was divided by channel, float32 `scale` [channels], the linear layers that read it, and the
    alpha that made the scale."""

    activation: str
    linears: tuple[str, ...]
    scale: Array
    alpha: float


@dataclass(frozen=True)
class Smoothing:
    """A smoothed model, what was smoothed in it, and what was not and why."""

    model: Model
    smoothed: tuple[Smoothed, ...]
    refused: tuple[Refused, ...]


def smooth(
    model: Model,
    samples: Any = None,
    *,
    alpha: Alpha = 0.5,
    scale_clamp_min: float = 1e-3,
    skip: Skip = lambda names: None,
    forward_loop: ForwardLoop | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    memory_limit: int | None = None,
) -> Smoothing:
    """Returns the fused float model smoothed by what samples show; nothing is run where no norm can be smoothed.

    `samples`, `forward_loop` and `memory_limit` are those of `calibrate`, `alpha`, `scale_clamp_min` and `skip` those
    of `smooth_by`. Samples are read here, and once more to calibrate: an iterator that is spent then raises DataError.
    Raises what `smooth_by` raises, and CalibrationError for a norm whose result holds NaN or infinity.
    """
    wanted = maxima_needed(model, skip)
    maxima: dict[str, Array] = {}
    if wanted:
        with Collector(model, (), channels=wanted, threads=threads, memory_limit=memory_limit) as collector:
            collector.observe(samples, forward_loop, limit=limit, progress=progress)
            collector.finish()
            maxima = {name: found.maxima for name, found in collector.channel_extremes().items()}
    return smooth_by(model, maxima, alpha=alpha, scale_clamp_min=scale_clamp_min, skip=skip)


def maxima_needed(model: Model, skip: Skip = lambda names: None) -> tuple[str, ...]:
    """Returns the activations whose largest magnitude in each channel decides the smoothing."""
    return tuple(found.result.name for found in norm_readers(model, skip) if isinstance(found, NormReaders))


def smooth_by(
    model: Model,
    maxima: Mapping[str, Array],
    *,
    alpha: Alpha = 0.5,
    scale_clamp_min: float = 1e-3,
    skip: Skip = lambda names: None,
) -> Smoothing:
    """Returns the fused float model smoothed; a norm whose maxima are not given is left alone.

    `maxima` holds max|X_j| by activation, [channels]. `alpha` is the share of the difficulty that goes into the
    weights, 0 to 1, or `auto`: for each norm that of least expected error, see `best_alpha`; no factor is below
    `scale_clamp_min`. `skip` names norms and linear layers to leave alone.
    Raises ConfigError for another alpha or a clamp that is not positive.
    """
    if alpha != "auto" and not 0 <= alpha <= 1:
        raise ConfigError(f"smooth_quant.alpha is {alpha}, expected auto or a number from 0 to 1")
    if not 0 < scale_clamp_min < np.inf:
        raise ConfigError(f"smooth_quant.scale_clamp_min is {scale_clamp_min}, expected a positive number")
    twin = model.copy()
    writer = _Writer(twin, alpha, scale_clamp_min)
    for found in norm_readers(twin, skip):
        writer.smooth(found, maxima)
    return Smoothing(twin, tuple(writer.smoothed), tuple(writer.refused))


class _Writer:
    """Scales one norm after another, in place, and remembers what it did."""

    def __init__(self, model: Model, alpha: Alpha, least: float) -> None:
        self.scaler = OperandScaler(model)
        self.alpha = alpha
        self.least = least
        self.smoothed: list[Smoothed] = []
        self.refused: list[Refused] = []

    def smooth(self, found: NormReaders | Refused, maxima: Mapping[str, Array]) -> None:
        """Scales the norm and its readers, or says why not."""
        if isinstance(found, Refused):
            self.refused.append(found)
            return
        name = found.result.name
        if name not in maxima:
            self.refused.append(Refused(name, "the largest values of its channels are not known"))
            return
        weights = _weight_maxima(found.weights)
        alpha = self.alpha if self.alpha != "auto" else best_alpha(maxima[name], found.weights, self.least)
        scale = smoothing_scale(maxima[name], weights, alpha, self.least)
        too_large = _too_large(found, weights, scale)
        if too_large is not None:
            self.refused.append(Refused(name, f"{too_large.name!r} would not fit into {too_large.dtype}"))
            return
        self._scale_all(found, scale)
        self.smoothed.append(Smoothed(name, found.linears, scale, alpha))

    def _scale_all(self, found: NormReaders, scale: Array) -> None:
        for operand, part in zip(found.factors, ("gamma", "beta"), strict=False):
            self.scaler.scale(operand, 1 / scale, f"{found.result.name}_{part}")
        for operand in found.weights:
            self.scaler.scale(operand, scale, f"{operand.edges[0][0].outputs[0].name}_weight")


def smoothing_scale(activations: Array, weights: Array, alpha: float, least: float) -> Array:
    """Returns s = max|X|^α / max|W|^(1−α) of each channel, float32 [channels], no number below `least`."""
    weights = np.maximum(np.asarray(weights, np.float64), _LEAST_WEIGHT)
    scale = np.asarray(activations, np.float64) ** alpha / weights ** (1 - alpha)
    return np.asarray(np.maximum(scale, least), np.float32)


def best_alpha(activations: Array, weights: Sequence[Operand], least: float) -> float:
    """Returns the alpha of least expected error of what the linear layers give, of 0, 0.05, … 1.

    Rounding x_j/s_j to steps Δ of one scale for all channels errs by Δ²/12, or by all of x_j²/s_j² where that is less;
    rounding s_j·W_jk by Δ_k²/12, one scale for each output k. The first comes out multiplied by (s_j·W_jk)², the
    second by x_j²/s_j²; both steps are in proportion to the largest value under their scale.
    """
    matrices = [_by_channel(load_array(each.constant), each.axis) for each in weights]
    largest = _weight_maxima(weights)
    errors = [_expected_error(activations, matrices, smoothing_scale(activations, largest, a, least)) for a in _ALPHAS]
    return float(_ALPHAS[int(np.argmin(errors))])


def _expected_error(activations: Array, matrices: Sequence[Array], scale: Array) -> float:
    """In units of the square of one 255th; `matrices` are [channels, outputs]."""
    smoothed = np.asarray(activations, np.float64) / scale
    power = (smoothed * 255 / _MAXIMUM_TO_RMS) ** 2
    of_activations = np.minimum((2 * smoothed.max()) ** 2 / 12, power)
    error = 0.0
    for matrix in matrices:
        scaled = matrix * np.asarray(scale, np.float64)[:, None]
        of_weights = (2 * np.abs(scaled).max(axis=0)) ** 2 / 12
        error += float(of_activations @ (scaled**2).sum(axis=1) + of_weights.sum() * power.sum() / 255**2)
    return error


def _by_channel(values: Array, axis: int) -> Array:
    """The constant as float64 [channels, outputs]."""
    return np.moveaxis(np.asarray(values, np.float64), axis, 0).reshape(values.shape[axis], -1)


def _weight_maxima(weights: Sequence[Operand]) -> Array:
    """max|W_j| of each input channel over all weights, float32 [channels]."""
    return np.asarray(np.maximum.reduce([_largest(load_array(each.constant), each.axis) for each in weights]))


def _largest(values: Array, axis: int) -> Array:
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    return np.asarray(np.maximum(values.max(axis=others), -values.min(axis=others)), np.float32)


def _too_large(found: NormReaders, weights: Array, scale: Array) -> gs.Constant | None:
    """The first constant whose scaled values are not finite in its own type; `weights` are the largest of those."""
    factors = [(each.constant, load_array(each.constant), 1 / scale) for each in found.factors]
    largest = [(each.constant, weights, scale) for each in found.weights]
    every = (*factors, *largest)
    return next((constant for constant, values, by in every if not _fits(values, by, constant.dtype)), None)


def _fits(values: Array, scale: Array, dtype: Any) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite((values.astype(np.float32) * scale).astype(dtype)).all())
