"""Accuracy and speed on trained models, against `quantize_static` on the same data in the same run.

    python benchmarks/trained_accuracy.py [NAME...] [--methods default minmax] [--no-peer] [--cache DIR]

NAME is one of minilm_r8, ppocr_rec, yolo_scenes, fashion_vit, fashion_mobilenet_v3 (benchmarks/fetch_models.py builds
them). Both tools calibrate on the same samples; time is against float in ONNX Runtime at one thread, in turns, on one
sample, and in OpenVINO for the target openvino.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import trained_metrics
from fetch_models import DEFAULT_CACHE
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import quantonnx as qx
from quantonnx.runtimes.running import run_with

NAMES = ("minilm_r8", "ppocr_rec", "yolo_scenes", "fashion_vit", "fashion_mobilenet_v3")
SAMPLES = 64
Feed = dict[str, np.ndarray]


class Reader(CalibrationDataReader):
    """The same samples for the peer."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def calibration(cache: Path, name: str) -> list[Feed]:
    """Returns the calibration samples, one feed each."""
    with np.load(cache / f"{name}_calib.npz") as arrays:
        count = min(len(arrays[arrays.files[0]]), SAMPLES)
        whole = {key: arrays[key] for key in arrays.files}
    return [{key: values[i : i + 1] for key, values in whole.items()} for i in range(count)]


def peer(model: Path, feeds: list[Feed], out: Path) -> None:
    """Quantizes with ONNX Runtime's own tool: minmax, per channel, after its own pre-processing."""
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(out), Reader(feeds), per_channel=True, **types)


def row(model: Path, out: Path, feeds: list[Feed], evaluation: Path, runtime: str) -> str:
    """Returns metric and time of one quantized file."""
    found: Mapping[str, object] = trained_metrics.measured(model, out, evaluation)
    sizes = {key: values.shape for key, values in feeds[0].items()}
    report = run_with(runtime, out, float_model=model, sizes=sizes, seconds=4.0)
    timed = f"{report.speed.ratio:.2f}" if report.speed else report.error or report.note
    share = f"{report.integer_share:.0%}" if report.integer_share is not None else "–"
    return f"{'; '.join(f'{key} {value}' for key, value in found.items())} | {share} | {timed}"


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """Yields the rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quantized.onnx"
        for name in arguments.names or NAMES:
            model, evaluation = (arguments.cache / f"{name}{end}" for end in (".onnx", "_eval.npz"))
            feeds = calibration(arguments.cache, name)
            for target in ("onnxruntime", "openvino"):
                for method in arguments.methods:
                    config = None if method == "default" else qx.QuantConfig(activation={"calibration_method": method})
                    qx.quantize(model, feeds, target=target, config=config).save(out, force=True)
                    yield f"| {name} | {target} {method} | {row(model, out, feeds, evaluation, target)} |"
            if arguments.peer:
                try:
                    peer(model, feeds, out)
                    yield f"| {name} | quantize_static minmax | {row(model, out, feeds, evaluation, 'onnxruntime')} |"
                except Exception as error:  # whatever the peer raises is its result
                    yield f"| {name} | quantize_static minmax | fails: {str(error).splitlines()[0][:120]} | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--methods", nargs="+", default=["default"])
    parser.add_argument("--no-peer", dest="peer", action="store_false")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    arguments = parser.parse_args()
    print("| model | by | metrics | integer | time |", "|---|---|---|---|---|", sep="\n")
    for line in rows(arguments):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
