"""What a quantized model is worth beside its float model, on the evaluation data of fetch_models.py.

    python benchmarks/trained_metrics.py FLOAT.onnx QUANTIZED.onnx EVALUATION.npz

Every metric takes the two models and the npz. The command prints those that the data allow.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from trained_detections import Detections, detections, f1

BATCH = 16
THREADS = 1
Array = NDArray[np.generic]
Feed = dict[str, Array]


@dataclass(frozen=True)
class Shares:
    """The share that a float model and its quantized version get right, and the share on which they agree."""

    float_model: float
    quantized: float
    agreement: float


@dataclass(frozen=True)
class DetectionScores:
    """F1 of what a quantized detector finds against what the float one finds, and of both against the truth."""

    against_float: float
    float_model: float
    quantized: float


def session(path: Path) -> ort.InferenceSession:
    """Return a quiet session of one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(running: ort.InferenceSession, evaluation: Path) -> Iterator[Feed]:
    """Yield the arrays of an npz that the model takes, BATCH samples at a time."""
    names = [value.name for value in running.get_inputs()]
    with np.load(evaluation, allow_pickle=False) as arrays:
        inputs = {name: arrays[name] for name in names}
    for start in range(0, len(inputs[names[0]]), BATCH):
        yield {name: array[start : start + BATCH] for name, array in inputs.items()}


def outputs(path: Path, evaluation: Path) -> NDArray[np.float32]:
    """Return the model's first output for all samples of an npz."""
    running = session(path)
    return np.concatenate([running.run(None, feed)[0] for feed in feeds(running, evaluation)])


def shares(first: Array, second: Array, expected: Array) -> Shares:
    """Return how often two models' answers are the expected one, and each other's."""
    right = [float((answers == expected).mean()) for answers in (first, second)]
    return Shares(*right, float((first == second).mean()))


def accuracy(float_model: Path, quantized: Path, evaluation: Path) -> Shares:
    """Return the top-1 accuracy; the npz holds `labels`, int64 N."""
    answers = [outputs(path, evaluation).argmax(-1) for path in (float_model, quantized)]
    return shares(*answers, np.load(evaluation)["labels"])


def characters(path: Path) -> list[str]:
    """Return the text of each class of a recogniser: the blank, its own list of characters, the space."""
    listed = session(path).get_modelmeta().custom_metadata_map["character"]
    return ["", *listed.splitlines(), " "]


def read_lines(path: Path, evaluation: Path, known: list[str]) -> NDArray[np.str_]:
    """Return what a recogniser reads in every line: the best class at each step, repeats and blanks left out."""
    running = session(path)
    return np.array(
        [
            decode(classes, known)
            for feed in feeds(running, evaluation)
            for classes in running.run(None, feed)[0].argmax(-1)
        ]
    )


def decode(classes: NDArray[np.int64], known: list[str]) -> str:
    """Return the text of a CTC path (Graves et al., 2006) whose class 0 is the blank; single spaces between words."""
    changes = np.diff(classes, prepend=0) != 0
    return " ".join("".join(known[index] for index in classes[changes]).split())


def line_accuracy(float_model: Path, quantized: Path, evaluation: Path) -> Shares:
    """Return the share of lines read without a fault; the npz holds `text`, N strings."""
    known = characters(float_model)
    answers = [read_lines(path, evaluation, known) for path in (float_model, quantized)]
    return shares(*answers, np.load(evaluation)["text"])


def articles(evaluation: Path) -> list[Detections]:
    """Return what is in each image: the npz holds corners `boxes`, N×A×4, and `classes`, N×A, −1 where none."""
    arrays = np.load(evaluation)
    pairs = zip(arrays["boxes"], arrays["classes"], strict=True)
    return [Detections(boxes[classes >= 0], classes[classes >= 0]) for boxes, classes in pairs]


def detections_f1(float_model: Path, quantized: Path, evaluation: Path) -> DetectionScores:
    """Return how well both find the articles, and the quantized one what the float one finds."""
    exact, rough = ([detections(one) for one in outputs(path, evaluation)] for path in (float_model, quantized))
    truth = articles(evaluation)
    return DetectionScores(f1(rough, exact), f1(exact, truth), f1(rough, truth))


def decibels(exact: Array, rough: Array) -> float:
    """Return 10·log10(Σx² / Σ(x−q)²), in dB."""
    x = exact.astype(np.float64)
    noise = float(np.square(x - rough).sum())
    return 10 * math.log10(float(np.square(x).sum()) / noise) if noise else math.inf


def output_sqnr(
    float_model: Path, quantized: Path, evaluation: Path, slices: tuple[slice, ...] = ()
) -> tuple[float, ...]:
    """Return the SQNR in dB of the first output, then of each slice of its axis 1.

    A detector's scores vanish beside its boxes in pixels: BOXES and SCORES tell them apart.
    """
    exact, rough = (outputs(path, evaluation) for path in (float_model, quantized))
    return decibels(exact, rough), *(decibels(exact[:, part], rough[:, part]) for part in slices)


BOXES, SCORES = slice(0, 4), slice(4, None)


def measured(float_model: Path, quantized: Path, evaluation: Path) -> dict[str, object]:
    """Return every metric that the evaluation data allow, by name."""
    paths = (float_model, quantized, evaluation)
    held = set(np.load(evaluation).files)
    if "boxes" in held:
        sqnr = dict(zip(("all", "boxes", "scores"), output_sqnr(*paths, slices=(BOXES, SCORES)), strict=True))
        return {"detections_f1": detections_f1(*paths), "sqnr_db": sqnr}
    share = {"accuracy": accuracy} if "labels" in held else {"line_accuracy": line_accuracy} if "text" in held else {}
    return {name: metric(*paths) for name, metric in share.items()} | {"sqnr_db": output_sqnr(*paths)[0]}


def main() -> None:
    """Print what is measured."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    for name in ("float_model", "quantized", "evaluation"):
        parser.add_argument(name, type=Path)
    for name, value in measured(**vars(parser.parse_args())).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
