"""Measures that stand in the graph itself: sums over tensors leave it, and no activation.

A tensor that became an output would have to be kept and copied for each sample; its sums are computed beside it, by
vectorized operators, and it is freed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from quantonnx.editing import Rewriter
from quantonnx.evidence.findings import Errors
from quantonnx.evidence.pairs import Row, along
from quantonnx.model import Model

Array = np.ndarray[Any, Any]
Totals = Mapping[str, float]

_SCALAR = {"keepdims": 0}


@dataclass(frozen=True)
class ErrorGauge:
    """The outputs that tell the errors of one tensor, by name."""

    signal: str
    noise: str
    power: str
    count: str

    def read(self, totals: Totals) -> Errors:
        """Returns the errors from the sums of all samples; none where the tensor was never there."""
        sums = [totals.get(name, 0.0) for name in (self.signal, self.noise, self.power, self.count)]
        return Errors(sums[0], sums[1], sums[2], int(sums[3]))


@dataclass(frozen=True)
class RangeGauge:
    """The outputs that tell how a tensor fits the ends of its codes, by name."""

    low: str
    high: str
    clipped: str
    clipping: str


class Gauges:
    """Adds measures to a model; `outputs` says how each of their results is added up: sum, min or max."""

    def __init__(self, model: Model, editor: Rewriter) -> None:
        self.model = model
        self.editor = editor
        self.outputs: dict[str, str] = {}
        self._values: dict[int, gs.Tensor] = {}
        self._sums: dict[tuple[str, int], str] = {}
        self._places = {id(value): at for at, node in enumerate(model.graph.nodes) for value in node.outputs}
        self._due: dict[str, int] = {}

    def errors(self, exact: gs.Tensor, rough: gs.Tensor) -> ErrorGauge:
        """Measures how far a value is from the float one."""
        x, q = self._float(exact), self._float(rough)
        difference = self._add("Sub", [x, q], f"{rough.name}_difference")
        due = self._places.get(id(exact), -1)
        return ErrorGauge(
            signal=self._sum("ReduceSumSquare", x, due),
            noise=self._sum("ReduceSumSquare", difference, due),
            power=self._sum("ReduceSumSquare", q, due),
            count=self._sum("Size", x, due),
        )

    def range(self, exact: gs.Tensor, row: Row, rank: int | None) -> RangeGauge | None:
        """Measures how a float value fits into a pair; None where its rank has to be known and is not.

        What is clipped by half a step or less counts as rounded.
        """
        if row.axis is not None and rank is None:
            return None
        x = self._float(exact)
        low, high = (along(np.asarray(end, np.float32), row.axis, rank or 0) for end in row.ends)
        half = along(row.scale.astype(np.float32) / 2, row.axis, rank or 0)
        name = exact.name
        inside = self._add("Max", [x, self.editor.constant(f"{name}_low", low - half)], f"{name}_above")
        inside = self._add("Min", [inside, self.editor.constant(f"{name}_high", high + half)], f"{name}_inside")
        beyond = self._add("Sub", [x, inside], f"{name}_beyond")
        signs = self._add("Sign", [beyond], f"{name}_signs")
        due = self._places.get(id(exact), -1)
        return RangeGauge(
            low=self._sum("ReduceMin", x, due, "min"),
            high=self._sum("ReduceMax", x, due, "max"),
            clipped=self._sum("ReduceSumSquare", signs, due),
            clipping=self._sum("ReduceSumSquare", beyond, due),
        )

    def close(self) -> None:
        """Makes the measures the only outputs of the model, and puts each near the value that it is about."""
        named = {value.name: value for node in self.model.graph.nodes for value in node.outputs if value.name}
        list.__setitem__(self.model.graph.outputs, slice(None), [named[name] for name in self.outputs])
        self._in_step(named)
        self.model.sort()

    def _in_step(self, named: Mapping[str, gs.Tensor]) -> None:
        """Has each node run when a measure first needs it, those of the first float values first.

        Otherwise the float model runs, then the quantized one, then all measures: every activation is held till then.
        And ONNX Runtime keeps the nodes that could run in one sorted list, which each of its optimizers walks along for
        each node: with thousands of them waiting, 200 layers take 18 seconds to load, and 4 this way.
        """
        ranks: dict[int, int] = {}
        for name in sorted(self.outputs, key=self._due.__getitem__):
            waiting = list(named[name].inputs)
            while waiting:
                node = waiting.pop()
                if id(node) not in ranks:
                    ranks[id(node)] = self._due[name]
                    waiting += [producer for value in node.inputs for producer in value.inputs]
        ordered = sorted(self.model.graph.nodes, key=lambda node: ranks.get(id(node), -1))
        list.__setitem__(self.model.graph.nodes, slice(None), ordered)

    def _float(self, value: gs.Tensor) -> gs.Tensor:
        """The value in float32; ONNX Runtime drops a Cast that changes nothing."""
        if value.dtype is not None and np.dtype(value.dtype) == np.float32:
            return value
        if id(value) not in self._values:
            cast = self._add("Cast", [value], f"{value.name}_float32", {"to": TensorProto.FLOAT})
            cast.dtype = np.dtype(np.float32)
            self._values[id(value)] = cast
        return self._values[id(value)]

    def _sum(self, op: str, value: gs.Tensor, due: int, kind: str = "sum") -> str:
        key = op, id(value)
        if key not in self._sums:
            result = self._add(op, [value], f"{value.name}_{op}", {} if op == "Size" else _SCALAR)
            if op == "Size":
                result.dtype = np.dtype(np.int64)
            self._sums[key] = str(result.name)
            self.outputs[str(result.name)] = kind
            self._due[str(result.name)] = due
        return self._sums[key]

    def _add(self, op: str, inputs: list[gs.Tensor], name: str, attrs: dict[str, Any] | None = None) -> gs.Variable:
        return self.editor.insert(op, inputs, name, dict(attrs or {}))
