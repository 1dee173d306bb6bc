"""What a match asks for: a site for each value at a declared point, in the format that target and user agree on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import onnx_graphsurgeon as gs

from quantonnx.config import NameRules, QuantConfig, TensorQuantConfig
from quantonnx.decisions import Decider, Decision
from quantonnx.errors import PatternError
from quantonnx.formats import TensorFormat
from quantonnx.pattern import Edge, Pattern, Point, Role
from quantonnx.plan import Step
from quantonnx.sites import Site
from quantonnx.target import BiasKind, Target


def claims_of(
    found: Iterable[tuple[Step, Pattern]], target: Target, config: QuantConfig, decisions: list[Decision]
) -> list[Site]:
    """Returns the sites that matches ask for, one for each value and role, minus what the user skips."""
    stub, weight = NameRules(config.skip.stub, "skip.stub"), NameRules(config.skip.weight, "skip.weight")
    claims: list[Site] = []
    for step, match in found:
        names = names_in(match)
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
        return adjusted(point.format or target.activation, config.activation)
    fmt = adjusted(point.format or target.weight, config.weight)
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


def adjusted(fmt: TensorFormat, asked: TensorQuantConfig) -> TensorFormat:
    """Returns a format of the target as a user changes it."""
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


def names_of(node: gs.Node) -> list[str]:
    """Returns the names by which a user can call a node."""
    return [node.name, node.op, *(output.name for output in node.outputs)]


def names_in(match: Pattern) -> list[str]:
    """Returns the names by which a user can call a match."""
    return [name for node in match.nodes for name in names_of(node)]


def without_narrow_biases(sites: Iterable[Site], decisions: list[Decision]) -> Iterator[Site]:
    """The scale of an int32 bias is a product of two scales, which float16 rounds to a few digits or to zero."""
    for site in sites:
        if site.roles == (Role.BIAS,) and site.float_type != "float32":
            reason = f"it stays in float: {site.float_type} cannot hold the scale of an int32 bias"
            decisions.append(Decision(site.tensor, reason, Decider.BIAS))
        else:
            yield site
