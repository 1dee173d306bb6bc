"""What calibration costs beside plain inference of the same samples in ONNX Runtime, and what memory it needs.

    python benchmarks/calibration_cost.py MODEL.onnx [--samples 32] [--threads 1] [--rounds 5] [--no-memory]

Time: for each method and target, the ratio of running the samples with all their statistics to running them alone; one
process, in turns, median of the rounds. `pinned`: on one core, so that statistics compete with inference, CPU time of
the process; `free`: a second core may take the statistics, CPU time of the thread that infers. On a machine that does
nothing else the wall time says the same. `ranges` is what follows once, whatever the number of samples: scales of
activations and weights, corrected biases. Memory: the peak of a process that calibrates on 16 and on 512 samples which
a generator makes one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import quantonnx as qx
from quantonnx.algorithms.bias_correction import means_needed
from quantonnx.calibrating import with_statistics
from quantonnx.calibration.loading import open_session
from quantonnx.calibration.ranges import parse_method
from quantonnx.calibration.samples import InputSpec, input_specs
from quantonnx.calibration.session import Collector
from quantonnx.quantized import QuantizedModel, insert_qdq

METHODS = ("minmax", "moving_average", "percentile", "entropy", "mse")
TARGETS = ("onnxruntime", "tensorrt")
BARS = {"pinned": {False: 1.15, True: 1.35}, "free": {False: 1.15, True: 1.15}}
MEMORY_SAMPLES = (16, 512)
Feed = dict[str, np.ndarray]


def generated(specs: tuple[InputSpec, ...], count: int) -> Iterator[Feed]:
    """Yields random feeds, each of which exists only while it is used; free dimensions are 1."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield {spec.name: generator.standard_normal(_sizes(spec)).astype(spec.dtype) for spec in specs}


def _sizes(spec: InputSpec) -> list[int]:
    return [size if isinstance(size, int) else 1 for size in spec.shape]


def placed(model: Path, target: str, method: str) -> QuantizedModel:
    config = qx.QuantConfig(activation=qx.TensorQuantConfig(calibration_method=method))
    fused = qx.transform(model, target=target)
    return insert_qdq(fused.model, fused.matches, config)


def collector(quantized: QuantizedModel, method: str, threads: int) -> Collector:
    """Returns what `calibrate` watches the model with."""
    names = sorted({site.source for site in quantized.activation_sites})
    means = means_needed(quantized.model, quantized.sites)
    histogram = names if parse_method(method).needs_histogram else []
    return Collector(quantized.model, names, histogram=histogram, means=means, threads=threads)


def timed(run: Collector | ort.InferenceSession, samples: list[Feed], clock: Callable[[], float]) -> np.ndarray:
    """Returns seconds of wall time and of a CPU clock."""
    start = np.array([time.perf_counter(), clock()])
    if isinstance(run, Collector):
        run.run_all(samples)
        run.finish()
    else:
        for sample in samples:
            run.run(None, sample)
    return np.array([time.perf_counter(), clock()]) - start


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Returns per method: ratios of wall and CPU time to plain inference, and the seconds of choosing numbers."""
    clock = time.process_time if options.child == "pinned" else time.thread_time
    models = {method: placed(options.model, options.target, method) for method in METHODS}
    samples = list(generated(input_specs(models[METHODS[0]].model), options.samples))
    plain = open_session(options.model, threads=options.threads)
    watched = {method: collector(quantized, method, options.threads) for method, quantized in models.items()}
    ratios: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    for run in (plain, *watched.values()):
        timed(run, samples[:2], clock)
    for _ in range(options.rounds):
        for method, run in watched.items():
            before, spent, after = (timed(each, samples, clock) for each in (plain, run, plain))
            ratios[method].append(2 * spent / (before + after))
    rows = {}
    for method, run in watched.items():
        start = time.process_time()
        with_statistics(models[method], run.finish(), run.channel_means())
        rows[method] = [*np.median(ratios[method], axis=0).tolist(), time.process_time() - start]
    return rows


def peak_megabytes(model: Path, target: str, method: str, count: int, threads: int) -> float:
    quantized = placed(model, target, method)
    qx.calibrate(quantized, generated(input_specs(quantized.model), count), threads=threads)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(*arguments: object) -> Any:
    """Returns what this file prints in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def show_time(options: argparse.Namespace) -> bool:
    print(f"{'target':12} {'method':15} {'core':7} {'wall':>6} {'CPU':>6} {'bar':>5} {'ranges s':>9}")
    met = True
    for target in TARGETS:
        for core, bars in BARS.items():
            rows = in_child(options.model, "--child", core, "--target", target, *shared(options))
            for method, (wall, cpu, after) in rows.items():
                bar = bars[parse_method(method).needs_histogram]
                met &= cpu <= bar
                row = f"{target:12} {method:15} {core:7} {wall:6.2f} {cpu:6.2f} {bar:5.2f} {after:9.2f}"
                print(row, flush=True)
    return met


def show_memory(options: argparse.Namespace) -> None:
    print(f"\n{'target':12} {'method':15}" + "".join(f"{f'peak MB, {count}':>14}" for count in MEMORY_SAMPLES))
    for target in TARGETS:
        for method in ("minmax", "entropy"):
            child = ("--child", "memory", "--target", target, "--method", method, "--threads", options.threads)
            peaks = [in_child(options.model, *child, "--samples", count) for count in MEMORY_SAMPLES]
            print(f"{target:12} {method:15}" + "".join(f"{peak:14.0f}" for peak in peaks), flush=True)


def shared(options: argparse.Namespace) -> list[object]:
    return ["--samples", options.samples, "--threads", options.threads, "--rounds", options.rounds]


def run_child(options: argparse.Namespace) -> None:
    if options.child == "memory":
        found = peak_megabytes(options.model, options.target, options.method, options.samples, options.threads)
        print(json.dumps(found))
        return
    if options.child == "pinned":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps(measure(options)))


def main() -> int:
    """Prints both tables; 1 where a ratio is over its bar."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--child", choices=("pinned", "free", "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options)
        return 0
    print(
        f"{options.model.name}, {options.samples} samples, {options.threads} inference thread(s), "
        f"onnxruntime {ort.__version__}, numpy {np.__version__}"
    )
    met = show_time(options)
    if not options.no_memory:
        show_memory(options)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
