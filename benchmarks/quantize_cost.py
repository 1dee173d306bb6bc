"""What a whole `quantonnx quantize` costs, from the start of the process to the written file, at two threads.

    python benchmarks/quantize_cost.py MODEL.onnx [--samples 64] [--threads 2] [--rounds 3] [--target onnxruntime]
                                       [--no-peer]

The measure is a plain float pass over the same samples in ONNX Runtime, its session loaded before. Rounds in turns;
medians. `quantize_static` (minmax, per channel, with its pre-processing) runs in a process of its own too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from calibration_cost import generated

import quantonnx as qx
from quantonnx.calibration.loading import open_session
from quantonnx.calibration.samples import input_specs

PEER = """
import sys
sys.path.insert(0, sys.argv[5])
import numpy as np
from pathlib import Path
from accuracy_speed import CalibrationMethod, peer
model, data, out, name = sys.argv[1:5]
peer(Path(model), Path(out), name, np.load(data)[name], CalibrationMethod.MinMax)
"""


def seconds(command: list[str], threads: int) -> float:
    """Returns how long a process takes on `threads` cores."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    if process.wait():
        sys.exit(f"{' '.join(command[:4])} failed")
    return time.perf_counter() - start


def plain(model: Path, samples: list[dict[str, np.ndarray]], threads: int) -> tuple[float, float]:
    """Returns the seconds of loading a session and of running all samples in it."""
    start = time.perf_counter()
    session = open_session(model, threads=threads)
    loaded = time.perf_counter()
    for sample in samples:
        session.run(None, sample)
    return loaded - start, time.perf_counter() - loaded


def main() -> int:
    """Prints the table; 1 where the cost is over its bar."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--bar", type=float, default=1.6)
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    specs = input_specs(qx.Model.read(options.model))
    samples = list(generated(specs, options.samples))
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "samples.npz", Path(folder) / "out.onnx"
        np.savez(data, **{spec.name: np.concatenate([sample[spec.name] for sample in samples]) for spec in specs})
        whole = [sys.executable, "-m", "quantonnx.cli", "quantize", str(options.model), "-o", str(out), "--force"]
        whole += ["--data", str(data), "-t", options.target, "--no-speed", "--quiet"]
        rival = [sys.executable, "-c", PEER, str(options.model), str(data), str(out), specs[0].name]
        commands = {"quantonnx quantize": whole}
        if not options.no_peer:
            commands["quantize_static"] = [*rival, str(Path(__file__).parent)]
        times: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            loaded, inference = plain(options.model, samples, options.threads)
            times.setdefault("load the float session", []).append(loaded)
            times.setdefault("plain float pass", []).append(inference)
            for row, command in commands.items():
                times.setdefault(row, []).append(seconds(command, options.threads))
    rows = {row: median(spent) for row, spent in times.items()}
    inference, quantize = rows["plain float pass"], rows["quantonnx quantize"]
    print(
        f"{options.model.name}, {options.samples} samples, {options.threads} threads, {options.target}, "
        f"onnxruntime {ort.__version__}"
    )
    for row, spent in rows.items():
        print(f"{row:24} {spent:8.2f} s {spent / inference:7.2f}")
    return 0 if quantize <= options.bar * inference else 1


if __name__ == "__main__":
    sys.exit(main())
