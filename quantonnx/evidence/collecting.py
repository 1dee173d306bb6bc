"""Gathers evidence: which passes over the data there are, and what is made of their sums."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from quantonnx.calibration.feeds import Progress
from quantonnx.calibration.loading import weight_bytes
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.evidence.closer import Closer, look_closer
from quantonnx.evidence.constants import constant_sites
from quantonnx.evidence.findings import Errors, Evidence, GroupEvidence, SiteEvidence
from quantonnx.evidence.groups import matched_groups
from quantonnx.evidence.measuring import Subject, Survey
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
    at_outputs: int = 0,
    blame: int = 0,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Returns the errors of each matched group and each pair of a calibrated model.

    `samples` is what `open_samples` takes. `reference` is the float model to compare with, by default that of
    `quantized` before weights or biases were corrected. For the `at_outputs` groups with the
    largest isolated errors, what each does alone to the model's outputs is measured too, and for `blame` of them which
    of their pairs it is: in further passes, eight groups in each. Raises CalibrationError before calibration, and
    DataError for samples that do not fit.
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
    at_outputs: int = 0,
    blame: int = 0,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Returns the evidence of a subject, from as many passes over the samples as its weights need: mostly one.

    Operators between pairs compute in float, so that the figures do not depend on the machine's integer kernels. What
    is remembered are sums; beside the models themselves, activations are held as long as somebody reads them.
    """
    stream = open_samples(samples, input_specs(subject.exact), limit=limit)
    run = partial(totals, samples=stream, threads=threads, progress=progress)
    parts = max(1, math.ceil(weight_bytes(subject.exact) / LARGEST_AT_ONCE))
    groups: list[GroupEvidence] = []
    sites: list[SiteEvidence] = []
    outputs: dict[str, Errors] = {}
    notes: tuple[str, ...] = ()
    seen = 0
    for part in range(parts):
        survey = Survey(subject, part, parts)
        found, seen = run(survey.model, survey.gauges.outputs)
        notes = survey.notes
        groups += survey.groups(found)
        sites += survey.pairs(found)
        outputs |= survey.outputs(found)
    sites += constant_sites(subject.grafter())
    ranked = _shared(_ranked(groups))
    names = [group.tensor for group in ranked]
    closer, further = look_closer(subject, names[:at_outputs], names[:blame], run)
    ranked = tuple(_with(group, closer.get(group.tensor)) for group in ranked)
    return Evidence(ranked, _sorted_sites(sites), outputs, seen, passes=parts + further, notes=notes)


def _with(group: GroupEvidence, closer: Closer | None) -> GroupEvidence:
    if closer is None:
        return group
    noise = group.isolated.noise
    blame = {name: max(1 - left.noise / noise, 0.0) if noise else 0.0 for name, left in closer.without.items()}
    return replace(group, at_outputs=closer.at_outputs, blame=blame)


def _ranked(groups: Iterable[GroupEvidence]) -> list[GroupEvidence]:
    return sorted(groups, key=lambda group: -group.isolated.relative)


def _sorted_sites(sites: Iterable[SiteEvidence]) -> tuple[SiteEvidence, ...]:
    """The worst first; biases last, since correction moves them on purpose."""
    return tuple(sorted(sites, key=lambda site: (site.role == "bias", -site.errors.relative)))


def _shared(groups: list[GroupEvidence]) -> tuple[GroupEvidence, ...]:
    """Groups with their shares in the sum of all relative noise."""
    total = sum(found for group in groups if math.isfinite(found := group.isolated.relative))
    shares = (group.isolated.relative / total if total else 0.0 for group in groups)
    return tuple(replace(group, share=min(share, 1.0)) for group, share in zip(groups, shares, strict=True))
