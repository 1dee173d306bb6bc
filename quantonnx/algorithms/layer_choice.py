"""Which layers an algorithm that chooses codes leaves alone, by the names in its settings."""

from __future__ import annotations

from collections.abc import Sequence

from quantonnx.algorithms.weight_layers import WeightLayer
from quantonnx.config.recipe import LayerChoice
from quantonnx.slots import rules_of


def skipped(choice: LayerChoice, layers: Sequence[WeightLayer]) -> dict[str, str]:
    """Returns why layers are left alone, by tensor; ConfigError for a name that none has."""
    wanted, unwanted = rules_of(choice.layers, "layers"), rules_of(choice.skip, "skip")
    known = [name for layer in layers for name in _names(layer)]
    wanted.check(known)
    unwanted.check(known)
    found = {}
    for layer in layers:
        rule = unwanted.first(_names(layer))
        if rule is not None:
            found[layer.site.tensor] = f"it is skipped by {rule!r}"
        elif choice.layers and wanted.first(_names(layer)) is None:
            found[layer.site.tensor] = "it is none of the layers asked for"
    return found


def _names(layer: WeightLayer) -> list[str]:
    return [layer.node.name, layer.node.op, layer.site.tensor, *(value.name for value in layer.node.outputs)]
