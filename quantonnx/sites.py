"""Sites: where pairs stand, as data; and how claims on one tensor become one of them.

A claim is a site that one match asks for. Claims move through operators that only move data, take over the scale of a
value whose codes are copied, and are merged per tensor and format.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import onnx_graphsurgeon as gs

from quantonnx.element_types import ElementTypes, type_name
from quantonnx.errors import ConfigError
from quantonnx.formats import TensorFormat
from quantonnx.model import Model
from quantonnx.pattern import Edge, Role
from quantonnx.plan import near
from quantonnx.ranging import BY_METHOD, Ranging
from quantonnx.target import Target


class Derivation(NamedTuple):
    """The two sites whose scales make that of a bias, by tensor, format and way to their numbers."""

    activation: str
    activation_format: TensorFormat
    weight: str
    weight_format: TensorFormat
    activation_ranging: Ranging = BY_METHOD
    weight_ranging: Ranging = BY_METHOD


@dataclass(frozen=True)
class Site:
    """One pair, or one quantized constant.

    `edges` are the node inputs that read it; with `whole`, every reader does, the graph's output included.
    `source` is the tensor whose range it takes, `ranging` how that is found; a bias may take the product of the scales
    of `derived_from`. `owner` is the value that the first claiming match gives. `rules` are the settings that had a
    say, the last of them the last word; with `demanded`, one was about this very operator or tensor. `float_type` is
    the element type of the tensor, which its scale has too, as numpy names it; `channel_axis` that of a weight's output
    channels.
    """

    tensor: str
    roles: tuple[Role, ...]
    format: TensorFormat
    edges: tuple[Edge, ...]
    pattern: str
    owner: str
    source: str = ""
    whole: bool = False
    derived_from: Derivation | None = None
    reason: str = ""
    float_type: str = "float32"
    ranging: Ranging = BY_METHOD
    rules: tuple[str, ...] = ()
    demanded: bool = False
    channel_axis: int | None = None

    @property
    def on_activation(self) -> bool:
        """True where calibration gives the numbers."""
        return self.roles[0].on_activation

    @property
    def is_weight(self) -> bool:
        """True for a quantized weight."""
        return Role.WEIGHT in self.roles


def moves(node: gs.Node, operators: Collection[str]) -> bool:
    """True for a node whose operator, of ONNX itself, is one of `operators`."""
    return not node.domain and node.op in operators


def through_transparent(
    claims: list[Site], model: Model, target: Target, producers: dict[str, gs.Node]
) -> Iterator[Site]:
    """A pair before operators that only move data serves the operator after them too; a bias follows its input."""
    claimed = {claim.tensor for claim in claims if claim.on_activation}
    demanded = {claim.tensor: claim for claim in claims if claim.on_activation and claim.demanded}
    public = {output.name for output in model.graph.outputs} | model.captured
    readers: dict[str, set[Edge]] = {}
    for claim in claims:
        if claim.roles == (Role.INPUT,):
            readers.setdefault(claim.tensor, set()).update(claim.edges)
    ways = {name: _way_back(name, len(edges), target, producers, public) for name, edges in readers.items()}
    moved = {name: move for name, way in ways.items() if (move := next((m for m in way if m[0] in claimed), None))}
    for claim in claims:
        if claim.roles == (Role.INPUT,) and claim.tensor in moved:
            before, edge = moved[claim.tensor]
            reason = f"{claim.reason}, before {producers[claim.tensor].op}"
            claim = _told_as(demanded[before], claim) if before in demanded and not claim.demanded else claim
            yield replace(claim, tensor=before, source=before, edges=(edge,), reason=reason)
        elif claim.derived_from is not None and claim.derived_from.activation in moved:
            activation = moved[claim.derived_from.activation][0]
            yield replace(claim, derived_from=claim.derived_from._replace(activation=activation))
        else:
            yield claim


def _way_back(
    name: str, read_by: int, target: Target, producers: dict[str, gs.Node], public: Collection[str]
) -> Iterator[tuple[str, Edge]]:
    while (node := producers.get(name)) is not None and moves(node, target.transparent):
        if name in public or len(node.outputs[0].outputs) != read_by:
            return
        name, read_by = node.inputs[0].name, 1
        yield name, Edge(node.name, 0)


def through_same_scale(claims: Iterable[Site], target: Target, producers: dict[str, gs.Node]) -> Iterator[Site]:
    """An operator that copies codes is an integer one when the pairs on both sides share one scale."""
    claims = list(claims)
    claimed = {claim.tensor for claim in claims if claim.on_activation}
    closed = {claim.tensor for claim in claims if claim.whole}
    for claim in claims:
        chain = _copied_from(claim.tensor, target, producers, claimed) if claim.on_activation else []
        if not chain:
            yield claim
            continue
        source = chain[-1].inputs[0].name
        reason = f"{claim.reason}, same scale as {source!r}"
        yield replace(claim, source=source, reason=reason)
        for node in chain if source not in closed else chain[:-1]:
            between, edges = node.inputs[0].name, (Edge(node.name, 0),)
            yield replace(
                claim, tensor=between, roles=(Role.INPUT,), source=source, edges=edges, whole=False, reason=reason
            )


def _copied_from(name: str, target: Target, producers: dict[str, gs.Node], claimed: Collection[str]) -> list[gs.Node]:
    """The operators that copy codes on the way back from a value to the farthest claimed one, nearest first."""
    chain: list[gs.Node] = []
    reach = 0
    while (node := producers.get(name)) is not None and moves(node, target.same_scale):
        chain.append(node)
        name = node.inputs[0].name
        reach = len(chain) if name in claimed else reach
    return chain[:reach]


def under_one_scale(claims: Iterable[Site], target: Target, producers: dict[str, gs.Node]) -> Iterator[Site]:
    """Branches that are joined into a claimed value get pairs with its scale, whoever else reads them too."""
    claims = list(claims)
    joins = {
        claim.tensor: claim for claim in claims if claim.on_activation and _is_join(claim.tensor, target, producers)
    }
    sources = _sources(joins, target, producers)
    for claim in claims:
        source = sources.get(claim.tensor) if claim.on_activation else None
        yield replace(claim, source=source) if source is not None else claim
    for name in sources:
        node = producers.get(name)
        if node is None or not moves(node, target.one_scale):
            continue
        wide, reason = sources[name], f"branch of {node.op} {node.name!r}: one scale for all"
        for index, branch in enumerate(node.inputs):
            if branch.name in sources:
                edges, roles = (Edge(node.name, index),), (Role.INPUT,)
                asked = replace(joins[wide], tensor=branch.name, edges=edges, roles=roles, whole=False)
                yield replace(asked, source=wide, reason=reason)


def _is_join(name: str, target: Target, producers: dict[str, gs.Node]) -> bool:
    node = producers.get(name)
    return node is not None and moves(node, target.one_scale)


def _sources(joins: Mapping[str, Site], target: Target, producers: dict[str, gs.Node]) -> dict[str, str]:
    """The joined value that gives each branch its scale: the outermost; a branch of two of them is left alone, and so
    is all that hangs together with it."""
    found: dict[str, set[str]] = {}
    for name in joins:
        pending, seen = [name], {name}
        while pending:
            joined = pending.pop()
            found.setdefault(joined, set()).add(name)
            if _is_join(joined, target, producers):
                inner = [b.name for b in producers[joined].inputs if not isinstance(b, gs.Constant)]
                pending += [branch for branch in inner if branch not in seen]
                seen.update(inner)
    outermost = {name for name in joins if found[name] == {name}}
    tops = {name: wider & outermost for name, wider in found.items()}
    torn = {top for wider in tops.values() if len(wider) > 1 for top in wider}
    return {name: top for name, wider in tops.items() if wider.isdisjoint(torn) for top in wider}


def under_demands(claims: Iterable[Site]) -> Iterator[Site]:
    """What a rule says about the output of an operator holds for its readers too, unless one says more about them."""
    claims = list(claims)
    given = {claim.tensor: claim for claim in claims if claim.whole and claim.demanded}
    for claim in claims:
        giver = given.get(claim.tensor) if claim.on_activation and not claim.demanded else None
        yield claim if giver is None else _told_as(giver, claim)


def _told_as(told: Site, claim: Site) -> Site:
    """A claim with what was told about another one."""
    return replace(claim, format=told.format, ranging=told.ranging, rules=told.rules)


def with_ranging_of_source(claims: Iterable[Site]) -> Iterator[Site]:
    """A pair that takes the scale of another tensor finds it as that one does.

    Raises ConfigError where `share_with` names a tensor without a pair of its own.
    """
    claims = list(claims)
    leaders = {claim.tensor: claim for claim in claims if claim.on_activation and claim.source == claim.tensor}
    for claim in claims:
        if claim.on_activation and claim.ranging.share_with:
            claim = replace(claim, source=_shared_source(claim, leaders))
        leader = leaders.get(claim.source) if claim.on_activation and claim.source != claim.tensor else None
        if leader is not None and leader.demanded and not claim.demanded:
            yield _told_as(leader, claim)
        else:
            yield claim if leader is None else replace(claim, ranging=leader.ranging)


def _shared_source(claim: Site, leaders: Mapping[str, Site]) -> str:
    wanted = str(claim.ranging.share_with)
    where = f"{claim.rules[-1]}: {claim.tensor!r} shares with {wanted!r}"
    if wanted not in leaders:
        raise ConfigError(f"{where}, on which no pair of its own stands", near(wanted, leaders))
    further = leaders[wanted].ranging.share_with
    if wanted == claim.tensor:
        raise ConfigError(f"{where} itself", "name another tensor, or leave it out")
    if further:
        hint = f"share with {further!r}" if further != claim.tensor else "let one of the two have numbers of its own"
        raise ConfigError(f"{where}, which shares with {further!r} itself", hint)
    return wanted


def shared(claims: Iterable[Site]) -> Iterator[Site]:
    """One pair per tensor, format and way to its numbers, with the roles and edges of all that claim it."""
    groups: dict[tuple[str, TensorFormat, Derivation | None, Ranging], list[Site]] = {}
    for claim in claims:
        groups.setdefault((claim.tensor, claim.format, claim.derived_from, claim.ranging), []).append(claim)
    for group in groups.values():
        yield _merged(group) if len(group) > 1 else group[0]


def _merged(group: list[Site]) -> Site:
    return replace(
        group[0],
        roles=tuple(dict.fromkeys(role for site in group for role in site.roles)),
        edges=tuple(dict.fromkeys(edge for site in group for edge in site.edges)),
        whole=any(site.whole for site in group),
        rules=tuple(dict.fromkeys(rule for site in group for rule in site.rules)),
        demanded=any(site.demanded for site in group),
        reason=_joined(dict.fromkeys(site.reason for site in group)),
    )


def readers_of_pairs(model: Model, sites: Iterable[Site], target: Target) -> set[str]:
    """Returns the names of nodes whose first input comes from a pair, through operators that only move data too."""
    passing = target.transparent | target.same_scale
    activations = [site for site in sites if site.on_activation]
    edges = {edge for site in activations for edge in site.edges}
    whole = {site.tensor for site in activations if site.whole}
    found: set[str] = set()
    for node in model.graph.nodes:  # a node comes after those that it reads
        value = node.inputs[0] if node.inputs else None
        before = value.inputs[0] if value is not None and value.inputs else None
        moved = before is not None and moves(before, passing) and before.name in found
        if value is not None and (moved or Edge(node.name, 0) in edges or value.name in whole):
            found.add(node.name)
    return found


def typed(sites: Iterable[Site], model: Model, types: ElementTypes) -> Iterator[Site]:
    """Each site learns the element type of its tensor; float32 where nothing tells it."""
    tensors = model.tensors()
    for site in sites:
        kind = types.of(tensors[site.tensor])
        name = site.float_type if kind is None else type_name(kind)
        yield site if name == site.float_type else replace(site, float_type=name)


def _joined(reasons: Iterable[str]) -> str:
    told = ""
    for reason in reasons:
        if reason not in told:
            told = f"{told}; {reason}" if told else reason
    return told
