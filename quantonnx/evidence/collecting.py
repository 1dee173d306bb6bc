"""Gathers evidence: which passes over the data there are, and what is made of their sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from quantonnx.calibration.feeds import Progress
from quantonnx.calibration.loading import weight_bytes
from quantonnx.calibration.samples import Feed, Samples, input_specs, open_samples
from quantonnx.calibration.sources import shared_rows
from quantonnx.evidence.closer import Look, Run, look_closer
from quantonnx.evidence.constants import constant_sites
from quantonnx.evidence.findings import Errors, Evidence, GroupEvidence, SiteEvidence
from quantonnx.evidence.groups import matched_groups
from quantonnx.evidence.measuring import Subject, Survey
from quantonnx.evidence.ranking import MOST_SAMPLES, affordable, ranked, suspects, told
from quantonnx.evidence.running import totals
from quantonnx.model import Model
from quantonnx.quantized import QuantizedModel

LARGEST_AT_ONCE = 600_000_000
"""Bytes of weights up to which all is measured in one pass: beside the float weights stand the quantized ones."""


def collect_evidence(
    quantized: QuantizedModel,
    samples: Any,
    *,
    reference: Model | None = None,
    at_outputs: int | None = None,
    blame: int = 0,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Returns the errors of each matched group and each pair of a calibrated model.

    `samples` is what `open_samples` takes. `reference` is the float model to compare with, by default that of
    `quantized` before weights or biases were corrected. Groups are ranked by what each alone does to the model's
    outputs. That is measured for the `at_outputs` most suspect of them on all samples, by default for as many as take a
    short time, on the first few samples, and predicted for the others. For the `blame` worst, which of their pairs it
    is is measured too. Both are done in further passes, eight groups in each. Raises CalibrationError before
    calibration, and DataError for samples that do not fit.
    """
    subject = subject_of(quantized, reference)
    return measure(
        subject, samples, at_outputs=at_outputs, blame=blame, limit=limit, threads=threads, progress=progress
    )


def subject_of(quantized: QuantizedModel, reference: Model | None = None) -> Subject:
    """Returns what there is to measure of a calibrated model; see `collect_evidence`."""
    exact = reference or quantized.reference or quantized.model
    found = quantized.matches.resolve(quantized.model)
    groups = matched_groups(quantized.model, found, quantized.sites, quantized.matches.target)
    return Subject(exact, quantized.to_model(), groups, quantized.sites)


def measure(
    subject: Subject,
    samples: Any,
    *,
    at_outputs: int | None = None,
    blame: int = 0,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Returns the evidence of a subject, from as many passes over the samples as its weights need: mostly one.

    Operators between pairs compute in float, so that the figures do not depend on the machine's integer kernels. What
    is remembered are sums; beside the models themselves, activations are held as long as somebody reads them.
    """
    specs = input_specs(subject.exact)
    stream = _Kept(open_samples(samples, specs, limit=limit))
    run = partial(totals, threads=threads, progress=progress)
    found = _surveyed(subject, partial(run, samples=stream))
    look: _Kept | Samples = stream
    count = at_outputs
    if count is None:
        count, most = affordable(found.groups, len(subject.exact.graph.nodes))
        look = open_samples(stream.first, specs, limit=most)
    names = suspects(found.groups, found.outputs)[:count]
    effects = look_closer(subject, names, (), partial(run, samples=look))
    groups = ranked([_with_effect(group, effects) for group in found.groups], found.outputs)
    blamed = look_closer(subject, (), [group.tensor for group in groups[:blame]], partial(run, samples=stream))
    return Evidence(
        tuple(_with_blame(group, blamed) for group in groups),
        _sorted_sites([*found.sites, *constant_sites(subject.grafter(), subject.sites)]),
        found.outputs,
        found.samples,
        passes=found.passes + blamed.passes + (effects.passes if look is stream else 0),
        notes=found.notes,
        ranked_by=told(groups, found.outputs, effects.samples),
    )


@dataclass
class _Surveyed:
    """What one look at everything found."""

    passes: int
    groups: list[GroupEvidence] = field(default_factory=list)
    sites: list[SiteEvidence] = field(default_factory=list)
    outputs: dict[str, Errors] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    samples: int = 0


def _surveyed(subject: Subject, run: Run) -> _Surveyed:
    parts = max(1, math.ceil(weight_bytes(subject.exact) / LARGEST_AT_ONCE))
    seen = _Surveyed(parts)
    for part in range(parts):
        survey = Survey(subject, part, parts)
        found, seen.samples = run(survey.model, survey.gauges.outputs)
        seen.notes = survey.notes
        seen.groups += survey.groups(found)
        seen.sites += survey.pairs(found)
        seen.outputs |= survey.outputs(found)
    return seen


class _Kept:
    """Samples of which the first few are kept as they pass: one that can be read only once allows a second look."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.first: list[Feed] = []

    def __iter__(self) -> Iterator[Feed]:
        self.first, kept = [], 0
        for feed in self._samples:
            if kept < MOST_SAMPLES:
                self.first.append(feed)
                kept += shared_rows(feed)
            yield feed

    def __len__(self) -> int:
        return len(self._samples)


def _with_effect(group: GroupEvidence, found: Look) -> GroupEvidence:
    closer = found.groups.get(group.tensor)
    return group if closer is None else replace(group, at_outputs=closer.at_outputs)


def _with_blame(group: GroupEvidence, found: Look) -> GroupEvidence:
    closer, noise = found.groups.get(group.tensor), group.isolated.noise
    if closer is None:
        return group
    blame = {name: max(1 - left.noise / noise, 0.0) if noise else 0.0 for name, left in closer.without.items()}
    return replace(group, blame=blame)


def _sorted_sites(sites: Iterable[SiteEvidence]) -> tuple[SiteEvidence, ...]:
    """The worst first; biases last, since correction moves them on purpose."""
    return tuple(sorted(sites, key=lambda site: (site.role == "bias", -site.errors.relative)))
