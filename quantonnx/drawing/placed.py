"""The picture of a plan: the fused model, a box around each group, a mark wherever a pair will stand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.drawing.flow import Flow, Slot
from quantonnx.drawing.scene import Group, Kind, Region, Scene
from quantonnx.formats import TensorFormat
from quantonnx.pattern import Pattern, Role
from quantonnx.plan import Step
from quantonnx.quantized import QuantizedModel
from quantonnx.sites import Site, moves


def placed_scene(quantized: QuantizedModel, title: str) -> Scene:
    """Returns what the target will get: groups as the plan applies them, pairs as the placement has them."""
    return _Placed(quantized).scene(title)


class _Placed:
    def __init__(self, quantized: QuantizedModel) -> None:
        self.quantized = quantized
        self.target = quantized.matches.target
        self.flow = Flow(quantized.model)
        self.groups = self.flow.sketch.groups
        self.marks: dict[Slot, int] = {}
        self.ends: dict[str, int] = {}
        self.coded: set[str] = set()
        self.readers: dict[str, list[Slot]] = {}
        for node in quantized.model.graph.nodes:
            for index, value in enumerate(node.inputs):
                self.readers.setdefault(value.name, []).append((node.name, index))

    def scene(self, title: str) -> Scene:
        """Marks weights, pairs and groups, colours what runs on integers, and joins it all."""
        for site in self.quantized.weight_sites:
            for edge in site.edges:
                self._change(edge.node, codes=codes_name(site.format))
        for site in self.quantized.activation_sites:
            if site.tensor in self.flow.givers:
                self._mark(site)
        matches = list(self.quantized.matches.resolve(self.quantized.model))
        self._colour_passing({node.name for _, match in matches for node in match.nodes})
        for step, match in matches:
            self._group(step, match)
        self._tell_reasons()
        self.flow.connect(self.marks, self.ends)
        pairs, weights = len(self.quantized.activation_sites), len(self.quantized.weight_sites)
        return self.flow.sketch.scene(title, f"{len(matches)} groups · {pairs} pairs · {weights} integer weights")

    def _change(self, node: str, **changes: Any) -> None:
        number = self.flow.box_of.get(node)
        if number is not None:
            self.flow.sketch.boxes[number] = replace(self.flow.sketch.boxes[number], **changes)

    def _mark(self, site: Site) -> None:
        mark = self.flow.pair(codes_name(site.format), site.tensor, self._told(site))
        self.flow.sketch.join(self.flow.givers[site.tensor], mark, site.tensor)
        slots = [(edge.node, edge.index) for edge in site.edges]
        if site.whole:
            self.ends[site.tensor] = mark
            slots += self.readers.get(site.tensor, [])
        self.marks.update(dict.fromkeys(slots, mark))

    def _told(self, site: Site) -> str:
        told = f"pair on {site.tensor}\n{codes_name(site.format)}: {site.reason}"
        numbers = (self.quantized.parameters or {}).get(site)
        if numbers is None:
            return told
        return f"{told}\nscale {float(np.max(numbers.scale)):.6g}, zero point {int(np.max(numbers.zero_point))}"

    def _group(self, step: Step, match: Pattern) -> None:
        """A box around a single box of the same name would say nothing."""
        names = [node.name for node in match.nodes if node.name in self.flow.box_of]
        region = Region.INTEGER if self._is_integer(match) else Region.FLOAT
        group = None
        if len(names) > 1 or match.nodes[0].op != step.pattern:
            points = ", ".join(step.points) or "none"
            self.groups.append(Group(step.pattern, region, f"{step.pattern} at {step.output}\npoints: {points}"))
            group = len(self.groups) - 1
        for name in names:
            box = self.flow.sketch.boxes[self.flow.box_of[name]]
            shown = Region.OTHER if region is Region.FLOAT and box.region is Region.OTHER else region
            self._change(name, region=shown, group=group, aliases=(*box.aliases, step.output, *step.nodes))

    def _is_integer(self, match: Pattern) -> bool:
        """True where pairs stand at the inputs of the match, and its weights are integers too."""
        roles = [point.role for point in match.qdq_points if match.values(point.declaration)]
        nodes = [node for node in match.nodes if node.name in self.flow.box_of]
        coded = any(self._reads_codes(node, index) for node in nodes for index in range(len(node.inputs)))
        weights = any(self.flow.sketch.boxes[self.flow.box_of[node.name]].codes for node in nodes)
        return coded and (weights or Role.WEIGHT not in roles)

    def _colour_passing(self, held: set[str]) -> None:
        """Operators outside all groups that only move data move codes where a pair, or such an operator, feeds them."""
        passing = self.target.same_scale | self.target.transparent
        for node in self.flow.nodes:
            if node.name not in held and moves(node, passing) and node.inputs and self._reads_codes(node, 0):
                self.coded.update(output.name for output in node.outputs)
                self._change(node.name, region=Region.INTEGER)

    def _reads_codes(self, node: gs.Node, index: int) -> bool:
        return (node.name, index) in self.marks or node.inputs[index].name in self.coded

    def _tell_reasons(self) -> None:
        reasons = {decision.name: decision.reason for decision in reversed(self.quantized.decisions)}
        for number, box in enumerate(self.flow.sketch.boxes):
            if box.kind is Kind.OPERATOR and box.region is Region.FLOAT:
                reason = next((reasons[name] for name in (box.key, *box.aliases) if name in reasons), "")
                if reason:
                    self.flow.sketch.boxes[number] = replace(box, tooltip=f"{box.tooltip}\nstays in float: {reason}")


def codes_name(fmt: TensorFormat) -> str:
    """Returns the integer type of a format, such as `uint8`."""
    return f"{'int' if fmt.signed else 'uint'}{fmt.n_bits}"
