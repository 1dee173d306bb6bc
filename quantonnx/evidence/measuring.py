"""One model that measures: beside each group's float operators stand the quantized ones, and beside all the quantized
model itself; what leaves it are sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantonnx.element_types import FLOATS, ElementTypes, type_name
from quantonnx.evidence.constants import origin_of
from quantonnx.evidence.findings import Errors, GroupEvidence, SiteEvidence
from quantonnx.evidence.gauges import ErrorGauge, Gauges, RangeGauge, Totals
from quantonnx.evidence.grafting import Grafter, Slice
from quantonnx.evidence.groups import Group, further_groups, seen_value
from quantonnx.evidence.pairs import Row, rows_of
from quantonnx.evidence.varying import varying_shapes
from quantonnx.model import Model
from quantonnx.sites import Site
from quantonnx.summary import site_format

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Subject:
    """A float model, the quantized one whose nodes and values have the same names, its groups and, as far as they are
    known, its sites."""

    exact: Model
    quantized: Model
    groups: Sequence[Group]
    sites: Sequence[Site] = ()

    def grafter(self) -> Grafter:
        """Returns a copy of the float model, ready to take parts of the quantized one, at an opset that suits both."""
        opset = max(self.exact.opset, self.quantized.opset)
        return Grafter(self.exact.with_opset(opset), self.quantized.with_opset(opset))


@dataclass(frozen=True)
class _GroupGauges:
    group: Group
    sites: tuple[str, ...]
    kept: tuple[str, ...]
    isolated: ErrorGauge
    accumulated: ErrorGauge


@dataclass(frozen=True)
class _SiteGauges:
    tensor: str
    row: Row
    errors: ErrorGauge
    accumulated: ErrorGauge
    range: RangeGauge | None


class Bench:
    """A copy of the float model with measures in the making, and the groups of a subject of which pairs are a part."""

    def __init__(self, subject: Subject) -> None:
        self.grafter = subject.grafter()
        self.model = self.grafter.base
        self.gauges = Gauges(self.model, self.grafter.editor)
        self.rows = rows_of(self.grafter.quantized)
        self._types = ElementTypes(self.model)
        self.varying = varying_shapes(self.grafter.quantized)
        groups = [*subject.groups, *further_groups(self.grafter, subject.groups)]
        self.groups = [(group, part) for group in groups if (part := self._part(group)) is not None]

    def is_measured(self, name: str) -> bool:
        """True for a value of the float model whose element type is not known to be another than float, and that has
        the same shape in the quantized model."""
        kind = self._types.of(self.grafter.tensors[name])
        return name not in self.varying and (kind is None or type_name(kind) in FLOATS)

    def _part(self, group: Group) -> Slice | None:
        """The part of the quantized model that a group is; None where it is as in the float model."""
        seen = seen_value(self.grafter, self.rows, group)
        if seen is None or group.tensor not in self.grafter.tensors or not self.is_measured(group.tensor):
            return None
        found = self.grafter.slice(group.nodes, seen)
        return found if any(self.grafter.original(node) is None for node in found.nodes) else None


class Survey:
    """The model that measures groups, pairs and outputs, or every `parts`-th of them from the number `part` on."""

    def __init__(self, subject: Subject, part: int = 0, parts: int = 1) -> None:
        self.sites = subject.sites
        bench = self._bench = Bench(subject)
        self.grafter, self.model, self.gauges = bench.grafter, bench.model, bench.gauges
        self._places = {value.name: at for at, node in enumerate(self.model.graph.nodes) for value in node.outputs}
        self._whole = self.grafter.whole("quantized/")
        self._of_node = {id(row.quantize): row for row in bench.rows}
        self._sites_of = {group.tensor: self._sites_in(part) for group, part in bench.groups}
        self._closed = {group.tensor for group, _ in bench.groups if group.closed}
        self._groups = [self._group(i, *found) for i, found in enumerate(bench.groups) if i % parts == part]
        rows = [row for index, row in enumerate(bench.rows) if index % parts == part]
        self._sites = [gauges for row in rows if (gauges := self._site(row)) is not None]
        self._outputs = self._output_gauges() if part == 0 else {}
        self.gauges.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be measured, and why."""
        varying = [repr(value.name) for value in self.grafter.outputs if value.name in self._bench.varying]
        told = f"no errors of {', '.join(varying)}: what quantization rounds decides the shape"
        return (told,) if varying else ()

    def groups(self, totals: Totals) -> list[GroupEvidence]:
        """Returns what the sums say of the groups."""
        return [
            GroupEvidence(
                name=found.group.tensor,
                pattern=found.group.pattern,
                nodes=found.group.nodes,
                tensor=found.group.tensor,
                isolated=found.isolated.read(totals),
                accumulated=found.accumulated.read(totals),
                sites=found.sites,
                kept=found.kept,
                place=self._places[found.group.tensor],
                macs=found.group.macs,
                float_us=found.group.times[0] if found.group.times else None,
                integer_us=found.group.times[1] if found.group.times else None,
            )
            for found in self._groups
        ]

    def pairs(self, totals: Totals) -> list[SiteEvidence]:
        """Returns what the sums say of the pairs on computed values."""
        return [self._pair(found, totals) for found in self._sites]

    def outputs(self, totals: Totals) -> dict[str, Errors]:
        """Returns what the sums say of the model's outputs."""
        return {name: gauge.read(totals) for name, gauge in self._outputs.items()}

    def _group(self, index: int, group: Group, part: Slice) -> _GroupGauges:
        exact = self.grafter.tensors[group.tensor]
        result = self.grafter.side(part, f"group_{index}/")
        return _GroupGauges(
            group,
            self._sites_of[group.tensor],
            tuple(name for name in self._sites_of[group.tensor] if self._stays(name, group)),
            self.gauges.errors(exact, result),
            self.gauges.errors(exact, self._whole[id(part.seen)]),
        )

    def _stays(self, tensor: str, group: Group) -> bool:
        """True for a pair that another group gives to all readers, or asks for where this one gives the value."""
        if tensor != group.tensor:
            return tensor in self._closed
        return any(tensor in names for name, names in self._sites_of.items() if name != tensor)

    def _sites_in(self, part: Slice) -> tuple[str, ...]:
        """The tensors, in the words of the float model, whose pairs or codes a part of the model has."""
        names: dict[str, None] = {}
        for node in part.nodes:
            row = self._of_node.get(id(node))
            if row is not None and (exact := self.grafter.float_value(row.quantize.inputs[0])) is not None:
                names[exact.name] = None
            elif node.op == "DequantizeLinear" and (origin := origin_of(self.grafter, node)) is not None:
                names[origin.name] = None
        return tuple(names)

    def _site(self, row: Row) -> _SiteGauges | None:
        exact = self.grafter.float_value(row.quantize.inputs[0])
        if exact is None or not self._bench.is_measured(exact.name):
            return None
        result = self.grafter.side(self.grafter.slice((), row.result), "pair/")
        rank = None if exact.shape is None else len(exact.shape)
        return _SiteGauges(
            str(exact.name),
            row,
            self.gauges.errors(exact, result),
            self.gauges.errors(exact, self._whole[id(row.result)]),
            self.gauges.range(exact, row, rank),
        )

    def _output_gauges(self) -> dict[str, ErrorGauge]:
        given = {value.name: self._whole[id(value)] for value in self.grafter.quantized.graph.outputs}
        return {
            str(value.name): self.gauges.errors(value, given[value.name])
            for value in self.grafter.outputs
            if value.name in given and self._bench.is_measured(value.name)
        }

    def _pair(self, found: _SiteGauges, totals: Totals) -> SiteEvidence:
        row = found.row
        site = _site_of(self.sites, found.tensor, row)
        ends = row.ends
        errors = found.errors.read(totals)
        evidence = SiteEvidence(
            tensor=found.tensor,
            role=_role(site),
            format=row.zero_point.dtype.name if site is None else site_format(site),
            readers=tuple(dict.fromkeys(edge.node for edge in row.readers)),
            errors=errors,
            accumulated=found.accumulated.read(totals),
            range=(float(ends[0].min()), float(ends[1].max())),
            step_rms=float(np.sqrt(errors.signal / errors.count) / row.scale.mean()) if errors.count else 0.0,
            scale=(float(row.scale.min()), float(row.scale.max())),
            zero_point=(int(row.zero_point.min()), int(row.zero_point.max())),
            channels=int(row.scale.size),
        )
        return evidence if found.range is None else _with_range(evidence, row, found.range, totals)


def _with_range(evidence: SiteEvidence, row: Row, gauge: RangeGauge, totals: Totals) -> SiteEvidence:
    seen = totals.get(gauge.low, 0.0), totals.get(gauge.high, 0.0)
    steps = [value / evidence.scale[1] + int(row.zero_point.reshape(-1)[0]) for value in seen]
    first, last = (int(np.clip(np.rint(step), row.low, row.high)) for step in steps)
    noise, count = evidence.errors.noise, evidence.errors.count
    return replace(
        evidence,
        seen=seen,
        codes=(first, last),
        code_range_used=(last - first + 1) / (row.high - row.low + 1),
        clipped=totals.get(gauge.clipped, 0.0) / max(count, 1),
        clipping=min(totals.get(gauge.clipping, 0.0) / noise, 1.0) if noise else 0.0,
    )


def _site_of(sites: Iterable[Site], tensor: str, row: Row) -> Site | None:
    """The site behind a pair: one with a reader in common, else the one for all readers."""
    known = [site for site in sites if site.tensor == tensor and site.on_activation]
    own = (site for site in known if not set(site.edges).isdisjoint(row.readers) and not site.whole)
    return next(own, next((site for site in known if site.whole), None))


def _role(site: Site | None) -> str:
    if site is None:
        return "input"
    return "output" if site.whole else site.roles[0].value
