"""How many axes values have and how long these are, as far as declared shapes, operators and weights fix it.

A model with an open batch still fixes nearly all else. What is known of a value stays true through every conversion,
so it is kept while a model is converted; what is not known is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import onnx_graphsurgeon as gs

from .axes import rank_after, size_after
from .shapes import Size

if TYPE_CHECKING:
    from quantonnx.model import Model

BUDGET, DEPTH = 80, 60
Key = TypeVar("Key")
Found = TypeVar("Found")
_of_models: WeakKeyDictionary[Model, Sizes] = WeakKeyDictionary()


class Unnamed(str):
    """The length of an axis of which nothing is known yet: a name of its own, good for comparison only."""


class Sizes:
    """What is known of the axes of the values of one model."""

    def __init__(self) -> None:
        self._ranks: dict[str, int] = {}
        self._sizes: dict[tuple[str, int], int | str] = {}
        self._asked: dict[Any, Any] = {}  # in the search that goes on: what was found, if only a name
        self._depth = 0

    @classmethod
    def of(cls, model: Model) -> Sizes:
        """Returns what is known of a model."""
        return _of_models.setdefault(model, cls())

    def rank(self, value: gs.Tensor) -> int | None:
        """Returns the number of axes of a value; None where it is not known."""
        if value.shape is not None:
            return len(value.shape)
        return self._found(self._ranks, value.name, value, lambda node: rank_after(node, self))

    def size(self, value: gs.Tensor, axis: int) -> Size:
        """Returns the length of an axis, counted from the end; None where the value is not known to have it."""
        if value.shape is not None:
            declared: Size = value.shape[axis] if len(value.shape) >= -axis else None
            if declared or len(value.shape) < -axis:
                return declared
        found = self._found(self._sizes, (value.name, axis), value, lambda node: size_after(node, value, axis, self))
        if found is None and (self.rank(value) or 0) >= -axis:
            return Unnamed(f"{value.name}[{axis}]")
        return found

    def number(self, value: gs.Tensor, axis: int) -> int | None:
        """Returns the length of an axis where it is a known number."""
        size = self.size(value, axis)
        return size if isinstance(size, int) else None

    def _found(
        self, memory: dict[Key, Found], key: Key, value: gs.Tensor, find: Callable[[gs.Node], Found | None]
    ) -> Found | None:
        """What is remembered, or what the operator says; the search is bounded, since branches meet again."""
        if key in memory or not value.inputs or value.inputs[0].domain:
            return memory.get(key)
        if self._depth == 0:
            self._asked.clear()
        if self._depth == DEPTH or len(self._asked) == BUDGET or key in self._asked:
            return self._asked.get(key)
        self._depth += 1
        self._asked[key] = None
        try:
            found = find(value.inputs[0])
        finally:
            self._depth -= 1
        if isinstance(found, Unnamed):
            self._asked[key] = found
        elif found is not None:
            memory[key] = found
        return found
