"""How fast what is trained moves: a rate for each tensor, in units of its own size, along a schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from quantonnx.errors import ConfigError
from quantonnx.torch.training_numbers import Numbers

OptimizerName = Literal["adamw", "sgd"]

_SMALLEST_SIZE = 1e-3

_EPS_OF_HALVES = 1e-4
"""AdamW's own, 1e-8, is 0 in float16."""


@dataclass(frozen=True)
class Rates:
    """Peak learning rates, as parts of the root mean square of each tensor at the start."""

    weights: float
    biases: float
    scales: float


def make_optimizer(student: nn.Module, rates: Rates, name: OptimizerName) -> torch.optim.Optimizer:
    """Returns the optimizer of what can be trained, each tensor a group with a rate of its own."""
    groups = list(_groups(student, rates))
    if not groups:
        raise ConfigError("nothing of the student can be trained", "give a module from prepare_qat or from_onnx")
    if name == "adamw":
        return torch.optim.AdamW(groups, weight_decay=0.0)
    return torch.optim.SGD(groups, momentum=0.9)


def _groups(student: nn.Module, rates: Rates) -> Iterator[dict[str, Any]]:
    learned = {id(value) for layer in student.modules() if isinstance(layer, Numbers) for value in layer.parameters()}
    for parameter in student.parameters():
        if id(parameter) in learned:
            rate, size = rates.scales, 1.0  # they are relative themselves
        else:
            rate = rates.weights if parameter.ndim > 1 else rates.biases
            size = float(parameter.detach().float().square().mean().sqrt())
        if rate > 0 and parameter.requires_grad:
            group = {"params": [parameter], "lr": 0.0, "peak": rate * max(size, _SMALLEST_SIZE)}
            yield group | ({"eps": _EPS_OF_HALVES} if parameter.dtype == torch.float16 else {})


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets the rate of every group to a part of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def rate_factor(progress: float, warm_up: float) -> float:
    """Returns the part of the peak at a progress in 0..1: from a tenth up to `warm_up`, times half a cosine (Loshchilov
    and Hutter, 2017)."""
    rising = min(1.0, 0.1 + 0.9 * progress / warm_up) if warm_up > 0 else 1.0
    return rising * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
