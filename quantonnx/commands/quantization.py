"""The stages of one quantization, as `quantize` goes through them: each says what it does and how long it took."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantonnx.commands.loading import fit_together, load, read_float, tell_parts
from quantonnx.commands.options import OutOptions, SampleOptions, TargetOptions
from quantonnx.commands.remembering import StatisticsOptions
from quantonnx.commands.running import Run

if TYPE_CHECKING:
    from quantonnx.calibration.collected import Statistics
    from quantonnx.calibration.samples import Samples
    from quantonnx.model import Model
    from quantonnx.plan import Plan
    from quantonnx.quantized import QuantizedModel
    from quantonnx.speed import Speed
    from quantonnx.tallying import Comparison

_CLEARLY_SLOWER = 1.05


class Quantization:
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

        left = None if any(part.sites for part in placed.parts) else tables.in_float(placed)
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
            collect = partial(
                survey,
                placed.model,
                samples,
                name=self.source.name,
                threads=self.run.threads,
                progress=stage.report,
                memory_limit=self.memory_limit,
            )
            found = self.remembered.gather(collect, self.output)
            stage.detail = f"{found.samples if found else 0} samples"
        return found

    def calibrate(self, placed: QuantizedModel, samples: Samples, statistics: Statistics | None) -> QuantizedModel:
        """Runs the float model over the samples, or takes what statistics say."""
        from quantonnx import summary
        from quantonnx.calibrating import calibrate
        from quantonnx.observing import observe

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
                calibrated = calibrate(
                    placed,
                    samples,
                    threads=self.run.threads,
                    progress=progress,
                    observer=self.run.observer or observe,
                    memory_limit=self.memory_limit,
                )
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

    def compare(self, evaluation: Samples, rough: Model | None = None) -> Comparison:
        """Compares both files, or the float one and a model that is not written yet."""
        from quantonnx import summary
        from quantonnx.verification import compare

        with self.run.stage("compare", "compare") as stage:
            labels = evaluation.labels
            comparison = compare(
                self.path,
                rough or self.output.out,
                evaluation,
                labels,
                threads=self.run.threads,
                progress=stage.report,
                memory_limit=self.memory_limit,
            )
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
        if measured.ratio > _CLEARLY_SLOWER:
            self.run.note(
                f"slower than float on ONNX Runtime: `quantonnx check {self.output.out} -t onnxruntime --run` shows "
                "which operators did not become integer kernels"
            )
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
        from quantonnx.model_files import file_size

        sizes = file_size(self.path), file_size(self.output.out)
        self.run.result["bytes"] = {"float": sizes[0], "quantized": sizes[1]}
        return sizes
