"""Writes a torch network as ONNX in the two forms that users have: BatchNormalization kept, or folded."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import nn


def export(
    network: nn.Module,
    example: torch.Tensor,
    path: Path,
    *,
    keep_batchnorm: bool = True,
    names: tuple[str, str] = ("input", "output"),
) -> None:
    """Write `network` to `path`, opset 17, with a free batch axis; an interrupted run leaves no half file.

    With `keep_batchnorm` the graph is the network as written; without, the exporter folds it into the Convs.
    """
    mode = torch.onnx.TrainingMode
    partial = path.with_name(f".{path.name}.partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends the exporter that drops BatchNormalization
        torch.onnx.export(
            network.eval(),
            (example,),
            str(partial),
            dynamo=False,
            opset_version=17,
            training=mode.PRESERVE if keep_batchnorm else mode.EVAL,
            do_constant_folding=not keep_batchnorm,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes={name: {0: "batch"} for name in names},
        )
    os.replace(partial, path)
