"""What each algorithm for weights brings, with its time and peak memory, on one trained model and one target.

    python benchmarks/weight_ranges.py MODEL.onnx CALIBRATION.npz EVALUATION.npz [--target T] [--limit N] [--slow]

Every row is quantized from the same samples in a process of its own: the whole range of weights without correction,
then bias correction, ranges of least error and equalization one by one, then together, with 8 and 4 bits per channel
and with 8 bits per tensor. `--limit` counts evaluation samples; `--slow` keeps operators in integers that the target
runs faster in float.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import trained_metrics
from numpy.typing import NDArray

import quantonnx as qx
from quantonnx.algorithms.equalization import equalize

SAMPLES = 64
BITS = {"W8A8": {}, "W8A8 per tensor": {"per_channel": False}, "W4A8": {"n_bits": 4}}
ALGORITHMS = (
    (),
    ("bias correction",),
    ("mse",),
    ("equalize",),
    ("bias correction", "mse"),
    ("bias correction", "mse", "equalize"),
)
Array = NDArray[np.generic]


def calibration(path: Path) -> list[dict[str, Array]]:
    """Returns the first samples of an npz, one feed each."""
    whole = dict(np.load(path))
    count = min(SAMPLES, *(len(values) for values in whole.values()))
    return [{name: values[i : i + 1] for name, values in whole.items()} for i in range(count)]


def quantized(
    source: Path, samples: Path, out: Path, target: str, bits: str, algorithms: tuple[str, ...], slow: bool
) -> tuple[float, int]:
    """Writes a quantized model and returns the seconds that it took and the peak memory in MB."""
    feeds, start = calibration(samples), time.perf_counter()
    model = qx.transform(source, target=target).model
    if "equalize" in algorithms:
        model = equalize(model).model
    weight = BITS[bits] | {"calibration_method": "mse" if "mse" in algorithms else "minmax"}
    config = qx.QuantConfig(weight=weight, bias_correction="bias correction" in algorithms, keep_slow=slow)
    qx.quantize(model, feeds, target=target, config=config).save(out, force=True)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Judge:
    """Compares files with the float model on the first samples of an npz."""

    def __init__(self, source: Path, evaluation: Path, limit: int) -> None:
        arrays = np.load(evaluation)
        names = [value.name for value in trained_metrics.session(source).get_inputs()]
        self.inputs = {name: arrays[name][:limit] for name in names}
        self.known = trained_metrics.characters(source) if "text" in arrays.files else None
        self.exact = self.outputs(source)

    def outputs(self, path: Path) -> NDArray[np.float32]:
        """Returns the first output for all samples, one by one."""
        running = trained_metrics.session(path)
        count = len(next(iter(self.inputs.values())))
        feeds = ({name: values[i : i + 1] for name, values in self.inputs.items()} for i in range(count))
        return np.concatenate([running.run(None, feed)[0] for feed in feeds])

    def answers(self, outputs: NDArray[np.float32]) -> Array:
        """Returns what the model says of each sample: the best class, or the line that it reads."""
        best = outputs.argmax(-1)
        return best if self.known is None else np.array([trained_metrics.decode(each, self.known) for each in best])

    def row(self, path: Path) -> str:
        """Returns SQNR in dB and the share of samples on which both models agree."""
        rough = self.outputs(path)
        agreement = float((self.answers(rough) == self.answers(self.exact)).mean())
        return f"{trained_metrics.decibels(self.exact, rough):.1f} | {agreement:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "evaluation"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--slow", action="store_true")
    arguments = parser.parse_args()
    judge = Judge(arguments.model, arguments.evaluation, arguments.limit)
    print(f"| {arguments.model.stem} | SQNR dB | agreement | seconds | MB |", "|---|---|---|---|---|", sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quantized.onnx"
        for bits in BITS:
            for algorithms in ALGORITHMS:
                given = (
                    arguments.model,
                    arguments.calibration,
                    out,
                    arguments.target,
                    bits,
                    algorithms,
                    arguments.slow,
                )
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    seconds, peak = pool.submit(quantized, *given).result()
                label = f"{bits}: {' + '.join(algorithms) or 'plain'}"
                print(f"| {label} | {judge.row(out)} | {seconds:.1f} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
