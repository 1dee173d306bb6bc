"""Why a pair stands on a tensor, or does not."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.explaining import remedies
from quantonnx.explaining.attempts import elsewhere
from quantonnx.explaining.findings import Explanation, Verdict
from quantonnx.explaining.view import View
from quantonnx.explaining.wording import decided_by, group, pairs_sentence, points
from quantonnx.pattern import Role
from quantonnx.plan import Step
from quantonnx.sites import Site
from quantonnx.target import BiasKind


def explain(view: View, tensor: gs.Tensor) -> Explanation:
    """Returns all that is known about a tensor of the file."""
    name = tensor.name
    around = {node.name for node in (*tensor.inputs, *tensor.outputs)}
    claims = tuple(step for step in view.steps if step.output == name or not around.isdisjoint(step.nodes))
    decisions = view.decisions({name, *around, *(step.output for step in claims)})
    if isinstance(tensor, gs.Constant):
        sites = tuple(dict.fromkeys(view.by_edge[edge] for _, edge in view.readers(tensor) if edge in view.by_edge))
        verdict = _constant(view, tensor, claims, sites)
    else:
        sites = tuple(site for site in view.sites if name in (site.tensor, site.source) and site.on_activation)
        verdict = _activation(view, tensor, claims, sites)
    kind = _kind(view, tensor)
    return Explanation(name, kind, verdict.answer, verdict.rule, verdict.changes, (), claims, (), sites, decisions)


def _kind(view: View, tensor: gs.Tensor) -> str:
    if isinstance(tensor, gs.Constant):
        return "constant"
    if not tensor.inputs:
        return "input of the graph"
    return "output of the graph" if tensor.name in view.outputs else "tensor"


# ------------------------------------------------------------------------------------------------ constants


def _constant(view: View, tensor: gs.Constant, claims: tuple[Step, ...], sites: tuple[Site, ...]) -> Verdict:
    name = tensor.name
    if sites:
        roles = ", ".join(dict.fromkeys(role.name for site in sites for role in site.roles))
        renamed = [site.tensor for site in sites if site.tensor != name]
        as_ = f" (folded into {renamed[0]!r})" if renamed else ""
        answer = f"integer codes stand for {name!r}{as_}: {sites[0].reason}"
        return Verdict(answer, f"the point {roles} of {sites[0].pattern}", (f"--exclude {sites[0].owner!r}",))
    gone = next((node for node, _ in view.readers(tensor) if node.name not in view.fused_nodes), None)
    fusions = view.fusions(claims)
    if gone is not None:
        into = group(fusions[-1]) if fusions else "its neighbours"
        return Verdict(f"{name!r} is folded: {gone.op} {gone.name!r}, which reads it, went into {into}", "a rewrite")
    for step in fusions:
        if (held := _held(view, tensor, step)) is not None:
            return held
    decided = view.decisions({step.output for step in claims})
    if decided:
        changes = remedies.after(decided[0], view.target, claims)
        return Verdict(f"{name!r} stays in float: {decided[0].reason}", decided_by(decided[0], view.target), changes)
    readers = ", ".join(f"{node.op} {node.name!r}" for node, _ in view.readers(tensor)) or "nothing"
    answer = f"{name!r} stays in float: it is read by {readers}, at no declared WEIGHT or BIAS"
    return Verdict(answer, f"the patterns of {view.target.name}")


def _held(view: View, tensor: gs.Constant, step: Step) -> Verdict | None:
    """The bias of a quantized operator, which most targets keep in float."""
    inside = [edge for node, edge in view.readers(tensor) if node.name in step.nodes]
    pattern = view.target.names.get(step.pattern)
    if not inside or pattern is None or not view.sites_of(step) or tensor.dtype != np.float32:
        return None
    if view.target.bias is BiasKind.FLOAT and all(edge.index == 2 for edge in inside):
        answer = f"{tensor.name!r} stays in float: {view.target.name} takes the bias of {group(step)} in float"
        return Verdict(answer, f"`bias` of {view.target.name}", ("another target: one with an int32 bias",))
    answer = f"{tensor.name!r} stays in float: it is at no declared point of {group(step)} ({points(step)})"
    return Verdict(answer, f"the points of {step.pattern}")


# ------------------------------------------------------------------------------------------------ activations


def _activation(view: View, tensor: gs.Tensor, claims: tuple[Step, ...], sites: tuple[Site, ...]) -> Verdict:
    here = [site for site in sites if site.tensor == tensor.name]
    if here:
        roles = ", ".join(dict.fromkeys(role.name for site in here for role in site.roles))
        answer = f"{pairs_sentence(here)}{_read_in_float(view, tensor, here)}"
        patterns = ", ".join(dict.fromkeys(site.pattern for site in here))
        changes = tuple(f"--exclude {site.owner!r} leaves {site.pattern} there in float" for site in here)
        return Verdict(answer, f"the point {roles} of {patterns}", changes)
    verdict = _without_pair(view, tensor, claims, sites)
    return Verdict(f"no pair stands on {tensor.name!r}{verdict.answer}", verdict.rule, verdict.changes)


def _read_in_float(view: View, tensor: gs.Tensor, here: list[Site]) -> str:
    if any(site.whole for site in here):
        return ""
    taken = {edge for site in here for edge in site.edges}
    others = [f"{node.op} {node.name!r}" for node, edge in view.readers(tensor) if edge not in taken]
    others += ["the output of the graph"] if tensor.name in view.outputs else []
    others += ["a control-flow body"] if tensor.name in view.original.captured else []
    return f"; read in float by {', '.join(others)}" if others else ""


def _without_pair(view: View, tensor: gs.Tensor, claims: tuple[Step, ...], sites: tuple[Site, ...]) -> Verdict:
    name, target = tensor.name, view.target.name
    if tensor.dtype is not None and np.dtype(tensor.dtype).kind != "f":
        return Verdict(f": it holds {np.dtype(tensor.dtype)}, not real numbers", "only real numbers are quantized")
    if sites:
        moved = sites[0]
        answer = f"; {moved.tensor!r} has one with its range ({moved.reason})"
        return Verdict(answer, f"`same_scale` of {target}")
    if (before := _before(view, tensor)) is not None:
        answer = f": only data moves on the way, the pair on {before.tensor!r} before serves it too ({before.reason})"
        return Verdict(answer, f"`transparent` of {target}")
    fusions = view.fusions(claims)
    inside = next((step for step in fusions if _is_inside(tensor, step)), None)
    if inside is not None:
        answer = f": it is inside {group(inside)}, which runs as one kernel"
        change = f"`apply: false` at output: {inside.output} in a plan keeps the operators apart, in float"
        return Verdict(answer, f"the pattern {inside.pattern}: no point inside", (change,))
    if name not in view.fused_tensors:
        return Verdict(": after fusion the model has no such value", "conversions and rewrites, exact in float")
    return _at_no_point(view, tensor, claims, fusions)


def _at_no_point(view: View, tensor: gs.Tensor, claims: tuple[Step, ...], fusions: list[Step]) -> Verdict:
    around = {node.name: node for node in (*tensor.inputs, *tensor.outputs) if node.name in view.fused_nodes}
    decided = view.decisions({tensor.name, *around, *(step.output for step in claims)})
    if decided:
        changes = remedies.after(decided[0], view.target, claims)
        return Verdict(f": {decided[0].reason}", decided_by(decided[0], view.target), changes)
    others = (e for n in around for e in elsewhere(view.matcher, view.target, view.fused_nodes[n], tensor.name))
    changes = tuple(dict.fromkeys(others))
    if fusions:
        shown = ", ".join(f"{group(step)} (its points: {points(step)})" for step in fusions)
        roles = " or ".join(role.name for role in _wanted(tensor, fusions))
        own = (f"a target file whose pattern declares {roles} there",)
        return Verdict(f": it is at no declared point of {shown}", "the declared points", (*changes, *own))
    answer = f": no pattern of {view.target.name} holds at what gives or reads it"
    return Verdict(answer, "the patterns of the target", changes or ("explain the nodes around it: --node",))


def _wanted(tensor: gs.Tensor, fusions: list[Step]) -> list[Role]:
    given = any(step.output == tensor.name for step in fusions)
    read = any(node.name in step.nodes for node in tensor.outputs for step in fusions)
    return [role for role, fits in ((Role.OUTPUT, given), (Role.INPUT, read)) if fits] or [Role.INPUT]


def _before(view: View, tensor: gs.Tensor) -> Site | None:
    """The pair before the operators that only move data, on the way to this tensor."""
    node = tensor.inputs[0] if tensor.inputs else None
    while node is not None and view.passes_codes(node) and node.inputs:
        for index, value in enumerate(node.inputs[:1]):
            found = next((s for s in view.sites if s.tensor == value.name and _serves(s, node.name, index)), None)
            if found is not None:
                return found
        node = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    return None


def _serves(site: Site, node: str, index: int) -> bool:
    return any(edge.node == node and edge.index == index for edge in site.edges)


def _is_inside(tensor: gs.Tensor, step: Step) -> bool:
    givers = {node.name for node in tensor.inputs}
    readers = {node.name for node in tensor.outputs}
    return bool(givers) and bool(readers) and givers | readers <= set(step.nodes)
