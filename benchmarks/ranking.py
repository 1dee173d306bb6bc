"""Which ranking of groups says what to release: SQNR of the outputs with the first 1, 3 and 5 groups left in float.

Groups are ranked by the error of their own result, by the prediction of what that does to the outputs, and by what each
was measured to do there, all on calibration samples; the result is measured on others.

    python benchmarks/ranking.py model.onnx calib.npz eval.npz [--samples 32] [--method minmax] [--preset xint8]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import quantonnx as qx
from quantonnx.calibration.samples import Samples, input_specs, open_samples
from quantonnx.evidence import collect_evidence

COUNTS = (1, 3, 5)


def main(
    model: Path,
    calibration: Path,
    evaluation: Path,
    samples: int = 32,
    target: str = "onnxruntime",
    method: Annotated[str, typer.Option(help="Of calibration.")] = "auto",
    preset: Annotated[str | None, typer.Option(help="Such as xint8.")] = None,
) -> None:
    """Prints a row for each number of released groups, a column for each ranking."""
    specs = input_specs(qx.Model.read(model))
    calib, shown = open_samples(calibration, specs, limit=samples), open_samples(evaluation, specs, limit=4 * samples)
    settings: dict[str, Any] = {"preset": preset, "activation": {"calibration_method": method}}
    quantized = qx.quantize(model, calib, target=target, config=qx.QuantConfig(**settings))
    measured, predicted = collect_evidence(quantized, calib), collect_evidence(quantized, calib, at_outputs=0)
    orders = {
        "own error": sorted(measured.groups, key=lambda group: -group.isolated.relative),
        "predicted": list(predicted.groups),
        "measured": list(measured.groups),
    }
    print(f"{model.name}, {len(measured.groups)} groups; measured: {measured.ranked_by}")
    print(f"none released: {qx.compare(model, quantized.to_onnx(), shown).sqnr_db:.1f} dB")
    print("| released |" + "".join(f" {name} |" for name in orders))
    print("|---|" + "---|" * len(orders))
    for count in COUNTS:
        names = [[group.name for group in groups[:count]] for groups in orders.values()]
        cells = (f" {_released(model, calib, shown, target, settings, each):.1f} |" for each in names)
        print(f"| {count} |" + "".join(cells), flush=True)


def _released(
    model: Path, calib: Samples, shown: Samples, target: str, settings: dict[str, Any], names: list[str]
) -> float:
    config = qx.QuantConfig(**settings, exclude=names)
    return qx.compare(model, qx.quantize(model, calib, target=target, config=config).to_onnx(), shown).sqnr_db


if __name__ == "__main__":
    typer.run(main)
