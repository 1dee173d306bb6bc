"""Where positions, −log2 of power-of-two scales, stand in a graph, and which of them are one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.formats import Parameters, ScaleType
from quantonnx.model import Model
from quantonnx.pattern import Edge, Role
from quantonnx.sites import Site

_FUSED = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})
_ALIGNED = frozenset({"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Pad", "Slice"})


@dataclass(frozen=True)
class Change:
    """A tensor whose scale was changed from 2^-before to 2^-after, and the rules that asked for it."""

    tensor: str
    before: int
    after: int
    rule: str


class Group:
    """Sites that have one position: they share their numbers, or an operator copies codes from one to the other."""

    def __init__(self, site: Site, position: int) -> None:
        self.befores = {site: position}
        self.position = position
        self.fixed = site.ranging.scale is not None
        self.rules: list[str] = []

    def move(self, position: int, rule: str) -> bool:
        """Changes the position, unless a user fixed it; True where it changed."""
        if self.fixed or position == self.position:
            return False
        self.position = position
        self.rules.append(rule)
        return True

    def take(self, other: Group) -> None:
        """Makes the sites of another group follow this one: the coarser scale, unless a user fixed the finer."""
        position = min(self.position, other.position)
        if self.fixed or other.fixed:
            position = self.position if self.fixed else other.position
        if self.position != other.position:
            self.rules.append("align")
        self.rules += other.rules
        self.befores |= other.befores
        self.position, self.fixed = position, self.fixed or other.fixed


class Positions:
    """The positions at the inputs and behind the outputs of the nodes of a graph; `torn` tells what cannot be one."""

    def __init__(self, model: Model, sites: Iterable[Site], parameters: Mapping[Site, Parameters]) -> None:
        self.nodes = [node for node in model.graph.nodes if not node.domain]
        self.torn: list[str] = []
        self._groups: dict[Site, Group] = {}
        self._at_edge: dict[Edge, Site] = {}
        self._whole: dict[str, Site] = {}
        self._on_tensor: dict[str, Site] = {}
        shared: dict[Any, Group] = {}
        for site in sites:
            if site in parameters and _has_position(site, parameters[site]):
                position = _position(parameters[site])
                key = (site.source, site.format, position) if site.on_activation else site
                group = shared.setdefault(key, Group(site, position))
                self._place(site, group)
        for node in self.nodes:
            self._align(node)

    def at_input(self, node: gs.Node, index: int) -> Group | None:
        """Returns the group at an input of a node, or None."""
        return self._group(self._site_at(node, index))

    def at_inputs(self, node: gs.Node) -> list[Group]:
        """Returns the groups at the inputs of a node; nothing where one has no position."""
        found = [self.at_input(node, index) for index in range(len(node.inputs))]
        groups = [group for group in found if group is not None]
        return groups if len(groups) == len(found) else []

    def behind(self, node: gs.Node) -> Group | None:
        """Returns the group on what a node gives, behind the bias and the activation that follow; or None."""
        return self._group(self._site_behind(node))

    def bias(self, node: gs.Node) -> Group | None:
        """Returns the group of a weighted operator's bias: its third input, or what an Add after it adds; or None."""
        if node.op != "MatMul":
            return self.at_input(node, 2)
        reader = _only_reader(node.outputs[0])
        return self._group(self._bias_of(reader)) if reader is not None else None

    def changes(self) -> Iterator[Change]:
        """Yields what has moved, each tensor once."""
        seen: set[str] = set()
        for site, group in self._groups.items():
            before = group.befores[site]
            if before != group.position and site.tensor not in seen:
                seen.add(site.tensor)
                yield Change(site.tensor, before, group.position, ", ".join(dict.fromkeys(group.rules)))

    def parameters(self, parameters: Mapping[Site, Parameters]) -> dict[Site, Parameters]:
        """Returns the parameters with the scales of the positions that have changed."""
        moved = {site: g.position for site, g in self._groups.items() if g.befores[site] != g.position}
        return {site: _placed(each, moved[site]) if site in moved else each for site, each in parameters.items()}

    def _place(self, site: Site, group: Group) -> None:
        group.befores.setdefault(site, group.position)
        self._groups[site] = group
        self._at_edge.update((edge, site) for edge in site.edges)
        if site.on_activation:
            self._on_tensor.setdefault(site.tensor, site)
        if site.whole:
            self._whole.setdefault(site.tensor, site)

    def _align(self, node: gs.Node) -> None:
        """Joins the groups at both sides of a node that only picks or averages codes."""
        if node.op != "Concat" and node.op not in _ALIGNED:
            return
        count = len(node.inputs) if node.op == "Concat" else 1
        found = (self._site_behind(node), *(self._site_at(node, index) for index in range(count)))
        sites = [site for site in found if site is not None]
        for site in sites[1:]:
            group, other = self._groups[sites[0]], self._groups[site]
            if group.fixed and other.fixed and group.position != other.position:
                self.torn.append(f"{node.op} {node.name!r} joins tensors whose scales are fixed, and differ")
            elif group is not other:
                group.take(other)
                self._groups.update(dict.fromkeys(other.befores, group))

    def _group(self, site: Site | None) -> Group | None:
        return self._groups[site] if site is not None else None

    def _site_at(self, node: gs.Node, index: int) -> Site | None:
        if index >= len(node.inputs):
            return None
        return self._at_edge.get(Edge(node.name, index)) or self._whole.get(node.inputs[index].name)

    def _site_behind(self, node: gs.Node) -> Site | None:
        value = node.outputs[0]
        while value.name not in self._on_tensor:
            reader = _only_reader(value)
            if reader is None or not (reader.op in _FUSED or self._bias_of(reader) is not None):
                return None
            value = reader.outputs[0]
        return self._on_tensor[value.name]

    def _bias_of(self, add: gs.Node) -> Site | None:
        """The site of the bias that an Add adds."""
        sites = (self._at_edge.get(Edge(add.name, index)) for index in (0, 1)) if add.op == "Add" else ()
        return next((site for site in sites if site is not None and site.roles == (Role.BIAS,)), None)


def _only_reader(value: gs.Tensor) -> gs.Node | None:
    """The node of ONNX itself that alone reads a value."""
    reader = value.outputs[0] if len(value.outputs) == 1 else None
    return reader if reader is not None and not reader.domain else None


def _has_position(site: Site, parameters: Parameters) -> bool:
    """True for a scale that is one power of two of its own."""
    own = site.derived_from is None and site.format.scale_type is ScaleType.POWER_OF_TWO
    return own and parameters.scale.ndim == 0


def _position(parameters: Parameters) -> int:
    return int(np.rint(-np.log2(parameters.scale.astype(np.float64))))


def _placed(parameters: Parameters, position: int) -> Parameters:
    scale = np.asarray(np.ldexp(1.0, -position), parameters.scale.dtype)
    return Parameters(scale, parameters.zero_point)
