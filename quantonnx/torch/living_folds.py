"""Normalizations that training brings back to life: what they were before they were folded, with today's weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.batch_norm_folds import BatchNormFold
from quantonnx.model import Model, constant
from quantonnx.quantized import QuantizedModel
from quantonnx.weights import load_array


@dataclass(frozen=True, eq=False)
class LivingFold:
    """A fold of a fused model, the convolution that has it, and its constants with the values that training starts at:
    those of the file, unless an algorithm has moved the folded ones."""

    name: str
    node: gs.Node
    fold: BatchNormFold
    values: tuple[gs.Constant | None, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of weight, bias, gamma, beta, mean and variance; an absent bias is called ""."""
        return tuple("" if value is None else str(value.name) for value in self.values)

    @property
    def constants(self) -> dict[str, tuple[gs.Constant, bool]]:
        """The constants by name, with whether they are trained: running statistics are not."""
        statistics = (self.fold.mean.name, self.fold.variance.name)
        return {value.name: (value, value.name not in statistics) for value in self.values if value is not None}


def living_folds(quantized: QuantizedModel) -> dict[str, LivingFold]:
    """Returns the folds that can be undone, by the name of the folded weight.

    Left out are those whose constants others read too, and those whose bias has a pair of its own.
    """
    model = quantized.model
    readers = {value.name: node for node in model.graph.nodes for value in node.inputs[1:2]}
    uses = Counter(value.name for fold in model.folds.values() for value in fold.constants if value is not None)
    uses.update(model.tensors().keys())
    kept = {site.tensor for site in quantized.sites if not site.on_activation and site.derived_from is None}
    found: dict[str, LivingFold] = {}
    for name, fold in model.folds.items():
        node = readers.get(name)
        alone = all(uses[value.name] == 1 for value in fold.constants if value is not None)
        if node is None or not alone or not _is_folded(node, name, fold) or fold.folded_bias in kept:
            continue
        found[name] = LivingFold(name, node, fold, _started(model, node, fold))
    return found


def _is_folded(node: gs.Node, name: str, fold: BatchNormFold) -> bool:
    own = [value.name for value in node.inputs[1:3]] == [name, fold.folded_bias]
    return own and all(len(value.outputs) == 1 for value in node.inputs[1:3])


def _started(model: Model, node: gs.Node, fold: BatchNormFold) -> tuple[gs.Constant | None, ...]:
    """The constants of a fold, its weight and beta such that folding gives what the model has now."""
    values: list[Any] = [None if value is None else load_array(value) for value in fold.constants]
    now = model.array(node.inputs[1]), model.array(node.inputs[2])
    as_before = [np.array_equal(one, other) for one, other in zip(now, fold.folded(values), strict=True)]
    weight, beta = fold.unfolded(now, values)
    _, bias, gamma, _, mean, variance = fold.constants
    return (
        fold.weight if as_before[0] else constant(fold.weight.name, weight),  # its codes depend on the last bit
        bias,
        gamma,
        fold.beta if as_before[1] else constant(fold.beta.name, beta),
        mean,
        variance,
    )


def refolded(living: LivingFold, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the folded weight and bias, by name, of trained values, which are arrays by name."""
    weight, bias = living.fold.folded([arrays[name] if name else None for name in living.names])
    return {living.name: weight, living.fold.folded_bias: bias}
