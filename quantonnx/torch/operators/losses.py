"""Losses that a graph computes itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation

_NONE = -(2**62)
"""A class that no target has, in the place of an absent ignore_index."""


def likelihood_loss(x: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore: int, reduction: str) -> Tensor:
    """Returns the negative of log-probabilities [N, C, …] at the target classes [N, …]."""
    rows, classes = x.reshape(*x.shape[:2], -1), target.long().reshape(x.shape[0], -1)
    weight = None if weight is None else weight.detach()
    found = functional.nll_loss(rows, classes, weight, ignore_index=ignore, reduction=reduction)
    return found.reshape(target.shape) if reduction == "none" else found


def cross_entropy_loss(x: Tensor, target: Tensor, weight: Tensor | None = None, **settings: Any) -> Tensor:
    """Returns the negative log-softmax of scores [N, C, …] at the target classes [N, …]."""
    return cross_entropy_and_logs(x, target, weight, **settings)[0]


def cross_entropy_and_logs(
    x: Tensor, target: Tensor, weight: Tensor | None = None, **settings: Any
) -> tuple[Tensor, Tensor]:
    """Returns what cross_entropy_loss does, and the log-softmax."""
    logs = torch.log_softmax(x, 1)
    return likelihood_loss(logs, target, weight, **settings), logs


def _settings(node: Node) -> dict[str, Any]:
    ignore = node.get("ignore_index")
    return {"ignore": _NONE if ignore is None else ignore, "reduction": node.get("reduction", "mean")}


def _cross_entropy(node: Node) -> Call:
    return Call(cross_entropy_loss if len(node.wanted) == 1 else cross_entropy_and_logs, (0, 1, 2), _settings(node))


OPERATORS: dict[str, Translation] = {
    "NegativeLogLikelihoodLoss": lambda node: Call(likelihood_loss, (0, 1, 2), _settings(node)),
    "SoftmaxCrossEntropyLoss": _cross_entropy,
}
