"""`demo`: the main job on the small trained network that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantonnx.commands.options import NumberOptions, OutOptions, SampleOptions, TargetOptions
from quantonnx.commands.quantizing import quantize
from quantonnx.commands.remembering import StatisticsOptions
from quantonnx.commands.running import Run
from quantonnx.commands.searching import SearchOptions


def demo(
    run: Run,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="NAME", help="onnxruntime, tensorrt, openvino, or a target file.")
    ] = "onnxruntime",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The file to write.")] = Path(
        "demo.int8.onnx"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace OUT where it exists.")] = False,
) -> int:
    """Quantize the embedded network, a residual CNN trained on Fashion-MNIST, for ONNX Runtime or another --target."""
    from quantonnx.demo import calibration_path, evaluation_path, model_path

    return quantize(
        run,
        model_path(),
        OutOptions(out, force),
        TargetOptions(target),
        SampleOptions(calibration_path()),
        StatisticsOptions(),
        NumberOptions(),
        SearchOptions(),
        eval_data=evaluation_path(),
    )
