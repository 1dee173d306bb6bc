"""A small trained network with real images, so that the first command works on a fresh machine.

A residual CNN of 214,000 parameters on Fashion-MNIST: eight Conv with their BatchNormalization kept as nodes,
three residual adds, test accuracy .925 on all 10,000 images. `benchmarks/make_demo.py` trained it.
The images are Fashion-MNIST's, Copyright 2017 Zalando SE, under the MIT licence in NOTICE.txt.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["calibration_path", "evaluation_path", "model_path"]

_FOLDER = Path(__file__).resolve().parent


def model_path() -> Path:
    """Return the float model: `image` float32 N×1×28×28 in 0..1 to `logits` float32 N×10, opset 17."""
    return _FOLDER / "model.onnx"


def calibration_path() -> Path:
    """Return an npz of `image`: the first 128 images of the training split, none for evaluation."""
    return _FOLDER / "calibration.npz"


def evaluation_path() -> Path:
    """Return an npz of `image` and `labels` (int64, 0..9): the first 1000 images of the test split."""
    return _FOLDER / "evaluation.npz"
