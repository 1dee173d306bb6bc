"""A model before and after fusion, with its steps, sites and decisions by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cached_property

import onnx_graphsurgeon as gs

from quantonnx.decisions import Decision
from quantonnx.matching import Matcher
from quantonnx.model import Model
from quantonnx.pattern import Edge
from quantonnx.plan import Plan, Step
from quantonnx.quantized import QuantizedModel
from quantonnx.sites import Site, moves


class View:
    """What explanations look up; each index is built once."""

    def __init__(self, original: Model, quantized: QuantizedModel, plan: Plan) -> None:
        self.original = original
        self.quantized = quantized
        self.plan = plan
        self.target = quantized.matches.target
        self.nodes = {node.name: node for node in original.graph.nodes}
        self.tensors = original.tensors()
        self.fused_nodes = {node.name: node for node in quantized.model.graph.nodes}
        self.fused_tensors = quantized.model.tensors()
        self.outputs = {output.name for output in original.graph.outputs}
        self.sites = quantized.sites
        self.by_edge = {edge: site for site in quantized.sites for edge in site.edges}
        self.conversions = {id(step) for step in plan.conversions}

    @cached_property
    def matcher(self) -> Matcher:
        """A matcher on the fused model, in which every fusion still matches its pattern."""
        return Matcher(self.quantized.model)

    @property
    def steps(self) -> list[Step]:
        """Conversions, then fusions."""
        return self.plan.conversions + self.plan.fusions

    def steps_with(self, nodes: set[str]) -> tuple[Step, ...]:
        """Returns the steps that hold one of the nodes."""
        return tuple(step for step in self.steps if not nodes.isdisjoint(step.nodes))

    def fusions(self, steps: Iterable[Step]) -> list[Step]:
        """Returns those that are applied fusions."""
        return [step for step in steps if step.apply and id(step) not in self.conversions]

    def decisions(self, names: Collection[str]) -> tuple[Decision, ...]:
        """Returns the decisions about any of the names."""
        return tuple(decision for decision in self.quantized.decisions if decision.name in names)

    def sites_of(self, step: Step) -> list[Site]:
        """Returns the pairs that stand at the operators of a step, or on what it gives."""
        inside = set(step.nodes)
        return [
            site
            for site in self.sites
            if (site.whole and site.tensor == step.output) or any(edge.node in inside for edge in site.edges)
        ]

    def readers(self, tensor: gs.Tensor) -> Iterator[tuple[gs.Node, Edge]]:
        """Yields the nodes of the file that read a tensor, with the edge."""
        for node in {id(node): node for node in tensor.outputs}.values():
            for index, value in enumerate(node.inputs):
                if value is tensor:
                    yield node, Edge(node.name, index)

    def passes_codes(self, node: gs.Node) -> bool:
        """True for an operator that only moves data, and moves integer codes here."""
        return moves(node, self.target.same_scale | self.target.transparent)
