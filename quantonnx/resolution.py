"""From levels of settings to one tensor: what is said about it, from the target's defaults up, and by which rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import onnx_graphsurgeon as gs

from quantonnx.config import NameRules, OperatorRule, QuantConfig, Slots, TensorQuantConfig
from quantonnx.config.kinds import check_activation, check_weight
from quantonnx.config.presets import SPECS
from quantonnx.config.rules import OTHERS
from quantonnx.formal_names import formal_name
from quantonnx.model import Model
from quantonnx.pattern import Pattern, Point, Role
from quantonnx.scopes import Scopes, dotted

_ONE_OF = (
    frozenset({"calibration_method", "scale", "zero_point", "range", "share_with", "dynamic"}),
    frozenset({"per_channel", "group_size"}),
)
"""To say one of these anew is to take back the others of its set."""


STATES = ("weight", "bias")
"""What operators hold, in the order in which rules count it."""


class Side(Enum):
    """Which tensors of an operator are meant."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"
    STATES = "states"


@dataclass(frozen=True)
class Said:
    """What one level says about a tensor, and where it is written; None is off."""

    rule: str
    spec: TensorQuantConfig | None


@dataclass(frozen=True)
class Slot:
    """A tensor where one operator reads or gives it: what rules can name it by.

    `point` is the one of the match's pattern that stands on it; `folded` are names of operators that were folded into
    the match.
    """

    side: Side
    kind: str
    node: gs.Node
    index: int
    tensor: gs.Tensor
    match: Pattern | None = None
    point: Point | None = None
    folded: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """The index by which a rule can name the tensor: of states, 0 is the weight and 1 the bias."""
        return STATES.index(self.kind) if self.side is Side.STATES else self.index

    @property
    def declared(self) -> tuple[str, ...]:
        """The names that the match's pattern has for the tensor."""
        if self.match is None:
            return ()
        if self.point is None:
            return tuple(name for name, value in self.match.declarations.items() if self._is_for(value))
        return tuple(name for name, value in self.match.declarations.items() if value is self.point.declaration)

    def _is_for(self, declaration: Any) -> bool:
        assert self.match is not None
        return any(value is self.tensor for value in self.match.values(declaration))

    @property
    def position(self) -> int:
        """Its place among the points of the match's pattern on the same side; -1 where none stands on it."""
        if self.match is None or self.side is Side.STATES:
            return self.number if self.side is Side.STATES else -1
        if self.side is Side.OUTPUTS:
            return 0 if self.is_result else -1
        same = [p for p in self.match.qdq_points if p.role.on_activation and p.role is not Role.OUTPUT]
        return next((place for place, point in enumerate(same) if point is self.point), -1)

    @property
    def is_result(self) -> bool:
        """True for what the whole group gives."""
        return self.side is Side.OUTPUTS and (self.match is None or self.tensor is self.match.result)

    @property
    def group(self) -> list[gs.Node]:
        """The operators of the match, the one that gives its result last."""
        return list(reversed(self.match.nodes)) if self.match is not None else [self.node]


@dataclass
class Outcome:
    """What is said in the end: whether there is a pair, its settings, and the rules that had a say, the last one last.

    `demanded` is true where a level above the global one asks for a pair.
    """

    on: bool
    demanded: bool = False
    said: dict[str, Any] = field(default_factory=dict)
    rules: tuple[str, ...] = ()

    def copy(self) -> Outcome:
        """Returns an outcome that hears more by itself."""
        return Outcome(self.on, self.demanded, dict(self.said), self.rules)

    def hear(self, level: Said, *, above_global: bool) -> None:
        """Takes in what a higher level says."""
        found = {} if level.spec is None else level.spec.said()
        if level.spec is None or above_global or found:
            self.on = level.spec is not None
            self.demanded = self.on and above_global
            self.rules = (*self.rules, level.rule)
        was_grouped = "group_size" in self.said
        anew = {name for name, value in found.items() if value is not False or name == "per_channel"}
        for alternatives in _ONE_OF:
            if alternatives & anew:
                self.said = {name: value for name, value in self.said.items() if name not in alternatives}
        if "group_size" in anew or ("per_channel" in anew and was_grouped):  # groups and channels lie along other axes
            self.said.pop("axis", None)
        self.said |= found


class Resolver:
    """What a configuration says about the tensors of a model."""

    def __init__(self, model: Model, config: QuantConfig) -> None:
        self.config = config
        self.scopes = Scopes(model) if config.modules else None
        self._opset = model.opset
        self._global = {kind: self._globally(kind) for kind in SPECS}
        sections = ("op_types", "op_names", "tensors")
        self._names = {section: NameRules(getattr(config, section), section) for section in sections}
        self._speaks_of_tensors = bool(config.tensors or config.fixed)
        self._modules = self._chosen_modules()

    def resolve(self, slot: Slot, *, declared: bool) -> Outcome:
        """Returns what is said about a tensor at an operator; `declared` where a pattern puts a pair there."""
        outcome = self._global[slot.kind].copy()
        outcome.on = outcome.on and declared
        for level in self._of_operators(slot) if self.speaks_of_operators else ():
            outcome.hear(level, above_global=True)
        for level in self._of_tensor(slot) if self._speaks_of_tensors else ():
            if declared or outcome.on:  # a word about a tensor says how, not where
                outcome.hear(level, above_global=True)
        return outcome

    def _globally(self, kind: str) -> Outcome:
        outcome = Outcome(on=True)
        for rule, spec in self.config.globally(kind):
            outcome.hear(Said(rule, spec), above_global=False)
        return outcome

    @property
    def speaks_of_operators(self) -> bool:
        """True where rules may ask for pairs that no pattern declares."""
        config = self.config
        return bool(config.op_types or config.op_names or config.modules or config.patterns)

    def _of_operators(self, slot: Slot) -> Iterator[Said]:
        yield from self._operators("op_types", slot, lambda node: (node.op,))
        yield from self._pattern(slot)
        yield from self._operators("op_names", slot, lambda node: (node.name, *(out.name for out in node.outputs)))
        yield from self._boundaries(slot)

    def _of_tensor(self, slot: Slot) -> Iterator[Said]:
        check = check_activation if slot.kind == "activation" else check_weight
        for name in _lowest_first(self._names["tensors"], (slot.tensor.name,)):
            check(self.config.tensors[name], f"tensors.{name}")
            yield Said(f"tensors.{name}", self.config.tensors[name])
        if slot.tensor.name in self.config.fixed:
            given = self.config.fixed[slot.tensor.name]
            spec = TensorQuantConfig(scale=given.scale, zero_point=given.zero_point)
            yield Said(f"fixed.{slot.tensor.name}", spec)

    def _operators(self, section: str, slot: Slot, names_of: Callable[[gs.Node], Sequence[str]]) -> Iterator[Said]:
        """What is said about the slot's own operator comes last; what a group gives, each of its operators gives."""
        rules = getattr(self.config, section)
        if not rules:
            return
        for name in _lowest_first(self._names[section], slot.folded):
            if rules[name] is None:
                yield Said(f"{section}.{name}", None)
        group = slot.group
        for node in [*(node for node in group if node is not slot.node), slot.node]:
            for name in _lowest_first(self._names[section], names_of(node)):
                own = node is slot.node
                if own or rules[name] is None or slot.is_result:
                    index, known = (slot.number, self._formal(slot)) if own else (0, ())
                    yield from said_in(f"{section}.{name}", rules[name], slot.side, index, known)

    def _pattern(self, slot: Slot) -> Iterator[Said]:
        name = type(slot.match).__name__ if slot.match is not None else ""
        if name in self.config.patterns:
            rule = self.config.patterns[name]
            names = (slot.kind, *slot.declared) if slot.side is Side.STATES else slot.declared
            yield from said_in(f"patterns.{name}", rule, slot.side, slot.position, names)

    def _boundaries(self, slot: Slot) -> Iterator[Said]:
        if self.scopes is None:
            return
        found = {scope for node in slot.group for scope in self.scopes.of(node) if scope in self._modules}
        for scope in sorted(found, key=lambda scope: (scope.count("."), scope)):  # inner ones have the last word
            for rule in self._modules[scope]:
                yield from self._boundary(rule, scope, slot)

    def _boundary(self, rule: str, scope: str, slot: Slot) -> Iterator[Said]:
        content = self.config.modules[rule]
        if content is None:
            yield Said(f"modules.{rule}", None)
        elif (place := self._place_in(scope, slot)) is not None:
            yield from said_in(f"modules.{rule}", content, slot.side, *place)

    def _place_in(self, scope: str, slot: Slot) -> tuple[int, tuple[str, ...]] | None:
        """The index and the names of a tensor as part of a scope; None where it does not cross its boundary."""
        assert self.scopes is not None
        if slot.side is Side.STATES:
            return (slot.number, self._formal(slot)) if scope in self.scopes.of(slot.node) else None
        boundary = self.scopes.boundary(scope)
        if slot.side is Side.INPUTS:
            name = slot.tensor.name if self.scopes.enters(scope, slot.node, slot.tensor) else ""
            return (boundary.inputs[name], (name,)) if name in boundary.inputs else None
        given = [out.name for node in slot.group for out in node.outputs if out.name in boundary.outputs]
        return (boundary.outputs[given[-1]], (given[-1],)) if given else None

    def _chosen_modules(self) -> dict[str, list[str]]:
        """The rules for modules by the scopes that they name, lowest first."""
        if self.scopes is None:
            return {}
        spelled = {rule if rule.startswith("re:") else dotted(rule): rule for rule in self.config.modules}
        matcher = NameRules(spelled, "modules")
        found = {scope: _lowest_first(matcher, (scope,)) for scope in self.scopes.names}
        return {scope: [spelled[name] for name in names] for scope, names in found.items() if names}

    def _formal(self, slot: Slot) -> tuple[str, ...]:
        formal = formal_name(slot.node, slot.index, inputs=slot.side is not Side.OUTPUTS, opset=self._opset)
        return (slot.kind, *formal) if slot.side is Side.STATES else formal


def said_in(where: str, rule: OperatorRule | None, side: Side, index: int, names: Iterable[str]) -> Iterator[Said]:
    """Yields what a rule says about one tensor of an operator: at its index, under one of its names, or as `*`."""
    if rule is None:
        yield Said(where, None)
        return
    slots: Slots | None = getattr(rule, side.value)
    if slots is None:
        yield Said(f"{where}.{side.value}", None)
        return
    key = next((key for key in (index, *names, OTHERS) if key in slots), None)
    if key is not None:
        yield Said(f"{where}.{side.value}.{key}", slots[key])


def _lowest_first(rules: NameRules, names: Sequence[str]) -> list[str]:
    """Rules for one of the names: patterns in the order they were written, then exact names."""
    found = list(rules.all(names))
    return [rule for rule in found if rule in rules.patterns] + [rule for rule in found if rule in rules.exact]
