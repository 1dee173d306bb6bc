"""What was decided against: why a match stays in float, and which rule says so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import onnx_graphsurgeon as gs

from quantonnx.element_types import ElementTypes, type_name
from quantonnx.errors import QuantonnxError, TargetError
from quantonnx.pattern import Pattern
from quantonnx.plan import Step
from quantonnx.target import Rule, Target


class Decider(Enum):
    """The rule that left something in float."""

    EXCLUDE = "the setting `exclude`"
    SKIP = "the setting `skip`"
    OFF = "the configuration"
    FUSED = "fusion: no pair stands inside what the compiler runs as one operator"
    PLAN = "the plan"
    FIT = "the model after fusion: every step is matched once more"
    NO_POINTS = "the pattern, which declares no points"
    TARGET_RULE = "a rule of the target"
    TYPE = "the element type, which the target does not make integers of"
    BIAS = "the scale: a bias in int32 needs scales of float32"
    CONSTANT = "calibration: a constant has no range that samples show"
    GLUE = "the target: operators without weights are integer only between integer ones"
    SMOOTH = "SmoothQuant: what stands between the norm and the operators that read it"
    AWQ = "AWQ: what gives the activation, and what else reads it"
    SCALE = "scaled inputs: outlier channels in front of linear layers"
    CODES = "the algorithm that chooses codes: these are the nearest ones"
    EQUALIZE = "equalization: what stands between two linear operators"
    ABSORB = "high-bias absorption: what stands between two linear operators"
    STATISTICS = "statistics or a loop in place of samples"
    SHIFTS = "the shifts that an XINT8 processor has"
    COST = "the target's cost model"
    RANGES = "the ranges that calibration saw"
    METHOD = "calibration: the method of least error at the outputs"
    BODY = "control flow: a body is quantized where it runs as a model of its own"


OF_ALGORITHMS = frozenset(
    {
        Decider.SMOOTH,
        Decider.AWQ,
        Decider.SCALE,
        Decider.CODES,
        Decider.EQUALIZE,
        Decider.ABSORB,
        Decider.STATISTICS,
        Decider.SHIFTS,
        Decider.METHOD,
    }
)
"""Those that tell what a step of the recipe or the calibration did; all others are about the placement."""


@dataclass(frozen=True)
class Decision:
    """Why something was left in float, or moved: the operator or tensor, the reason, and which rule says so.

    `rule` is the function where a target has several.
    """

    name: str
    reason: str
    decider: Decider | None = None
    rule: str = ""

    @property
    def of_algorithm(self) -> bool:
        """True for what a step of the recipe or the calibration tells, and not the placement."""
        return self.decider in OF_ALGORITHMS


def refusal(step: Step, match: Pattern, target: Target, types: ElementTypes) -> Decision | None:
    """Returns why a match can not be quantized on a target, whatever stands around it; None where it can."""
    for rule in target.rules:
        reason = asked(rule, match, target)
        if reason is not None:
            return Decision(step.output, reason, Decider.TARGET_RULE, rule_name(rule))
    if not match.qdq_points:
        reason = f"{step.pattern} declares no points: it stays in float on {target.name}"
        return Decision(step.output, reason, Decider.NO_POINTS)
    if (reason := _other_type(match, target, types)) is not None:
        return Decision(step.output, reason, Decider.TYPE)
    if (reason := _constant_activation(match)) is not None:
        return Decision(step.output, reason, Decider.CONSTANT)
    return None


def asked(rule: Rule, match: Pattern, target: Target) -> str | None:
    """Returns a rule's answer; TargetError names the rule where it fails, or answers with something else than text."""
    try:
        answer = rule(match)
    except QuantonnxError:
        raise
    except Exception as error:
        raise TargetError(
            f"{_called(rule, target)} fails at {type(match).__name__} {match.result.name!r}: "
            f"{type(error).__name__}: {error}",
            "a rule is asked about every pattern: test isinstance(found, …) first",
        ) from error
    if answer is None or (isinstance(answer, str) and answer):
        return answer
    raise TargetError(
        f"{_called(rule, target)} answers {answer!r}", "return the reason as text to leave the match in float, or None"
    )


def is_memory_bound(match: Pattern, target: Target) -> bool:
    """Returns what the target says; TargetError where its function fails."""
    try:
        return bool(target.memory_bound(match))
    except QuantonnxError:
        raise
    except Exception as error:
        raise TargetError(
            f"memory_bound of target {target.name} fails at {type(match).__name__} {match.result.name!r}: "
            f"{type(error).__name__}: {error}",
            "it is asked about every pattern: test isinstance(found, …) first",
        ) from error


def _called(rule: Rule, target: Target) -> str:
    return f"rule {rule_name(rule)} of target {target.name}"


def rule_name(rule: Rule) -> str:
    """Returns what a rule's author called it."""
    return str(getattr(rule, "__name__", type(rule).__name__))


def _other_type(match: Pattern, target: Target, types: ElementTypes) -> str | None:
    """On other types the target computes in float, with pairs slower than without; an unknown type passes."""
    for value in (value for point in match.qdq_points for value in match.values(point.declaration)):
        kind = types.of(value)
        if kind is not None and type_name(kind) not in target.float_types:
            taken = " and ".join(sorted(target.float_types))
            found = f"{value.name!r} is {kind.name}, and {target.name} makes integer operators of {taken} only"
            return f"{found}: convert the model to float32 first"
    return None


def _constant_activation(match: Pattern) -> str | None:
    """A pattern's `tensor()` may stand on a constant, whose range no sample shows."""
    values = (v for point in match.qdq_points if point.role.on_activation for v in match.values(point.declaration))
    constant = next((value for value in values if isinstance(value, gs.Constant)), None)
    return None if constant is None else f"{constant.name!r} is a constant: nothing to calibrate"
