"""What every algorithm that moves weights is told besides its own settings: the integers, and which layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from quantonnx.algorithms.weight_layers import WeightLayer
from quantonnx.config.names import NameRules
from quantonnx.errors import ConfigError


@dataclass(frozen=True)
class LayerChoice:
    """Integers and layers of an algorithm.

    `bits`, `symmetric` and `group_size` replace what the configuration says about every weight; None leaves it.
    `layers` names the layers to change by node, operator, tensor or `re:` pattern, all where it is empty; `skip` names
    those of them to leave.
    """

    bits: int | None = None
    symmetric: bool | None = None
    group_size: int | None = None
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits is not None and not 2 <= self.bits <= 8:
            raise ConfigError(f"bits is {self.bits}, expected 2 to 8")
        if self.group_size is not None and self.group_size < 2:
            raise ConfigError(f"group_size is {self.group_size}, expected an integer from 2 on")

    @property
    def weight(self) -> dict[str, Any]:
        """What is said about the format of weights, in the words of TensorQuantConfig."""
        said = {"n_bits": self.bits, "symmetric": self.symmetric, "group_size": self.group_size}
        return {name: value for name, value in said.items() if value is not None}

    def skipped(self, layers: Sequence[WeightLayer]) -> dict[str, str]:
        """Returns why layers are left alone, by tensor; ConfigError for a name that no layer has."""
        wanted, unwanted = NameRules(self.layers, "layers"), NameRules(self.skip, "skip")
        known = [name for layer in layers for name in _names(layer)]
        for rules in (wanted, unwanted):
            rules.check(known)
        found = {}
        for layer in layers:
            rule = unwanted.first(_names(layer))
            if rule is not None:
                found[layer.site.tensor] = f"it is skipped by {rule!r}"
            elif self.layers and wanted.first(_names(layer)) is None:
                found[layer.site.tensor] = "it is none of the layers asked for"
        return found


def _names(layer: WeightLayer) -> list[str]:
    return [layer.node.name, layer.node.op, layer.site.tensor, *(value.name for value in layer.node.outputs)]


def check_share(name: str, value: float) -> None:
    """Raises ConfigError for a number that is no share of one."""
    if not (isfinite(value) and 0 <= value <= 1):
        raise ConfigError(f"{name} is {value}, expected a number from 0 to 1")
