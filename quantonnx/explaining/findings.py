"""What an explanation consists of."""

from __future__ import annotations

from dataclasses import dataclass

from quantonnx.decisions import Decision
from quantonnx.failures import FailureKind
from quantonnx.plan import Step
from quantonnx.sites import Site


@dataclass(frozen=True)
class Attempt:
    """A pattern that could have held at a node, and why it does not, or why another was taken.

    `matched` is how many operators had fitted; `holds` that all of them do, so that only the order decided.
    """

    pattern: str
    node: str
    reason: str
    matched: int = 0
    holds: bool = False
    kind: FailureKind = FailureKind.NOTHING


@dataclass(frozen=True)
class Verdict:
    """The answer in one sentence, the rule that decided, and what would change it."""

    answer: str
    rule: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """All that is known about one node or tensor.

    `answer` is one sentence, `rule` what decided, `changes` what would change it, `notes` what else to know.
    `claims` are the steps of the plan that hold it, applied or not; `attempts` the patterns that almost did; `sites`
    the pairs at it; `decisions` the reasons for staying in float.
    """

    name: str
    kind: str
    answer: str
    rule: str = ""
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    claims: tuple[Step, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    sites: tuple[Site, ...] = ()
    decisions: tuple[Decision, ...] = ()
