"""The facts of two files, whoever made the quantized one: what its pairs do, without what was decided and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.feeds import Progress
from quantonnx.drawing import draw
from quantonnx.errors import TargetError
from quantonnx.evidence import Evidence, SiteEvidence
from quantonnx.evidence.files import Source, config_of, subject_of_files
from quantonnx.model import Model
from quantonnx.provenance import facts as provenance_facts
from quantonnx.provenance import provenance
from quantonnx.report.environment import environment
from quantonnx.report.facts import Facts, SiteFacts, StepFacts
from quantonnx.report.gathering import observe_tensors
from quantonnx.report.histograms import beyond, histogram_of
from quantonnx.report.recipe import configured_steps
from quantonnx.speed import Speed
from quantonnx.tallying import Comparison
from quantonnx.target import named_target

_CONSTANTS = ("weight", "bias")


def observe_files(
    float_source: Source,
    quantized_source: Source,
    evidence: Evidence,
    samples: Any,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Returns a histogram of the float values at each pair that was measured; `samples` as `open_samples` takes."""
    subject, _ = subject_of_files(float_source, quantized_source)
    tensors = {site.tensor for site in evidence.sites if site.role not in _CONSTANTS}
    return observe_tensors(subject.exact, tensors, samples, limit=limit, progress=progress)


def gather_file_facts(
    quantized_source: Source,
    evidence: Evidence,
    *,
    model: str = "",
    output: str = "",
    statistics: Statistics | None = None,
    comparison: Comparison | None = None,
    speed: Speed | None = None,
    sizes: tuple[int, int] | None = None,
) -> Facts:
    """Returns what there is to say about a quantized file beside its float model; see `gather_facts`."""
    quantized = Model.read(quantized_source)
    told = provenance(quantized.metadata)
    return Facts(
        model=model,
        output=output,
        target=told.get("target", ""),
        groups=(),
        sites=tuple(_site(number, site, statistics) for number, site in enumerate(evidence.sites)),
        environment=environment(),
        provenance=tuple(provenance_facts(told)),
        recipe=tuple(_recipe(told)),
        evidence=evidence,
        comparison=comparison,
        speed=speed,
        sizes=sizes,
        samples=0 if statistics is None else statistics.samples,
        notes=evidence.notes,
        picture=draw(quantized, title=output or model),
    )


def _recipe(told: dict[str, str]) -> Iterator[StepFacts]:
    """The steps that the file says it was made with; none where it says nothing, or its target is not known here."""
    try:
        target = named_target(told.get("target", ""))
    except TargetError:
        return
    yield from configured_steps(config_of(told), target, told.get("method", ""))


def _site(number: int, site: SiteEvidence, statistics: Statistics | None) -> SiteFacts:
    kind = site.role if site.role in _CONSTANTS else "activation"
    stats = None if statistics is None or kind != "activation" else statistics.tensors.get(site.tensor)
    half = site.scale[1] / 2
    return SiteFacts(
        tensor=site.tensor,
        kind=kind,
        roles=(site.role,),
        format=site.format,
        pattern="",
        owner="",
        readers=site.readers,
        reason="",
        range="",
        decided_by="",
        ends=site.range if kind == "activation" else None,
        scale=site.scale,
        zero_point=site.zero_point,
        clipped=None if stats is None else beyond(stats, site.range[0] - half, site.range[1] + half),
        histogram=None if stats is None else histogram_of(stats),
        evidence=number,
    )
