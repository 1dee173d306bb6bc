"""What can be given up, and in which order: groups by the output noise that they make, for the time that they cost.

Evidence says what each group does to the outputs, the target's cost model what it costs to have it in float: the
integer time that is lost, and the conversions around it where its neighbours stay in integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from quantonnx.costs import Cost, CostModel
from quantonnx.evidence import Evidence, GroupEvidence
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
            f"{alone}, {group.isolated.sqnr_db:.1f} dB by itself; costs {self.price:.0f} µs, as estimated"
        )
        return Change(group.name, reason, self.rules)


def ranked(quantized: QuantizedModel, evidence: Evidence) -> list[Candidate]:
    """Returns the groups of a calibrated model that can be given up, the most worthwhile first."""
    integer = {group.name for group in evidence.groups}
    found = [(s.output, match) for s, match in quantized.matches.resolve(quantized.model) if s.output in integer]
    target = quantized.matches.target
    prices = prices_of_float(quantized.model, [match for _, match in found], _costs(quantized, target), target)
    price_of = dict(zip((name for name, _ in found), prices, strict=True))
    groups = [group for group in evidence.groups if group.name in price_of]
    removed = _removed(groups, evidence)
    floored = _floored([_known(price_of[group.name], group) for group in groups])
    macs = max(sum(group.macs for group in evidence.groups), 1)
    candidates = [
        _cheapest(Candidate(group, removed[group.name], price, group.macs / macs), quantized, evidence)
        for group, price in zip(groups, floored, strict=True)
    ]
    return sorted(candidates, key=lambda candidate: (-candidate.worth, candidate.group.name))


def _removed(groups: Iterable[GroupEvidence], evidence: Evidence) -> dict[str, float]:
    """The share of each group in the noise at the outputs; where that was not measured, from its isolated error."""
    total = sum(errors.relative for errors in evidence.outputs.values() if math.isfinite(errors.relative))
    shares: dict[str, float] = {}
    for group in groups:
        if group.at_outputs and total > 0:
            found = sum(errors.relative for errors in group.at_outputs.values() if math.isfinite(errors.relative))
            shares[group.name] = min(found / total, 1.0)
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


def _cheapest(candidate: Candidate, quantized: QuantizedModel, evidence: Evidence) -> Candidate:
    """The candidate, or the one of 16 bits in its place, where the target has kernels for it and that is worth more."""
    rules = _wide_rules(candidate.group, quantized)
    if rules is None:
        return candidate
    own = [site for site in evidence.sites if site.tensor in candidate.group.sites]
    noise = sum(site.errors.relative for site in own)
    activations = sum(site.errors.relative for site in own if site.role not in ("weight", "bias"))
    share = activations / noise if noise else 0.0
    wide = Candidate(candidate.group, share * candidate.removed, _WIDE_PRICE * candidate.price, candidate.macs, rules)
    return wide if wide.worth > candidate.worth else candidate


def _wide_rules(group: GroupEvidence, quantized: QuantizedModel) -> dict[str, Any] | None:
    """What raises the activations of a group to 16 bits; None where an operator of it has no such kernel."""
    wide, nodes = {"n_bits": WIDE_BITS}, set(group.nodes)
    edges = [edge for site in quantized.activation_sites for edge in site.edges if edge.node in nodes]
    operators = {node.name: node for node in quantized.model.graph.nodes if node.name in nodes}
    told = set(quantized.config.op_names)
    if not edges or any(operators[edge.node].op not in quantized.matches.target.wide for edge in edges):
        return None
    rules: dict[str, Any] = {}
    for edge in sorted(edges, key=lambda edge: (edge.node, edge.index)):
        rules.setdefault(edge.node, {}).setdefault("inputs", {})[edge.index] = wide
    for site in quantized.activation_sites:
        giver = next((node for node in operators.values() if any(o.name == site.tensor for o in node.outputs)), None)
        if site.whole and giver is not None:
            rules.setdefault(giver.name, {})["outputs"] = {0: wide}
    return None if told & rules.keys() else rules
