"""The order of groups: by what each alone does to the model's outputs, measured where that is affordable, or predicted.

A group's own error says little of its effect: behind one in front of a residual sum nothing of it may be left, another
is seen by all that comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from statistics import median

from quantonnx.evidence.findings import Errors, GroupEvidence

MOST_SAMPLES = 8
"""Samples on which effects are measured, where nobody asks for more: on 8, the worst five are those of 64."""

_FEWEST_SAMPLES = 2
_MOST_MACS = 3e11
_MOST_NODES = 30_000
"""Multiply-accumulates, and nodes that ONNX Runtime loads: about ten seconds of one core each."""


def affordable(groups: Sequence[GroupEvidence], nodes: int) -> tuple[int, int]:
    """Returns of how many groups, and on how many samples, the effect on the outputs can be measured in a short time.

    `nodes` are those of the float model. Behind a group stands half of the model, in the mean.
    """
    macs = sum(group.macs for group in groups) / 2
    by_load = _MOST_NODES / max(nodes / 2, 1)
    by_runs = _MOST_MACS / max(_FEWEST_SAMPLES * macs, 1)
    count = int(min(len(groups), by_load, by_runs))
    samples = int(_MOST_MACS / max(count * macs, 1))
    return count, min(max(samples, _FEWEST_SAMPLES), MOST_SAMPLES)


def suspects(groups: Iterable[GroupEvidence], outputs: Mapping[str, Errors]) -> list[str]:
    """Returns the tensors of groups in the order in which to look at them: in turns the worst by its own error, and by
    what that is expected to do to the outputs."""
    found = list(groups)
    own = sorted(found, key=lambda group: -group.isolated.relative)
    expected = sorted(found, key=lambda group: -_expected(group, outputs))
    return list(dict.fromkeys(group.tensor for group in chain.from_iterable(zip(own, expected, strict=True))))


def ranked(groups: Sequence[GroupEvidence], outputs: Mapping[str, Errors]) -> tuple[GroupEvidence, ...]:
    """Returns groups with their effects, and the shares of these in the sum of all, the largest first.

    Where an effect was not measured it is predicted, in proportion to those that were.
    """
    guesses = [_expected(group, outputs) for group in groups]
    measured = [None if group.at_output is None else group.at_output.relative for group in groups]
    ratios = [known / guess for known, guess in zip(measured, guesses, strict=True) if known and 0 < guess < math.inf]
    usual = median(ratios) if ratios else 1.0
    effects = [usual * guess if known is None else known for known, guess in zip(measured, guesses, strict=True)]
    total = sum(effect for effect in effects if math.isfinite(effect))
    found = [
        replace(group, effect=effect, share=min(effect / total, 1.0) if total else 0.0)
        for group, effect in zip(groups, effects, strict=True)
    ]
    return tuple(sorted(found, key=lambda group: (-group.effect, -group.isolated.relative)))


def told(groups: Sequence[GroupEvidence], outputs: Mapping[str, Errors], samples: int) -> str:
    """Returns in words what groups are ranked by; `samples` are those that effects were measured on."""
    measured = sum(group.at_output is not None for group in groups)
    if measured == len(groups):
        return f"what each alone does to the outputs, on {samples} samples"
    if measured:
        return f"what each alone does to the outputs: {measured} measured on {samples} samples, the others predicted"
    if outputs:
        return "what each alone is expected to do to the outputs, from its own error and how errors grow behind it"
    return "the error of each alone"


def _expected(group: GroupEvidence, outputs: Mapping[str, Errors]) -> float:
    """The noise at the outputs that a group's own error is expected to make, over their signal.

    From there to the outputs, the noise of the quantized model grows by what is passed on and by what is added on the
    way. Half of that growth, in decibels, is taken for what is passed on.
    """
    here = group.accumulated.relative
    there = max((errors.relative for errors in outputs.values()), default=0.0)
    known = 0 < here < math.inf and 0 < there < math.inf
    return group.isolated.relative * (math.sqrt(there / here) if known else 1.0)
