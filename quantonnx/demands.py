"""Pairs that rules of the configuration ask for where no pattern declares one: at the boundary of a fused group, at an
operator that no pattern is about, at the boundary of a module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx_graphsurgeon as gs

from quantonnx.claims import Asked, Asker
from quantonnx.decisions import Decider, Decision
from quantonnx.element_types import ElementTypes, type_name
from quantonnx.model import Model
from quantonnx.pattern import Pattern, Role
from quantonnx.plan import Step
from quantonnx.resolution import Side, Slot
from quantonnx.sites import Site


def demanded(
    model: Model,
    asker: Asker,
    taken: Sequence[Asked],
    resolved: Iterable[tuple[Step, Pattern]],
    types: ElementTypes,
) -> list[Site]:
    """Returns the sites that rules demand beyond the claims of matches; those inside a fused group are refused.

    What was left in float by a decision stays so.
    """
    claimed = {edge for asked in taken for claim in asked.claims for edge in claim.edges}
    asked_already = {claim.tensor for asked in taken for claim in asked.claims if claim.whole}
    owners = {node.name: asked for asked in taken for node in asked.match.nodes}
    others = {node.name for _, match in resolved if match.qdq_points for node in match.nodes} - owners.keys()
    others |= model.left_in_float.keys()
    finder = _Finder(asker, types)
    found: list[Site] = []
    for node in model.graph.nodes:
        if node.name not in others:
            found += finder.at(node, owners.get(node.name))
    return [site for site in found if not (claimed & {*site.edges} or (site.whole and site.tensor in asked_already))]


class _Finder:
    def __init__(self, asker: Asker, types: ElementTypes) -> None:
        self.asker = asker
        self.types = types

    def at(self, node: gs.Node, owner: Asked | None) -> Iterator[Site]:
        """Yields what rules demand of the inputs and outputs of one operator."""
        for index, value in enumerate(node.inputs):
            if isinstance(value, gs.Variable) and value.name and self._is_float(value):
                yield from self._site(Side.INPUTS, node, index, value, owner)
        for index, value in enumerate(node.outputs):
            if value.name and self._is_float(value):
                yield from self._site(Side.OUTPUTS, node, index, value, owner)

    def _site(self, side: Side, node: gs.Node, index: int, value: gs.Tensor, owner: Asked | None) -> Iterator[Site]:
        match, step = (owner.match, owner.step) if owner else (None, None)
        slot = Slot(side, "activation", node, index, value, match, folded=step.nodes if step else ())
        outcome = self.asker.resolver.resolve(slot, declared=False)
        if not (outcome.on and outcome.demanded) or self.asker.leaves_alone(slot.group, slot.folded):
            return
        if match is not None and _is_inside(side, value, match):
            self.asker.decisions.append(_refused(side, value, match, outcome.rules[-1]))
            return
        role = Role.INPUT if side is Side.INPUTS else Role.OUTPUT
        pattern = step.pattern if step else node.op
        yield self.asker.claim(slot, role, pattern, step.output if step else str(node.outputs[0].name), outcome)

    def _is_float(self, value: gs.Tensor) -> bool:
        kind = self.types.of(value)
        return kind is not None and type_name(kind) in self.asker.target.float_types


def _refused(side: Side, value: gs.Tensor, match: Pattern, rule: str) -> Decision:
    asked = f"{value.name!r} is inside {type(match).__name__}: a pair that {rule} asks for would break the fusion"
    moved = f"; what it says holds for the result, {match.result.name!r}" if side is Side.OUTPUTS else ""
    return Decision(match.result.name, f"{asked}{moved}", Decider.FUSED)


def _is_inside(side: Side, value: gs.Tensor, match: Pattern) -> bool:
    """True for what passes between the operators of a match."""
    if side is Side.OUTPUTS:
        return value is not match.result
    names = {node.name for node in match.nodes}
    return bool(value.inputs) and value.inputs[0].name in names
