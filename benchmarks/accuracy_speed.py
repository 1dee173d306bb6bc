"""Accuracy and speed on ONNX Runtime against `onnxruntime.quantization.quantize_static`, all in one run.

    python benchmarks/accuracy_speed.py MODEL.onnx CALIBRATION.npz EVALUATION.npz [--peers minmax,percentile,entropy]

Prints one row per tool and setting: SQNR of the output (dB), top-1 agreement with float, accuracy where the evaluation
file holds labels, latency against float (one thread, batch 1, median of interleaved runs) and the seconds it took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import quantonnx as qx


class Reader(CalibrationDataReader):
    """Feeds one sample at a time."""

    def __init__(self, name: str, samples: NDArray[np.float32]) -> None:
        self.feeds: Iterator[dict[str, NDArray[np.float32]]] = ({name: sample[None]} for sample in samples)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.feeds, None)


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def peer(model: Path, out: Path, name: str, samples: NDArray[np.float32], method: CalibrationMethod) -> None:
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(out),
        Reader(name, samples),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
    )


def ours(model: Path, out: Path, samples: NDArray[np.float32], name: str, method: str | None) -> None:
    config = qx.QuantConfig(activation=qx.TensorQuantConfig(calibration_method=method)) if method else None
    feeds = [{name: sample[None]} for sample in samples]
    qx.quantize(model, feeds, target="onnxruntime", config=config).save(out, force=True)


def outputs(path: Path, name: str, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    run = session(path).run
    return np.concatenate([run(None, {name: sample[None]})[0] for sample in samples])


def latency(paths: dict[str, Path], feed: dict[str, NDArray[np.float32]], repeats: int) -> dict[str, float]:
    sessions = {key: session(path) for key, path in paths.items()}
    times: dict[str, list[float]] = {key: [] for key in paths}
    for _ in range(repeats):
        for key, running in sessions.items():
            start = time.perf_counter()
            running.run(None, feed)
            times[key].append(time.perf_counter() - start)
    return {key: float(np.median(found[2:])) for key, found in times.items()}


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.generic] | None) -> float:
    if labels is None:
        return float("nan")
    top = logits.argmax(1)
    hits = labels[np.arange(len(top)), top] if labels.ndim == 2 else top == labels
    return float(np.mean(hits))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--peers", default="minmax,percentile")
    parser.add_argument("--methods", default="default")
    parser.add_argument("--repeats", type=int, default=60)
    arguments = parser.parse_args()

    name = session(arguments.model).get_inputs()[0].name
    calibration = np.load(arguments.calibration)[name]
    evaluation = np.load(arguments.evaluation)
    samples = evaluation[name]
    labels = evaluation.get("labels")
    folder = Path(tempfile.mkdtemp())
    makers: dict[str, Callable[[Path], None]] = {}
    known = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    for key in filter(None, arguments.peers.split(",")):
        makers[f"quantize_static {key}"] = lambda out, key=key: peer(
            arguments.model, out, name, calibration, known[key]
        )  # type: ignore[misc]
    for key in filter(None, arguments.methods.split(",")):
        method = None if key == "default" else key
        makers[f"quantonnx {key}"] = lambda out, method=method: ours(arguments.model, out, calibration, name, method)  # type: ignore[misc]
    paths, seconds = {"float": arguments.model}, {"float": 0.0}
    for row, make in makers.items():
        start = time.perf_counter()
        paths[row] = folder / f"{len(paths)}.onnx"
        make(paths[row])
        seconds[row] = time.perf_counter() - start
    times = latency(paths, {name: samples[:1]}, arguments.repeats)
    reference = outputs(arguments.model, name, samples)
    print(f"{'':28} {'SQNR dB':>8} {'agree':>6} {'acc':>6} {'time':>6} {'seconds':>8}   onnxruntime {ort.__version__}")
    for row, path in paths.items():
        found = outputs(path, name, samples)
        noise = float(np.sum((found - reference) ** 2, dtype=np.float64))
        signal = float(np.sum(reference**2, dtype=np.float64))
        sqnr = 10 * np.log10(signal / noise) if noise else float("inf")
        agree = float(np.mean(found.argmax(1) == reference.argmax(1)))
        figures = f"{sqnr:8.2f} {agree:6.3f} {accuracy(found, labels):6.3f} {times[row] / times['float']:6.2f}"
        print(f"{row:28} {figures} {seconds[row]:8.1f}")


if __name__ == "__main__":
    main()
