"""Whether anybody's Q/DQ file suits a target: every finding has a severity, a place, a reason and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from quantonnx.bodies import open_bodies
from quantonnx.insertion import integer_operators
from quantonnx.linting import numbers, placement, structure, weights
from quantonnx.linting.findings import ORDER, Finding, Severity
from quantonnx.linting.profiles import Profile
from quantonnx.linting.view import View
from quantonnx.model import Model
from quantonnx.rewriting import Source
from quantonnx.target import Target, get_target

__all__ = ["RULES", "Finding", "Severity", "lint"]

Rule = Callable[[View], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    structure.any_pair,
    structure.orphans,
    structure.repetitions,
    structure.operators,
    structure.signs,
    numbers.scales,
    numbers.counts,
    numbers.zero_points,
    numbers.types,
    numbers.runs_as_float,
    numbers.opset,
    numbers.sides,
    weights.axes,
    weights.granularity,
    weights.formats,
    weights.one_sided,
    weights.biases,
    weights.codes,
    placement.inside_groups,
    placement.dropped_rectifiers,
    placement.open_outputs,
    placement.ranges,
    placement.same_scales,
    placement.useless,
)


def lint(source: Source, target: str | Path | Target) -> list[Finding]:
    """Returns what is wrong with a quantized model on a target, the worst first, then in the order of the rules.

    Raises ModelError for a file that cannot be read, TargetError for an unknown target.
    """
    model = source if isinstance(source, Model) else Model.read(source)  # nothing here changes it
    profile = Profile(get_target(target))
    views = [View(part, profile) for part in _quantized(model)] or [View(model, profile)]
    found = list(dict.fromkeys(finding for view in views for rule in RULES for finding in rule(view)))
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))


def _quantized(model: Model) -> Iterator[Model]:
    """The graph and the bodies in it, each where there are pairs in it."""
    if integer_operators(model):
        yield model
    for body in open_bodies(model):
        if body.model is not None:
            yield from _quantized(body.model)
