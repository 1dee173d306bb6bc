"""What was done, as plain data: the machine-readable result that the command line writes and reports are made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from quantonnx.calibration.methods import Method, RangeMethod
from quantonnx.decisions import Decision
from quantonnx.explaining.findings import Explanation
from quantonnx.explaining.wording import decided_by
from quantonnx.formats import Parameters, ScaleType, TensorFormat
from quantonnx.plan import Plan, Step
from quantonnx.quantized import QuantizedModel
from quantonnx.sites import Site, moves
from quantonnx.speed import Speed
from quantonnx.tallying import Comparison

_PARTICULAR = re.compile(r"'[^']*'|\d+(×\d+)+")
_MOST_CHANNELS = 1


@dataclass(frozen=True)
class PatternCount:
    """How often a pattern was applied, and how many pairs it brought (a shared one counts where it came first)."""

    pattern: str
    applied: int
    activations: int
    weights: int


@dataclass(frozen=True)
class ReasonGroup:
    """A reason for staying in float, without names, and what it holds for."""

    reason: str
    names: tuple[str, ...]


def pairs(quantized: QuantizedModel) -> dict[str, int]:
    """Returns the number of pairs on activations, and of quantized weights, those in bodies included."""
    return {
        "activation": sum(len(part.activation_sites) for part in quantized.parts),
        "weight": sum(len(part.weight_sites) for part in quantized.parts),
    }


def matches(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Returns the steps of a plan."""
    return [
        {"pattern": step.pattern, "output": step.output, "applied": step.apply, "reason": step.reason} for step in steps
    ]


def sites(quantized: QuantizedModel) -> list[dict[str, Any]]:
    """Returns where pairs stand, with their numbers once there are any."""
    return [described(part, site) for part in quantized.parts for site in part.sites]


def excluded(quantized: QuantizedModel) -> list[dict[str, str]]:
    """Returns what stays in float, and why: decisions of the placement, then operators that no pattern took."""
    return [{"name": decision.name, "reason": decision.reason} for decision in left_in_float(quantized)]


def left_in_float(quantized: QuantizedModel) -> list[Decision]:
    """Returns why each operator or value that is not quantized is not."""
    found: list[Decision] = []
    for part in quantized.parts:
        found += [decision for decision in part.decisions if not decision.of_algorithm]
        found += _unclaimed(part)
    return found


def told_by_algorithms(quantized: QuantizedModel) -> list[Decision]:
    """Returns what the steps of the recipe and the calibration tell."""
    return [decision for part in quantized.parts for decision in part.decisions if decision.of_algorithm]


def pattern_counts(quantized: QuantizedModel) -> list[PatternCount]:
    """Returns the applied patterns that have pairs, the most frequent first."""
    applied: dict[str, set[str]] = {}
    found: dict[str, list[int]] = {}
    for site in (site for part in quantized.parts for site in part.sites):
        applied.setdefault(site.pattern, set()).add(site.owner)
        counts = found.setdefault(site.pattern, [0, 0])
        counts[0] += site.on_activation
        counts[1] += site.is_weight
    rows = [PatternCount(pattern, len(owners), *found[pattern]) for pattern, owners in applied.items()]
    return sorted(rows, key=lambda row: -row.applied)


def grouped(decisions: Iterable[Decision]) -> list[ReasonGroup]:
    """Returns decisions by their reason, names and shapes in it left aside, the largest group first."""
    groups: dict[str, list[str]] = {}
    for decision in decisions:
        groups.setdefault(_PARTICULAR.sub("…", decision.reason), []).append(decision.name)
    rows = [ReasonGroup(reason, tuple(names)) for reason, names in groups.items()]
    return sorted(rows, key=lambda row: -len(row.names))


def explanation(found: Explanation, quantized: QuantizedModel) -> dict[str, Any]:
    """Returns an explanation, enums by their value."""
    return {
        "name": found.name,
        "kind": found.kind,
        "answer": found.answer,
        "decided_by": found.rule,
        "changes": list(found.changes),
        "notes": list(found.notes),
        "claims": [asdict(step) for step in found.claims],
        "attempts": [asdict(attempt) | {"kind": attempt.kind.value} for attempt in found.attempts],
        "sites": [described(quantized, site) for site in found.sites],
        "decisions": [
            {
                "name": decision.name,
                "reason": decision.reason,
                "decided_by": decided_by(decision, quantized.matches.target),
            }
            for decision in found.decisions
        ],
    }


def metrics(comparison: Comparison) -> dict[str, Any]:
    """Returns the figures of a comparison: of the worst output, and per output."""
    return {
        "sqnr_db": comparison.sqnr_db,
        "cosine": comparison.cosine,
        "agreement": comparison.agreement,
        "float_accuracy": comparison.float_accuracy,
        "accuracy": comparison.accuracy,
        "samples": comparison.samples,
        "outputs": {name: asdict(output) for name, output in comparison.outputs.items()},
    }


def speed(measured: Speed) -> dict[str, Any]:
    """Returns the times of both models; `ratio` is the quantized model's share of the float model's time."""
    return asdict(measured)


def plan(content: Plan) -> dict[str, Any]:
    """Returns the conversions and fusions of a plan."""
    found: dict[str, Any] = {"conversions": matches(content.conversions), "matches": matches(content.fusions)}
    bodies = {name: plan(body) for name, body in content.bodies.items()}
    return found | {"bodies": bodies} if bodies else found


def site_format(site: Site) -> str:
    """Returns the format of a site in a few words; a derived bias is int32 whatever its placeholder says."""
    return "int32" if site.derived_from is not None else format_name(site.format)


def ranging_text(site: Site, chosen: RangeMethod | None = None) -> str:
    """Returns in a few words where the numbers of a site come from; `chosen` is the method that `auto` came to."""
    ranging = site.ranging
    if site.derived_from is not None:
        return "product of two scales"
    if ranging.dynamic:
        return "found at run time"
    if ranging.scale is not None:
        return f"scale {ranging.scale}, zero point {ranging.zero_point or 0}"
    if ranging.range is not None:
        return f"{ranging.range[0]:g} to {ranging.range[1]:g}"
    if not site.on_activation:
        return "its values" if ranging.method.kind is Method.MINMAX else f"its values, {ranging.method}"
    if site.source != site.tensor:
        return f"that of {site.source!r}"
    return str(ranging.method) if chosen is None or ranging.method.kind is not Method.AUTO else f"{chosen}, by auto"


def deciding_rule(site: Site) -> str:
    """Returns the settings that had a say about a site, the last word first; the target where there are none."""
    return ", ".join(reversed(site.rules)) or "the target"


def format_name(fmt: TensorFormat) -> str:
    """Returns a format in a few words, such as `int8 symmetric per channel`."""
    kind = "float8e4m3fn" if fmt.float8 else f"{'int' if fmt.signed else 'uint'}{fmt.n_bits}"
    by_channel = fmt.axis is not None and fmt.group_size is None
    words = (
        kind,
        "symmetric" if fmt.symmetric and not fmt.float8 else "",
        "per channel" if by_channel else "",
        f"in groups of {fmt.group_size}" if fmt.group_size else "",
        "powers of two" if fmt.scale_type is ScaleType.POWER_OF_TWO else "",
    )
    return " ".join(word for word in words if word)


def described(quantized: QuantizedModel, site: Site) -> dict[str, Any]:
    """Returns one site, with its numbers once there are any."""
    found = {
        "tensor": site.tensor,
        "roles": [role.name for role in site.roles],
        "format": site_format(site),
        "pattern": site.pattern,
        "owner": site.owner,
        "edges": [[edge.node, edge.index] for edge in site.edges],
        "reason": site.reason,
        "range": ranging_text(site, quantized.method),
        "rules": list(site.rules),
    }
    numbers = (quantized.parameters or {}).get(site)
    return found if numbers is None else found | _numbers(numbers)


def _numbers(numbers: Parameters) -> dict[str, Any]:
    if numbers.scale.size > _MOST_CHANNELS:
        low, high = float(numbers.scale.min()), float(numbers.scale.max())
        return {"channels": int(numbers.scale.size), "scale_range": [low, high]}
    return {"scale": float(numbers.scale.reshape(-1)[0]), "zero_point": int(numbers.zero_point.reshape(-1)[0])}


def _unclaimed(quantized: QuantizedModel) -> Iterator[Decision]:
    """Operators that no step of the plan holds: no pattern of the target is about them."""
    target = quantized.matches.target
    known = {node.name for _, found in quantized.matches.resolve(quantized.model) for node in found.nodes}
    known |= {name for step in quantized.matches for name in step.nodes}
    known |= _passing(quantized) | set(quantized.model.left_in_float)
    for node in quantized.model.graph.nodes:
        if node.name not in known:
            float_only = node.op in target.float_only and not node.domain
            lacking = f"{target.name} has no integer kernel for {node.op}"
            yield Decision(node.name, lacking if float_only else f"no pattern of {target.name} holds at this {node.op}")


def _passing(quantized: QuantizedModel) -> set[str]:
    """Operators that only move data and have a pair at one side: they move codes, so nothing of them is in float."""
    target = quantized.matches.target
    read = {edge.node for site in quantized.sites for edge in site.edges}
    given = {site.tensor for site in quantized.sites}
    return {
        node.name
        for node in quantized.model.graph.nodes
        if moves(node, target.transparent | target.same_scale)
        and (node.name in read or any(output.name in given for output in node.outputs))
    }
