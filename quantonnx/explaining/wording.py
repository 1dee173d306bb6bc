"""Sites, steps and decisions in words."""

from __future__ import annotations

from collections.abc import Iterable

from quantonnx.decisions import Decider, Decision
from quantonnx.plan import Step
from quantonnx.sites import Site
from quantonnx.target import Target


def group(step: Step) -> str:
    """Returns what a fusion is called."""
    return f"{step.pattern} at {step.output!r}"


def points(step: Step) -> str:
    """Returns the roles that a step declares."""
    return ", ".join(step.points) if step.points else "none"


def pairs_sentence(sites: Iterable[Site]) -> str:
    """Returns where pairs stand, and why."""
    return "; ".join(f"{_what(site)} on {site.tensor!r} ({site.reason})" for site in sites)


def decided_by(decision: Decision, target: Target) -> str:
    """Returns the rule that decided, by name where it has one."""
    if decision.decider is None:
        return ""
    if decision.decider is Decider.TARGET_RULE:
        return f"rule {decision.rule} of {target.name}"
    if decision.decider in (Decider.COST, Decider.GLUE):
        return f"{decision.decider.value} ({target.name})"
    if decision.decider is Decider.PLAN and decision.reason.startswith("overlaps"):
        return "the order of matches: an operator belongs to one, the longest first"
    return str(decision.decider.value)


def _what(site: Site) -> str:
    return "a pair stands" if site.on_activation else "integer codes stand"
