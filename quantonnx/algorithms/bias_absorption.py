"""High-bias absorption: what a channel never falls below moves from its bias into the bias of the layer that reads it.

Where a channel is always above c behind a ReLU, ReLU(x) = ReLU(x − c) + c, and W · c is the same for every pixel: c is
taken out of the first bias and W · c goes into the second. What stands between then has a smaller range, which
equalization may have widened (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, section 4.1.3). The paper takes c = max(0, β − 3γ) from batch normalization, which is folded here; samples
give mean and standard deviation, and c is never above the lowest value that they show, so that on them nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.algorithms.channel_pairs import Layer, Pair, channel_pairs
from quantonnx.algorithms.norm_readers import Refused, Skip
from quantonnx.calibration.feeds import ForwardLoop, Progress
from quantonnx.calibration.session import Collector
from quantonnx.editing import Rewriter
from quantonnx.model import Model
from quantonnx.weights import load_array

Array = NDArray[Any]

_DEVIATIONS = 3


@dataclass(frozen=True)
class Absorbed:
    """A value whose channels became smaller by `amount`, float64 [channels]; the operators that give and read it."""

    activation: str
    first: str
    second: str
    amount: Array


@dataclass(frozen=True)
class Absorption:
    """A model with smaller biases, what was absorbed, and what was not and why."""

    model: Model
    absorbed: tuple[Absorbed, ...]
    refused: tuple[Refused, ...]


def absorb_biases(
    model: Model,
    samples: Any = None,
    *,
    skip: Skip = lambda names: None,
    forward_loop: ForwardLoop | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    memory_limit: int | None = None,
) -> Absorption:
    """Returns the fused float model with high biases absorbed; nothing is run where none can be.

    `samples`, `forward_loop` and `memory_limit` are those of `calibrate`; `skip` names layers to leave alone. The
    results are those of the model for all values that samples show, and differ where others fall below them.
    """
    found = [_fit(each) for each in channel_pairs(model, skip)]
    pairs = [each for each in found if isinstance(each, Pair)]
    refused = tuple(each for each in found if isinstance(each, Refused))
    if not pairs:
        return Absorption(model.copy(), (), refused)
    watch = _Watch(model, pairs)
    with Collector(
        watch.model, (), means=watch.means, channels=watch.last, threads=threads, memory_limit=memory_limit
    ) as collector:
        collector.observe(samples, forward_loop, limit=limit, progress=progress)
        collector.finish()
        amounts = watch.amounts(collector)
    twin = model.copy()
    absorbed = tuple(_absorbed(twin, amounts, skip))
    return Absorption(twin, absorbed, refused)


def _fit(found: Pair | Refused) -> Pair | Refused:
    """A pair of layers with biases and a ReLU between them, the second of which reads no border."""
    if isinstance(found, Refused):
        return found
    second, between = found.second.node, [node.op for node in found.between]
    reason = None
    if between != ["Relu"] or found.first.node.op == "MatMul":
        reason = f"{' and '.join(between) or 'nothing'} stands behind {found.first.node.op}, not one Relu"
    elif not found.added or second.op not in ("Conv", "Gemm") or len(second.inputs) < 3:
        reason = "both layers need a bias, the second one as Conv or Gemm"
    elif not isinstance(second.inputs[2], gs.Constant) or second.inputs[2].shape != (found.second.outputs,):
        reason = f"the bias of {second.name!r} is computed, or not one number for each channel"
    elif _weighed(found.first.node) or _weighed(second):
        reason = "a Gemm multiplies by alpha or beta"
    elif _pads(second):
        reason = f"{second.op} {second.name!r} pads with zeros, where the channel is not above them"
    return found if reason is None else Refused(found.activation, reason)


def _weighed(node: gs.Node) -> bool:
    return any(node.attrs.get(name, 1.0) != 1.0 for name in ("alpha", "beta"))


def _pads(node: gs.Node) -> bool:
    return any(node.attrs.get("pads", ())) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")


class _Watch:
    """The model with outputs that tell what is asked of each value: its square, and it with the channels last."""

    def __init__(self, model: Model, pairs: list[Pair]) -> None:
        self.model = model.copy()
        self.images = {pair.activation: pair.first.images for pair in pairs}
        ranks = {pair.activation: len(pair.first.weight.shape) for pair in pairs}
        editor, tensors = Rewriter(self.model), self.model.tensors()
        self.squares = {name: editor.insert("Mul", [tensors[name]] * 2, f"{name}_square") for name in ranks}
        self._last = {
            name: editor.insert("Transpose", [tensors[name]], f"{name}_last", {"perm": [0, *range(2, rank), 1]})
            for name, rank in ranks.items()
            if self.images[name]
        }
        for output in (*self.squares.values(), *self._last.values()):
            output.dtype = np.float32
            list.append(self.model.graph.outputs, output)
        self.model.sort()

    @property
    def means(self) -> dict[str, bool]:
        """The values whose channel means are wanted, with whether they have spatial axes."""
        return self.images | {square.name: self.images[name] for name, square in self.squares.items()}

    @property
    def last(self) -> list[str]:
        """The values, the channels along the last axis."""
        return [self._last_of(name) for name in self.images]

    def amounts(self, collector: Collector) -> dict[str, Array]:
        """Returns how much of each channel can be absorbed, by value."""
        means, extremes = collector.channel_means(), collector.channel_extremes()
        return {
            name: _amount(means[name], means[square.name], extremes[self._last_of(name)].low)
            for name, square in self.squares.items()
        }

    def _last_of(self, name: str) -> str:
        return str(self._last[name].name) if name in self._last else name


def _amount(mean: Array, square: Array, lowest: Array) -> Array:
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return np.asarray(np.maximum(np.minimum(mean - _DEVIATIONS * deviation, lowest), 0))


def _absorbed(model: Model, amounts: Mapping[str, Array], skip: Skip) -> Iterator[Absorbed]:
    """Moves amounts from bias to bias, in place."""
    editor = Rewriter(model)
    for pair in channel_pairs(model, skip):
        amount = amounts.get(pair.activation) if isinstance(pair, Pair) else None
        if isinstance(pair, Refused) or amount is None or not amount.any():
            continue
        (added,) = pair.added
        node, index = added.edges[0]
        _add(editor, node, index, -amount)
        _add(editor, pair.second.node, 2, _given_by(pair.second, amount))
        yield Absorbed(pair.activation, pair.first.node.name, pair.second.node.name, amount)


def _given_by(layer: Layer, amount: Array) -> Array:
    """What a layer makes of inputs that are `amount` everywhere, float64 [outputs]."""
    weight = layer.seen(load_array(layer.weight)).sum(axis=3, dtype=np.float64)
    return np.asarray(np.einsum("goi,gi->go", weight, amount.reshape(len(weight), -1)).reshape(-1))


def _add(editor: Rewriter, node: gs.Node, index: int, amount: Array) -> None:
    """Gives the operator a bias of its own, with the amount added."""
    old = load_array(node.inputs[index])
    new = (old.astype(np.float64) + amount.reshape(old.shape)).astype(old.dtype)
    editor.set_input(node, index, editor.constant(f"{node.outputs[0].name}_bias", new))
