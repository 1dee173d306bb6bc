"""How many axes values have and how long these are, as far as declared shapes, operators and weights fix it.

A model with an open batch still fixes nearly all else. What is known of a value stays true through every conversion,
so it is kept while a model is converted; what is not known is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import onnx_graphsurgeon as gs

from .axes import rank_after, size_after

if TYPE_CHECKING:
    from quantonnx.model import Model

BUDGET, DEPTH = 300, 60
_of_models: WeakKeyDictionary[Model, Sizes] = WeakKeyDictionary()


class Sizes:
    """What is known of the axes of the values of one model."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int | None], int] = {}
        self._depth = self._looked_at = 0

    @classmethod
    def of(cls, model: Model) -> Sizes:
        """Returns what is known of a model."""
        return _of_models.setdefault(model, cls())

    def rank(self, value: gs.Tensor) -> int | None:
        """Returns the number of axes of a value; None where it is not known."""
        if value.shape is not None:
            return len(value.shape)
        return self._found(value, None, lambda node: rank_after(node, self))

    def size(self, value: gs.Tensor, axis: int) -> int | None:
        """Returns the length of an axis, counted from the end (-1 is the last); None where it is not known."""
        if value.shape is not None:
            declared = value.shape[axis] if len(value.shape) >= -axis else None
            if isinstance(declared, int) and declared >= 0 or len(value.shape) < -axis:
                return declared
        return self._found(value, axis, lambda node: size_after(node, value, axis, self))

    def _found(self, value: gs.Tensor, axis: int | None, find: Callable[[gs.Node], int | None]) -> int | None:
        """What is remembered, or what the operator says; the search is bounded, since branches meet again."""
        key = (value.name, axis)
        if key in self._known or not value.inputs or value.inputs[0].domain:
            return self._known.get(key)
        if self._depth == 0:
            self._looked_at = 0
        if self._depth == DEPTH or self._looked_at == BUDGET:
            return None
        self._depth, self._looked_at = self._depth + 1, self._looked_at + 1
        try:
            found = find(value.inputs[0])
        finally:
            self._depth -= 1
        if found is not None:
            self._known[key] = found
        return found
