r"""What fine-tuning without labels wins back where rounding to few bits costs too much, on one thread of a CPU.

    python benchmarks/finetuning.py MODEL.onnx TRAINING.npz EVALUATION.npz [--weights 4] [--activations 8] \
        [--minutes 10 | --steps N] [--only rounding gptq rounding+distill gptq+distill] [--set learning_rate=0.001]

Every row is a process of its own. `rounding` and the algorithms calibrate on the first 64 samples; `+distill` goes on
from there with `quantonnx.torch.distill`, on all samples of TRAINING but those that it holds out. Seconds are of the
processor, the second number those of training alone. Nothing of EVALUATION is seen before the end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from weight_rounding import accuracy, outputs, session

import quantonnx as qx
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.quantized import QuantizedModel
from quantonnx.torch import distill, from_onnx, prepare_qat, to_onnx

CALIBRATION = 64
STARTS: dict[str, list[str]] = {"rounding": [], "gptq": ["gptq"], "adaround": ["adaround"]}
ROWS = [*STARTS, *(f"{name}+distill" for name in STARTS)]


def start(arguments: argparse.Namespace, recipe: list[str]) -> QuantizedModel:
    """Returns the model before it is trained: biases corrected, weights as the recipe leaves them."""
    weight = {"n_bits": arguments.weights, "calibration_method": "mse"}
    config = qx.QuantConfig(weight=weight, activation={"n_bits": arguments.activations}, recipe=recipe, keep_slow=True)
    names = [value.name for value in session(str(arguments.model)).get_inputs()]
    whole = dict(np.load(arguments.training))
    feeds = [{name: whole[name][i : i + 1] for name in names} for i in range(CALIBRATION)]
    return qx.quantize(arguments.model, feeds, target=arguments.target, config=config, threads=1)


def trained(quantized: QuantizedModel, arguments: argparse.Namespace) -> QuantizedModel:
    """Returns the model after distillation, and says how that went."""
    student = prepare_qat(quantized)
    samples = open_samples(arguments.training, input_specs(quantized.model))
    limit: dict[str, Any] = {"steps": arguments.steps} if arguments.steps else {"minutes": arguments.minutes}
    settings = dict(part.split("=") for part in arguments.set)
    report = distill(
        student, from_onnx(arguments.model), samples, **limit, **{k: value_of(v) for k, v in settings.items()}
    )
    print(report, file=sys.stderr, flush=True)
    return to_onnx(student)


def value_of(text: str) -> Any:
    """Returns a number, or the text where it is none."""
    try:
        return float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        return text


def row(name: str, arguments: argparse.Namespace) -> str:
    """Returns the row of one way."""
    torch.set_num_threads(1)
    begun = time.process_time()
    first, _, then = name.partition("+")
    quantized = start(arguments, STARTS[first])
    before = time.process_time()
    if then:
        quantized = trained(quantized, arguments)
    seconds, training = time.process_time() - begun, time.process_time() - before
    arrays = dict(np.load(arguments.evaluation))
    expected = outputs(str(arguments.model), arrays)
    found = outputs(quantized.to_onnx().SerializeToString(), arrays)
    sqnr = 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())
    agree = (found.argmax(-1) == expected.argmax(-1)).mean()
    right = [f"{accuracy(each, arrays.get('labels')):.3f}" for each in (found, expected)]
    return f"| {name} | {sqnr:.2f} | {agree:.3f} | {right[0]} ({right[1]}) | {seconds:.0f} | {training:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "training", "evaluation"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--weights", type=int, default=4)
    parser.add_argument("--activations", type=int, default=8)
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(row(arguments.row, arguments), flush=True)
        return
    heads = ("way", "SQNR dB", "agreement", "accuracy (float)", "seconds", "of training")
    print(f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", sep="\n", flush=True)
    for name in arguments.only:
        subprocess.run([sys.executable, *sys.argv, "--row", name], check=True)


if __name__ == "__main__":
    main()
