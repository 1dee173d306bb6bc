"""Does a pattern hold at a node, and if not, why not.

Matching walks backwards from the pattern's output. It backtracks over operand order, optional parts and alternatives,
then asks that every inner value is private (read only inside the match, no graph output) and lastly the pattern's own
`check`. Cost is bounded by the pattern, so matching all patterns over a graph is linear in its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import onnx_graphsurgeon as gs

from quantonnx.declarations import COMMUTATIVE, roots
from quantonnx.errors import PatternError, QuantonnxError
from quantonnx.failures import Failure, FailureKind
from quantonnx.pattern import (
    Binding,
    EitherDeclaration,
    MatchedNode,
    MaybeDeclaration,
    Mismatch,
    NodeDeclaration,
    Pattern,
    ValueDeclaration,
)
from quantonnx.weights import load_array

if TYPE_CHECKING:
    from quantonnx.model import Model

_EMPTY = Binding({}, {})


class Matcher:
    """Matches patterns on one model. What it knows of the graph's boundary is read once, so make it anew after edits
    that change outputs."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._public = {id(output) for output in model.graph.outputs}

    def match(self, pattern: type[Pattern], node: gs.Node) -> Pattern | None:
        """Returns the match of `pattern` whose last node is `node`, or None."""
        return self._match(pattern, node, None)

    def why_not(self, pattern: type[Pattern], node: gs.Node) -> str | None:
        """Returns why `pattern` does not hold at `node`, in one line; None when it does."""
        failure = self.failure(pattern, node)
        return None if failure is None else failure.reason()

    def failure(self, pattern: type[Pattern], node: gs.Node) -> Failure | None:
        """Returns how far `pattern` got at `node` and what it failed on; None when it holds."""
        failure = Failure()
        return None if self._match(pattern, node, failure) is not None else failure

    def _match(self, pattern: type[Pattern], node: gs.Node, failure: Failure | None) -> Pattern | None:
        if not node.outputs or pattern.root is None:
            return None
        result = node.outputs[0]
        for binding in _match_value(pattern.root, result, _EMPTY, failure):
            if not binding.nodes:
                continue
            leak = self._leak(binding, result)
            if leak is not None:
                if failure is not None:
                    reason = self._leaking(leak, binding)
                    failure.note(len(binding.nodes), FailureKind.LEAK, lambda reason=reason: reason)  # type: ignore[misc]
                continue
            found = pattern(self.model, binding, result)
            refused = _refusal(found)
            if refused is None:
                return found
            if failure is not None:
                failure.note(len(binding.nodes) + 1, FailureKind.CHECK, lambda reason=refused: reason)  # type: ignore[misc]
        return None

    def _leak(self, binding: Binding, result: gs.Tensor) -> gs.Tensor | None:
        inside = {id(matched.node) for matched in binding.nodes.values()}
        for matched in binding.nodes.values():
            for output in matched.node.outputs:
                if output is not result and self._is_read_outside(output, inside):
                    return output
        return binding.entering_from_inside()

    def _leaking(self, leak: gs.Tensor, binding: Binding) -> str:
        inside = {id(matched.node) for matched in binding.nodes.values()}
        reader = next((node for node in leak.outputs if id(node) not in inside), None)
        if reader is not None:
            return f"{leak.name!r} is also used outside it, by {reader.op} {reader.name!r}"
        if id(leak) in self._public:
            return f"{leak.name!r} is also used outside it, as an output of the graph"
        told = "is also used outside it, by the body of a control-flow operator"
        return f"{leak.name!r} {told if leak.name in self.model.captured else 'stands outside it too'}"

    def _is_read_outside(self, output: gs.Tensor, inside: set[int]) -> bool:
        public = id(output) in self._public or output.name in self.model.captured
        return public or any(id(consumer) not in inside for consumer in output.outputs)


def _refusal(found: Pattern) -> str | None:
    """Why a match's own check refuses it; what else the check raises comes back as one line that names it."""
    try:
        found.check()
    except Mismatch as refusal:
        return str(refusal)
    except QuantonnxError:
        raise
    except Exception as error:
        raise PatternError(
            f"check of pattern {type(found).__name__} fails at {found.result.name!r}: {type(error).__name__}: {error}",
            "raise Mismatch(reason) to refuse a match; --traceback shows where",
        ) from error
    return None


def _match_value(
    declared: Any, value: gs.Tensor | None, binding: Binding, failure: Failure | None
) -> Iterator[Binding]:
    if isinstance(declared, NodeDeclaration):
        yield from _match_node(declared, value, binding, failure)
    elif isinstance(declared, ValueDeclaration):
        values = dict(binding.values)
        if _bind(declared, value, values, len(binding.nodes), failure):
            yield Binding(values, binding.nodes)
    elif isinstance(declared, MaybeDeclaration):
        yield from _match_value(declared.expression, value, binding, failure)
        yield from _match_value(declared.otherwise, value, binding, failure)
    elif isinstance(declared, EitherDeclaration):
        for alternative in declared.alternatives:
            yield from _match_value(alternative, value, binding, failure)


def _bind(
    declared: ValueDeclaration, value: gs.Tensor | None, values: dict[int, Any], depth: int, failure: Failure | None
) -> bool:
    """Writes the value into `values`; False where the declaration refuses it or stands for another one already."""
    key = id(declared)
    if value is None or not value.name:
        values[key] = None
        return declared.optional
    if declared.constant and not isinstance(value, gs.Constant):
        if failure is not None:
            failure.note(depth, FailureKind.CONSTANT, lambda: f"{value.name!r} is not a constant")
        return False
    if declared.number is not None and not _is_number(value, declared.number):
        if failure is not None:
            failure.note(depth, FailureKind.CONSTANT, lambda: f"{value.name!r} is not the number {declared.number:.6g}")
        return False
    known = values.setdefault(key, value)
    if known is not value and failure is not None:
        reason = f"{value.name!r} stands where {_shown(known)} should stand again"
        failure.note(depth, FailureKind.OTHER, lambda: reason)
    return known is value


def _computed(values: Iterable[gs.Tensor], depth: int, failure: Failure | None) -> bool:
    """True where one of the values that are there is not a constant."""
    found = next((value for value in values if value.name and not isinstance(value, gs.Constant)), None)
    if found is not None and failure is not None:
        failure.note(depth, FailureKind.CONSTANT, lambda: f"{found.name!r} is not a constant")
    return found is not None


def _is_number(value: gs.Constant, number: float) -> bool:
    """True for one element that is the number, up to the rounding of its type."""
    if prod(value.shape) != 1:
        return False
    found = load_array(value)
    return bool(abs(float(found.reshape(-1)[0]) - number) <= abs(number) * (1e-5 if found.itemsize > 2 else 1e-2))


def _shown(value: gs.Tensor | None) -> str:
    return "nothing" if value is None else repr(value.name)


def _match_node(
    declared: NodeDeclaration, value: gs.Tensor | None, binding: Binding, failure: Failure | None
) -> Iterator[Binding]:
    node = value.inputs[0] if value is not None and value.inputs else None
    known = binding.nodes.get(id(declared))
    if known is not None:
        if known.node is node:
            yield binding
        return
    if node is None or node.op not in declared.ops or (node.domain or "") != declared.domain:
        if failure is not None:
            failure.note_operators(len(binding.nodes), value, declared.names)
        return
    if node.outputs[0] is not value or not _attributes_hold(declared, node, binding, failure):
        return
    for order in _orders(declared, node):
        if failure is None and not _plausible(declared, node, order):
            continue
        nodes = {**binding.nodes, id(declared): MatchedNode(declared, node, order)}
        yield from _match_operands(declared, node, order, 0, Binding(binding.values, nodes), failure)


def _match_operands(
    declared: NodeDeclaration,
    node: gs.Node,
    order: tuple[int, ...],
    position: int,
    binding: Binding,
    failure: Failure | None,
) -> Iterator[Binding]:
    bound = _bind_values(declared, node, order, position, binding, failure)
    if bound is None:
        return
    position, binding = bound
    operands, inputs = declared.operands, node.inputs
    if position == len(operands):
        if declared.open_ended or len(inputs) == position or not any(extra.name for extra in inputs[position:]):
            yield binding
        elif failure is not None:
            reason = f"{node.op} {node.name!r} has {len(inputs)} inputs"
            failure.note(len(binding.nodes), FailureKind.OTHER, lambda: reason)
        return
    index = order[position]
    value = inputs[index] if index < len(inputs) else None
    for matched in _match_value(operands[position], value, binding, failure):
        yield from _match_operands(declared, node, order, position + 1, matched, failure)


def _bind_values(
    declared: NodeDeclaration,
    node: gs.Node,
    order: tuple[int, ...],
    position: int,
    binding: Binding,
    failure: Failure | None,
) -> tuple[int, Binding] | None:
    """Binds the operands from `position` on that are plain values; None where one refuses.

    Returns where the first other operand stands.
    """
    operands, inputs = declared.operands, node.inputs
    if position == len(operands) or not isinstance(operands[position], ValueDeclaration):
        return position, binding
    values = dict(binding.values)
    while position < len(operands) and isinstance(operands[position], ValueDeclaration):
        operand, index = operands[position], order[position]
        if operand.many:
            values[id(operand)] = tuple(inputs[position:])
            if operand.constant and _computed(values[id(operand)], len(binding.nodes), failure):
                return None
        elif not _bind(operand, inputs[index] if index < len(inputs) else None, values, len(binding.nodes), failure):
            return None
        position += 1
    return position, Binding(values, binding.nodes)


def _orders(declared: NodeDeclaration, node: gs.Node) -> Iterable[tuple[int, ...]]:
    if len(declared.operands) == 2 and len(node.inputs) == 2 and node.op in COMMUTATIVE:
        return ((0, 1), (1, 0))
    return (tuple(range(len(declared.operands))),)


def _attributes_hold(declared: NodeDeclaration, node: gs.Node, binding: Binding, failure: Failure | None) -> bool:
    for name, wanted in declared.attributes.items():
        found = node.attrs.get(name)
        if _accepts(wanted, found, node, name):
            continue
        if failure is not None:
            told = f"{node.op} {node.name!r} has {name}={found!r}"
            failure.note(len(binding.nodes), FailureKind.ATTRIBUTE, lambda told=told: told)  # type: ignore[misc]
        return False
    return True


def _accepts(wanted: Any, found: Any, node: gs.Node, name: str) -> bool:
    if not callable(wanted):
        return bool(found == wanted)
    try:
        return bool(wanted(found))
    except Exception as error:
        raise PatternError(
            f"the predicate of attribute {name!r} fails at {node.op} {node.name!r}, which has {found!r}: "
            f"{type(error).__name__}: {error}",
            "an attribute that is absent comes as None",
        ) from error


def _plausible(declared: NodeDeclaration, node: gs.Node, order: tuple[int, ...]) -> bool:
    """Looks one operator ahead, which ends most failing matches before they cost anything."""
    inputs = node.inputs
    for allowed, index in zip(_operand_operators(declared), order, strict=True):
        if allowed is not None:
            producers = inputs[index].inputs if index < len(inputs) else ()
            if not producers or producers[0].op not in allowed:
                return False
    return True


@lru_cache(maxsize=4096)
def _operand_operators(declared: NodeDeclaration) -> tuple[frozenset[str] | None, ...]:
    return tuple(roots(operand) for operand in declared.operands)
