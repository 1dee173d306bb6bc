"""Straight chains: boxes that only feed each other, and the stand-ins of one wire, share one vertical line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from quantonnx.drawing.layering import Layers, Link

_PASSES = 2


def straighten(found: Layers, middles: list[float], widths: Sequence[float], space: float) -> None:
    """Moves each chain onto one line where its neighbours leave room for that; nothing else moves."""
    left, right = _neighbours(found)
    chains = list(_chains(found))
    for _ in range(_PASSES):
        for chain in chains:
            low, high = float("-inf"), float("inf")
            for item, shift in chain:
                if (other := left.get(item)) is not None:
                    low = max(low, middles[other] + (widths[other] + widths[item]) / 2 + space - shift)
                if (other := right.get(item)) is not None:
                    high = min(high, middles[other] - (widths[other] + widths[item]) / 2 - space - shift)
            if low <= high:
                mean = sum(middles[item] - shift for item, shift in chain) / len(chain)
                for item, shift in chain:
                    middles[item] = min(max(mean, low), high) + shift


def _neighbours(found: Layers) -> tuple[dict[int, int], dict[int, int]]:
    left = {second: first for row in found.rows for first, second in pairwise(row)}
    return left, {first: second for second, first in left.items()}


def _chains(found: Layers) -> Iterator[list[tuple[int, float]]]:
    """Yields the boxes and stand-ins of each chain, each with its distance from the line of the first."""
    following = {link.upper.box: link for link in found.links if _is_inner(found, link)}
    continued = {link.lower.box for link in following.values()}
    for start in following:
        if start not in continued:
            chain, item, shift = [(start, 0.0)], start, 0.0
            while (link := following.get(item)) is not None:
                shift += (link.upper.offset or 0.0) - (link.lower.offset or 0.0)
                item = link.lower.box
                chain.append((item, shift))
            yield chain


def _is_inner(found: Layers, link: Link) -> bool:
    upper, lower = link.upper.box, link.lower.box
    if upper >= found.boxes or lower >= found.boxes:
        return upper >= found.boxes and lower >= found.boxes
    return len(found.below[upper]) == 1 == len(found.above[lower])
