"""Concatenations whose branches do not fit under one scale, found in the ranges that calibration saw.

A detector's head that puts boxes in pixels beside scores in 0..1 is the known case: under one scale every score
becomes 0. What the branches hold tells it, no name does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from quantonnx.pattern import Pattern, Role
from quantonnx.plan import Step
from quantonnx.sites import Site

WIDEST_RATIO = 16.0
"""How many times wider than its branch a concatenation may be: four of eight bits are lost then."""

Ranges = Mapping[str, tuple[float, float]]


def range_conflicts(found: Iterable[tuple[Step, Pattern]], sites: Iterable[Site], ranges: Ranges) -> dict[str, str]:
    """Returns the Concat operators that must stay in float, by the name of their output, with the reason.

    Only where nothing but the Concat wants codes of its result; a reader in integers would need that scale anyway.
    """
    closed = {site.tensor: site for site in sites if site.roles == (Role.OUTPUT,)}
    wide = ((match, closed.get(match.result.name)) for _, match in found if match.nodes[0].op == "Concat")
    return {
        match.result.name: reason
        for match, site in wide
        if site is not None and (reason := next(_conflicts(match, site, ranges), None))
    }


def _conflicts(match: Pattern, site: Site, ranges: Ranges) -> Iterator[str]:
    whole = _width(ranges, site.source)
    for branch in match.nodes[0].inputs:
        part = _width(ranges, branch.name)
        if part and whole / part > WIDEST_RATIO:
            yield (
                f"one scale for {whole:.4g} units would leave {branch.name!r}, which spans {part:.4g}, "
                f"{max(int(256 * part / whole), 1)} of 256 codes"
            )


def _width(ranges: Ranges, name: str) -> float:
    low, high = ranges.get(name, (0.0, 0.0))
    return max(high, 0.0) - min(low, 0.0)
