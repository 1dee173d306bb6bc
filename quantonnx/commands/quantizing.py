"""`quantize`: from a float file and samples to a quantized file, and what was done, what it cost, what it gained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantonnx.commands.loading import MemoryOption, fit_together, load, tell_parts
from quantonnx.commands.options import (
    ModelArgument,
    NumberOptions,
    OutOptions,
    PlanOption,
    SampleOptions,
    TargetOptions,
)
from quantonnx.commands.remembering import StatisticsOptions
from quantonnx.commands.reporting import Reported, ReportOption, check_report_folder, report_quantization
from quantonnx.commands.running import Run
from quantonnx.commands.searching import Acting, SearchOptions
from quantonnx.memory import memory_limit_of

if TYPE_CHECKING:
    from quantonnx.calibration.collected import Statistics
    from quantonnx.calibration.samples import Samples
    from quantonnx.model import Model
    from quantonnx.plan import Plan
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
) -> int:
    """Quantize a float model: fuse, place Q/DQ pairs, calibrate, write, verify."""
    output.check()
    if report is not None:
        check_report_folder(report)
    settings = numbers.build()
    remembered.check("quantize", source, output, needs_data=not settings.only_weights)
    bar.check(source, eval_data, force=output.force)
    job = _Job(run, model, output, compiler, source, remembered, memory_limit_of(memory_limit))
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


class _Job:
    """The stages of one quantization."""

    def __init__(
        self,
        run: Run,
        model: Path,
        output: OutOptions,
        compiler: TargetOptions,
        source: SampleOptions,
        remembered: StatisticsOptions,
        memory_limit: int | None,
    ) -> None:
        self.run, self.path, self.output, self.compiler, self.source = run, model, output, compiler, source
        self.remembered, self.memory_limit = remembered, memory_limit
        self.plan: Plan | None = None
        run.result |= {"model": str(model), "output": str(output.out)}

    def place(self, plan_file: Path | None, settings: Any) -> QuantizedModel:
        """Reads, fuses and places; refuses a model that is quantized already, or gets no pair at all."""
        from quantonnx import summary
        from quantonnx.plan import Plan
        from quantonnx.quantized import insert_qdq
        from quantonnx.rewriting import transform

        plan = Plan.load(plan_file) if plan_file else None
        target = self.compiler.choose(plan)
        self.run.result["target"] = target.name
        model = read_float(self.run, self.path)
        with self.run.stage("transform", "fuse") as stage:
            fused = transform(model, target=target, plan=plan)
            stage.detail = f"{len(fused.report.applied)} rewrites and fusions for {target.name}"
        self.plan = fused.plan
        with self.run.stage("place", "place") as stage:
            placed = insert_qdq(fused.model, fused.matches, settings)
            counts = summary.pairs(placed)
            stage.detail = f"{counts['activation']} activation pairs, {counts['weight']} weights"
        self.run.result |= {
            "pairs": counts,
            **summary.plan(fused.plan),
            "sites": summary.sites(placed),
            "excluded": summary.excluded(placed),
        }
        self._refuse_nothing(placed)
        return placed

    def _refuse_nothing(self, placed: QuantizedModel) -> None:
        from quantonnx.commands import tables

        left = None if placed.sites else tables.in_float(placed)
        if left is not None:
            self.run.show(left)
        placed.refuse_nothing(self.path.name)
        if placed.faster_in_float:
            self.run.note(
                f"nothing is quantized: {self.run.result['target']} is expected to run every operator of "
                f"{self.path.name} slower in integers, so the fused float model is written; --keep-slow quantizes it"
            )

    def open_samples(self, model: Model, eval_data: Path | None) -> tuple[Samples, Samples | None]:
        """Opens the data of calibration (where none is needed, something to time) and, before the long work, that of
        evaluation."""
        source = self.source if self.source.given else replace(self.source, random_data=1)
        samples = source.open(model)
        if self.source.random_data:
            self.run.note("calibrating on random data: ranges and accuracy mean nothing, give --data for real use")
        if eval_data and self.source.data and eval_data.resolve() == self.source.data.resolve():
            self.run.note("comparing on the data that calibrated: figures will look better than they are")
        return samples, self.source.open(model, eval_data) if eval_data else None

    def statistics(self, placed: QuantizedModel, samples: Samples) -> Statistics | None:
        """Returns the statistics of files, or those that are to be kept; None where nobody asks for any."""
        from quantonnx.surveying import survey

        if not self.remembered.asked:
            return None
        with self.run.stage("calibrate", "statistics") as stage:
            collect = partial(survey, placed.model, samples, name=self.source.name, progress=stage.report)
            collect = partial(collect, memory_limit=self.memory_limit)
            found = self.remembered.gather(collect, self.output)
            stage.detail = f"{found.samples if found else 0} samples"
        return found

    def calibrate(self, placed: QuantizedModel, samples: Samples, statistics: Statistics | None) -> QuantizedModel:
        """Runs the float model over the samples, or takes what statistics say."""
        from quantonnx import summary
        from quantonnx.calibrating import calibrate

        if statistics is None and self.source.given:
            tell_parts(self.run, placed.model, self.memory_limit)
        with self.run.stage("calibrate", "calibrate") as stage:
            seen = 0

            def progress(done: int, total: int | None) -> None:
                nonlocal seen
                seen = done
                stage.report(done, total)

            if not self.source.given and statistics is None:
                calibrated = calibrate(placed, memory_limit=self.memory_limit)
            elif statistics is None:
                calibrated = calibrate(placed, samples, progress=progress, memory_limit=self.memory_limit)
            else:
                calibrated = calibrate(placed, statistics=statistics, memory_limit=self.memory_limit)
                seen = statistics.samples
            seen = sum(source.samples for source in calibrated.data) or seen
            stage.detail = f"{seen} samples"
        self.run.result |= {"samples": seen, "sites": summary.sites(calibrated)}
        return calibrated

    def write(self, calibrated: QuantizedModel) -> None:
        """Writes the file, and loads it in ONNX Runtime to see that it runs."""
        with self.run.stage("write", "write") as stage:
            self.output.save(calibrated.to_model())
            stage.detail = str(self.output.out)
        load(self.run, self.output.out, self.memory_limit)

    def compare(self, evaluation: Samples) -> Comparison:
        """Compares both files."""
        from quantonnx import summary
        from quantonnx.verification import compare

        with self.run.stage("compare", "compare") as stage:
            labels = evaluation.labels
            files, limit = (self.path, self.output.out), self.memory_limit
            comparison = compare(*files, evaluation, labels, progress=stage.report, memory_limit=limit)
            stage.detail = f"{comparison.samples} samples{'' if labels is None else ' with labels'}"
        self.run.result["metrics"] = summary.metrics(comparison)
        return comparison

    def time(self, samples: Samples) -> Speed:
        """Times both files in turns on one thread."""
        from quantonnx import summary
        from quantonnx.speed import measure_speed

        with self.run.stage("speed", "time both models") as stage:
            measured = measure_speed(self.path, self.output.out, next(iter(samples)))
            stage.detail = "ONNX Runtime, one thread, in turns"
        self.run.result["speed"] = summary.speed(measured)
        return measured

    def require_whole(self, model: Model) -> None:
        """Raises ModelError where a search, which runs the whole model again and again, has no room for it."""
        from quantonnx.calibration.parts import in_one_piece
        from quantonnx.memory import require

        if self.memory_limit is not None:
            require(in_one_piece(model), self.memory_limit, "a search, which runs the whole model many times,")

    def fits(self) -> bool:
        """True where both models may be loaded at once; a line says where not."""
        return self.memory_limit is None or fit_together(self.run, self.path, self.output.out, self.memory_limit)

    def sizes(self) -> tuple[int, int]:
        """Returns the bytes of both models, external data included."""
        from quantonnx.inspecting import file_size

        sizes = file_size(self.path), file_size(self.output.out)
        self.run.result["bytes"] = {"float": sizes[0], "quantized": sizes[1]}
        return sizes


def read_float(run: Run, path: Path) -> Model:
    """Reads a model; ModelError where it is quantized already."""
    from quantonnx.insertion import refuse_quantized
    from quantonnx.model import Model

    with run.stage("read", "read") as stage:
        model = Model.read(path)
        stage.detail = f"{path.name}, {len(model.graph.nodes)} operators"
    refuse_quantized(model, path.name)
    return model


def _wants_speed(asked: bool | None, calibrated: QuantizedModel, path: Path) -> bool:
    if asked is not None:
        return asked
    from quantonnx.inspecting import file_size

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
