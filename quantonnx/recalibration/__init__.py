"""New scales for a model that already has Q/DQ pairs, whoever put them there.

The pairs on activations are taken out of a copy, that float view is run over the data, and the new numbers are written
where the old ones were. Weights stay as they are; int32 biases follow the scale of their input, so that they keep their
value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.ranges import RangeMethod, choose_range, parse_method
from quantonnx.calibration.session import Collector
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.decisions import Decision
from quantonnx.editing import Rewriter
from quantonnx.errors import ModelError
from quantonnx.formats import Parameters
from quantonnx.inspecting import MOVING, constant_of
from quantonnx.memory import memory_limit_of
from quantonnx.model import Model
from quantonnx.provenance import describe_recalibration
from quantonnx.recalibration.numbers import Numbers, readable
from quantonnx.recalibration.view import FloatView, float_view

if TYPE_CHECKING:
    from quantonnx.calibration.samples import Feed

__all__ = ["FloatView", "Recalibrated", "float_view", "recalibrate", "watch_pairs"]

Array = np.ndarray[Any, Any]

_INT32_MAX = 2**31 - 1
_SAME_PRODUCT = 1e-3
_KEEPS_RANGE = MOVING | {"Concat"}


@dataclass(frozen=True)
class Recalibrated:
    """A Q/DQ model with new numbers: how many pairs got them, how many biases followed, what was left and why."""

    model: Model
    pairs: int
    biases: int
    left: tuple[Decision, ...]


def recalibrate(
    source: str | Path | bytes | Model,
    samples: Iterable[Feed] = (),
    *,
    method: str | RangeMethod = "minmax",
    statistics: Statistics | None = None,
    threads: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    memory_limit: int | str | None = None,
) -> Recalibrated:
    """Returns the model with new scales and zero points on its activation pairs, calibrated on `samples`, or from
    `statistics` that `watch_pairs` collected before; `memory_limit` is that of `calibrate`.

    A signed pair with zero point 0 stays symmetric. Pairs with equal numbers on both sides of an operator that keeps
    the range (MaxPool, Concat, Reshape…) keep equal numbers. Raises ModelError where there is no pair to calibrate,
    and CalibrationError or DataError as `calibrate` does.
    """
    model, chosen = Model.read(source), parse_method(method)
    found, left = readable(model)
    if not found:
        reason = f"{left[0].name!r}: {left[0].reason}" if left else "use `quantonnx quantize` for a float model"
        raise ModelError("no Q/DQ pair on an activation can be calibrated", reason)
    view = float_view(model)
    if statistics is None:
        statistics = _collected(
            view,
            samples,
            "",
            histogram=chosen.needs_histogram,
            threads=threads,
            progress=progress,
            memory_limit=memory_limit,
        )
    known = statistics.require(model.digest, view.watched.values())
    seen = {tensor: known[value] for tensor, value in view.watched.items()}
    writer = _Writer(model)
    for group in _groups(found):
        writer.change(group, _parameters(group, seen, chosen))
    biases = writer.follow(left)
    model.sort()
    model.metadata = describe_recalibration(model.metadata, model.digest, method=str(chosen), data=statistics.data)
    return Recalibrated(model, len(found), biases, tuple(left))


def watch_pairs(
    source: str | Path | bytes | Model,
    samples: Iterable[Feed],
    *,
    name: str = "",
    threads: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    memory_limit: int | str | None = None,
) -> Statistics:
    """Returns statistics of every pair that `recalibrate` can give new numbers, by whatever method; `name` is what the
    data is called."""
    return _collected(
        float_view(Model.read(source)), samples, name, threads=threads, progress=progress, memory_limit=memory_limit
    )


def _collected(
    view: FloatView,
    samples: Iterable[Feed],
    name: str,
    *,
    histogram: bool = True,
    threads: int | None,
    progress: Callable[[int, int | None], None] | None,
    memory_limit: int | str | None,
) -> Statistics:
    watched = list(dict.fromkeys(view.watched.values()))
    allowed = memory_limit_of(memory_limit)
    with Collector(view.model, watched, histogram=histogram, threads=threads, memory_limit=allowed) as collector:
        collector.run_all(samples, progress)
        return collector.collected(name)


def _groups(found: list[Numbers]) -> list[list[Numbers]]:
    """Joins pairs that have equal numbers on both sides of operators that keep the range."""
    by_end = {id(node.outputs[0]): numbers for numbers in found for node in numbers.pair.dequantize}
    group_of = {id(numbers): [numbers] for numbers in found}
    for numbers in found:
        for before in _pairs_before(numbers.pair.quantize.inputs[0], by_end):
            mine, other = group_of[id(numbers)], group_of[id(before)]
            if before.key == numbers.key and mine is not other:
                other += mine
                group_of.update((id(member), other) for member in mine)
    return list({id(group): group for group in group_of.values()}.values())


def _pairs_before(value: gs.Tensor, by_end: dict[int, Numbers]) -> Iterator[Numbers]:
    producer = value.inputs[0] if value.inputs else None
    if producer is None or producer.op not in _KEEPS_RANGE:
        return
    for read in producer.inputs:
        if id(read) in by_end:
            yield by_end[id(read)]


def _parameters(group: list[Numbers], statistics: dict[str, TensorStatistics], method: RangeMethod) -> Parameters:
    fmt = group[0].format
    ranges = [choose_range(statistics[numbers.pair.tensor], method, fmt) for numbers in group]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return fmt.parameters(low, high, group[0].scale.dtype.name)


class _Writer:
    """Puts new numbers where the old ones were; constants that others read too are left to them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.editor = Rewriter(model)
        self._factors: dict[int, float] = {}

    def change(self, group: list[Numbers], parameters: Parameters) -> None:
        """Gives all pairs of a group the same numbers."""
        for numbers in group:
            pair = numbers.pair
            scale = self._shaped(pair.tensor, "scale", parameters.scale, numbers.scale)
            zero_point = self._shaped(pair.tensor, "zero_point", parameters.zero_point, numbers.zero_point)
            for node in (pair.quantize, *pair.dequantize):
                self.editor.set_input(node, 1, scale)
                self.editor.set_input(node, 2, zero_point)
                self._factors[id(node.outputs[0])] = float(scale.values.reshape(-1)[0] / numbers.scale.reshape(-1)[0])

    def _shaped(self, tensor: str, what: str, value: Array, old: Array) -> gs.Constant:
        return self.editor.constant(f"{tensor}_{what}", np.asarray(value).astype(old.dtype).reshape(old.shape))

    def follow(self, left: list[Decision]) -> int:
        """Changes int32 biases so that their scale is again the product of the two others; returns how many."""
        done: set[int] = set()
        for node in self.model.graph.nodes:
            bias = _int32_bias(node)
            factor = self._factors.get(id(node.inputs[0])) if bias is not None else None
            if bias is None or factor is None or id(bias) in done or not self._is_product(node, bias, factor):
                continue
            done.add(id(bias))
            self._rescale(node, bias, factor, left)
        return len(done)

    def _is_product(self, node: gs.Node, bias: gs.Node, factor: float) -> bool:
        """Whether the bias had the product of the old scales, as integer kernels take for granted."""
        scales = [constant_of(origin.inputs[1]) for value in node.inputs[:2] for origin in value.inputs[:1]]
        own = constant_of(bias.inputs[1])
        if own is None or len(scales) != 2 or scales[0] is None or scales[1] is None:
            return False
        product = self.model.array(scales[0]) / factor * self.model.array(scales[1])
        return bool(np.allclose(self.model.array(own), product, rtol=_SAME_PRODUCT, atol=0))

    def _rescale(self, node: gs.Node, bias: gs.Node, factor: float, left: list[Decision]) -> None:
        stored, scale = constant_of(bias.inputs[0]), constant_of(bias.inputs[1])
        assert stored is not None
        assert scale is not None
        old, name = self.model.array(scale), bias.outputs[0].name
        codes = np.rint(self.model.array(stored).astype(np.float64) / factor)
        if np.abs(codes).max(initial=0) > _INT32_MAX:
            left.append(Decision(name, "its int32 codes would overflow at the new scale, so it became float"))
            values = (self.model.array(stored) * old.astype(np.float64)).astype(old.dtype)
            self.editor.set_input(node, 2, self.editor.constant(f"{name}_float", values))
            return
        new = (old.astype(np.float64) * factor).astype(old.dtype)
        self.editor.set_input(bias, 0, self.editor.constant(f"{name}_codes", codes.astype(np.int32)))
        self.editor.set_input(bias, 1, self.editor.constant(f"{name}_scale", new))


def _int32_bias(node: gs.Node) -> gs.Node | None:
    """Returns the DequantizeLinear that gives an operator its int32 bias."""
    if node.op not in ("Conv", "ConvTranspose", "Gemm") or len(node.inputs) < 3 or not node.inputs[2].inputs:
        return None
    origin = node.inputs[2].inputs[0]
    stored = constant_of(origin.inputs[0]) if origin.op == "DequantizeLinear" else None
    return origin if stored is not None and np.dtype(stored.dtype) == np.int32 else None
