"""What differs between two quantized models, anybody's: pairs, formats, numbers, codes, operators, and what made them.

Linear in the size of the models, of whose weights one pair at a time is in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.inspecting import interface
from quantonnx.model import Model
from quantonnx.provenance import provenance
from quantonnx.quantities import Quantity, quantities
from quantonnx.rewriting import Source

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Change:
    """One thing as it is in model A and in model B; "" where it is not.

    `amount` says how much it differs, to sort by: the largest relative difference of scales, the share of codes, the
    largest difference of zero points; 1 where there is no measure.
    """

    kind: str
    name: str
    a: str
    b: str
    amount: float = 1.0


@dataclass(frozen=True)
class Difference:
    """All that differs between models A and B by group, the largest of each first; a group is empty where nothing does.

    `readers` are the operators that read a quantized value, `codes` those of weights and biases, `constants` all other
    constants that both have.
    """

    only_in_a: tuple[Change, ...]
    only_in_b: tuple[Change, ...]
    formats: tuple[Change, ...]
    readers: tuple[Change, ...]
    scales: tuple[Change, ...]
    zero_points: tuple[Change, ...]
    codes: tuple[Change, ...]
    constants: tuple[Change, ...]
    operators: tuple[Change, ...]
    interface: tuple[Change, ...]
    provenance: tuple[Change, ...]

    @property
    def equal(self) -> bool:
        """True where nothing differs."""
        return not any(self.groups().values())

    def groups(self) -> dict[str, tuple[Change, ...]]:
        """Returns the groups by name, in their order."""
        return {group.name: getattr(self, group.name) for group in fields(self)}


def diff(a: Source, b: Source) -> Difference:
    """Returns what differs between two models. Raises ModelError for one that cannot be read.

    Values are the same where their names are, constants also where the same input of the same operator reads them.
    """
    one, other = Model.read(a), Model.read(b)
    left, right = quantities(one), quantities(other)
    both = _matched(left, right)
    paired = {id(item) for pair in both for item in pair}
    return Difference(
        only_in_a=tuple(Change(item.kind, item.name, item.format, "") for item in left if id(item) not in paired),
        only_in_b=tuple(Change(item.kind, item.name, "", item.format) for item in right if id(item) not in paired),
        formats=_changes(both, _format_change),
        readers=_changes(both, _reader_change),
        scales=_changes(both, _scale_change),
        zero_points=_changes(both, _zero_point_change),
        codes=_sorted(_code_changes(both, one, other)),
        constants=_sorted(_constant_changes(one, other, chain(left, right))),
        operators=_sorted(_operator_changes(one, other)),
        interface=tuple(_text_changes("", interface(one), interface(other))),
        provenance=tuple(_text_changes("", provenance(one.metadata), provenance(other.metadata))),
    )


Both = list[tuple[Quantity, Quantity]]


def _matched(left: list[Quantity], right: list[Quantity]) -> Both:
    """Pairs what has one name, then the constants that are left by where they are read."""
    by_name = {(item.kind, item.name): item for item in right}
    both = [(item, by_name.pop((item.kind, item.name))) for item in left if (item.kind, item.name) in by_name]
    done = {id(item) for item, _ in both}
    by_slot = {item.slot: item for item in by_name.values() if item.stored is not None and item.slot}
    for item in left:
        if id(item) not in done and item.stored is not None and item.slot in by_slot:
            both.append((item, by_slot.pop(item.slot)))
    return both


def _changes(both: Both, compare: Callable[[Quantity, Quantity], tuple[str, str, float] | None]) -> tuple[Change, ...]:
    found = ((a, compare(a, b)) for a, b in both)
    return _sorted(Change(a.kind, a.name, *told) for a, told in found if told is not None)


def _sorted(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda change: -change.amount))


def _format_change(a: Quantity, b: Quantity) -> tuple[str, str, float] | None:
    return None if a.format == b.format else (a.format, b.format, 1.0)


def _reader_change(a: Quantity, b: Quantity) -> tuple[str, str, float] | None:
    return None if a.readers == b.readers else (", ".join(a.readers), ", ".join(b.readers), 1.0)


def _scale_change(a: Quantity, b: Quantity) -> tuple[str, str, float] | None:
    """Compares the scales of each channel; a different number of them is a matter of the format."""
    if a.scale is None or b.scale is None or a.scale.shape != b.scale.shape:
        return None
    size = np.maximum(np.abs(a.scale), np.abs(b.scale))
    relative = np.divide(np.abs(a.scale - b.scale), size, out=np.zeros_like(size), where=size > 0)
    return _worst(relative, a.scale, b.scale)


def _zero_point_change(a: Quantity, b: Quantity) -> tuple[str, str, float] | None:
    ours, theirs = (np.zeros(1) if item.zero_point is None else item.zero_point for item in (a, b))
    if ours.size != theirs.size and 1 not in (ours.size, theirs.size):
        return None
    ours, theirs = np.broadcast_arrays(ours, theirs)
    return _worst(np.abs(ours - theirs), ours, theirs)


def _worst(differences: Array, a: Array, b: Array) -> tuple[str, str, float] | None:
    if not differences.any():
        return None
    index = int(np.argmax(differences))
    where = f" (channel {index})" if differences.size > 1 else ""
    return f"{a[index]:.6g}{where}", f"{b[index]:.6g}{where}", float(differences[index])


def _code_changes(both: Both, one: Model, other: Model) -> Iterator[Change]:
    for a, b in both:
        if a.stored is not None and b.stored is not None:
            yield from _values_change(a.kind, a.name, one, a.stored, other, b.stored)


def _constant_changes(one: Model, other: Model, known: Iterable[Quantity]) -> Iterator[Change]:
    """Compares the constants that are neither codes nor numbers of pairs."""
    quantized = {str(item.stored.name) for item in known if item.stored is not None}
    theirs = _plain_constants(other)
    for name, value in _plain_constants(one).items():
        if name in theirs and name not in quantized:
            yield from _values_change("constant", name, one, value, other, theirs[name])


def _plain_constants(model: Model) -> dict[str, gs.Constant]:
    nodes = (node for node in model.graph.nodes if node.op not in ("QuantizeLinear", "DequantizeLinear"))
    return {value.name: value for node in nodes for value in node.inputs if isinstance(value, gs.Constant)}


def _values_change(kind: str, name: str, one: Model, a: gs.Constant, other: Model, b: gs.Constant) -> Iterator[Change]:
    if tuple(a.shape) != tuple(b.shape):
        yield Change(kind, name, f"shape {list(a.shape)}", f"shape {list(b.shape)}")
        return
    ours, theirs = one.array(a), other.array(b)
    if ours.dtype != theirs.dtype and not (_is_integer(ours) and _is_integer(theirs)):
        return  # the format tells
    if ours.dtype != theirs.dtype:
        ours, theirs = ours.astype(np.int64), theirs.astype(np.int64)
    count = int(np.count_nonzero(ours != theirs))
    if count:
        share = count / ours.size
        yield Change(kind, name, f"{ours.size} values", f"{count} differ", share)


def _is_integer(values: Array) -> bool:
    return str(values.dtype).startswith(("int", "uint"))


def _operator_changes(one: Model, other: Model) -> Iterator[Change]:
    counts = [Counter(f"{n.domain}.{n.op}" if n.domain else str(n.op) for n in m.graph.nodes) for m in (one, other)]
    for name in sorted(counts[0].keys() | counts[1].keys()):
        a, b = (count[name] for count in counts)
        if a != b:
            yield Change("operator", name, str(a), str(b), abs(a - b))


def _text_changes(kind: str, a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Change]:
    for name in dict.fromkeys((*a, *b)):
        if a.get(name, "") != b.get(name, ""):
            yield Change(kind, name, a.get(name, ""), b.get(name, ""))
