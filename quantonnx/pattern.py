"""The vocabulary of pattern declarations: a class whose body reads like the subgraph that it matches.

    class ConvRelu(Pattern):
        x = tensor()
        weight = const()
        bias = const(optional=True)
        conv = op.Conv(x, weight, bias)
        output = op.Relu(conv)
        qdq_points = (INPUT(x), WEIGHT(weight, axis=0))

The class is the declaration, an instance is one match: its attributes are the matched tensors (`self.x`), nodes
(`self.conv`), or None for an optional part that is absent. Operand order of commutative operators, diamonds and the
privacy of inner values are the engine's business (`matching.py`), never the author's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from quantonnx.declarations import (
    DECLARATIONS,
    EitherDeclaration,
    MaybeDeclaration,
    NodeDeclaration,
    Operator,
    ValueDeclaration,
    const,
    either,
    maybe,
    op,
    tensor,
    tensors,
)
from quantonnx.errors import PatternError

if TYPE_CHECKING:
    import numpy as np
    import onnx_graphsurgeon as gs

    from quantonnx.editing import Rewriter
    from quantonnx.formats import TensorFormat
    from quantonnx.model import Model

__all__ = [
    "BIAS",
    "INPUT",
    "OUTPUT",
    "RESIDUAL_INPUT",
    "WEIGHT",
    "Binding",
    "Conversion",
    "Edge",
    "EitherDeclaration",
    "MatchedNode",
    "MaybeDeclaration",
    "Mismatch",
    "NodeDeclaration",
    "Operator",
    "Pattern",
    "Point",
    "Role",
    "ValueDeclaration",
    "const",
    "either",
    "maybe",
    "op",
    "tensor",
    "tensors",
]


class Mismatch(Exception):  # noqa: N818 - a refusal with a reason is an answer, not an error
    """Raised by `Pattern.check` to refuse a match; the message names the tensor or node and says why."""


class Role(Enum):
    """What a Q/DQ pair is for."""

    INPUT = "input"
    RESIDUAL_INPUT = "residual_input"
    OUTPUT = "output"
    WEIGHT = "weight"
    BIAS = "bias"

    @property
    def on_activation(self) -> bool:
        """True where the numbers come from calibration, False where they come from a constant."""
        return self in (Role.INPUT, Role.RESIDUAL_INPUT, Role.OUTPUT)


# ---------------------------------------------------------------------------------------------- Q/DQ points

Axis = int | Callable[[Any], int | None] | None


@dataclass(frozen=True, eq=False)
class Point:
    """A position that a pattern declares for a Q/DQ pair: a role, and the declaration that it stands on.

    `axis` is the output-channel axis of a weight: a number, or a function of the match. `format` is another format
    than the target's own for such a role, where the kernel wants it.
    """

    role: Role
    declaration: Any
    axis: Axis = None
    format: TensorFormat | None = None


def INPUT(declaration: Any, *, format: TensorFormat | None = None) -> Point:  # noqa: N802 - reads as the role it is
    """Declares a pair on an activation that enters the fused group, in the target's format unless `format` is given."""
    return Point(Role.INPUT, declaration, format=format)


def RESIDUAL_INPUT(declaration: Any) -> Point:  # noqa: N802
    """Declares a pair on the skip branch that enters a fused Add."""
    return Point(Role.RESIDUAL_INPUT, declaration)


def OUTPUT(declaration: Any) -> Point:  # noqa: N802
    """Declares a pair on the value that the fused group gives."""
    return Point(Role.OUTPUT, declaration)


def WEIGHT(declaration: Any, *, axis: Axis = None) -> Point:  # noqa: N802
    """Declares a quantized weight; `axis` is its output channel axis (an int, or a function of the match)."""
    return Point(Role.WEIGHT, declaration, axis)


def BIAS(declaration: Any) -> Point:  # noqa: N802
    """Declares a bias that the target may want as int32 with scale = input scale × weight scale."""
    return Point(Role.BIAS, declaration)


# ---------------------------------------------------------------------------------------------- patterns


class MatchedNode(NamedTuple):
    """A node, the declaration that it matched, and which of its inputs each declared operand took."""

    declaration: NodeDeclaration
    node: gs.Node
    order: tuple[int, ...]


class Binding(NamedTuple):
    """What a match found: values and nodes by the identity of their declaration."""

    values: Mapping[int, Any]
    nodes: Mapping[int, MatchedNode]

    def entering_from_inside(self) -> gs.Tensor | None:
        """Returns a value that stands for one from outside though the match gives it, which no rewrite expects."""
        inside = {id(matched.node) for matched in self.nodes.values()}
        for bound in self.values.values():
            for value in bound if isinstance(bound, tuple) else (bound,):
                if value is not None and value.inputs and id(value.inputs[0]) in inside:
                    return value
        return None


@dataclass(frozen=True)
class Edge:
    """Input `index` of the node called `node`."""

    node: str
    index: int


_RESERVED = frozenset(
    {"array", "binding", "check", "declarations", "edges", "model", "nodes", "result", "rewrite", "root", "values"}
)


def _check_point(pattern: type[Pattern], point: Any) -> None:
    name = pattern.__name__
    if not isinstance(point, Point):
        raise PatternError(f"a Q/DQ point of {name} is a {type(point).__name__}", "write INPUT(x), WEIGHT(w)…")
    if not any(point.declaration is value for value in pattern.declarations.values()):
        raise PatternError(
            f"{point.role.name} of {name} stands on an undeclared value", "point at a name that the class body declares"
        )
    value = point.declaration
    if not point.role.on_activation and not (isinstance(value, ValueDeclaration) and value.constant):
        raise PatternError(
            f"{point.role.name} of {name} stands on a value that is no const()",
            "declare a weight or bias with const(), and an activation as INPUT or OUTPUT",
        )
    if point.axis is not None and not callable(point.axis) and not isinstance(point.axis, int):
        raise PatternError(f"WEIGHT of {name} has axis={point.axis!r}", "give a number, or a function of the match")


class Pattern:
    """A subgraph that the target's compiler runs as one kernel. Subclass it; see the module's docstring."""

    qdq_points: ClassVar[tuple[Point, ...]] = ()
    declarations: ClassVar[dict[str, Any]] = {}
    root: ClassVar[Any] = None

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, DECLARATIONS)}
        cls.declarations = {**cls.declarations, **own}
        cls.root = cls.declarations.get("output")
        if own and not isinstance(cls.root, (NodeDeclaration, MaybeDeclaration, EitherDeclaration)):
            raise PatternError(f"pattern {cls.__name__} declares no output", "end its body with `output = op.…(…)`")
        for name in own:
            if name in _RESERVED:
                raise PatternError(f"{cls.__name__} declares {name!r}, which every pattern has already", "rename it")
        for point in cls.qdq_points:
            _check_point(cls, point)

    def __init__(self, model: Model, binding: Binding, result: gs.Tensor) -> None:
        self.model = model
        self.binding = binding
        self.result = result
        for name, declaration in self.declarations.items():
            self.__dict__[name] = self._bound(declaration)

    @classmethod
    def with_points(cls, **points: Point | Callable[[Any], Point]) -> type[Pattern]:
        """Returns the same pattern with other Q/DQ points, given as `declared_name=ROLE`."""
        for name in points:
            if name not in cls.declarations:
                declared = ", ".join(cls.declarations)
                raise PatternError(f"{cls.__name__}.with_points: it declares no {name!r}", f"it declares {declared}")
        resolved = tuple(make(cls.declarations[name]) if callable(make) else make for name, make in points.items())
        return type(
            cls.__name__,
            (cls,),
            {"qdq_points": resolved, "__doc__": cls.__doc__, "__module__": cls.__module__},
        )

    def check(self) -> None:
        """Raises Mismatch with a reason when the shape holds but the match is not wanted."""

    def rewrite(self, graph: Rewriter) -> None:
        """Changes the graph so that it holds the fused form; the default leaves it as it is."""

    def array(self, constant: gs.Constant) -> np.ndarray[Any, Any]:
        """Returns the values of a matched constant."""
        return self.model.array(constant)

    @property
    def nodes(self) -> list[gs.Node]:
        """The matched nodes, root first."""
        return [matched.node for matched in self.binding.nodes.values()]

    def edges(self, declaration: Any) -> tuple[Edge, ...]:
        """Returns the inputs of this match that read the declared value."""
        return tuple(
            Edge(matched.node.name, index)
            for matched in self.binding.nodes.values()
            for position, operand in enumerate(matched.declaration.operands)
            if operand is declaration
            for index in _inputs_taken(matched, position)
        )

    def values(self, declaration: Any) -> tuple[gs.Tensor, ...]:
        """Returns the tensors that a declaration stands for in this match; empty when an optional one is absent."""
        if declaration is self.root:
            return (self.result,)
        bound = self._bound(declaration)
        if bound is None:
            return ()
        if isinstance(bound, tuple):
            return bound
        return (bound,) if isinstance(declaration, ValueDeclaration) else (bound.outputs[0],)

    def _bound(self, declaration: Any) -> Any:
        if isinstance(declaration, ValueDeclaration):
            return self.binding.values.get(id(declaration))
        if isinstance(declaration, NodeDeclaration):
            found = self.binding.nodes.get(id(declaration))
            return found.node if found else None
        if isinstance(declaration, MaybeDeclaration):
            return self._bound(declaration.expression)
        alternatives = (self._bound(alternative) for alternative in declaration.alternatives)
        return next((node for node in alternatives if node is not None), None)


def _inputs_taken(matched: MatchedNode, position: int) -> range:
    first = matched.order[position]
    many = getattr(matched.declaration.operands[position], "many", False)
    return range(first, len(matched.node.inputs) if many else min(first + 1, len(matched.node.inputs)))


class Conversion(Pattern):
    """A rewrite that is exact in float and applied until nothing changes, before fusions are matched."""
