"""Operators that compute each element on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from quantonnx.torch.node import Call, Node, Translation


def plain(function: Callable[..., Any]) -> Translation:
    """Returns the translation of an operator that is one function of all its inputs."""

    def translate(node: Node) -> Call:
        return Call(function)

    return translate


OPERATORS: dict[str, Translation] = {
    "Add": plain(torch.add),
    "Mul": plain(torch.mul),
    "Relu": plain(torch.relu),
    "Sigmoid": plain(torch.sigmoid),
}
