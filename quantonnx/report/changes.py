"""What the recipe did to weights and biases: how even channels are before and after, and how far values moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.model import Model
from quantonnx.sites import Site

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Change:
    """One weight or bias before and after a step: its largest magnitude, and that over the median of all channels'
    (`spread`).

    A spread near 1 means that one scale suits all channels. `moved` is ‖after − before‖ / ‖before‖.
    """

    step: str
    tensor: str
    node: str
    largest: tuple[float, float]
    spread: tuple[float, float]
    moved: float


class Before:
    """The constants of the model before the recipe, found by the operator that reads them: names may change."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._nodes = {node.name: node for node in model.graph.nodes}

    def weight(self, site: Site) -> Array | None:
        """Returns the values that the first reader of a site had before; None where it had no constant there."""
        edge = site.edges[0] if site.edges else None
        node = self._nodes.get(edge.node) if edge is not None else None
        if node is None or edge is None or edge.index >= len(node.inputs):
            return None
        value = node.inputs[edge.index]
        return self.model.array(value) if isinstance(value, gs.Constant) else None


def changes(step: str, before: Before, model: Model, sites: Iterable[Site]) -> Iterator[Change]:
    """Yields each quantized weight or bias of a model whose float values are no longer those from before a step."""
    tensors = model.tensors()
    for site in sites:
        if site.on_activation:
            continue
        held, earlier = tensors.get(site.tensor), before.weight(site)
        if isinstance(held, gs.Constant) and earlier is not None:
            found = _change(step, site, earlier, model.array(held))
            if found is not None:
                yield found


def _change(step: str, site: Site, before: Array, after: Array) -> Change | None:
    if before.shape != after.shape or np.array_equal(before, after):
        return None
    x, y = (values.astype(np.float32, copy=False) for values in (before, after))
    norm = float(np.linalg.norm(x))
    moved = float(np.linalg.norm(y - x)) / norm if norm else 0.0
    first, second = (_magnitudes(values, site.channel_axis) for values in (x, y))
    largest = float(first.max(initial=0.0)), float(second.max(initial=0.0))
    return Change(step, site.tensor, site.edges[0].node, largest, (_spread(first), _spread(second)), moved)


def _magnitudes(values: Array, axis: int | None) -> Array:
    if axis is None or not values.ndim:
        return np.asarray(np.abs(values).reshape(-1).max(initial=0.0, keepdims=True))
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    return np.asarray(np.abs(values).max(axis=others, initial=0.0))


def _spread(magnitudes: Array) -> float:
    middle = float(np.median(magnitudes))
    return float(magnitudes.max()) / middle if middle else 0.0
