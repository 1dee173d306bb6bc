"""What each target makes of the architectures of the zoo, as the real runtimes see it.

    python benchmarks/targets.py [NAME...] [--targets onnxruntime openvino] [--exporters ts dynamo] [--cache DIR]

Per model: pairs, findings of the lint, the share of multiply-accumulates in integer kernels, latency against float at
one thread (in turns, in the runtime that the target is for), and the largest operators left in float with their share.
Calibrated with eight samples, minmax; a network with random weights says nothing about accuracy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zoo
from fetch_models import DEFAULT_CACHE

import quantonnx as qx
from quantonnx.linting import lint
from quantonnx.runtimes.report import RunReport
from quantonnx.runtimes.running import run_with

SAMPLES = 8
COLUMNS = "| model | exporter | target | pairs | weights | findings | integer | time | left in float |"


def measured(path: Path, name: str, target: str, out: Path) -> str:
    """Returns the cells of one row from the number of pairs on."""
    feeds = list(zoo.feeds(name, SAMPLES))
    config = qx.QuantConfig(activation=qx.TensorQuantConfig(calibration_method="minmax"))
    quantized = qx.quantize(path, feeds, target=target, config=config)
    quantized.save(out, force=True)
    counts = f"{len(quantized.activation_sites)} | {len(quantized.weight_sites)} | {len(lint(out, target))}"
    if target == "tensorrt":
        return f"{counts} | – | – | –"
    sizes = {key: value.shape for key, value in feeds[0].items()}
    report = run_with(target, out, float_model=path, sizes=sizes, seconds=3.0)
    if report.error or report.speed is None:
        return f"{counts} | failed | – | {report.error or report.note}"
    return f"{counts} | {report.integer_share or 0:.1%} | {report.speed.ratio:.2f} | {in_float(report)}"


def in_float(report: RunReport) -> str:
    """Returns the operators that add up most products in float, by kind."""
    total = max(report.multiply_accumulates, 1)
    shares: dict[str, float] = {}
    for operator in report.in_float:
        shares[operator.operator] = shares.get(operator.operator, 0.0) + operator.multiply_accumulates / total
    return ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items() if share >= 0.001) or "–"


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """Yields one row for each model, exporter and target."""
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or zoo.names():
            for exporter in [one for one in zoo.exporters(name) if one in arguments.exporters] or zoo.exporters(name)[
                :1
            ]:
                path = zoo.build(name, exporter, arguments.cache)
                for target in arguments.targets:
                    cells = measured(path, name, target, Path(folder) / "quantized.onnx")
                    yield f"| {name} | {exporter} | {target} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--targets", nargs="+", default=["onnxruntime", "openvino", "tensorrt"])
    parser.add_argument("--exporters", nargs="+", default=["ts", "dynamo"])
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    arguments = parser.parse_args()
    np.seterr(all="ignore")
    print(COLUMNS, "|---|---|---|---|---|---|---|---|---|", sep="\n")
    for row in rows(arguments):
        print(row, flush=True)


if __name__ == "__main__":
    sys.exit(main())
