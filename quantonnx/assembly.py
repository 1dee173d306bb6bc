"""The Q/DQ model itself: the opset that its formats need, operators that are dynamic, then pairs and codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from quantonnx.dynamic import NEEDED_OPSET, insert_dynamic
from quantonnx.formats import Parameters
from quantonnx.insertion import insert_pairs, needed_opset
from quantonnx.model import Model
from quantonnx.pattern import Edge
from quantonnx.sites import Site


def assembled(
    model: Model,
    sites: tuple[Site, ...],
    parameters: Mapping[Site, Parameters],
    *,
    float_weights: bool = False,
    contrib: bool = False,
    opset: int = 0,
) -> Model:
    """Returns the quantized model of a fused float one, at `opset` where its formats need no newer one.

    `float_weights` and `contrib` are those of `insert_pairs`.
    """
    dynamic = [site for site in sites if site.ranging.dynamic]
    static = tuple(site for site in sites if not site.ranging.dynamic)
    made = model.with_opset(max(opset, opset_for(sites, contrib=contrib)))
    weights = [site for site in static if site.is_weight]
    replaced = insert_dynamic(made, dynamic, weights, parameters) if dynamic else frozenset()
    left = dict(_left(static, replaced))
    numbers = {site: parameters[known] for known, site in left.items()}
    insert_pairs(made, tuple(numbers), numbers, float_weights=float_weights, contrib=contrib)
    return made


def opset_for(sites: Iterable[Site], *, contrib: bool = False) -> int:
    """Returns the lowest opset that has the formats of all sites, and dynamic operators where there are any."""
    sites = tuple(sites)
    static = tuple(site for site in sites if not site.ranging.dynamic)
    return max(needed_opset(static, contrib=contrib), NEEDED_OPSET if len(static) < len(sites) else 0)


def _left(sites: Iterable[Site], replaced: frozenset[Edge]) -> Iterator[tuple[Site, Site]]:
    """Each site with what is left of it: operators that compute on codes already read no pair."""
    for site in sites:
        edges = tuple(edge for edge in site.edges if edge not in replaced)
        if len(edges) == len(site.edges):
            yield site, site
        elif edges:
            yield site, replace(site, edges=edges)
