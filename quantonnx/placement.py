"""Points into sites: where Q/DQ pairs stand, in which format, and why.

One pure function of (model, matches, target, configuration). Its steps, in order: collect what the applied matches
claim, as the configuration changes it, minus what the user excluded and what the target's rules refuse; keep glue
operators only inside a quantized region, and no operator that the target runs faster in float; add what rules demand
beyond patterns; move claims through operators that only move data; give joined branches one scale; share one pair per
tensor and format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import onnx_graphsurgeon as gs

from quantonnx.claims import Asked, Asker, with_numbers_of_origins, without_narrow_biases
from quantonnx.config import QuantConfig
from quantonnx.decisions import Decider, Decision, is_memory_bound, refusal
from quantonnx.demands import demanded
from quantonnx.element_types import ElementTypes
from quantonnx.islands import slower_in_integers
from quantonnx.model import Model
from quantonnx.pattern import Pattern, Role
from quantonnx.plan import Step
from quantonnx.repointing import with_points
from quantonnx.resolution import Resolver
from quantonnx.rewriting import Matches
from quantonnx.rule_checks import check_formats, check_rules, check_tensors
from quantonnx.sites import (
    Site,
    moves,
    shared,
    through_same_scale,
    through_transparent,
    typed,
    under_demands,
    under_one_scale,
    with_ranging_of_source,
)
from quantonnx.slots import names_in, rules_of
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
    target = with_points(matches.target, config.patterns)
    matches = replace(matches, target=target)
    check_rules(model, matches, config)
    decisions: list[Decision] = []
    resolver = Resolver(model, config)
    resolved = list(matches.resolve(model))
    types = ElementTypes(model)
    asker = Asker(target, resolver, config.skip, decisions)
    taken = [asker.ask(*entry) for entry in _wanted(resolved, target, config, released, types, decisions)]
    inside = list(_inside_region(taken, target, decisions))
    if not config.keep_slow:
        inside = _worth_their_conversions(model, inside, target, decisions)
    claims = [claim for asked in inside for claim in asked.claims]
    if resolver.speaks_of_operators:
        claims += demanded(model, asker, inside, resolved, types)
        claims = list(under_demands(claims))
    check_formats(model, target, claims)
    producers = {out.name: node for node in model.graph.nodes for out in node.outputs if out.name and node.inputs}
    moved = through_same_scale(through_transparent(claims, model, target, producers), target, producers)
    joined = with_numbers_of_origins(with_ranging_of_source(under_one_scale(moved, target, producers)))
    sites = tuple(without_narrow_biases(typed(shared(joined), model, types), decisions))
    check_tensors(config, sites, matches.elsewhere)
    return Placement(sites, (*decisions, *_left_alone(model, matches, resolved)))


def _wanted(
    found: Iterable[tuple[Step, Pattern]],
    target: Target,
    config: QuantConfig,
    released: Mapping[str, Decision],
    types: ElementTypes,
    decisions: list[Decision],
) -> Iterator[tuple[Step, Pattern]]:
    excluded = rules_of(config.exclude, "exclude")
    for step, match in found:
        rule = excluded.first([*step.nodes, *names_in(match)])
        decided = Decision(step.output, f"excluded by {rule!r}", Decider.EXCLUDE) if rule else None
        decided = decided or released.get(step.output) or refusal(step, match, target, types)
        if decided is None:
            yield step, match
        else:
            decisions.append(decided)


def _inside_region(found: Sequence[Asked], target: Target, decisions: list[Decision]) -> Iterator[Asked]:
    """Glue costs two conversions where a neighbour is float, so it is kept only where all its inputs are quantized."""
    quantized: set[str] = set()
    passing = target.same_scale | target.transparent
    for asked in found:
        step, match = asked.step, asked.match
        if asked.whole and (step.pattern in target.glue or is_memory_bound(match, target)):
            inputs = [
                v for point in match.qdq_points if point.role is Role.INPUT for v in match.values(point.declaration)
            ]
            floating = next((v.name for v in inputs if _origin(v, passing) not in quantized), None)
            if floating is not None:
                reason = f"its input {floating!r} is not quantized, so integer codes gain nothing"
                decisions.append(Decision(step.output, reason, Decider.GLUE))
                continue
        quantized.update(claim.tensor for claim in asked.claims if claim.on_activation)
        yield asked


def _worth_their_conversions(
    model: Model, found: list[Asked], target: Target, decisions: list[Decision]
) -> list[Asked]:
    """Only what runs in integers of 8 bits is weighed: for all else, the user knows why it is wanted."""
    weighed = [position for position, asked in enumerate(found) if asked.whole and _has_costs(asked)]
    slower = slower_in_integers(model, [found[position].match for position in weighed], target)
    left = {weighed[index]: reason for index, reason in slower.items()}
    decisions += [Decision(found[position].step.output, reason, Decider.COST) for position, reason in left.items()]
    return [asked for position, asked in enumerate(found) if position not in left]


def _has_costs(asked: Asked) -> bool:
    sites = [claim for claim in asked.claims if claim.on_activation or claim.is_weight]
    plain = all(claim.format.n_bits <= 8 and not claim.format.float8 for claim in sites)
    return plain and not any(claim.ranging.dynamic or claim.format.group_size for claim in sites)


def _origin(value: gs.Tensor, passing: frozenset[str]) -> str:
    while value.inputs and moves(value.inputs[0], passing) and value.inputs[0].inputs:
        value = value.inputs[0].inputs[0]
    return str(value.name)


def _left_alone(model: Model, matches: Matches, resolved: Sequence[tuple[Step, Pattern]]) -> Iterator[Decision]:
    found = {id(step) for step, _ in resolved}
    for step in matches:
        if not step.apply:
            yield Decision(step.output, step.reason or "switched off in the plan", Decider.PLAN)
        elif id(step) not in found:
            yield Decision(step.output, f"{step.pattern} no longer holds in the fused model", Decider.FIT)
    for name, reason in model.left_in_float.items():
        yield Decision(name, reason, Decider.BODY)
