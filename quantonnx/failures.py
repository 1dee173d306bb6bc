"""Why a pattern does not hold: the refusal that got furthest, with every operator that would have fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import onnx_graphsurgeon as gs


class FailureKind(Enum):
    """What a pattern failed on, which tells what would change it."""

    NOTHING = "nothing was tried"
    OPERATOR = "another operator stands there"
    CONSTANT = "a value that should be a constant is computed"
    ATTRIBUTE = "an attribute has another value"
    LEAK = "an inner value is also used outside"
    CHECK = "the pattern's own check"
    OTHER = "its operands differ"


@dataclass
class Failure:
    """The refusal that got furthest into a pattern: how many nodes had matched, what it failed on, and the reason."""

    depth: int = -1
    kind: FailureKind = FailureKind.NOTHING
    _reason: Callable[[], str] = field(default=lambda: "nothing was tried")
    _wanted: dict[int, tuple[gs.Tensor | None, dict[str, None]]] = field(default_factory=dict)

    def note(self, depth: int, kind: FailureKind, reason: Callable[[], str]) -> None:
        """Keeps the reason if it is the deepest so far."""
        if depth >= self.depth:
            self.depth, self.kind, self._reason = depth, kind, reason
            self._wanted = {}

    def note_operators(self, depth: int, value: gs.Tensor | None, operators: Iterable[str]) -> None:
        """Keeps that `value` should come from one of `operators`, beside those that would have fitted as well."""
        if depth < self.depth:
            return
        if depth > self.depth:
            self._wanted = {}
        self.depth, self.kind = depth, FailureKind.OPERATOR
        self._wanted.setdefault(id(value), (value, {}))[1].update(dict.fromkeys(operators))

    def reason(self) -> str:
        """Returns the reason in one line."""
        if self._wanted:
            return "; ".join(_wrong_operator(value, list(wanted)) for value, wanted in self._wanted.values())
        return self._reason()


def _wrong_operator(value: gs.Tensor | None, operators: list[str]) -> str:
    wanted = listed(operators)
    if value is None or not value.name:
        return f"an operand that should come from {wanted} is absent"
    if not value.inputs:
        kind = "a constant" if isinstance(value, gs.Constant) else "an input of the graph"
        return f"{value.name!r} is {kind}, not the result of {wanted}"
    node = value.inputs[0]
    domain = f"{node.domain}." if node.domain else ""
    return f"{value.name!r} comes from {domain}{node.op}, not {wanted}"


def listed(names: list[str]) -> str:
    """Returns names as `A, B or C`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
