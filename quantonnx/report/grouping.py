"""What became of each group, and which rule decided: matches of patterns, then operators that no pattern took."""

from __future__ import annotations

from collections.abc import Iterator

from quantonnx.decisions import Decision
from quantonnx.explaining.wording import decided_by
from quantonnx.pattern import Pattern
from quantonnx.plan import Step
from quantonnx.quantized import QuantizedModel
from quantonnx.report.facts import GroupFacts
from quantonnx.sites import Site
from quantonnx.summary import deciding_rule, left_in_float


def group_facts(quantized: QuantizedModel) -> Iterator[GroupFacts]:
    """Yields every match of the plan in the order of the graph, then the operators that belong to none."""
    found = _Groups(quantized)
    applied = {step.output: match for step, match in quantized.matches.resolve(quantized.model)}
    matched = [found.matched(step, applied.get(step.output) if step.apply else None) for step in quantized.matches]
    yield from sorted(matched, key=lambda group: group.place)
    yield from found.operators({group.name for group in matched})


class _Groups:
    def __init__(self, quantized: QuantizedModel) -> None:
        self.quantized = quantized
        self.target = quantized.matches.target
        self.decisions = {decision.name: decision for decision in reversed(left_in_float(quantized))}
        self.places = {node.name: place for place, node in enumerate(quantized.model.graph.nodes)}
        self.operator_of = {node.name: node.op for node in quantized.model.graph.nodes}
        self.readers: dict[str, list[int]] = {}
        self.givers: dict[str, list[int]] = {}
        for number, site in enumerate(quantized.sites):
            for node in {edge.node for edge in site.edges}:
                self.readers.setdefault(node, []).append(number)
            if site.whole:
                self.givers.setdefault(site.tensor, []).append(number)

    def matched(self, step: Step, match: Pattern | None) -> GroupFacts:
        """Returns what became of a step; one that is not applied has no match."""
        nodes = tuple(step.nodes) if match is None else tuple(node.name for node in match.nodes)
        sites = self._sites(step, nodes) if match is not None else ()
        decision = self.decisions.get(step.output)
        if match is None:
            state, reason, rule = "not applied", step.reason or self._told(decision), self._rule(decision)
        elif decision is not None or not sites:
            state, reason, rule = "float", self._told(decision) or "no pair stands at it", self._rule(decision)
        else:
            state, (reason, rule) = "integer", self._why([self.quantized.sites[number] for number in sites])
        return GroupFacts(step.output, step.pattern, nodes, state, reason, rule, self._place(nodes), sites)

    def operators(self, known: set[str]) -> Iterator[GroupFacts]:
        """Yields what was decided about operators and values that are no group."""
        for name, decision in sorted(self.decisions.items(), key=lambda item: self.places.get(item[0], -1)):
            if name not in known:
                kind = self.operator_of.get(name, "value")
                nodes = (name,) if name in self.places else ()
                place = self._place(nodes)
                yield GroupFacts(name, kind, nodes, "operator", decision.reason, self._rule(decision), place)

    def _sites(self, step: Step, nodes: tuple[str, ...]) -> tuple[int, ...]:
        found = [number for node in nodes for number in self.readers.get(node, ())]
        return tuple(dict.fromkeys([*found, *self.givers.get(step.output, ())]))

    def _why(self, sites: list[Site]) -> tuple[str, str]:
        reasons = dict.fromkeys(site.reason for site in sites if site.reason)
        rules = dict.fromkeys(deciding_rule(site) for site in sites)
        return "; ".join(reasons), ", ".join(rules)

    def _told(self, decision: Decision | None) -> str:
        return "" if decision is None else decision.reason

    def _rule(self, decision: Decision | None) -> str:
        if decision is None:
            return "the plan"
        return decided_by(decision, self.target) or f"the patterns of {self.target.name}"

    def _place(self, nodes: tuple[str, ...]) -> int:
        return max((self.places[node] for node in nodes if node in self.places), default=-1)
