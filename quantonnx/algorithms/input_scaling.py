"""Outlier channels in front of linear layers: divided where they are read, multiplied back into the rows of weights.

SmoothQuant (Xiao et al., ICML 2023, section 4) needs a norm that nothing else reads. In front of other layers (after a
norm that a residual sum reads too, or after GELU) one Mul on the way into the layer does the same: it leaves the result
in float as it is, costs a pass over the activation, and is made only where much is gained. The factors are
s = max|X|^α, or that over max|W|^(1−α), of the channel, with the α of least expected error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.algorithms.norm_readers import NormReaders, Operand, Skip, input_axis, is_linear, norm_readers
from quantonnx.algorithms.operand_scaling import OperandScaler, divide_input
from quantonnx.calibration.feeds import ForwardLoop
from quantonnx.calibration.session import Collector
from quantonnx.calibration.statistics import ChannelExtremes
from quantonnx.formats import TensorFormat
from quantonnx.model import Model
from quantonnx.pattern import Edge
from quantonnx.sites import Site
from quantonnx.weights import load_array

Array = NDArray[Any]

SAMPLES = 8
"""How many samples show which channels are outliers: these are the same for all inputs."""

_ALPHAS = np.linspace(0.1, 1, 10)
_SMALLEST_CHANNEL = 1 / 64
"""Of the largest: a channel that samples leave smaller, or dead, counts as this large, so that others may wake it."""

_COLUMNS = 256  # outputs of a wide layer that are looked at


@dataclass(frozen=True)
class ScaledInput:
    """An activation that was divided by channel, float32 `scale` [channels], on its way into linear layers, and by how
    many dB less error is expected of these; `folded` where a norm took the factors and no Mul was needed."""

    activation: str
    linears: tuple[str, ...]
    scale: Array
    gain: float
    folded: bool

    def __str__(self) -> str:
        how = "at its norm" if self.folded else "by a Mul"
        into = ", ".join(repr(name) for name in self.linears)
        return f"channels are scaled {how} in front of {into}: {self.gain:.1f} dB less error is expected"


@dataclass(frozen=True)
class InputScaling:
    """A model with scaled inputs, and which these are."""

    model: Model
    scaled: tuple[ScaledInput, ...]


@dataclass(frozen=True, eq=False)
class _Input:
    """A site in front of linear layers, their weights, and the format of each."""

    site: Site
    weights: tuple[Operand, ...]
    formats: tuple[TensorFormat, ...]

    @property
    def nodes(self) -> tuple[gs.Node, ...]:
        """The layers."""
        return tuple(weight.edges[0][0] for weight in self.weights)


def scale_inputs(
    model: Model,
    sites: Sequence[Site],
    samples: Any = None,
    *,
    least_gain: float = 3.0,
    skip: Skip = lambda names: None,
    forward_loop: ForwardLoop | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
) -> InputScaling:
    """Returns the fused float model with scaled inputs where at least `least_gain` dB less error is expected.

    `samples`, `forward_loop` and `memory_limit` are those of `calibrate`; of samples the first 8 are run, and none
    where no input can be scaled. `skip` names linear layers to leave alone. Raises CalibrationError for an input with
    NaN or infinity.
    """
    found = list(_inputs(model, sites, skip))
    if not found:
        return InputScaling(model, ())
    names = list(dict.fromkeys(each.site.tensor for each in found))
    with Collector(model, (), channels=names, threads=threads, memory_limit=memory_limit) as collector:
        collector.observe(samples, forward_loop, limit=SAMPLES)
        collector.finish()
        seen = collector.channel_extremes()
    return scale_inputs_by(model, sites, seen, least_gain=least_gain, skip=skip)


def scale_inputs_by(
    model: Model,
    sites: Sequence[Site],
    seen: Mapping[str, ChannelExtremes],
    *,
    least_gain: float = 3.0,
    skip: Skip = lambda names: None,
) -> InputScaling:
    """Returns what `scale_inputs` does, from what was `seen` of the channels of inputs by tensor."""
    twin = model.copy()
    scaler = OperandScaler(twin)
    norms = {n.result.name: n for n in norm_readers(twin) if isinstance(n, NormReaders)}
    scaled = []
    for each in _inputs(twin, sites, skip):
        name = each.site.tensor
        if name not in seen:
            continue
        scale, gain = _best_scale(each, seen[name])
        if gain < least_gain:
            continue
        linears = tuple(node.name for node in each.nodes)
        norm = norms.get(name)
        folded = norm is not None and set(norm.linears) == set(linears)
        divide(scaler, each.weights, scale, norm if folded else None)
        scaled.append(ScaledInput(name, linears, scale, gain, folded))
    if not scaled:
        return InputScaling(model, ())
    twin.sort()
    return InputScaling(twin, tuple(scaled))


def _inputs(model: Model, sites: Sequence[Site], skip: Skip) -> Iterator[_Input]:
    """The sites in front of nothing but linear layers with quantized weights."""
    nodes = {node.name: node for node in model.graph.nodes}
    formats = {edge: site.format for site in sites if site.is_weight for edge in site.edges}
    for site in sites:
        if _may_change(site):
            layers = [nodes[edge.node] for edge in site.edges]
            own = [formats.get(Edge(node.name, 1)) for node in layers]
            known = [fmt for fmt in own if fmt is not None and not fmt.group_size and not fmt.float8]
            if len(known) == len(layers) and all(_reads(node, site.tensor, skip) for node in layers):
                weights = (Operand(node.inputs[1], ((node, 1),), input_axis(node)) for node in layers)
                yield _Input(site, tuple(weights), tuple(known))


def _may_change(site: Site) -> bool:
    alone = site.on_activation and not site.whole and site.source == site.tensor and bool(site.edges)
    return alone and site.ranging.needs_samples and site.float_type == "float32" and not site.format.float8


def _reads(node: gs.Node, name: str, skip: Skip) -> bool:
    if not is_linear(node, node.inputs[0]) or node.inputs[0].name != name or len(node.inputs[1].shape) != 2:
        return False
    return skip([node.name, node.op, *(output.name for output in node.outputs)]) is None


def divide(scaler: OperandScaler, weights: Sequence[Operand], scale: Array, norm: NormReaders | None = None) -> None:
    """Divides the input of layers by channel, in the norm that gives it or by a Mul, and multiplies their weights."""
    layers = [weight.edges[0][0] for weight in weights]
    value = layers[0].inputs[0]
    if norm is None:
        divide_input(scaler.editor, layers, scale, f"{value.name}_scaled")
    else:
        for operand, part in zip(norm.factors, ("gamma", "beta"), strict=False):
            scaler.scale(operand, 1 / scale, f"{value.name}_{part}")
    for operand in weights:
        scaler.scale(operand, scale, f"{operand.edges[0][0].outputs[0].name}_weight")


def _best_scale(found: _Input, seen: ChannelExtremes) -> tuple[Array, float]:
    """The factors of least expected error, float32 [channels], and by how many dB that is less than unscaled."""
    matrices = [_some_outputs(load_array(each.constant), each.axis) for each in found.weights]
    if not all(np.isfinite(matrix).all() for matrix in matrices):
        return np.ones(len(matrices[0]), np.float32), 0.0
    error = _ExpectedError(found, seen, matrices)
    largest = np.maximum(seen.maxima.astype(np.float64), float(seen.maxima.max(initial=0)) * _SMALLEST_CHANNEL)
    rows = np.maximum.reduce([np.abs(matrix).max(axis=1) for matrix in matrices]).astype(np.float64)
    rows = np.maximum(rows, max(float(rows.max()), 1e-30) * _SMALLEST_CHANNEL)
    before = error(np.ones_like(rows))
    if not before > 0 or not largest.all():
        return np.ones(len(rows), np.float32), 0.0
    tried = [part for a in _ALPHAS for part in (_centred(largest**a / rows ** (1 - a)), _centred(largest**a))]
    errors = [error(scale) for scale in tried]
    best = int(np.argmin(errors))
    return tried[best].astype(np.float32), 10 * log10(before / errors[best])


def _centred(scale: Array) -> Array:
    """With a geometric mean of 1: a common factor changes nothing but the magnitude of the weights."""
    return np.asarray(scale / np.exp(np.log(scale).mean()))


def _some_outputs(values: Array, axis: int) -> Array:
    """The weight as float32 [channels, outputs], of many outputs evenly spaced ones."""
    matrix = np.moveaxis(np.asarray(values, np.float32), axis, 0)
    return matrix[:, :: max(matrix.shape[1] // _COLUMNS, 1)]


class _ExpectedError:
    """The power of the error of what layers give, by the factors of their input's channels.

    Rounding to steps Δ errs by Δ²/12 at every value, and by 0 at a channel that is dead. The error of x_j/s_j comes out
    multiplied by (s_j·W_jk)², that of s_j·W_jk by E[x_j²]/s_j².
    """

    def __init__(self, found: _Input, seen: ChannelExtremes, matrices: Sequence[Array]) -> None:
        self.format = found.site.format
        self.seen = seen
        self.layers = list(zip(matrices, found.formats, strict=True))
        self.power_of_rows = sum(np.square(matrix, dtype=np.float64).sum(axis=1) for matrix in matrices)

    def __call__(self, scale: Array) -> float:
        step = self.format.parameters(self._end(self.seen.low, scale, np.min), self._end(self.seen.high, scale, np.max))
        of_activation = float(step.scale) ** 2 / 12 * float((scale**2 * self.power_of_rows).sum())
        smoothed = float((self.seen.mean_square / scale**2).sum())
        return of_activation + smoothed * sum(self._of_weight(matrix, fmt, scale) for matrix, fmt in self.layers)

    def _end(self, values: Array, scale: Array, end: Any) -> float:
        return float(end(np.append(values / scale, 0.0)))

    def _of_weight(self, matrix: Array, fmt: TensorFormat, scale: Array) -> float:
        scaled = matrix * scale.astype(np.float32)[:, None]
        low, high = np.minimum(scaled.min(axis=0), 0), np.maximum(scaled.max(axis=0), 0)
        if fmt.axis is None:
            low, high = (np.full_like(low, each) for each in (low.min(), high.max()))
        return float(np.square(fmt.parameters(low, high).scale.astype(np.float64)).sum()) / 12
