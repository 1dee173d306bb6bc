"""`finetune`: what rounding costs is won back by training against the float model, without labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantonnx.commands.libraries import NO_LIBRARIES, LibraryOptions
from quantonnx.commands.options import (
    ModelArgument,
    NumberOptions,
    OutOptions,
    PlanOption,
    SampleOptions,
    TargetOptions,
    check_out,
)
from quantonnx.commands.quantization import Quantization
from quantonnx.commands.remembering import StatisticsOptions
from quantonnx.commands.running import Run
from quantonnx.errors import QuantonnxError

if TYPE_CHECKING:
    from quantonnx.calibration.samples import Samples
    from quantonnx.quantized import QuantizedModel
    from quantonnx.tallying import Comparison
    from quantonnx.torch.settings import Distilled

_TRAINING = "Training"
NO_STATISTICS = StatisticsOptions()


@dataclass(frozen=True)
class TrainingOptions:
    """How long to train, and how."""

    epochs: Annotated[
        int | None,
        typer.Option("--epochs", metavar="N", min=1, help="Passes over the data; 10.", rich_help_panel=_TRAINING),
    ] = None
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", metavar="M", help="Stop after this time at the latest.", rich_help_panel=_TRAINING),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            metavar="RATE",
            help="What a step changes at most, as a part of each tensor: 0.001.",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    augment: Annotated[
        str | None,
        typer.Option(
            "--augment", metavar="WAY", help="Vary images: none, flip, shift or mix.", rich_help_panel=_TRAINING
        ),
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="Of shuffling and varying.", rich_help_panel=_TRAINING)] = 0
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Kept up to date while training; where it exists, training goes on from it.",
            rich_help_panel=_TRAINING,
        ),
    ] = None

    def check(self) -> None:
        """Raises, before any work, where torch is missing or the checkpoint cannot be written."""
        if find_spec("torch") is None:
            raise QuantonnxError("finetune needs torch, which is not installed", "pip install 'quantonnx[torch]'")
        if self.checkpoint is not None:
            check_out(self.checkpoint, force=True)
        self.settings()

    def settings(self) -> dict[str, Any]:
        """Returns the settings of `distill`. Raises ConfigError for values that make no sense."""
        from quantonnx.torch.distillation import DEFAULT_EPOCHS
        from quantonnx.torch.settings import Settings

        given = {"minutes": self.minutes, "learning_rate": self.learning_rate, "augment": self.augment}
        settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.epochs is not None or self.minutes is None:
            settings["epochs"] = self.epochs or DEFAULT_EPOCHS
        settings["seed"] = self.seed
        Settings(**settings)
        return settings


@dataclass(frozen=True)
class TrainingSampleOptions(SampleOptions):
    """Where samples come from; they calibrate one by one, `batch_size` is said of training."""

    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=1, help="Samples in a step.", rich_help_panel=_TRAINING)
    ] = 8


def finetune(
    run: Run,
    model: ModelArgument,
    output: OutOptions,
    compiler: TargetOptions,
    source: TrainingSampleOptions,
    numbers: NumberOptions,
    training: TrainingOptions,
    plan: PlanOption = None,
    eval_data: Annotated[
        Path | None,
        typer.Option(
            "--eval-data",
            metavar="DATA",
            help="Compare before and after on this; labels give accuracy.",
            rich_help_panel="Checking",
        ),
    ] = None,
    libraries: LibraryOptions = NO_LIBRARIES,
) -> int:
    """Quantize a float model, train it to answer as before, write it: no labels needed, PyTorch is."""
    training.check()
    output.check()
    run.using(libraries.registered())
    source.check("finetune")
    each = replace(source, batch_size=1)
    job = Quantization(run, model, output, compiler, each, NO_STATISTICS, None)
    placed = job.place(plan, numbers.build())
    samples, evaluation = job.open_samples(placed.model, eval_data)
    calibrated = job.calibrate(placed, samples, None)
    before = job.compare(evaluation, calibrated.to_model()) if evaluation is not None else None
    run.result["before"] = run.result["metrics"]
    trained = _train(run, calibrated, model, samples, training, source.batch_size)
    job.write(trained)
    after = job.compare(evaluation) if evaluation is not None else None
    _show(run, trained, before, after)
    return 0


def _train(
    run: Run, calibrated: QuantizedModel, path: Path, samples: Samples, training: TrainingOptions, batch_size: int
) -> QuantizedModel:
    from quantonnx.torch import distill, from_onnx, prepare_qat, to_onnx

    student = prepare_qat(calibrated)
    with run.stage("train", "train") as stage:
        report = distill(
            student,
            from_onnx(path),
            samples,
            checkpoint=training.checkpoint,
            progress=stage.report,
            batch_size=batch_size,
            **training.settings(),
        )
        stage.detail = f"{report.steps} steps{_told(report)}"
    if report.diverged:
        run.note(f"training came to no finite loss in step {report.steps} and was ended: try a lower --learning-rate")
    if report.best_step == 0:
        run.note(
            "training did not come nearer to the float model on samples that were held out: the file is as `quantize` "
            "writes it; give more data, or a lower --learning-rate"
        )
    run.result["training"] = asdict(report)
    return to_onnx(student)


def _told(report: Distilled) -> str:
    kind = "samples, trained on too" if report.trained_on else "samples held out"
    return f", {report.before.sqnr_db:.1f} dB to {report.after.sqnr_db:.1f} dB on {report.held_out} {kind}"


def _show(run: Run, trained: QuantizedModel, before: Comparison | None, after: Comparison | None) -> None:
    from quantonnx.commands import tables

    run.show(tables.placed(trained), "")
    if before is None or after is None:
        run.show_text("accuracy was not measured: give --eval-data with samples that were not trained on\n")
        return
    run.show(tables.compared(after), "", tables.fine_tuned(before, after), "")
