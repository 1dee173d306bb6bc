"""Points into sites: where Q/DQ pairs stand, in which format, and why.

One pure function of (model, matches, target, configuration). Its steps, in order: collect what the applied matches
claim, minus what the user excluded and what the target's rules refuse; keep glue operators only inside a quantized
region, and no operator that the target runs faster in float; move claims through operators that only move data; share one pair per tensor and format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import onnx_graphsurgeon as gs

from quantonnx.config import NameRules, QuantConfig, TensorQuantConfig
from quantonnx.decisions import Decider, Decision, is_memory_bound, refusal
from quantonnx.errors import ConfigError, PatternError, TargetError
from quantonnx.formats import TensorFormat
from quantonnx.islands import slower_in_integers
from quantonnx.model import Model
from quantonnx.pattern import Edge, Pattern, Point, Role
from quantonnx.plan import Step, near
from quantonnx.rewriting import Matches
from quantonnx.sites import Site, moves, shared, through_same_scale, through_transparent
from quantonnx.target import BiasKind, Target


@dataclass(frozen=True)
class Placement:
    """Where the pairs stand, and what was decided against."""

    sites: tuple[Site, ...]
    decisions: tuple[Decision, ...]


def place(
    model: Model, matches: Matches, config: QuantConfig, released: Mapping[str, Decision] = MappingProxyType({})
) -> Placement:
    """Returns the sites of a fused model. Raises ConfigError for a name that matches nothing.

    `released` are matches that stay in float, by the value that they give.
    """
    target = matches.target
    _check_names(model, matches, config)
    _check_formats(target, config)
    decisions: list[Decision] = []
    resolved = list(matches.resolve(model))
    taken = list(_wanted(resolved, target, config, released, decisions))
    inside = list(_inside_region(taken, target, config, decisions))
    claims = _claims(_worth_their_conversions(model, inside, target, decisions), target, config, decisions)
    producers = {out.name: node for node in model.graph.nodes for out in node.outputs if out.name and node.inputs}
    moved = through_same_scale(through_transparent(claims, model, target, producers), target, producers)
    sites = tuple(shared(moved))
    _check_fixed(config, sites)
    return Placement(sites, (*decisions, *_left_alone(model, matches, resolved)))


def _check_names(model: Model, matches: Matches, config: QuantConfig) -> None:
    known = [name for node in model.graph.nodes for name in _names(node)]
    known += [name for step in matches for name in step.nodes]  # a folded node can still be excluded by its name
    for where, names in (
        ("exclude", config.exclude),
        ("skip.stub", config.skip.stub),
        ("skip.weight", config.skip.weight),
    ):
        NameRules(names, where).check(known)


def _check_formats(target: Target, config: QuantConfig) -> None:
    for name, fmt in (("activation", target.activation), ("weight", target.weight)):
        reason = target.refuses(_adjusted(fmt, getattr(config, name)))
        if reason:
            raise TargetError(f"{target.name} refuses the {name} format that was asked for: {reason}", "change it")
    bits = _adjusted(target.activation, config.activation).n_bits
    if bits not in (8, 16):  # QuantizeLinear saturates where its integer type ends
        raise ConfigError(f"an activation of {bits} bits would saturate at {8 if bits < 8 else 16} bits", "use 8 or 16")


def _names(node: gs.Node) -> list[str]:
    return [node.name, node.op, *(output.name for output in node.outputs)]


def _names_in(match: Pattern) -> list[str]:
    return [name for node in match.nodes for name in _names(node)]


def _wanted(
    found: Iterable[tuple[Step, Pattern]],
    target: Target,
    config: QuantConfig,
    released: Mapping[str, Decision],
    decisions: list[Decision],
) -> Iterator[tuple[Step, Pattern]]:
    excluded = NameRules(config.exclude, "exclude")
    for step, match in found:
        rule = excluded.first([*step.nodes, *_names_in(match)])
        decided = Decision(step.output, f"excluded by {rule!r}", Decider.EXCLUDE) if rule else None
        decided = decided or released.get(step.output) or refusal(step, match, target)
        if decided is None:
            yield step, match
        else:
            decisions.append(decided)


def _inside_region(
    found: list[tuple[Step, Pattern]], target: Target, config: QuantConfig, decisions: list[Decision]
) -> Iterator[tuple[Step, Pattern]]:
    """Glue costs two conversions where a neighbour is float, so it is kept only where all its inputs are quantized."""
    quantized: set[str] = set()
    stub = NameRules(config.skip.stub, "skip.stub")
    passing = target.same_scale | target.transparent
    for step, match in found:
        if step.pattern in target.glue or is_memory_bound(match, target):
            inputs = [
                v for point in match.qdq_points if point.role is Role.INPUT for v in match.values(point.declaration)
            ]
            floating = next((v.name for v in inputs if _origin(v, passing) not in quantized), None)
            if floating is not None:
                reason = f"its input {floating!r} is not quantized, so integer codes gain nothing"
                decisions.append(Decision(step.output, reason, Decider.GLUE))
                continue
        if stub.first(_names_in(match)) is None:
            points = (point for point in match.qdq_points if point.role.on_activation)
            quantized.update(value.name for point in points for value in match.values(point.declaration))
        yield step, match


def _worth_their_conversions(
    model: Model, found: list[tuple[Step, Pattern]], target: Target, decisions: list[Decision]
) -> list[tuple[Step, Pattern]]:
    slower = slower_in_integers(model, [match for _, match in found], target)
    decisions += [Decision(found[position][0].output, reason, Decider.COST) for position, reason in slower.items()]
    return [entry for position, entry in enumerate(found) if position not in slower]


def _origin(value: gs.Tensor, passing: frozenset[str]) -> str:
    while value.inputs and moves(value.inputs[0], passing) and value.inputs[0].inputs:
        value = value.inputs[0].inputs[0]
    return str(value.name)


def _claims(
    found: Iterable[tuple[Step, Pattern]], target: Target, config: QuantConfig, decisions: list[Decision]
) -> list[Site]:
    stub, weight = NameRules(config.skip.stub, "skip.stub"), NameRules(config.skip.weight, "skip.weight")
    claims: list[Site] = []
    for step, match in found:
        names = _names_in(match)
        skips_activation, skips_weight = stub.first(names), weight.first(names)
        for point in match.qdq_points:
            skip = skips_activation if point.role.on_activation else skips_weight
            if skip:
                decisions.append(Decision(step.output, f"{point.role.value} skipped by {skip!r}", Decider.SKIP))
            elif point.role is not Role.BIAS:
                claims += _point_claims(point, step, match, target, config)
            elif target.bias is BiasKind.INT32 and not skips_activation:
                claims += _bias_claim(point, step, match, target, config)
    return claims


def _point_claims(point: Point, step: Step, match: Pattern, target: Target, config: QuantConfig) -> Iterator[Site]:
    edges = _edges_by_value(point, match)
    for value in {id(value): value for value in match.values(point.declaration)}.values():
        yield Site(
            tensor=value.name,
            roles=(point.role,),
            format=_format(point, match, target, config),
            edges=() if point.role is Role.OUTPUT else tuple(edges.get(id(value), ())),
            pattern=step.pattern,
            owner=step.output,
            source=value.name,
            whole=point.role is Role.OUTPUT,
            reason=f"{point.role.name} of {step.pattern}",
        )


def _edges_by_value(point: Point, match: Pattern) -> dict[int, list[Edge]]:
    nodes = {node.name: node for node in match.nodes}
    found: dict[int, list[Edge]] = {}
    for edge in match.edges(point.declaration):
        found.setdefault(id(nodes[edge.node].inputs[edge.index]), []).append(edge)
    return found


def _format(point: Point, match: Pattern, target: Target, config: QuantConfig) -> TensorFormat:
    if point.role is not Role.WEIGHT:
        return _adjusted(point.format or target.activation, config.activation)
    fmt = _adjusted(point.format or target.weight, config.weight)
    return replace(fmt, axis=_axis(point, match) if fmt.axis is not None else None)


def _axis(point: Point, match: Pattern) -> int | None:
    weight = next(iter(match.values(point.declaration)), None)
    if point.axis is None or weight is None:
        return None
    axis, rank = point.axis(match) if callable(point.axis) else point.axis, len(weight.shape)
    if axis is not None and not -rank <= axis < rank:
        raise PatternError(
            f"pattern {type(match).__name__} puts its WEIGHT on axis {axis}, but {weight.name!r} has {rank} axes",
            "give the axis of the output channels: 0 for Conv, 1 for MatMul",
        )
    return axis


def _adjusted(fmt: TensorFormat, asked: TensorQuantConfig) -> TensorFormat:
    given = {name: getattr(asked, name) for name in ("n_bits", "symmetric", "signed")}
    if asked.signed is False:
        fmt = replace(fmt, narrow_range=False)
    fmt = replace(fmt, **{name: value for name, value in given.items() if value is not None})
    if asked.symmetric and asked.signed is None:
        fmt = replace(fmt, signed=True)
    return replace(fmt, axis=None) if asked.per_channel is False else fmt


def _bias_claim(point: Point, step: Step, match: Pattern, target: Target, config: QuantConfig) -> Iterator[Site]:
    values = match.values(point.declaration)
    if not values:
        return
    _, activation = _only(Role.INPUT, match)
    weight_point, weight = _only(Role.WEIGHT, match)
    axis = _axis(weight_point, match)
    if axis is None or tuple(values[0].shape) != (weight.shape[axis],):
        return  # not one number for each output channel
    yield Site(
        tensor=values[0].name,
        roles=(Role.BIAS,),
        format=TensorFormat(n_bits=8, axis=0),
        edges=match.edges(point.declaration),
        pattern=step.pattern,
        owner=step.output,
        derived_from=(activation.name, weight.name, _format(weight_point, match, target, config).axis),
        reason=f"BIAS of {step.pattern}: int32, its scale is the product of the input's and the weight's",
    )


def _only(role: Role, match: Pattern) -> tuple[Point, gs.Tensor]:
    found = [(p, value) for p in match.qdq_points if p.role is role for value in match.values(p.declaration)]
    if len(found) != 1:
        raise PatternError(
            f"pattern {type(match).__name__} declares a BIAS with {len(found)} values as {role.name}",
            "its scale needs exactly one INPUT and one WEIGHT: correct or drop the BIAS",
        )
    return found[0]


def _check_fixed(config: QuantConfig, sites: Sequence[Site]) -> None:
    sources = {site.tensor: site.source for site in sites if site.on_activation}
    for name in config.fixed:
        if name not in sources:
            raise ConfigError(f"fixed: no pair stands on {name!r}", near(name, sources))
        if sources[name] != name:
            raise ConfigError(f"fixed: {name!r} takes its scale from {sources[name]!r}", "fix that one")


def _left_alone(model: Model, matches: Matches, resolved: Sequence[tuple[Step, Pattern]]) -> Iterator[Decision]:
    found = {id(step) for step, _ in resolved}
    for step in matches:
        if not step.apply:
            yield Decision(step.output, step.reason or "switched off in the plan", Decider.PLAN)
        elif id(step) not in found:
            yield Decision(step.output, f"{step.pattern} no longer holds in the fused model", Decider.FIT)
    for name, reason in model.left_in_float.items():
        yield Decision(name, reason, Decider.BODY)
