"""`quantize`: from a float file and samples to a quantized file, and what was done, what it cost, what it gained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.libraries import NO_LIBRARIES, LibraryOptions
from quantonnx.commands.loading import MemoryOption
from quantonnx.commands.options import (
    ModelArgument,
    NumberOptions,
    OutOptions,
    PlanOption,
    SampleOptions,
    TargetOptions,
)
from quantonnx.commands.quantization import Quantization
from quantonnx.commands.remembering import StatisticsOptions
from quantonnx.commands.reporting import Reported, ReportOption, check_report_folder, report_quantization
from quantonnx.commands.running import Run
from quantonnx.commands.searching import Acting, SearchOptions
from quantonnx.memory import memory_limit_of

if TYPE_CHECKING:
    from quantonnx.quantized import QuantizedModel
    from quantonnx.speed import Speed
    from quantonnx.tallying import Comparison

_LARGEST_TO_TIME = 10**9
_CHECKING = "Checking"


def quantize(
    run: Run,
    model: ModelArgument,
    output: OutOptions,
    compiler: TargetOptions,
    source: SampleOptions,
    remembered: StatisticsOptions,
    numbers: NumberOptions,
    bar: SearchOptions,
    plan: PlanOption = None,
    eval_data: Annotated[
        Path | None,
        typer.Option(
            "--eval-data",
            metavar="DATA",
            help="Compare both models on this; labels give their accuracy.",
            rich_help_panel=_CHECKING,
        ),
    ] = None,
    speed: Annotated[
        bool | None,
        typer.Option(
            "--speed/--no-speed", help="Time both models; by default for onnxruntime.", rich_help_panel=_CHECKING
        ),
    ] = None,
    report: ReportOption = None,
    memory_limit: MemoryOption = None,
    libraries: LibraryOptions = NO_LIBRARIES,
) -> int:
    """Quantize a float model: fuse, place Q/DQ pairs, calibrate, write, verify."""
    output.check()
    run.using(libraries.registered())
    if report is not None:
        check_report_folder(report)
    settings = numbers.build()
    remembered.check("quantize", source, output, needs_data=not settings.only_weights)
    bar.check(source, eval_data, force=output.force)
    job = Quantization(run, model, output, compiler, source, remembered, memory_limit_of(memory_limit))
    placed = job.place(plan, settings)
    remembered.check("quantize", source, output, needs_data=placed.needs_samples)
    samples, evaluation = job.open_samples(placed.model, eval_data)
    if bar.wanted or bar.auto:
        job.require_whole(placed.model)
    acted = Acting(run, bar, placed, samples if source.given else None, evaluation, model)
    placed = acted.choose()
    statistics = job.statistics(placed, samples)
    calibrated = acted.search(statistics) if bar.wanted else job.calibrate(placed, samples, statistics)
    job.write(calibrated)
    comparison = job.compare(evaluation) if evaluation is not None else None
    whole = job.fits() if report is not None or _wants_speed(speed, calibrated, model) else True
    measured = job.time(evaluation or samples) if whole and _wants_speed(speed, calibrated, model) else None
    _show(run, calibrated, job.sizes(), comparison, measured)
    acted.tell(force=output.force)
    if report is not None and whole:
        seen = (samples if source.given else None, evaluation)
        files = model, output.out
        done = Reported(placed, calibrated, comparison, measured, *files, *seen, statistics, job.plan)
        report_quantization(run, report, done)
    return acted.verdict()


def _wants_speed(asked: bool | None, calibrated: QuantizedModel, path: Path) -> bool:
    if asked is not None:
        return asked
    from quantonnx.model_files import file_size

    return calibrated.matches.target.name == "onnxruntime" and file_size(path) < _LARGEST_TO_TIME


def _show(
    run: Run, calibrated: QuantizedModel, sizes: tuple[int, int], comparison: Comparison | None, speed: Speed | None
) -> None:
    from quantonnx.commands import tables

    shown = [tables.placed(calibrated), tables.in_float(calibrated, every=run.verbose)]
    shown.append(tables.told(calibrated, every=run.verbose))
    if run.verbose:
        shown.insert(1, tables.sites(calibrated))
    if comparison is not None:
        shown.append(tables.compared(comparison))
    shown.append(tables.before_and_after(sizes, comparison, speed))
    for part in filter(None, shown):
        run.show(part, "")
    if comparison is None:
        run.show_text("accuracy was not measured: give --eval-data with samples that were not used to calibrate\n")
