"""Writes a torch network as ONNX by either exporter, and proves the file by ONNX Runtime against torch."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import zoo_models
from torch import nn
from zoo_feeds import Feed, batch

TOLERANCE = 1e-3  # of the output's largest magnitude


def torchscript(network: nn.Module, feed: Feed, path: Path) -> None:
    """Write `network` by tracing, opset 17, BatchNormalization folded, with a free batch axis."""
    torch.onnx.export(
        network,
        zoo_models.tensors(feed),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=list(feed),
        output_names=["output"],
        dynamic_axes={name: {0: "batch"} for name in (*feed, "output")},
    )


def dynamo(network: nn.Module, feed: Feed, path: Path) -> None:
    """Write `network` by torch.export, opset 20, with a free batch axis."""
    axis = torch.export.Dim("batch")
    shapes = tuple({0: axis} for _ in feed)
    variadic = isinstance(network, zoo_models.Wrapped)
    torch.onnx.export(
        network,
        zoo_models.tensors(feed),
        str(path),
        dynamo=True,
        opset_version=20,
        input_names=list(feed),
        output_names=["output"],
        dynamic_shapes=(shapes,) if variadic else shapes,
        external_data=False,
        verbose=False,
    )


WRITERS = {"ts": torchscript, "dynamo": dynamo}


def deviation(network: nn.Module, path: Path, feed: Feed) -> float:
    """Return the largest difference between ONNX Runtime's and torch's output, relative to the largest value."""
    with torch.no_grad():
        expected = network(*zoo_models.tensors(feed)).numpy()
    found = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, dict(feed))[0]
    if found.shape != expected.shape:
        raise ValueError(f"{path.name}: ONNX Runtime gives shape {found.shape}, torch {expected.shape}")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def export(network: nn.Module, exporter: str, samples: list[Feed], path: Path) -> None:
    """Write `network` to `path`; what fails, or deviates by more than the tolerance, leaves no file.

    The example is two samples as one batch (torch.export takes an axis of length 1 for a constant); the file is
    proved on one sample and on all of them.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # both exporters advertise
            WRITERS[exporter](network, batch(samples[:2]), partial)
        worst = max(deviation(network, partial, feed) for feed in (samples[0], batch(samples)))
        if not worst < TOLERANCE:
            raise ValueError(f"{path.name}: ONNX Runtime deviates from torch by {worst:.2g}, expected < {TOLERANCE}")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
