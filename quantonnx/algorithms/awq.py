"""AWQ: input channels that carry large activations get finer steps, by a scaling that changes no result in float.

The weights that read channel j are multiplied by s_j = (E|x_j|)^α and what gives the channel is divided by it: the
factors of a normalization, or the linear layer before. α is the one whose rounded weights change the outputs least; the
scales of the weights are then searched by the same measure (Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan and Han,
"AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", MLSys 2024, section 3.2, equations 4
and 5). The error of outputs is tr(ΔW H ΔWᵀ) with H = E[x xᵀ], so that samples pass once for all α.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.algorithms.channel_pairs import Pair, channel_pairs
from quantonnx.algorithms.grids import Problem, Rounded, nearest
from quantonnx.algorithms.layer_choice import skipped
from quantonnx.algorithms.layerwise import Pace
from quantonnx.algorithms.norm_readers import NormReaders, Operand, Refused, Skip, norm_readers
from quantonnx.algorithms.operand_scaling import OperandScaler, divide_input, fits
from quantonnx.algorithms.scale_search import searched
from quantonnx.algorithms.second_moments import Moments, squared_error
from quantonnx.algorithms.stages import stages_at
from quantonnx.algorithms.weight_layers import WeightLayer, weight_layers
from quantonnx.calibration.feeds import Progress
from quantonnx.calibration.staging import Stream
from quantonnx.config.recipe import AwqConfig
from quantonnx.editing import Rewriter
from quantonnx.model import Model
from quantonnx.sites import Site

Array = NDArray[Any]

_LEAST_SIZE = 1e-4
"""A channel that is hardly ever other than 0 counts as having this mean size."""


class Awq(AwqConfig):
    """The algorithm with its settings."""

    @property
    def pace(self) -> Pace:
        """How layers follow each other."""
        return Pace(sequential=self.true_sequential)

    def round(self, problem: Problem) -> Rounded:
        """Returns the codes of one layer of a model that is scaled already."""
        parameters = searched(problem) if self.clip else problem.parameters
        return Rounded(problem.plain(parameters), parameters)


@dataclass(frozen=True)
class Scaled:
    """An activation that was divided by channel, float32 `scale` [channels], the linear layers that read it, the α that
    made the scale, and their error with it as a share of that without."""

    activation: str
    linears: tuple[str, ...]
    scale: Array
    alpha: float
    error: float


@dataclass(frozen=True)
class Scaling:
    """A scaled model, what was scaled in it, and what was not and why."""

    model: Model
    scaled: tuple[Scaled, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True, eq=False)
class _Place:
    """An activation whose channels may be scaled: what to divide, what to multiply, and the layers that read it.

    Where there is nothing to divide, a Mul is to be inserted.
    """

    activation: str
    divided: tuple[Operand, ...]
    multiplied: tuple[Operand, ...]
    layers: tuple[WeightLayer, ...]


def scale_activations(
    model: Model,
    sites: Sequence[Site],
    samples: Iterable[Mapping[str, Array]],
    settings: AwqConfig,
    *,
    skip: Skip = lambda names: None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Scaling:
    """Returns the fused float model with scaled channels, the same in float; nothing is run where none can be scaled.

    `sites` say which weights will be rounded, and to what. `skip` names norms and linear layers to leave alone. Raises
    DataError for samples that do not fit, CalibrationError for NaN and infinity.
    """
    twin = model.copy()
    places, refused = _places(twin, sites, settings, skip)
    scaler, done = OperandScaler(twin), []
    for number, (place, second, sizes) in enumerate(_seen(model, places, samples, threads)):
        found = _best(twin, place, second, sizes, settings.grid)
        if all(fits(each, 1 / found.scale) for each in place.divided):
            done.append((place, found))
        else:
            refused.append(Refused(place.activation, "what gives it would not fit into its type"))
        if progress:
            progress(number + 1, len(places))
    for place, found in done:
        if not place.divided:
            _insert(twin, place, found)
        for part, operand in enumerate(place.divided):
            scaler.scale(operand, 1 / found.scale, f"{place.activation}_divided_{part}")
        for operand in place.multiplied:
            scaler.scale(operand, found.scale, f"{operand.edges[0][0].outputs[0].name}_weight")
    twin.sort()
    return Scaling(twin, tuple(found for _, found in done), tuple(refused))


def _places(model: Model, sites: Sequence[Site], settings: AwqConfig, skip: Skip) -> tuple[list[_Place], list[Refused]]:
    layers, _ = weight_layers(model, sites)
    left = skipped(settings, layers)
    quantized = {layer.node.name: layer for layer in layers if layer.site.tensor not in left}
    places, refused = [], []
    for found in (*norm_readers(model, skip), *channel_pairs(model, skip)):
        place = found if isinstance(found, Refused) else _place(found, quantized)
        if isinstance(place, _Place):
            places.append(place)
        elif isinstance(found, NormReaders | Refused):
            refused.append(place)
    if settings.insert:
        scaled = {layer.node.name for place in places for layer in place.layers}
        places += _insertions([layer for name, layer in quantized.items() if name not in scaled])
        reached = {place.activation for place in places}
        refused = [each for each in refused if each.activation not in reached]
    return places, refused


def _insertions(layers: Sequence[WeightLayer]) -> Iterator[_Place]:
    """Layers that read one value, side by side: a Mul may stand before them."""
    together: dict[str, list[WeightLayer]] = {}
    for layer in layers:
        if layer.node.op != "Conv" and layer.index == 1 and not layer.node.attrs.get("transA", 0):
            together.setdefault(layer.activation, []).append(layer)
    for name, found in together.items():
        weights = (
            Operand(each.node.inputs[1], ((each.node, 1),), -1 if _inputs_last(each.node) else -2) for each in found
        )
        yield _Place(name, (), tuple(weights), tuple(found))


def _insert(model: Model, place: _Place, found: Scaled) -> None:
    nodes = [layer.node for layer in place.layers]
    divide_input(Rewriter(model), nodes, found.scale, f"{place.activation}_divided")


def _place(found: NormReaders | Pair, quantized: Mapping[str, WeightLayer]) -> _Place | Refused:
    if isinstance(found, NormReaders):
        readers, name = found.linears, found.result.name
        divided, multiplied = found.factors, found.weights
    else:
        first, second = found.first, found.second
        readers, name = (second.node.name,), second.node.inputs[0].name
        given = Operand(first.weight, ((first.node, 1),), -2 if _inputs_last(first.node) else -1)
        divided = (given, *found.added)
        multiplied = (Operand(second.weight, ((second.node, 1),), -1 if _inputs_last(second.node) else -2),)
        if first.images or second.images:
            return Refused(name, "it is an image")
    layers = tuple(quantized[reader] for reader in readers if reader in quantized)
    return _Place(name, divided, multiplied, layers) if layers else Refused(name, "no weight that reads it is rounded")


def _inputs_last(node: Any) -> bool:
    return bool(node.op == "Gemm" and node.attrs.get("transB", 0))


def _seen(
    model: Model, places: Sequence[_Place], samples: Iterable[Mapping[str, Array]], threads: int | None
) -> Iterator[tuple[_Place, Array, Array]]:
    """Each place with E[x xᵀ] and E|x| of its channels in the float network."""
    if not places:
        return
    waiting = {place.layers[0].node.name: place for place in places}
    stages = stages_at(model, tuple(waiting))
    with tempfile.TemporaryDirectory(prefix="quantonnx-") as folder:
        stream = Stream(stages, Path(folder) / "float", samples, threads)
        for stage in stages:
            for name in stage.layers:
                layer = waiting[name].layers[0]
                moments, sizes = Moments(1, layer.inputs), np.zeros(layer.inputs)
                for rows in (rows for value in stream.values(layer.activation) for rows in layer.rows(value)):
                    moments.update(rows)
                    sizes += np.abs(rows[0]).sum(axis=0)
                yield waiting[name], moments.second(), sizes / max(moments.rows, 1)
            stream.advance(stage, {})


def _best(model: Model, place: _Place, second: Array, sizes: Array, grid: int) -> Scaled:
    values = model.tensors()
    weights = [model.array(values[layer.site.tensor]).astype(np.float64) for layer in place.layers]
    best: tuple[float, float, Array] | None = None
    first = 0.0
    for alpha in np.arange(grid) / grid:
        scale = scaling(sizes, float(alpha))
        pairs = zip(place.layers, weights, strict=True)
        error = sum(_error(layer, weight, second, scale) for layer, weight in pairs)
        first = error if best is None else first
        if best is None or error < best[0]:
            best = error, float(alpha), scale
    assert best is not None
    error, alpha, scale = best
    linears = tuple(layer.node.name for layer in place.layers)
    return Scaled(place.activation, linears, scale, alpha, error / first if first else 1.0)


def scaling(sizes: Array, alpha: float) -> Array:
    """Returns s = (E|x|)^α of each channel, float32 [channels], its smallest and largest 1 / r and r."""
    scale = np.maximum(sizes, _LEAST_SIZE) ** alpha
    return np.asarray(scale / np.sqrt(scale.max() * scale.min()), np.float32)


def _error(layer: WeightLayer, weight: Array, second: Array, scale: Array) -> float:
    """The error of the outputs with a weight that is scaled, rounded and scaled back."""
    fmt, factors = layer.site.format, scale.astype(np.float64)
    matrix = layer.matrix(weight) * factors
    parameters = fmt.parameters(*fmt.extremes(layer.tensor(matrix).astype(np.float32)), layer.site.float_type)
    problem = Problem(layer, matrix, matrix, second / np.outer(factors, factors), parameters)
    steps, zero_point = problem.steps()
    change = (nearest(matrix, steps, zero_point, fmt) - zero_point) * steps - matrix
    return squared_error(change, problem.second)
