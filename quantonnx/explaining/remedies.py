"""What would change a decision, as things that a person can do."""

from __future__ import annotations

from collections.abc import Iterable

from quantonnx.decisions import Decider, Decision
from quantonnx.explaining.findings import Attempt
from quantonnx.failures import FailureKind
from quantonnx.plan import Step
from quantonnx.target import Target

_OWN_TARGET = "a target file: `target = dataclasses.replace(get_target({name!r}), {change})`"


def to_float(name: str, steps: Iterable[Step]) -> tuple[str, ...]:
    """Returns how something that is quantized can be left in float."""
    switched = (f"`apply: false` at output: {step.output} in a plan" for step in steps if step.apply)
    return (f"leave it in float: --exclude {name!r}", *switched)


def after(decision: Decision, target: Target, steps: Iterable[Step]) -> tuple[str, ...]:
    """Returns what would undo a decision."""
    step = next((step for step in steps if step.output == decision.name), None)
    pattern = step.pattern if step else "the pattern"
    return {
        Decider.EXCLUDE: (f"take the entry out of `exclude` (--exclude): {decision.reason}",),
        Decider.SKIP: ("take the entry out of `skip` in the configuration",),
        Decider.PLAN: _about_plan(decision),
        Decider.FIT: ("leave the match around it out of the plan, so that this one is not cut",),
        Decider.NO_POINTS: (
            f"a target file whose {pattern} has points: {pattern}.with_points(…=INPUT, …)",
            f"a target file without {pattern}, so that its operators are matched on their own",
        ),
        Decider.TARGET_RULE: (_OWN_TARGET.format(name=target.name, change=f"rules=…, without {decision.rule}"),),
        Decider.TYPE: ("convert the model to float32 before",),
        Decider.CONSTANT: ("nothing: what a constant gives can be computed once, before export",),
        Decider.GLUE: (
            "quantize what gives that input: explain it in turn",
            _OWN_TARGET.format(name=target.name, change=f"glue=…, without {pattern}"),
        ),
        Decider.COST: (
            "nothing for speed: integers would be slower by the estimate, which depends on the input's size",
            _OWN_TARGET.format(name=target.name, change="costs=None"),
        ),
        Decider.RANGES: ("scale the branches alike in the model, or concatenate them outside",),
        Decider.BODY: ("move the operators out of the body: export with the condition or trip count fixed",),
        None: (),
    }[decision.decider]


def _about_plan(decision: Decision) -> tuple[str, ...]:
    if decision.reason.startswith("overlaps"):
        return ("`apply: false` at the match that it overlaps, and `apply: true` here, in a plan",)
    return (f"`apply: true` at output: {decision.name} in the plan",)


def after_attempt(attempt: Attempt) -> tuple[str, ...]:
    """Returns what would make a pattern hold that almost does."""
    told = {
        FailureKind.CONSTANT: "make it a constant: fold what computes it before export",
        FailureKind.LEAK: "let nothing outside read that value: take the other reader or the graph output away",
        FailureKind.OPERATOR: "a pattern of your own that takes this operator there (--patterns FILE.py)",
        FailureKind.ATTRIBUTE: "another value of that attribute, or a pattern of your own (--patterns FILE.py)",
        FailureKind.CHECK: "change what that check names in the model",
        FailureKind.OTHER: "a pattern of your own (--patterns FILE.py)",
    }.get(attempt.kind)
    return (f"for {attempt.pattern}: {told}",) if told else ()


def own_pattern(operator: str) -> tuple[str, ...]:
    """Returns what to do about an operator that no pattern is about."""
    return (f"if your compiler has an integer kernel for {operator}: a pattern of your own (--patterns FILE.py)",)
