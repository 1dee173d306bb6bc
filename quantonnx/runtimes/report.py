"""What a runtime made of a model, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantonnx.speed import Speed


@dataclass(frozen=True)
class Layer:
    """One layer of the compiled model: its kind, its kernel, and the names of nodes and tensors of the file in it."""

    kind: str
    kernel: str
    integer: bool
    origins: tuple[str, ...]


@dataclass(frozen=True)
class OperatorRun:
    """What became of one operator of the file; `kernel` is empty where the compiled model shows nothing of it."""

    name: str
    operator: str
    kernel: str
    integer: bool
    multiply_accumulates: int


@dataclass(frozen=True)
class RunReport:
    """What one runtime made of a file; `error` says why it could not compile or run it, `note` what was not measured.

    `operators` are those of the file that add up products, and others with a layer of their own; `layers` counts the
    kinds of layers of the compiled model, `conversions` those that only change number formats or memory layouts.
    """

    runtime: str
    version: str = ""
    operators: tuple[OperatorRun, ...] = ()
    layers: Mapping[str, int] | None = None
    conversions: Mapping[str, int] | None = None
    speed: Speed | None = None
    error: str = ""
    note: str = ""

    @property
    def multiply_accumulates(self) -> int:
        """The products that all operators add up in one run."""
        return sum(operator.multiply_accumulates for operator in self.operators)

    @property
    def integer_share(self) -> float | None:
        """The share of those that integer kernels add up; None where there are none."""
        integer = sum(operator.multiply_accumulates for operator in self.operators if operator.integer)
        return integer / self.multiply_accumulates if self.multiply_accumulates else None

    @property
    def in_float(self) -> tuple[OperatorRun, ...]:
        """The operators that add up products in float, the largest first."""
        found = (item for item in self.operators if item.multiply_accumulates and not item.integer)
        return tuple(sorted(found, key=lambda item: -item.multiply_accumulates))
