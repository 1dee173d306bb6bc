"""`--report` of `quantize` and `compare`: measures every layer, and writes page and facts into a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.running import Run, finite, write_text
from quantonnx.printable import json_text

if TYPE_CHECKING:
    from quantonnx.calibration.collected import Statistics
    from quantonnx.calibration.samples import Samples
    from quantonnx.evidence import Evidence
    from quantonnx.plan import Plan
    from quantonnx.quantized import QuantizedModel
    from quantonnx.report import Facts
    from quantonnx.speed import Speed
    from quantonnx.tallying import Comparison

ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="DIR",
        help="Write report.html and report.json there, and the plan; measures every layer.",
        rich_help_panel="Checking",
    ),
]

MOST_SAMPLES = 128
"""Samples of which histograms and errors of layers are made."""

BLAMED = 8
"""Groups of which the pair to blame is looked for: in one pass."""


@dataclass(frozen=True)
class Reported:
    """What a report is about: the model before and after calibration, what was measured, and the two files.

    `samples` are those of calibration, None where there were none, `statistics` what was remembered of them or in their
    place; errors of layers are measured on `evaluation` where that is given.
    """

    placed: QuantizedModel
    calibrated: QuantizedModel
    comparison: Comparison | None
    speed: Speed | None
    source: Path
    output: Path
    samples: Samples | None
    evaluation: Samples | None
    statistics: Statistics | None
    plan: Plan | None


@dataclass(frozen=True)
class Compared:
    """What a report of two files is about, and what was measured of them."""

    source: Path
    quantized: Path
    evidence: Evidence
    comparison: Comparison
    speed: Speed | None


def check_report_folder(folder: Path) -> None:
    """Raises OutputError, before any work, where the report cannot be written."""
    from quantonnx.report import check_report

    check_report(folder)


def report_quantization(run: Run, folder: Path, done: Reported) -> None:
    """Writes report.html, report.json, plan.yaml and summary.json; prints the three lines that matter."""
    from quantonnx.report import write_report

    statistics = done.statistics
    if statistics is None and done.samples is not None:
        statistics = _observed(run, done.calibrated, done.samples)
    measured = done.evaluation or done.samples
    evidence = None if measured is None or not done.calibrated.sites else _evidence(run, done.calibrated, measured)
    with run.stage("report", "report") as stage:
        facts = _facts(done, evidence, statistics)
        stage.detail = str(write_report(folder, facts))
    _tell(run, facts)
    if done.plan is not None:
        write_text(folder / "plan.yaml", done.plan.to_yaml())
    text = json_text(finite(run.result), indent=2, default=str)
    write_text(folder / "summary.json", text + "\n")


def report_comparison(run: Run, folder: Path, done: Compared, samples: Samples) -> None:
    """Writes report.html and report.json of two files; prints the three lines that matter."""
    from quantonnx.model_files import file_size
    from quantonnx.report import gather_file_facts, observe_files, write_report

    files = done.source, done.quantized
    with run.stage("histograms", "histograms") as stage:
        statistics = observe_files(*files, done.evidence, samples, limit=MOST_SAMPLES, progress=stage.report)
        stage.detail = f"{len(statistics.tensors)} activations, {statistics.samples} samples"
    with run.stage("report", "report") as stage:
        facts = gather_file_facts(
            done.quantized,
            done.evidence,
            model=done.source.name,
            output=done.quantized.name,
            statistics=statistics,
            comparison=done.comparison,
            speed=done.speed,
            sizes=(file_size(done.source), file_size(done.quantized)),
        )
        stage.detail = str(write_report(folder, facts))
    _tell(run, facts)


def _tell(run: Run, facts: Facts) -> None:
    from quantonnx.report import highlights

    lines = highlights(facts)
    run.result["highlights"] = list(lines)
    run.show_text("\n" + "".join(f"{line}\n" for line in lines))


def _observed(run: Run, calibrated: QuantizedModel, samples: Samples) -> Statistics:
    from quantonnx.report import observe

    with run.stage("histograms", "histograms") as stage:
        found = observe(calibrated, samples, limit=MOST_SAMPLES, threads=run.threads, progress=stage.report)
        stage.detail = f"{len(found.tensors)} activations, {found.samples} samples"
    return found


def _evidence(run: Run, calibrated: QuantizedModel, samples: Samples) -> Evidence:
    from quantonnx.evidence import collect_evidence

    with run.stage("layers", "layers") as stage:
        found = collect_evidence(
            calibrated, samples, blame=BLAMED, limit=MOST_SAMPLES, threads=run.threads, progress=stage.report
        )
        stage.detail = f"{len(found.groups)} groups, {len(found.sites)} pairs and weights, {found.samples} samples"
    return found


def _facts(done: Reported, evidence: Evidence | None, statistics: Statistics | None) -> Facts:
    from quantonnx.model_files import file_size
    from quantonnx.preparation import Feeding
    from quantonnx.report import gather_facts, recipe_changes

    notes = ["errors of layers are of the samples that calibrated: figures look better than they are"]
    return gather_facts(
        done.calibrated,
        model=done.source.name,
        output=done.output.name,
        evidence=evidence,
        statistics=statistics,
        before=done.placed.model,
        changes=recipe_changes(done.placed, done.calibrated, Feeding(done.samples)),
        comparison=done.comparison,
        speed=done.speed,
        sizes=(file_size(done.source), file_size(done.output)),
        notes=notes if done.evaluation is None and evidence is not None else (),
    )
