"""Why something is, or is not, quantized: which pattern claimed it, which almost did, and where its pairs come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import onnx_graphsurgeon as gs

from quantonnx.config import QuantConfig
from quantonnx.errors import ModelError
from quantonnx.matching import Matcher, root_operators
from quantonnx.model import Model
from quantonnx.pattern import EitherDeclaration, MaybeDeclaration, NodeDeclaration, Pattern
from quantonnx.placement import Decision
from quantonnx.plan import Plan, Step, near
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import Source, transform
from quantonnx.sites import Site
from quantonnx.target import Target


@dataclass(frozen=True)
class Attempt:
    """A pattern that could have held at a node, and why it does not."""

    pattern: str
    node: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """All that is known about one node or tensor.

    `answer` is one sentence. `claims` are the steps of the plan that hold it, applied or not; `attempts` the patterns
    that almost did; `sites` the pairs at it; `decisions` the reasons for staying in float.
    """

    name: str
    kind: str
    answer: str
    claims: tuple[Step, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    sites: tuple[Site, ...] = ()
    decisions: tuple[Decision, ...] = ()


class Explainer:
    """One model and one target, planned and placed, to be asked about its nodes and tensors.

    Names are those of the file. Raises what `transform` and `insert_qdq` raise.
    """

    def __init__(
        self, source: Source, target: Target, *, config: QuantConfig | None = None, plan: Plan | None = None
    ) -> None:
        self.original = Model.read(source)
        self.target = target
        fused = transform(self.original, target=target, plan=plan)
        self.plan = fused.plan
        self.quantized: QuantizedModel = insert_qdq(fused.model, fused.matches, config)

    def node(self, name: str) -> Explanation:
        """Explains a node. Raises ModelError for a name that the model does not have."""
        nodes = {node.name: node for node in self.original.graph.nodes}
        if name not in nodes:
            raise ModelError(f"the model has no node {name!r}", self._is_tensor(name) or near(name, nodes))
        claims = tuple(step for step in self._steps if name in step.nodes)
        sites = tuple(site for site in self.quantized.sites if self._touches(site, name, nodes[name]))
        decisions = self._decisions({name, *(step.output for step in claims)})
        attempts = tuple(self._attempts(name))
        if sites or claims or not self._moves_codes(nodes[name]):
            answer = _about_node(nodes[name], claims, sites, decisions, attempts, self.target)
        else:
            answer = f"{nodes[name].op} {name!r} moves integer codes: the pairs at its two sides have one scale"
        return Explanation(name, f"{nodes[name].op} node", answer, claims, attempts, sites, decisions)

    def tensor(self, name: str) -> Explanation:
        """Explains a tensor. Raises ModelError for a name that the model does not have."""
        tensors = self.original.tensors()
        if name not in tensors:
            raise ModelError(f"the model has no tensor {name!r}", self._is_node(name) or near(name, tensors))
        sites = tuple(site for site in self.quantized.sites if name in (site.tensor, site.source))
        neighbours = {node.name for node in (*tensors[name].inputs, *tensors[name].outputs)}
        claims = tuple(step for step in self._steps if step.output == name or neighbours & set(step.nodes))
        decisions = self._decisions({name, *neighbours, *(step.output for step in claims)})
        here = [site for site in sites if site.tensor == name]
        answer = _pairs_sentence(here) if here else self._why_no_pair(tensors[name], claims, decisions)
        return Explanation(name, _kind(tensors[name]), answer, claims, (), sites, decisions)

    def find(self, name: str) -> Explanation:
        """Explains a node or a tensor, whichever is called that."""
        if any(node.name == name for node in self.original.graph.nodes):
            return self.node(name)
        return self.tensor(name)

    @property
    def _steps(self) -> list[Step]:
        return self.plan.conversions + self.plan.fusions

    @cached_property
    def _converted(self) -> Model:
        """The model as fusions see it: converted, not fused."""
        return transform(self.original, target=self.target, plan=replace(self.plan, fusions=[])).model

    def _is_tensor(self, name: str) -> str:
        return "it is a tensor: use --tensor" if name in self.original.tensors() else ""

    def _is_node(self, name: str) -> str:
        found = any(node.name == name for node in self.original.graph.nodes)
        return "it is a node: use --node" if found else ""

    def _decisions(self, names: set[str]) -> tuple[Decision, ...]:
        return tuple(decision for decision in self.quantized.decisions if decision.name in names)

    def _touches(self, site: Site, name: str, node: gs.Node) -> bool:
        outputs = {output.name for output in node.outputs}
        return any(edge.node == name for edge in site.edges) or (site.whole and site.tensor in outputs)

    def _moves_codes(self, node: gs.Node) -> bool:
        given = {output.name for output in node.outputs}
        same = (site for site in self.quantized.sites if site.tensor in given and site.source != site.tensor)
        return node.op in self.target.same_scale and any(same)

    def _attempts(self, name: str) -> Iterator[Attempt]:
        """Tries every pattern that is about this operator, at this node and at those after it that it could end in."""
        node = next((node for node in self._converted.graph.nodes if node.name == name), None)
        if node is None:
            return
        matcher = Matcher(self._converted)
        taken = {step.pattern for step in self.plan.fusions if step.apply and name in step.nodes}
        for pattern in self.target.patterns:
            operators = list(_operators(pattern.root))
            if node.op in operators and pattern.__name__ not in taken:
                yield from _first_refusal(matcher, pattern, node, len(operators))

    def _why_no_pair(self, tensor: gs.Tensor, claims: tuple[Step, ...], decisions: tuple[Decision, ...]) -> str:
        name = tensor.name
        moved = next((site for site in self.quantized.sites if site.source == name), None)
        if moved is not None:
            return f"no pair stands on {name!r}; {moved.tensor!r} has one with its range ({moved.reason})"
        inside = next((step for step in claims if step.apply and self._is_inside(tensor, step)), None)
        if inside is not None:
            group = f"{inside.pattern} at {inside.output!r}"
            return f"no pair stands on {name!r}: it is inside {group}, which runs as one kernel"
        applied = [step for step in claims if step.apply and step in self.plan.fusions]
        if decisions:
            return f"no pair stands on {name!r}: {decisions[0].reason}"
        if applied:
            shown = ", ".join(f"{step.pattern} at {step.output!r} ({_points(step)})" for step in applied)
            return f"no pair stands on {name!r}: it is at no declared point of {shown}"
        return f"no pair stands on {name!r}: no pattern of {self.target.name} holds at what gives or reads it"

    def _is_inside(self, tensor: gs.Tensor, step: Step) -> bool:
        givers = {node.name for node in tensor.inputs}
        readers = {node.name for node in tensor.outputs}
        return bool(givers) and bool(readers) and givers | readers <= set(step.nodes)


def _first_refusal(matcher: Matcher, pattern: type[Pattern], node: gs.Node, depth: int) -> Iterator[Attempt]:
    roots = root_operators(pattern)
    for candidate in _downstream(node, depth):
        if candidate.op not in roots:
            continue
        found = matcher.match(pattern, candidate)
        if found is None:
            yield Attempt(pattern.__name__, candidate.name, matcher.why_not(pattern, candidate) or "")
            return
        if any(matched is node for matched in found.nodes):
            yield Attempt(pattern.__name__, candidate.name, "it holds, but another match was preferred")
            return


def _downstream(node: gs.Node, depth: int) -> Iterator[gs.Node]:
    seen = {id(node)}
    level = [node]
    for _ in range(depth):
        yield from level
        readers = (reader for current in level for output in current.outputs for reader in output.outputs)
        level = list({id(reader): reader for reader in readers if id(reader) not in seen}.values())
        seen.update(id(reader) for reader in level)


def _operators(declared: Any) -> Iterator[str]:
    """Every operator that a declaration mentions."""
    if isinstance(declared, NodeDeclaration):
        yield from declared.ops
        for operand in declared.operands:
            yield from _operators(operand)
    elif isinstance(declared, MaybeDeclaration):
        yield from _operators(declared.expression)
    elif isinstance(declared, EitherDeclaration):
        for alternative in declared.alternatives:
            yield from _operators(alternative)


def _about_node(
    node: gs.Node,
    claims: tuple[Step, ...],
    sites: tuple[Site, ...],
    decisions: tuple[Decision, ...],
    attempts: tuple[Attempt, ...],
    target: Target,
) -> str:
    applied = next((step for step in reversed(claims) if step.apply), None)
    who = f"{node.op} {node.name!r}"
    if sites:
        owner = f" as part of {applied.pattern} at {applied.output!r}" if applied else ""
        return f"{who} is quantized{owner}: {_pairs_sentence(sites)}"
    if decisions:
        return f"{who} stays in float: {decisions[0].reason}"
    if applied:
        group = f"{applied.pattern} at {applied.output!r}"
        return f"{who} is part of {group}, which has no pair at this node ({_points(applied)})"
    if attempts:
        nearest = attempts[0]
        return f"{who} stays in float: {nearest.pattern} does not hold at {nearest.node!r}: {nearest.reason}"
    return f"{who} stays in float: {target.name} has no pattern about {node.op}"


def _points(step: Step) -> str:
    return f"its points: {', '.join(step.points)}" if step.points else "it declares no points"


def _pairs_sentence(sites: tuple[Site, ...] | list[Site]) -> str:
    return "; ".join(f"{_what(site)} on {site.tensor!r} ({site.reason})" for site in sites)


def _what(site: Site) -> str:
    return "a pair stands" if site.on_activation else "integer codes stand"


def _kind(tensor: gs.Tensor) -> str:
    if isinstance(tensor, gs.Constant):
        return "constant"
    return "tensor" if tensor.inputs else "input of the graph"
