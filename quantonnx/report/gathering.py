"""Finds what a report says: from a calibrated model, the errors that were measured, the values that samples gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.feeds import Progress
from quantonnx.calibration.session import Collector
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.drawing import draw
from quantonnx.evidence import Evidence
from quantonnx.formats import Parameters
from quantonnx.model import Model
from quantonnx.provenance import facts as provenance_facts
from quantonnx.provenance import provenance
from quantonnx.quantized import QuantizedModel
from quantonnx.report.changes import Before, Change
from quantonnx.report.channel_ranges import channel_ranges
from quantonnx.report.environment import environment
from quantonnx.report.facts import Facts, SiteFacts
from quantonnx.report.grouping import group_facts
from quantonnx.report.histograms import beyond, histogram_of
from quantonnx.report.recipe import step_facts
from quantonnx.sites import Site
from quantonnx.speed import Speed
from quantonnx.summary import deciding_rule, ranging_text, site_format
from quantonnx.tallying import Comparison


def observe(
    quantized: QuantizedModel,
    samples: Any,
    *,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Returns a histogram of the float values at every activation site; see `observe_tensors`."""
    tensors = {site.tensor for site in quantized.activation_sites}
    model = quantized.reference or quantized.model
    return observe_tensors(model, tensors, samples, limit=limit, threads=threads, progress=progress)


def observe_tensors(
    model: Model,
    tensors: Iterable[str],
    samples: Any,
    *,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Returns a histogram of the values of each tensor, from one run over the samples.

    `samples` is what `open_samples` takes. A value that holds NaN or infinity, or that no sample reaches, has none.
    """
    with Collector(model, sorted(tensors), threads=threads, lenient=True) as collector:
        collector.observe(samples, limit=limit, progress=progress)
        return collector.collected()


def gather_facts(
    quantized: QuantizedModel,
    *,
    model: str = "",
    output: str = "",
    evidence: Evidence | None = None,
    statistics: Statistics | None = None,
    before: Model | None = None,
    changes: Iterable[Change] = (),
    comparison: Comparison | None = None,
    speed: Speed | None = None,
    sizes: tuple[int, int] | None = None,
    notes: Iterable[str] = (),
) -> Facts:
    """Returns what there is to say about a calibrated model.

    `model` and `output` are what its files are called, `before` is the fused float model before the recipe, `changes`
    are those of `recipe_changes`; the others are what was measured, each of which may be missing.
    """
    earlier = None if before is None else Before(before)
    sites = _Sites(quantized, statistics, evidence, earlier)
    return Facts(
        model=model,
        output=output,
        target=quantized.matches.target.name,
        groups=tuple(group_facts(quantized)),
        sites=tuple(sites.facts(site) for site in quantized.sites),
        environment=environment(),
        provenance=tuple(provenance_facts(provenance(quantized.to_model().metadata))),
        recipe=tuple(step_facts(quantized)),
        changes=tuple(changes),
        layers=quantized.weight_changes,
        evidence=evidence,
        comparison=comparison,
        speed=speed,
        sizes=sizes,
        samples=0 if statistics is None else statistics.samples,
        notes=(*notes, *(evidence.notes if evidence is not None else ())),
        picture=draw(quantized, title=output or model),
    )


class _Sites:
    """Says all about one site after the other; weights are read one at a time."""

    def __init__(
        self,
        quantized: QuantizedModel,
        statistics: Statistics | None,
        evidence: Evidence | None,
        before: Before | None,
    ) -> None:
        self.quantized = quantized
        self.parameters: Mapping[Site, Parameters] = quantized.parameters or {}
        self.statistics = {} if statistics is None else statistics.tensors
        self.before = before
        self.tensors = quantized.model.tensors()
        self.measured: dict[str, list[int]] = {}
        self.evidence = () if evidence is None else evidence.sites
        for number, found in enumerate(self.evidence):
            self.measured.setdefault(found.tensor, []).append(number)

    def facts(self, site: Site) -> SiteFacts:
        """Returns what there is to say about a site."""
        return SiteFacts(
            tensor=site.tensor,
            kind="activation" if site.on_activation else "weight" if site.is_weight else "bias",
            roles=tuple(role.value for role in site.roles),
            format=site_format(site),
            pattern=site.pattern,
            owner=site.owner,
            readers=tuple(dict.fromkeys(edge.node for edge in site.edges)),
            reason=site.reason,
            range=ranging_text(site, self.quantized.method),
            decided_by=deciding_rule(site),
            evidence=self._evidence(site),
            **self._numbers(site),
        )

    def _evidence(self, site: Site) -> int | None:
        """The measured pair that a reader shares with the site, else the first on its tensor."""
        found = self.measured.get(site.tensor, [])
        readers = {edge.node for edge in site.edges}
        shared = (number for number in found if not readers.isdisjoint(self.evidence[number].readers))
        return next(shared, found[0] if found else None)

    def _numbers(self, site: Site) -> dict[str, Any]:
        numbers = self.parameters.get(site)
        if numbers is None:
            return {}
        scale, zero = numbers.scale.astype(np.float64), numbers.zero_point.astype(np.float64)
        low, high = ((end - zero) * scale for end in (site.format.qmin, site.format.qmax))
        ends = float(low.min()), float(high.max())
        told = {
            "scale": (float(scale.min()), float(scale.max())),
            "zero_point": (int(zero.min()), int(zero.max())),
        }
        if site.derived_from is None:
            told |= {"ends": ends, **dict(self._values(site, numbers, ends))}
        return told

    def _values(self, site: Site, numbers: Parameters, ends: tuple[float, float]) -> Iterator[tuple[str, Any]]:
        stats: TensorStatistics | None = self.statistics.get(site.tensor)
        held = self.tensors.get(site.tensor)
        if site.on_activation and stats is not None:
            half = float(numbers.scale.max()) / 2
            yield "histogram", histogram_of(stats)
            yield "clipped", beyond(stats, ends[0] - half, ends[1] + half)
        elif isinstance(held, gs.Constant):
            before = None if self.before is None else self.before.weight(site)
            yield "channels", channel_ranges(self.quantized.model.array(held), site, numbers, before)
