"""What a translation sees of an ONNX node, and what it answers: a function of torch with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Unsupported(Exception):  # noqa: N818 (it is caught, and never reaches a user)
    """Says in a few words what about a node cannot be expressed; all such nodes of a model become one error."""


@dataclass(frozen=True)
class Node:
    """One node: `given` and `wanted` say which inputs and outputs have a name, `constants` has the values of inputs
    that never change, by position. `numbers` are the ranks of inputs that are Python numbers, not tensors; `type_of`
    gives the element type of an input, None where it is unknown."""

    op: str
    name: str
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[bool, ...] = ()
    wanted: tuple[bool, ...] = (True,)
    constants: Mapping[int, Array] = field(default_factory=dict)
    numbers: Mapping[int, int] = field(default_factory=dict)
    type_of: Callable[[int], np.dtype[Any] | None] = lambda place: None

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute: a number, a text, a list, or an array where ONNX has a tensor."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """True where the input at that position is given."""
        return index < len(self.given) and self.given[index]

    def constant(self, index: int, default: Any = None) -> Any:
        """Returns the values of an input that never changes, `default` where it is absent.

        Raises Unsupported where the input is computed.
        """
        if not self.has(index):
            return default
        if index not in self.constants:
            raise Unsupported(f"its input {index} is computed, expected a constant")
        return self.constants[index]


@dataclass(frozen=True)
class Call:
    """A function of a module (so that it can be pickled), called with the inputs at `inputs`, all by default, absent
    ones (and those at −1) as None, and with `settings`; or a layer, which becomes part of the module.

    It returns one value, or a tuple where the node has several outputs. Inputs at `numbers` may reach it as Python
    numbers, or tuples of them, in the place of tensors, those at `scalars` as single numbers only; `on_device` makes
    it get the device as `device`. With `gives_codes` its first output are whole numbers as floats, so that gradients
    pass, in the place of this integer type; who does not take codes gets them as integers.
    """

    function: Callable[..., Any]
    inputs: tuple[int, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    numbers: frozenset[int] = frozenset()
    scalars: frozenset[int] = frozenset()
    on_device: bool = False
    takes_codes: bool = False
    gives_codes: Any = None


Translation = Callable[[Node], Call]
"""From a node to a call of torch. Raises Unsupported."""


class Kind(NamedTuple):
    """Python numbers as a translation sees them: their type and rank (0; 1 for a tuple, 2 for one of tuples); if they
    are fixed, their value, and how long a tuple is."""

    dtype: np.dtype[Any]
    rank: int
    literal: Any = None
    length: int | None = None


@dataclass(frozen=True)
class NumberCall:
    """A function on Python numbers, and what is known of what it returns, as in Kind."""

    function: Callable[..., Any]
    dtype: np.dtype[Any]
    rank: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    length: int | None = None


def integers(value: Any) -> tuple[int, ...]:
    """Returns the integers in a number, a tuple or a tensor."""
    if isinstance(value, tuple):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
        return tuple(value) if isinstance(value, list) else (value,)
    return (value,)
