"""A model that does not fit into memory, cut at narrow points into parts that do.

Cuts stand where few values cross, and where ONNX Runtime does not compute both sides as one anyway: what parts show is
then bit for bit what the whole model would show.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from quantonnx.calibration.cutting import ancestors, cut, of_constants, reads_of
from quantonnx.calibration.loading import LARGEST_IN_MEMORY
from quantonnx.calibration.staging import StageModels, Stages
from quantonnx.calibration.taps import inferred_shapes
from quantonnx.memory import FLOAT_BYTES, require, room
from quantonnx.model import Model

COPIES = 2
"""Of the weights of a model that runs: as they are in the file, and rearranged for speed."""

HELD = 4
"""Samples whose watched values are in memory: one runs, others are being counted."""


@dataclass(frozen=True)
class Watched:
    """A model that is about to run: the values that `shown` names are looked at, and its outputs where they are `kept`.

    `change` adds outputs for that; `shapes` are those of the inputs.
    """

    model: Model
    change: Callable[[onnx.ModelProto], None]
    shapes: Mapping[str, Sequence[int]]
    shown: Callable[[], Collection[str]]
    kept: bool = False


def parts_of(watched: Watched, limit: int) -> Stages | None:
    """Returns the parts that run within a limit of bytes for this process; None where the whole model does.

    Raises ModelError where a part that cannot be cut needs more.
    """
    models = StageModels(watched.model, watched.change)
    outputs = [info.name for info in models.proto.graph.output] if watched.kept else []
    shown = set(watched.shown())
    nodes = ancestors(models.proto.graph.node, {*shown, *outputs})
    names = {node.name for node in watched.model.graph.nodes}
    own, added = ([node for node in nodes if (node.name in names) is known] for known in (True, False))
    cutter = _Cutter(models, own, shown, watched.shapes)
    if cutter.whole <= room(limit):
        return None
    starts = list(cutter.starts(limit))
    wanted = {*shown, *outputs, *(name for node in added for name in node.input)}
    free = [alone and wanted.isdisjoint(node.output) for node, alone in zip(own, cutter.alone, strict=True)]
    places = _places(own, added, free, starts)
    models.blocked = cutter.blocked - set(models.inputs)
    stages = cut([*own, *added], places, models.inputs, shown=shown, kept=outputs)
    return Stages(models, [stage for stage in stages if stage.nodes or stage.dropped])


def in_one_piece(model: Model) -> int:
    """Returns about how many bytes a model takes that runs as a whole, activations of unknown size left out."""
    models = StageModels(model)
    return _Cutter(models, list(models.proto.graph.node), set(), {}).whole


def _places(
    own: Sequence[onnx.NodeProto], added: Sequence[onnx.NodeProto], free: Sequence[bool], starts: Sequence[int]
) -> list[int | None]:
    """The part of each node, None where it is free to run in any; what looks at a value stands where that is given."""
    places = [None if anywhere else bisect_right(starts, index) - 1 for index, anywhere in enumerate(free)]
    made = {name: place or 0 for node, place in zip(own, places, strict=True) for name in node.output}
    for node in added:
        place = max(made.get(name, 0) for name in node.input)
        places.append(place)
        made.update(dict.fromkeys(node.output, place))
    return places


_PLAIN = frozenset({"Flatten", "Gemm", "LayerNormalization", "MatMul", "Reshape", "Shape", "Squeeze", "Transpose"})
"""Operators whose results never are in the blocked layout of convolutions."""


class _Cutter:
    """What runs of nodes take, and the narrowest places between them."""

    def __init__(
        self,
        models: StageModels,
        nodes: Sequence[onnx.NodeProto],
        shown: set[str],
        shapes: Mapping[str, Sequence[int]],
    ) -> None:
        self.nodes = nodes
        self.shown = shown
        self.weights = {name: int(item._values.nbytes) for name, item in models.large.items()}
        self.elements = {name: prod(item.shape) for name, item in models.large.items()}
        self.sizes = inferred_sizes(models.proto, shapes)
        self.alone = list(of_constants(nodes, models.constants))
        self.reads = _weights_of(nodes, self.alone, self.weights)
        self.blocked = _blocked(nodes)
        self.crossing = self._crossings(models.inputs)

    @property
    def whole(self) -> int:
        """About how many bytes the model takes while it runs in one piece, and while it is handed over."""
        cost, weights = _Cost(self), sum(self.weights.values())
        for index in range(len(self.nodes)):
            cost.add(index)
        return cost.total + (COPIES * weights if weights <= LARGEST_IN_MEMORY else 0)

    def starts(self, limit: int) -> Iterator[int]:
        """Yields where each part starts."""
        start, space = 0, room(limit)
        while start < len(self.nodes):
            yield start
            start = self._end(start, space, limit)

    def _end(self, start: int, space: int, limit: int) -> int:
        """Where a part ends: the narrowest place of the second half of what fits."""
        cost, ends = _Cost(self), []
        for index in range(start, len(self.nodes)):
            cost.add(index)
            if cost.total > space:
                break
            ends.append((index + 1, cost.total))
        else:
            return len(self.nodes)
        if not ends:
            require(cost.total, limit, f"the operator {self.nodes[start].name!r} alone")
            return start + 1
        exact = [each for each in ends if not self.crossing[each[0]][0]] or ends
        far = [end for end, total in exact if 2 * total >= exact[-1][1]]
        return min(far, key=lambda end: (*self.crossing[end], -end))

    def _crossings(self, inputs: Collection[str]) -> list[tuple[int, int, int]]:
        """For each place between two nodes, of the values that cross it: how many are bound to what reads them, how
        many nobody looks at, and their bytes."""
        bound, unseen, width = ([0] * (len(self.nodes) + 2) for _ in range(3))
        made = dict.fromkeys(inputs, 0)
        for index, (node, alone) in enumerate(zip(self.nodes, self.alone, strict=True)):
            made.update(dict.fromkeys(() if alone else filter(None, node.output), index + 1))
        last = {name: index + 1 for index, node in enumerate(self.nodes) for name in reads_of(node)}
        until = self._bound_until()
        for name, first in made.items():
            for table, end, amount in (
                (bound, until.get(name, 0), 1),
                (unseen, last.get(name, 0), int(name not in self.shown)),
                (width, last.get(name, 0), self.sizes.get(name, 1)),
            ):
                table[first] += amount if end > first else 0
                table[end] -= amount if end > first else 0
        return list(zip(*map(_running, (bound, unseen, width)), strict=True))

    def _bound_until(self) -> dict[str, int]:
        """Up to which place a value is bound to what reads it: ONNX Runtime computes both together, or in the blocked
        layout of convolutions, and other sums come out in the last bit where they are joined."""
        products, until = set[str](), {}
        for index, node in enumerate(self.nodes):
            for name in reads_of(node):
                joined = node.op_type == "QuantizeLinear" or name in products
                if joined or (name in self.blocked and node.op_type != "Conv"):
                    until[name] = index + 1
            products.update(name for name in node.output if self.reads[index] and name not in self.shown)
        return until


def _blocked(nodes: Sequence[onnx.NodeProto]) -> frozenset[str]:
    """The values that may be in the blocked layout of convolutions: what these give, and what follows from it."""
    found = set[str]()
    for node in nodes:
        if node.op_type == "Conv" or (node.op_type not in _PLAIN and not found.isdisjoint(node.input)):
            found.update(node.output)
    return frozenset(found)


class _Cost:
    """What a run of nodes takes, as it grows."""

    def __init__(self, cutter: _Cutter) -> None:
        self._cutter = cutter
        self._known: set[str] = set()
        self._weights = self._shown = self._largest = self._widest = 0

    def add(self, index: int) -> None:
        """Counts the next node."""
        cutter = self._cutter
        for name in cutter.reads[index] - self._known:
            self._known.add(name)
            self._weights += cutter.weights[name]
            self._largest = max(self._largest, FLOAT_BYTES * cutter.elements[name])
        outputs = [name for name in cutter.nodes[index].output if name]
        given = sum(cutter.sizes.get(name, 0) for name in outputs)
        self._shown += sum(cutter.sizes.get(name, 0) for name in outputs if name in cutter.shown)
        self._widest = max(self._widest, given + sum(cutter.sizes.get(name, 0) for name in cutter.nodes[index].input))

    @property
    def total(self) -> int:
        """The bytes of weights, of one of them as floats, of what is looked at, and of the widest operator."""
        return COPIES * self._weights + self._largest + HELD * self._shown + 2 * self._widest


def inferred_sizes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Returns the bytes of the values whose shapes follow from those of the inputs."""
    found = {}
    for info in inferred_shapes(proto, shapes):
        kind = info.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            found[info.name] = FLOAT_BYTES * prod(dim.dim_value for dim in kind.shape.dim)
    return found


def _weights_of(
    nodes: Sequence[onnx.NodeProto], alone: Sequence[bool], weights: Mapping[str, int]
) -> list[frozenset[str]]:
    """The weights that each node needs, those included of which its operands are computed."""
    behind: dict[str, frozenset[str]] = {name: frozenset([name]) for name in weights}
    found = []
    for node, floating in zip(nodes, alone, strict=True):
        own = frozenset[str]().union(*(behind.get(name, ()) for name in reads_of(node)))
        found.append(frozenset() if floating else own)
        if floating:
            behind.update(dict.fromkeys(node.output, own))
    return found


def _running(changes: Sequence[int]) -> list[int]:
    total, totals = 0, []
    for change in changes:
        total += change
        totals.append(total)
    return totals
