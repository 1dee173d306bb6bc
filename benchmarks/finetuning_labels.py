r"""What an ordinary training loop with labels wins back at few bits, from an ONNX file alone: the Fashion networks.

    python benchmarks/finetuning_labels.py FASHION_FOLDER CACHE [--steps 150] [--only fashion_vit] [--bits 3x4 3x8]

FASHION_FOLDER has the four idx files, CACHE the networks (`fetch_models.py fashion fashion_vit fashion_mobilenet_v3`).
The loop is the one of any PyTorch user: cross-entropy with the labels and with the float model's answers, AdamW,
batches of 128 training images. `distill` sees 512 of them without labels, 16 a step. Bits are those of weights and
activations. One thread; seconds are of the processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from make_demo import Split, batches, read_split
from torch import Tensor, nn
from trained_fashion import RECIPES
from weight_rounding import accuracy, outputs

import quantonnx as qx
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.quantized import QuantizedModel
from quantonnx.torch import distill, freeze_bn_stats, from_onnx, prepare_qat, to_onnx

CALIBRATION, UNLABELLED = 128, 512
RATE = 1e-3


def quantized(model: Path, images: np.ndarray, bits: tuple[int, int], recipe: list[str]) -> QuantizedModel:
    """Returns the calibrated model, with corrected biases."""
    weight = {"n_bits": bits[0], "calibration_method": "mse"}
    config = qx.QuantConfig(weight=weight, activation={"n_bits": bits[1]}, recipe=recipe, keep_slow=True)
    feeds = [{"image": images[i : i + 1]} for i in range(CALIBRATION)]
    return qx.quantize(model, feeds, target="onnxruntime", config=config, threads=1)


def endless(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields shuffled batches for ever."""
    generator = torch.Generator().manual_seed(0)
    images, labels = map(torch.from_numpy, split)
    while True:
        yield from batches(images, labels, generator)


def with_labels(start: QuantizedModel, model: Path, split: Split, steps: int) -> QuantizedModel:
    """Returns the model, trained as anybody trains, with the float model's answers beside the labels."""
    network, teacher = prepare_qat(start).train(), from_onnx(model)
    freeze_bn_stats(network)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for _, (images, labels) in zip(range(steps), endless(split), strict=False):
        with torch.no_grad():
            answers = teacher(images).softmax(-1)
        scores = network(images)
        loss = nn.functional.cross_entropy(scores, labels) + nn.functional.cross_entropy(scores, answers)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return to_onnx(network.eval())


def distilled(start: QuantizedModel, model: Path, split: Split, steps: int) -> QuantizedModel:
    """Returns the model, trained against its float version on images without labels."""
    student = prepare_qat(start)
    samples = open_samples({"image": split[0][:UNLABELLED]}, input_specs(start.model))
    distill(student, from_onnx(model), samples, steps=steps, batch_size=16)
    return to_onnx(student)


def rows(model: Path, split: Split, evaluation: dict[str, np.ndarray], bits: tuple[int, int], steps: int) -> None:
    expected = outputs(str(model), evaluation)
    ways = {
        "rounding": lambda: quantized(model, split[0], bits, []),
        "adaround": lambda: quantized(model, split[0], bits, ["adaround"]),
        "distill": lambda: distilled(quantized(model, split[0], bits, []), model, split, steps),
        "labels": lambda: with_labels(quantized(model, split[0], bits, []), model, split, steps),
        "adaround+labels": lambda: with_labels(quantized(model, split[0], bits, ["adaround"]), model, split, steps),
    }
    for name, way in ways.items():  # each is written out as a Q/DQ file, and ONNX Runtime runs it
        begun = time.process_time()
        made = way()
        seconds = time.process_time() - begun
        found = outputs(made.to_onnx().SerializeToString(), evaluation)
        agree = (found.argmax(-1) == expected.argmax(-1)).mean()
        right = [accuracy(each, evaluation["labels"]) for each in (found, expected)]
        setting = f"{model.stem}, w{bits[0]}a{bits[1]}"
        print(f"| {setting} | {name} | {agree:.4f} | {right[0]:.4f} ({right[1]:.4f}) | {seconds:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--bits", nargs="+", default=["3x4", "3x8"], metavar="WxA")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = read_split(arguments.folder, "train")
    print("| network | way | agreement | accuracy (float) | seconds |", "|---|---|---|---|---|", sep="\n", flush=True)
    for name in arguments.only:
        evaluation = dict(np.load(arguments.cache / f"{name}_eval.npz"))
        for text in arguments.bits:
            weights, activations = (int(part) for part in text.split("x"))
            rows(arguments.cache / f"{name}.onnx", split, evaluation, (weights, activations), arguments.steps)


if __name__ == "__main__":
    main()
