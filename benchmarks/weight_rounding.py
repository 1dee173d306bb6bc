r"""What algorithms that move weights are worth on one model: error, answers, seconds and peak memory of each.

    python benchmarks/weight_rounding.py MODEL.onnx CALIBRATION.npz EVALUATION.npz [--preset w4a8] [--keep-slow] \
        [--only gptq awq]

Every row is a process of its own, so that its peak memory is its own; all calibrate on the same samples, one feed each.
With `--keep-slow`, operators that are faster in float are quantized too.
`plain` rounds to the nearest code, `corrected` corrects biases too, as all that follow do.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

import quantonnx as qx
from quantonnx.quantized import QuantizedModel

BATCH = 16
Feed = dict[str, NDArray[np.generic]]
RECIPES: dict[str, list[str | dict[str, object]]] = {
    "plain": [],
    "corrected": [],
    "gptq": ["gptq"],
    "gptq-scales": [{"gptq": {"search_scales": True}}],
    "gptq-layerwise": [{"gptq": {"asymmetric": False}}],
    "adaround": ["adaround"],
    "adaround-gradient": [{"adaround": {"search": "gradient"}}],
    "awq": ["awq"],
    "awq-mul": [{"awq": {"insert": True}}],
    "awq-gptq": ["awq", {"gptq": {"static_groups": True}}],
}


def session(model: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # float, as the file says
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def outputs(model: str | bytes, arrays: Feed) -> NDArray[np.float64]:
    running = session(model)
    names = [value.name for value in running.get_inputs()]
    starts = range(0, len(arrays[names[0]]), BATCH)
    feeds = ({name: arrays[name][start : start + BATCH] for name in names} for start in starts)
    return np.concatenate([running.run(None, feed)[0] for feed in feeds]).astype(np.float64)


def made(name: str, arguments: argparse.Namespace, feeds: list[Feed]) -> QuantizedModel:
    config = qx.QuantConfig(
        preset=arguments.preset,
        keep_slow=arguments.keep_slow,
        bias_correction=name != "plain",
        recipe=RECIPES[name],
    )
    return qx.quantize(arguments.model, feeds, target="onnxruntime", config=config, threads=1)


def row(name: str, arguments: argparse.Namespace) -> str:
    """Returns the row of one algorithm."""
    inputs = [value.name for value in session(str(arguments.model)).get_inputs()]
    whole = dict(np.load(arguments.calibration))
    count = min(len(whole[inputs[0]]), arguments.samples)
    feeds = [{key: whole[key][i : i + 1] for key in inputs} for i in range(count)]
    start = time.perf_counter()
    quantized = made(name, arguments, feeds)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    arrays = dict(np.load(arguments.evaluation))
    expected = outputs(str(arguments.model), arrays)
    found = outputs(quantized.to_onnx().SerializeToString(), arrays)
    sqnr = 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())
    agree = (found.argmax(-1) == expected.argmax(-1)).mean()
    right = [f"{accuracy(each, arrays.get('labels')):.4f}" for each in (found, expected)]
    layers = len(quantized.weight_changes)
    return f"| {name} | {sqnr:.2f} | {agree:.3f} | {right[0]} ({right[1]}) | {layers} | {seconds:.1f} | {peak:.0f} |"


def accuracy(logits: NDArray[np.float64], labels: NDArray[np.generic] | None) -> float:
    if labels is None:
        return float("nan")
    top = logits.argmax(-1)
    return float(np.mean(labels[np.arange(len(top)), top] if labels.ndim == 2 else top == labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "evaluation"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--preset", default="w4a8")
    parser.add_argument("--keep-slow", action="store_true")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--row", choices=RECIPES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(row(arguments.row, arguments), flush=True)
        return
    print(
        "| algorithm | SQNR dB | agreement | accuracy (float) | layers | seconds | peak MiB |",
        "|---" * 7 + "|",
        sep="\n",
        flush=True,
    )
    for name in arguments.only:
        subprocess.run([sys.executable, *sys.argv, "--row", name], check=True)


if __name__ == "__main__":
    main()
