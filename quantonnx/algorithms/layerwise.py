"""Weights onto their grid, layer after layer: each sees the inputs that the layers before it now give.

The result is a float model whose weights are what their codes stand for. Biases take up the mean error of what was
rounded before them, where that is wanted, so that algorithms need to look at the rest of the error only.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.algorithms.aiming import aimed
from quantonnx.algorithms.grids import Problem, Rounder, moved
from quantonnx.algorithms.second_moments import Moments, squared_error
from quantonnx.algorithms.stages import stages_at
from quantonnx.algorithms.weight_layers import WeightLayer, weight_layers
from quantonnx.calibration.feeds import Progress
from quantonnx.calibration.staging import Stages, Stream
from quantonnx.formats import Parameters, dequantize, quantize
from quantonnx.model import Model, constant
from quantonnx.sites import Site

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerChange:
    """What became of one layer: the share of its outputs' mean square that is error, by rounding alone and now."""

    tensor: str
    node: str
    before: float
    after: float
    seconds: float


@dataclass(frozen=True)
class WeightChange:
    """A float model with weights on their grids, the numbers of its sites, what became of each layer, and why others
    stay, by tensor; `corrected` are the sites whose operators have new biases too."""

    model: Model
    parameters: Mapping[Site, Parameters]
    layers: tuple[LayerChange, ...]
    refused: Mapping[str, str]
    corrected: frozenset[Site]


@dataclass(frozen=True)
class Pace:
    """How layers follow each other.

    `sequential`: a layer's inputs come from layers that are rounded already. `asymmetric`: it then aims at the outputs
    of the float network, not at its own float outputs on those inputs (Nagel et al., "Up or Down? Adaptive Rounding for
    Post-Training Quantization", ICML 2020, section 3.5), as far as samples bear that out; see `aimed`. `biases`: a bias
    takes up the mean error.
    """

    sequential: bool = True
    asymmetric: bool = False
    biases: bool = True


def change_weights(
    model: Model,
    sites: Sequence[Site],
    parameters: Mapping[Site, Parameters],
    samples: Iterable[Mapping[str, Array]],
    rounder: Rounder,
    *,
    pace: Pace = Pace(),
    skipped: Mapping[str, str] = MappingProxyType({}),
    least: Mapping[Site, Array] = MappingProxyType({}),
    threads: int | None = None,
    progress: Progress | None = None,
) -> WeightChange:
    """Returns the fused float model with the weights that `rounder` chose, by one pass over the samples.

    `skipped` has, by tensor, why weights are left alone. `least` has scales that the biases of operators need: an
    algorithm that chooses others stays above. Memory is that of the weights, of one sample and of the second moments
    of one layer; all samples wait on disk, in a temporary folder, each as it is at one place of the network. Raises
    DataError for samples that do not fit, CalibrationError for NaN and infinity.
    """
    layers, refused = weight_layers(model, sites)
    layers = [layer for layer in layers if layer.site.tensor not in skipped]
    run = _Run(model, sites, parameters, rounder, pace, least)
    if layers:
        with _streams(model, layers, samples, pace, threads) as (stages, streams):
            run.all(layers, stages, streams, progress)
    return run.result({**refused, **skipped})


@contextmanager
def _streams(
    model: Model, layers: Sequence[WeightLayer], samples: Iterable[Mapping[str, Array]], pace: Pace, threads: int | None
) -> Iterator[tuple[Stages, list[Stream]]]:
    """The network as it becomes, and beside it the float one where that is aimed at."""
    stages = stages_at(model, [layer.node.name for layer in layers])
    with tempfile.TemporaryDirectory(prefix="quantonnx-") as folder:
        streams = [Stream(stages, Path(folder) / "changed", samples, threads)]
        if pace.sequential and pace.asymmetric:
            streams.append(Stream(stages, Path(folder) / "float", streams[0].feeds(), threads))
        yield stages, streams


class _Run:
    """The weights and biases that have changed so far."""

    def __init__(
        self,
        model: Model,
        sites: Sequence[Site],
        parameters: Mapping[Site, Parameters],
        rounder: Rounder,
        pace: Pace,
        least: Mapping[Site, Array],
    ) -> None:
        self.model = model.copy()
        self.sites = sites
        self.parameters = dict(parameters)
        self.rounder = rounder
        self.pace = pace
        self.least = least
        self.values = self.model.tensors()
        self.changed: dict[str, Array] = {}
        self.written: dict[str, Array] = {}
        self.changes: list[LayerChange] = []
        self.refused: dict[str, str] = {}
        self.corrected: set[Site] = set()

    def all(
        self, layers: Sequence[WeightLayer], stages: Stages, streams: list[Stream], progress: Progress | None
    ) -> None:
        """Takes every stage in turn: its layers first, then its samples."""
        named = {layer.node.name: layer for layer in layers}
        if self.pace.sequential:
            self._round_others({layer.site for layer in layers})
        for stage in stages:
            self._layers([named[name] for name in stage.layers], streams)
            for stream, changed in zip(streams, (self.changed, {}), strict=False):
                stream.advance(stage, changed)
            if progress and stage.layers:
                progress(len(self.changes) + len(self.refused), len(layers))

    def result(self, refused: Mapping[str, str]) -> WeightChange:
        """Writes what has changed into the model."""
        for name, values in self.written.items():
            self.values[name]._values = constant(name, values)._values
        told = {**refused, **self.refused}
        return WeightChange(self.model, self.parameters, tuple(self.changes), told, frozenset(self.corrected))

    def _round_others(self, chosen: Collection[Site]) -> None:
        """Weights that no algorithm chooses codes for are rounded as they will be."""
        for site in self.sites:
            if site.is_weight and site not in chosen:
                values, numbers = self.model.array(self.values[site.tensor]), self.parameters[site]
                codes = quantize(values, numbers, site.format, site.tensor)
                self.changed[site.tensor] = dequantize(codes, numbers, site.format).astype(values.dtype)

    def _layers(self, layers: Sequence[WeightLayer], streams: Sequence[Stream]) -> None:
        readings: dict[tuple[Any, ...], list[WeightLayer]] = {}
        for layer in layers:
            readings.setdefault(layer.reading, []).append(layer)
        for together in readings.values():
            halves = _moments(together[0], streams)
            moments = halves[0] + halves[1] if halves[1].rows else halves[0]
            for layer in together:
                self._layer(layer, moments, halves)

    def _layer(self, layer: WeightLayer, moments: Moments, halves: tuple[Moments, Moments]) -> None:
        started = time.perf_counter()
        problem = self._problem(layer, moments, halves)
        rounded = self.rounder(problem)
        weight = self.model.array(self.values[layer.site.tensor])
        values = moved(problem, rounded, weight.dtype)
        if values is None:
            self.refused[layer.site.tensor] = f"{weight.dtype} does not hold what its codes stand for"
            return
        self._write(layer, moments, problem, values)
        self.parameters[layer.site] = rounded.parameters
        self.changes.append(_compared(problem, values, time.perf_counter() - started))

    def _problem(self, layer: WeightLayer, moments: Moments, halves: tuple[Moments, Moments]) -> Problem:
        centred = self.pace.biases and layer.bias is not None
        weight = layer.matrix(self.model.array(self.values[layer.site.tensor]).astype(np.float64))
        second = moments.second(centred=centred)
        target = weight
        if self.pace.sequential and self.pace.asymmetric:
            target = aimed(weight, moments, halves, centred=centred)
        return Problem(layer, weight, target, second, self.parameters[layer.site], self.least.get(layer.site))

    def _write(self, layer: WeightLayer, moments: Moments, problem: Problem, values: Array) -> None:
        self.written[layer.site.tensor] = values
        if self.pace.biases and layer.bias is not None:
            old = self.model.array(layer.bias)
            aim = problem.weight @ (moments.float_mean if self.pace.asymmetric else moments.mean)[:, :, None]
            mean = layer.matrix(values.astype(np.float64)) @ moments.mean[:, :, None]
            self.written[layer.bias.name] = (old + (aim - mean).reshape(-1)).astype(old.dtype)
            self.corrected.add(layer.site)
        if self.pace.sequential:
            self.changed.update(self.written)


def _moments(layer: WeightLayer, streams: Sequence[Stream]) -> tuple[Moments, Moments]:
    """Those of each half of the samples, where a second stream makes it matter; else all are in the first."""
    halves = tuple(Moments(layer.groups, layer.inputs, paired=len(streams) > 1) for _ in range(2))
    every = [stream.values(layer.activation) for stream in streams]
    for sample, values in enumerate(zip(*every, strict=True)):
        half = halves[sample % len(streams)]
        for rows in zip(*(layer.rows(value) for value in values), strict=True):
            half.update(*rows)
    return halves[0], halves[1]


def _compared(problem: Problem, values: Array, seconds: float) -> LayerChange:
    scale, zero_point = problem.steps()
    plain = (problem.plain() - zero_point) * scale
    new = problem.layer.matrix(values.astype(np.float64))
    whole = squared_error(problem.weight, problem.second)
    errors = (squared_error(each - problem.target, problem.second) for each in (plain, new))
    before, after = (max(error, 0.0) / whole if whole > 0 else 0.0 for error in errors)
    return LayerChange(problem.layer.site.tensor, problem.layer.node.name, before, after, seconds)
