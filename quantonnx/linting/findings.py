"""What is wrong with a quantized file, for one target: findings with a place, a reason and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"  # refused by the target, or wrong numbers
    WARNING = "warning"  # slower or less accurate than it could be
    INFO = "info"  # worth knowing


ORDER = tuple(Severity)


@dataclass(frozen=True)
class Finding:
    """One finding: `rule` is its kind, `place` the node or tensor of the file."""

    severity: Severity
    rule: str
    place: str
    reason: str
    remedy: str


def error(rule: str, place: str, reason: str, remedy: str) -> Finding:
    """Returns a finding that the target refuses, or that gives wrong numbers."""
    return Finding(Severity.ERROR, rule, place, reason, remedy)


def warning(rule: str, place: str, reason: str, remedy: str) -> Finding:
    """Returns a finding that costs time or accuracy."""
    return Finding(Severity.WARNING, rule, place, reason, remedy)


def info(rule: str, place: str, reason: str, remedy: str) -> Finding:
    """Returns a finding that is worth knowing."""
    return Finding(Severity.INFO, rule, place, reason, remedy)
