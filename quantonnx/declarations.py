"""The words of a pattern's body: values, operators, and parts that may be absent or come in several forms.

They only describe; `matching.py` gives them their meaning. Two uses of one declaration mean one and the same thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from quantonnx.errors import PatternError

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "Sum", "And", "Or", "Xor", "Equal"})


@dataclass(frozen=True, eq=False)
class ValueDeclaration:
    """A value from outside the pattern: any tensor, a constant (of one known `number`), or (`many`) all remaining
    operands."""

    constant: bool = False
    optional: bool = False
    many: bool = False
    number: float | None = None


@dataclass(frozen=True, eq=False)
class NodeDeclaration:
    """One operator: its names, operands, attribute predicates and domain."""

    ops: tuple[str, ...]
    operands: tuple[Any, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    open_ended: bool = False

    @property
    def names(self) -> list[str]:
        """The operators as people call them, with the domain where it is not ONNX's own."""
        return [f"{self.domain}.{name}" if self.domain else name for name in self.ops]


@dataclass(frozen=True, eq=False)
class MaybeDeclaration:
    """An expression that may be absent; then the value is that of its first operand."""

    expression: Any

    @property
    def otherwise(self) -> Any:
        """What stands there when the expression is absent."""
        expression = self.expression
        while isinstance(expression, EitherDeclaration):
            expression = expression.alternatives[0]
        return expression.operands[0]


@dataclass(frozen=True, eq=False)
class EitherDeclaration:
    """Several expressions, of which the first that holds is taken."""

    alternatives: tuple[Any, ...]


DECLARATIONS = (ValueDeclaration, NodeDeclaration, MaybeDeclaration, EitherDeclaration)


def tensor() -> Any:
    """Declares any value that enters the pattern."""
    return ValueDeclaration()


def tensors(*, constant: bool = False) -> Any:
    """Declares all remaining operands of an operator, as a tuple of tensors; with `constant` none is computed."""
    return ValueDeclaration(constant=constant, many=True)


def const(number: float | None = None, *, optional: bool = False) -> Any:
    """Declares a constant; with `number` it holds this one number, as near as its type allows.

    With `optional` the operand may be absent.
    """
    return ValueDeclaration(constant=True, optional=optional, number=number)


def maybe(expression: Any) -> Any:
    """Declares an operator that may be absent; its first operand then takes its place."""
    if not isinstance(expression, (NodeDeclaration, EitherDeclaration)):
        raise PatternError(f"maybe() takes an operator, not {type(expression).__name__}", "write maybe(op.Relu(x))")
    return MaybeDeclaration(expression)


def either(*alternatives: Any) -> Any:
    """Declares several ways to write the same thing; the first that holds is taken."""
    return EitherDeclaration(alternatives)


@dataclass(frozen=True)
class Operator:
    """The name of an operator, or several (`op.Relu | op.Clip`); a call declares a node."""

    names: tuple[str, ...]
    domain: str = ""

    def __or__(self, other: Operator) -> Operator:
        if other.domain != self.domain:
            raise PatternError(f"{self.names[0]} | {other.names[0]} are of two domains", "write either(…, …)")
        return Operator(self.names + other.names, self.domain)

    def __call__(self, *operands: Any, **attributes: Any) -> Any:
        """Declares a node; a trailing `...` accepts any further operands, attributes are values or predicates."""
        ends_openly = bool(operands) and operands[-1] is ...
        declared = operands[:-1] if ends_openly else operands
        for position, operand in enumerate(declared):
            if not isinstance(operand, DECLARATIONS):
                raise PatternError(
                    f"operand {position} of op.{' | '.join(self.names)} is {operand!r}",
                    "expected tensor(), const() or op.…(…)",
                )
        many = [getattr(operand, "many", False) for operand in declared]
        if any(many[:-1]):
            raise PatternError(
                f"op.{' | '.join(self.names)} has operands after tensors()", "tensors() takes all that are left"
            )
        return NodeDeclaration(self.names, declared, attributes, self.domain, ends_openly or any(many))


@dataclass(frozen=True)
class OperatorSet:
    """`op.Conv` names an operator of ONNX; `op("com.microsoft").Gelu` one of another domain."""

    domain: str = ""

    def __getattr__(self, name: str) -> Operator:
        if name.startswith("__"):
            raise AttributeError(name)
        return Operator((name,), self.domain)

    def __call__(self, domain: str) -> OperatorSet:
        """Returns the operators of another domain."""
        return OperatorSet(domain)


op = OperatorSet()


@lru_cache(maxsize=4096)
def largest(declared: Any) -> frozenset[NodeDeclaration]:
    """Returns the operators of the longest form that a declaration can take."""
    if isinstance(declared, NodeDeclaration):
        return frozenset({declared}).union(*(largest(operand) for operand in declared.operands))
    if isinstance(declared, MaybeDeclaration):
        return largest(declared.expression)
    if isinstance(declared, EitherDeclaration):
        return max((largest(alternative) for alternative in declared.alternatives), key=len)
    return frozenset()


def operators(declared: Any) -> set[tuple[str, str]]:
    """Returns every operator that a declaration names, as (domain, name)."""
    if isinstance(declared, NodeDeclaration):
        named = {(declared.domain, name) for name in declared.ops}
        return named.union(*(operators(operand) for operand in declared.operands))
    if isinstance(declared, MaybeDeclaration):
        return operators(declared.expression)
    if isinstance(declared, EitherDeclaration):
        return set().union(*(operators(alternative) for alternative in declared.alternatives))
    return set()


@lru_cache(maxsize=4096)
def roots(declared: Any) -> frozenset[str] | None:
    """Returns the operators that can give a declared value; None where any value will do."""
    if isinstance(declared, NodeDeclaration):
        return frozenset(declared.ops)
    if isinstance(declared, MaybeDeclaration):
        return _union((declared.expression, declared.otherwise))
    if isinstance(declared, EitherDeclaration):
        return _union(declared.alternatives)
    return None


def _union(alternatives: Iterable[Any]) -> frozenset[str] | None:
    each = [roots(alternative) for alternative in alternatives]
    known = [found for found in each if found is not None]
    return frozenset().union(*known) if len(known) == len(each) else None
