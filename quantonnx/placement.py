"""Points into sites: where Q/DQ pairs stand, in which format, and why.

One pure function of (model, matches, target, configuration). Its steps, in order: collect what the applied matches
claim, minus what the user excluded and what the target's rules refuse; keep glue operators only inside a quantized
region, and no operator that the target runs faster in float; move claims through operators that only move data; give
joined branches one scale; share one pair per tensor and format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx_graphsurgeon as gs

from quantonnx.claims import adjusted, claims_of, names_in, names_of, without_narrow_biases
from quantonnx.config import NameRules, QuantConfig
from quantonnx.decisions import Decider, Decision, is_memory_bound, refusal
from quantonnx.element_types import ElementTypes
from quantonnx.errors import ConfigError, TargetError
from quantonnx.islands import slower_in_integers
from quantonnx.model import Model
from quantonnx.pattern import Pattern, Role
from quantonnx.plan import Step, near
from quantonnx.rewriting import Matches
from quantonnx.sites import Site, moves, shared, through_same_scale, through_transparent, typed, under_one_scale
from quantonnx.target import Target


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
    types = ElementTypes(model)
    taken = list(_wanted(resolved, target, config, released, types, decisions))
    inside = list(_inside_region(taken, target, config, decisions))
    if not config.keep_slow:
        inside = _worth_their_conversions(model, inside, target, decisions)
    claims = claims_of(inside, target, config, decisions)
    producers = {out.name: node for node in model.graph.nodes for out in node.outputs if out.name and node.inputs}
    moved = through_same_scale(through_transparent(claims, model, target, producers), target, producers)
    joined = under_one_scale(moved, target, producers)
    sites = tuple(without_narrow_biases(typed(shared(joined), model, types), decisions))
    _check_fixed(config, sites)
    return Placement(sites, (*decisions, *_left_alone(model, matches, resolved)))


def _check_names(model: Model, matches: Matches, config: QuantConfig) -> None:
    known = [name for node in model.graph.nodes for name in names_of(node)]
    known += [name for step in matches for name in step.nodes]  # a folded node can still be excluded by its name
    for where, names in (
        ("exclude", config.exclude),
        ("skip.stub", config.skip.stub),
        ("skip.weight", config.skip.weight),
    ):
        NameRules(names, where).check(known)


def _check_formats(target: Target, config: QuantConfig) -> None:
    for name, fmt in (("activation", target.activation), ("weight", target.weight)):
        reason = target.refuses(adjusted(fmt, getattr(config, name)))
        if reason:
            raise TargetError(f"{target.name} refuses the {name} format that was asked for: {reason}", "change it")
    bits = adjusted(target.activation, config.activation).n_bits
    if bits not in (8, 16):  # QuantizeLinear saturates where its integer type ends
        raise ConfigError(f"an activation of {bits} bits would saturate at {8 if bits < 8 else 16} bits", "use 8 or 16")


def _wanted(
    found: Iterable[tuple[Step, Pattern]],
    target: Target,
    config: QuantConfig,
    released: Mapping[str, Decision],
    types: ElementTypes,
    decisions: list[Decision],
) -> Iterator[tuple[Step, Pattern]]:
    excluded = NameRules(config.exclude, "exclude")
    for step, match in found:
        rule = excluded.first([*step.nodes, *names_in(match)])
        decided = Decision(step.output, f"excluded by {rule!r}", Decider.EXCLUDE) if rule else None
        decided = decided or released.get(step.output) or refusal(step, match, target, types)
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
        if stub.first(names_in(match)) is None:
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
