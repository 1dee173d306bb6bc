"""Why an operator is an integer one, or not."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from quantonnx.decisions import Decision
from quantonnx.explaining import remedies
from quantonnx.explaining.attempts import attempts, elsewhere
from quantonnx.explaining.findings import Attempt, Explanation, Verdict
from quantonnx.explaining.view import View
from quantonnx.explaining.wording import decided_by, group, pairs_sentence, points
from quantonnx.plan import Step
from quantonnx.range_conflicts import WIDEST_RATIO
from quantonnx.sites import Site


def explain(view: View, node: gs.Node) -> Explanation:
    """Returns all that is known about a node of the file."""
    claims = view.steps_with({node.name})
    given = {output.name for output in node.outputs}
    sites = tuple(
        site
        for site in view.sites
        if any(edge.node == node.name for edge in site.edges) or (site.whole and site.tensor in given)
    )
    decisions = view.decisions({node.name, *(step.output for step in claims)})
    fused = view.fused_nodes.get(node.name)
    taken = {step.pattern for step in view.fusions(claims)}
    tried = attempts(view.matcher, view.target, fused, taken) if fused is not None else ()
    verdict = _verdict(view, node, claims, sites, decisions, tried)
    others: tuple[str, ...] = ()
    if fused is not None and not sites:
        others = tuple(elsewhere(view.matcher, view.target, fused))
    kind = f"{node.op} node"
    notes = tuple(_notes(node, sites))
    changes = (*verdict.changes, *others)
    return Explanation(node.name, kind, verdict.answer, verdict.rule, changes, notes, claims, tried, sites, decisions)


def _verdict(
    view: View,
    node: gs.Node,
    claims: tuple[Step, ...],
    sites: tuple[Site, ...],
    decisions: tuple[Decision, ...],
    tried: tuple[Attempt, ...],
) -> Verdict:
    who = f"{node.op} {node.name!r}"
    fusions = view.fusions(claims)
    applied = fusions[-1] if fusions else None
    if node.name not in view.fused_nodes:
        return _folded(view, who, node, claims, applied)
    if applied is None and view.passes_codes(node) and _has_codes(view, node, sites):
        return _moving(view, who, node)
    if sites:
        owner = f" as part of {group(applied)}" if applied else ""
        rule = f"the points of {applied.pattern}: {points(applied)}" if applied else "the pattern of its neighbour"
        answer = f"{who} is quantized{owner}: {pairs_sentence(sites)}"
        return Verdict(answer, rule, remedies.to_float(node.name, fusions))
    if decisions:
        changes = remedies.after(decisions[0], view.target, claims)
        return Verdict(f"{who} stays in float: {decisions[0].reason}", decided_by(decisions[0], view.target), changes)
    if applied:
        return _inside(view, who, applied)
    return _unclaimed(view, who, node, tried)


def _folded(view: View, who: str, node: gs.Node, claims: tuple[Step, ...], applied: Step | None) -> Verdict:
    """What became of a node that the fused model no longer has."""
    if applied is not None:
        kept = next((view.fused_nodes[name] for name in applied.nodes if name in view.fused_nodes), None)
        into = f"{kept.op} {kept.name!r} by {group(applied)}" if kept is not None else group(applied)
        change = f"`apply: false` at output: {applied.output} in a plan keeps it as it is, in float"
        return Verdict(f"{who} is folded into {into}: same results", f"the rewrite of {applied.pattern}", (change,))
    step = next((step for step in reversed(claims) if step.apply), None)
    if step is not None:
        change = f"`apply: false` at output: {step.output} in a plan keeps it"
        answer = f"{who} is folded into {_what_is_left(view, node)} by {step.pattern}: same results"
        return Verdict(answer, f"the conversion {step.pattern}: {first_line(view, step)}", (change,))
    return Verdict(f"{who} is left out: after fusion nothing needs its result", "only what an output needs is kept")


def first_line(view: View, step: Step) -> str:
    """Returns what a pattern's author says about it, without the full stop."""
    pattern = view.target.names.get(step.pattern)
    return ((pattern.__doc__ if pattern else "") or "").strip().split("\n")[0].rstrip(".")


def _what_is_left(view: View, node: gs.Node) -> str:
    readers = (reader for output in node.outputs for reader in output.outputs)
    kept = next((reader for reader in readers if reader.name in view.fused_nodes), None)
    if kept is not None:
        return f"what {kept.op} {kept.name!r} reads"
    reader = next((reader for output in node.outputs for reader in output.outputs), None)
    return f"{reader.op} {reader.name!r}, which is folded in turn" if reader is not None else "its neighbours"


def _has_codes(view: View, node: gs.Node, sites: tuple[Site, ...]) -> bool:
    return bool(sites) or any(site.tensor in {output.name for output in node.outputs} for site in view.sites)


def _moving(view: View, who: str, node: gs.Node) -> Verdict:
    if node.op in view.target.same_scale:
        answer = f"{who} moves integer codes: the pairs at its two sides have one scale"
        return Verdict(answer, f"`same_scale` of {view.target.name} lists {node.op}")
    answer = f"{who} moves integer codes: one pair before it serves what comes after it too"
    return Verdict(answer, f"`transparent` of {view.target.name} lists {node.op}")


def _inside(view: View, who: str, applied: Step) -> Verdict:
    around = view.sites_of(applied)
    where = f"pairs at {', '.join(repr(site.tensor) for site in around)}" if around else "no pair"
    answer = f"{who} is part of {group(applied)}, one kernel with {where} and none at this operator"
    rule = f"the points of {applied.pattern}: {points(applied)}"
    changes = (
        f"`apply: false` at output: {applied.output} in a plan leaves the whole group in float",
        f"a target file whose {applied.pattern} has a point there ({applied.pattern}.with_points(…))",
    )
    return Verdict(answer, rule, changes)


def _unclaimed(view: View, who: str, node: gs.Node, tried: tuple[Attempt, ...]) -> Verdict:
    name = view.target.name
    refused = [attempt for attempt in tried if not attempt.holds]
    if view.passes_codes(node):
        answer = f"{who} stays in float: it only moves data, and no pair stands on what it moves"
        return Verdict(answer, f"`same_scale` and `transparent` of {name}", ("quantize what reads its result",))
    if refused:
        nearest = refused[0]
        answer = f"{who} stays in float: {nearest.pattern} does not hold at {nearest.node!r}: {nearest.reason}"
        return Verdict(answer, f"no pattern of {name} holds here", remedies.after_attempt(nearest))
    if node.op in view.target.float_only:
        answer = f"{who} stays in float: {name} has no integer kernel for {node.op}"
        return Verdict(answer, f"`float_only` of {name} lists {node.op}")
    domain = f"{node.domain}." if node.domain else ""
    answer = f"{who} stays in float: {name} has no pattern about {domain}{node.op}"
    return Verdict(answer, f"no pattern of {name} names the operator", remedies.own_pattern(f"{domain}{node.op}"))


def _notes(node: gs.Node, sites: tuple[Site, ...]) -> Iterator[str]:
    if node.op == "Concat" and any(site.whole for site in sites):
        yield (
            f"calibration can still leave it in float: where one branch spans {WIDEST_RATIO:.0f} times less than the "
            "whole, one scale does not fit them (known only from samples: see `excluded` of `quantize --json`)"
        )
