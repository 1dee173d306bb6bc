"""What can be given up, and in which order: groups by the output noise that they make, for the time that they cost.

Evidence says what each group does to the outputs, the target's cost model what it costs to have it in float: the
integer time that is lost, and the conversions around it where its neighbours stay in integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from quantonnx.costs import Cost, CostModel
from quantonnx.evidence import Errors, Evidence, GroupEvidence
from quantonnx.islands import prices_of_float
from quantonnx.quantized import QuantizedModel
from quantonnx.search.emitting import Change
from quantonnx.target import Target

WIDE_BITS = 16
_WIDE_PRICE = 1 / 3
"""Of the price of float: products of 16 bits take about twice the time of those of 8, float ones four times."""

_PER_MAC = 1e-5
"""Microseconds to a multiply-accumulate where shapes or costs are unknown: what float loses on a core of today."""

_LEAST_PRICE = 1e-3
"""Of the sum of all prices: what costs less counts as this."""

_KINDS = ("Conv", "depthwise", "grouped", "MatMul", "product")
_FLOAT, _INTEGER, _CONVERSION = Cost(500, 0.0115, 0.05), Cost(1000, 0.0027, 0.05), Cost(1500, 0, 0.1)


@dataclass(frozen=True)
class Candidate:
    """A group that may be given up: into float, or to activations of 16 bits where there are `rules` that say so.

    `removed` is the share of the output noise that goes with it, as far as one group says; `price` the microseconds
    that it adds, as estimated; `macs` its share of the model's multiply-accumulates.
    """

    group: GroupEvidence
    removed: float
    price: float
    macs: float
    rules: Mapping[str, Any] | None = None

    @property
    def worth(self) -> float:
        """The noise removed for the time that it costs."""
        return self.removed / self.price

    @property
    def change(self) -> Change:
        """What a configuration says to do it, and why."""
        group, at = self.group, self.group.at_output
        alone = f", {at.sqnr_db:.1f} dB at the outputs where only it is quantized" if at is not None else ""
        reason = (
            f"{group.pattern}, {self.macs:.1%} of the multiply-accumulates: {self.removed:.0%} of the output noise"
            f"{alone}, {group.isolated.sqnr_db:.1f} dB by itself; costs {self.price:.1f} µs, as estimated"
        )
        return Change(group.name, reason, self.rules)


def ranked(quantized: QuantizedModel, evidence: Evidence, wide: Evidence | None = None) -> list[Candidate]:
    """Returns the groups of a calibrated model that can be given up, the most worthwhile first.

    `wide` is the evidence of the model with all groups raised to 16 bits that `raised` names.
    """
    integer = {group.name for group in evidence.groups}
    found = [(s.output, match) for s, match in quantized.matches.resolve(quantized.model) if s.output in integer]
    target = quantized.matches.target
    prices = prices_of_float(quantized.model, [match for _, match in found], _costs(quantized, target), target)
    price_of = dict(zip((name for name, _ in found), prices, strict=True))
    groups = [group for group in evidence.groups if group.name in price_of]
    total = sum(_finite(errors) for errors in evidence.outputs.values())
    removed, rules = _removed(groups, total), raised(quantized) if wide is not None else {}
    left = {g.name: _at_outputs(g) / total for g in wide.groups if g.at_outputs and total} if wide is not None else {}
    floored = _floored([_known(price_of[group.name], group) for group in groups])
    macs = max(sum(group.macs for group in evidence.groups), 1)
    candidates = [
        _cheapest(
            Candidate(group, removed[group.name], price, group.macs / macs),
            rules[group.name].rules if group.name in rules else None,
            left,
        )
        for group, price in zip(groups, floored, strict=True)
    ]
    return sorted(candidates, key=lambda candidate: (-candidate.worth, candidate.group.name))


def _finite(errors: Errors) -> float:
    return errors.relative if math.isfinite(errors.relative) else 0.0


def _at_outputs(group: GroupEvidence) -> float:
    return sum(map(_finite, group.at_outputs.values()))


def _removed(groups: Iterable[GroupEvidence], total: float) -> dict[str, float]:
    """The share of each group in the noise at the outputs; where that was not measured, from its isolated error."""
    known = (group for group in groups if group.at_outputs and total > 0)
    shares = {group.name: min(_at_outputs(group) / total, 1.0) for group in known}
    ratios = [shares[g.name] / g.share for g in groups if g.name in shares and g.share > 0]
    usual = median(ratios) if ratios else 1.0
    return {group.name: shares.get(group.name, min(usual * group.share, 1.0)) for group in groups}


def _known(price: float, group: GroupEvidence) -> float:
    return price if math.isfinite(price) else 1 + _PER_MAC * group.macs


def _floored(prices: list[float]) -> list[float]:
    least = max(_LEAST_PRICE * sum(price for price in prices if price > 0), 1e-3)
    return [max(price, least) for price in prices]


def _costs(quantized: QuantizedModel, target: Target) -> CostModel:
    """The target's costs, or those of processors in general: right in proportion, which is all that an order needs."""
    if target.costs is not None:
        return target.costs
    kinds = {*_KINDS, *(node.op for node in quantized.model.graph.nodes)}
    conversions = dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _CONVERSION)
    return CostModel(dict.fromkeys(kinds, _FLOAT) | conversions, dict.fromkeys(kinds, _INTEGER))


def _cheapest(candidate: Candidate, rules: Mapping[str, Any] | None, left: Mapping[str, float]) -> Candidate:
    """The candidate, or the one of 16 bits in its place, where the target has kernels for it and that is worth more."""
    if rules is None:
        return candidate
    removed = max(candidate.removed - left.get(candidate.group.name, 0.0), 0.0)
    wide = replace(candidate, removed=removed, price=_WIDE_PRICE * candidate.price, rules=rules)
    return wide if wide.worth > candidate.worth else candidate


def raised(quantized: QuantizedModel) -> dict[str, Change]:
    """Returns what raises the activations of a group to 16 bits, by group, where the target has kernels for that."""
    if not quantized.matches.target.wide:
        return {}
    found = ((step.output, match) for step, match in quantized.matches.resolve(quantized.model))
    rules = ((name, _wide_rules({node.name for node in match.nodes}, quantized)) for name, match in found)
    return {name: Change(name, "", rule) for name, rule in rules if rule is not None}


def _wide_rules(nodes: set[str], quantized: QuantizedModel) -> dict[str, Any] | None:
    """What raises the activations of operators to 16 bits; None where one of them has no such kernel."""
    edges = [edge for site in quantized.activation_sites for edge in site.edges if edge.node in nodes]
    operators = {node.name: node for node in quantized.model.graph.nodes if node.name in nodes}
    if not edges or any(operators[edge.node].op not in quantized.matches.target.wide for edge in edges):
        return None
    rules: dict[str, Any] = {}
    for edge in sorted(edges, key=lambda edge: (edge.node, edge.index)):
        rules.setdefault(edge.node, {}).setdefault("inputs", {})[edge.index] = {"n_bits": WIDE_BITS}
    whole = {site.tensor for site in quantized.activation_sites if site.whole}
    for node in operators.values():
        if any(output.name in whole for output in node.outputs):
            rules.setdefault(node.name, {})["outputs"] = {0: {"n_bits": WIDE_BITS}}
    return None if set(quantized.config.op_names) & rules.keys() else rules
