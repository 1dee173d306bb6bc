"""Measures quantized files against their float model, the same way whatever tool wrote them.

    python benchmarks/peers_measure.py quality FLOAT.onnx EVALUATION.npz QUANTIZED.onnx
    python benchmarks/peers_measure.py latency FLOAT.onnx EVALUATION.npz QUANTIZED.onnx...

Prints one line of JSON. `peers.py` runs it in a child process, since a file may bring ONNX Runtime down.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from trained_metrics import characters, decode, session

from quantonnx.runtimes.running import run_with

TURNS, SECONDS = 1000, 25.0
Array = NDArray[np.generic]
Arrays = dict[str, Array]


def samples(arrays: Arrays, names: list[str]) -> Iterator[Arrays]:
    """Yield the feeds of one sample each."""
    for i in range(len(arrays[names[0]])):
        yield {name: arrays[name][i : i + 1] for name in names}


def answer(output: Array, known: list[str] | None) -> object:
    """Return what one output says: its class, or its text where the classes are characters."""
    best = output.argmax(-1)[0]
    return best if known is None else decode(best, known)


def right(answers: Array, arrays: Arrays) -> float:
    """Return the share of right answers; labels are classes, or one row of right classes for each sample."""
    if "text" in arrays:
        return float((answers == arrays["text"]).mean())
    labels = arrays["labels"]
    hits = labels[np.arange(len(answers)), answers] if labels.ndim == 2 else answers == labels
    return float(hits.mean())


def quality(exact: Path, arrays: Arrays, quantized: Path) -> dict[str, float | None]:
    """Return SQNR of the first output in dB, both shares of right answers, agreement, quantizers and integer share."""
    known = characters(exact) if "text" in arrays else None
    runs = [session(path) for path in (exact, quantized)]
    names = [value.name for value in runs[0].get_inputs()]
    power, noise, answers = 0.0, 0.0, []
    for feed in samples(arrays, names):
        x, q = (run.run(None, feed)[0] for run in runs)
        power += float(np.square(x, dtype=np.float64).sum())
        noise += float(np.square(x - q, dtype=np.float64).sum())
        answers.append([answer(output, known) for output in (x, q)])
    of_float, of_quantized = np.array(answers).T
    return {
        "sqnr_db": 10 * math.log10(power / noise) if noise else math.inf,
        "float": right(of_float, arrays),
        "metric": right(of_quantized, arrays),
        "agreement": float((of_float == of_quantized).mean()),
        "quantizers": quantizers(quantized),
        "integer": integer_share(exact, quantized, {name: arrays[name][:1].shape for name in names}),
    }


def quantizers(path: Path) -> int:
    """Return how many nodes of a file quantize, dequantize or compute in integers: 0 in a file left in float."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return sum("Linear" in node.op_type or "Integer" in node.op_type for node in nodes)


def integer_share(exact: Path, quantized: Path, sizes: dict[str, tuple[int, ...]]) -> float | None:
    """Return the share of multiply-accumulates in integer kernels; None where it cannot be told."""
    try:
        return run_with("onnxruntime", quantized, float_model=exact, sizes=sizes, seconds=0.05).integer_share
    except Exception:  # whatever another tool's file provokes in our reader, the rest is worth its row
        return None


def latency(paths: list[Path], feed: Arrays) -> list[float]:
    """Return the median milliseconds of each file, all run in turns on one thread; the first few turns do not count."""
    runs = [session(path) for path in paths]
    times: list[list[float]] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 10 or (time.perf_counter() < end and len(times) < TURNS):
        times.append([timed(run, feed) for run in runs])
    return [float(value) for value in np.median(times[3:], axis=0)]


def timed(run: object, feed: Arrays) -> float:
    """Return the milliseconds of one run."""
    start = time.perf_counter()
    run.run(None, feed)  # type: ignore[attr-defined]
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "latency"))
    parser.add_argument("model", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("quantized", type=Path, nargs="+")
    given = parser.parse_args()
    with np.load(given.evaluation, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if given.what == "quality":
        print(json.dumps(quality(given.model, arrays, given.quantized[0])))
        return
    names = [value.name for value in session(given.model).get_inputs()]
    print(json.dumps(latency([given.model, *given.quantized], next(samples(arrays, names)))))


if __name__ == "__main__":
    main()
