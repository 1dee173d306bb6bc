"""Commands that run models: `compare` two of them, `calibrate` one that has Q/DQ pairs already."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.layers import LayerOptions, show_layers
from quantonnx.commands.libraries import NO_LIBRARIES, LibraryOptions
from quantonnx.commands.loading import MemoryOption, fit_together, load, tell_parts
from quantonnx.commands.options import OutOptions, SampleOptions, checked_method
from quantonnx.commands.remembering import StatisticsOptions
from quantonnx.commands.reporting import Compared, report_comparison
from quantonnx.commands.running import Run
from quantonnx.memory import memory_limit_of

if TYPE_CHECKING:
    from quantonnx.model import Model


def compare(
    run: Run,
    model: Annotated[Path, typer.Argument(metavar="FLOAT_MODEL", help="The float model.")],
    quantized: Annotated[Path, typer.Argument(metavar="QDQ_MODEL", help="The quantized model.")],
    source: SampleOptions,
    layers: LayerOptions,
    speed: Annotated[bool, typer.Option("--speed", help="Time both models too, in turns on one thread.")] = False,
    memory_limit: MemoryOption = None,
    libraries: LibraryOptions = NO_LIBRARIES,
) -> None:
    """Compare two models on data: SQNR, cosine, top-1 agreement, accuracy where there are labels, each layer."""
    from quantonnx import summary
    from quantonnx.commands import tables
    from quantonnx.model import Model
    from quantonnx.model_files import file_size
    from quantonnx.speed import measure_speed
    from quantonnx.verification import compare as run_both

    source.check("compare")
    run.using(libraries.registered())
    layers.check()
    allowed = memory_limit_of(memory_limit)
    run.result |= {"model": str(model), "quantized": str(quantized)}
    samples = source.open(Model.read(model))
    with run.stage("compare", "compare") as stage:
        comparison = run_both(model, quantized, samples, samples.labels, progress=stage.report, memory_limit=allowed)
        stage.detail = f"{comparison.samples} samples"
    run.result["metrics"] = summary.metrics(comparison)
    measured = None
    apart = allowed is not None and (speed or layers.layers) and not fit_together(run, model, quantized, allowed)
    if speed and not apart:
        with run.stage("speed", "time both models"):
            measured = measure_speed(model, quantized, next(iter(samples)))
        run.result["speed"] = summary.speed(measured)
    sizes = file_size(model), file_size(quantized)
    run.result["bytes"] = {"float": sizes[0], "quantized": sizes[1]}
    run.show(tables.compared(comparison), "", tables.before_and_after(sizes, comparison, measured))
    if layers.layers and not apart:
        found = show_layers(run, model, quantized, samples, layers)
        if layers.report is not None:
            report_comparison(run, layers.report, Compared(model, quantized, found, comparison, measured), samples)


def calibrate(
    run: Run,
    model: Annotated[
        Path, typer.Argument(metavar="QDQ_MODEL", help="A model with Q/DQ pairs, whoever put them there.")
    ],
    output: OutOptions,
    source: SampleOptions,
    remembered: StatisticsOptions,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="minmax, moving_average[:0.01], histogram (= mse), percentile[:99.99] or entropy; by default the one "
            "that the file says it was made with, else minmax.",
        ),
    ] = None,
    memory_limit: MemoryOption = None,
    libraries: LibraryOptions = NO_LIBRARIES,
) -> None:
    """Give a model that already has Q/DQ pairs new scales, and leave the pairs where they are."""
    from quantonnx.commands import tables
    from quantonnx.inspecting import find_pairs
    from quantonnx.model import Model
    from quantonnx.recalibration import recalibrate, watch_pairs

    output.check()
    run.using(libraries.registered())
    remembered.check("calibrate", source, output)
    allowed = memory_limit_of(memory_limit)
    if method is not None:
        checked_method(method)
    run.result |= {"model": str(model), "output": str(output.out)}
    with run.stage("read", "read") as stage:
        read = Model.read(model)
        pairs = find_pairs(read)
        stage.detail = f"{model.name}, {len(pairs.activations)} activation pairs"
    samples = () if remembered.statistics else source.open(read)
    tell_parts(run, read, None if remembered.statistics else allowed)
    with run.stage("calibrate", "calibrate") as stage:
        collect = partial(watch_pairs, read, samples, name=source.name, progress=stage.report, memory_limit=allowed)
        statistics = remembered.gather(collect, output)
        chosen = method or _method_of(read) or "minmax"
        watched = partial(recalibrate, read, samples, statistics=statistics, progress=stage.report)
        done = watched(method=chosen, memory_limit=allowed)
        stage.detail = f"{done.pairs} pairs have new numbers, {done.biases} biases followed, by {chosen}"
    run.result["pairs"] = {"activation": len(pairs.activations), "weight": pairs.weights}
    run.result["recalibrated"] = {"pairs": done.pairs, "biases": done.biases}
    run.result["excluded"] = [{"name": decision.name, "reason": decision.reason} for decision in done.left]
    with run.stage("write", "write") as stage:
        output.save(done.model)
        stage.detail = str(output.out)
    load(run, output.out, allowed)
    if done.left:
        run.show(tables.reasons("Left as they were", done.left))


def _method_of(model: Model) -> str | None:
    """The calibration method that a file says it was made with, where it was one for all."""
    from quantonnx.provenance import provenance

    told = provenance(model.metadata).get("method", "")
    return told if told and "," not in told else None
