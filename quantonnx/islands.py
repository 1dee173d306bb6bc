"""Islands: operators whose conversions cost more than integer arithmetic gains there stay in float.

Every match that could be an integer operator gains or loses time by it, and every value that passes between integers
and float costs a conversion. From all of them in integers, those are released, alone or a few neighbours at once, that
make the estimate shorter; then whole regions that do not pay. Linear in the graph but for a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from math import inf

from quantonnx.costs import CostModel
from quantonnx.model import Model
from quantonnx.pattern import Pattern
from quantonnx.target import Target
from quantonnx.units import Unit, UnitGraph, Value, around, distinct

SHORTEST_RUN = 50.0
"""Microseconds: in a model that runs shorter, operators do not decide its speed, and none is released."""

LEAST_SAVING, LEAST_SHARE = 2.0, 0.005
"""Microseconds, and of the run in float: what saves less than both is not within what estimates can tell."""

LEAST_OF_OWN = 0.05
"""Of the time in float of what is released: costs are known no better, and in integers all stays together."""

_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
_LARGEST_GROUP = 6
_CROWD = 16  # what has more neighbours does not hang on one of them, and looking at it for each would be quadratic


def slower_in_integers(model: Model, matches: Sequence[Pattern], target: Target) -> dict[int, str]:
    """Returns the positions in `matches` that stay in float because that is faster, with the reason.

    Nothing for a target without a cost model, and for matches whose shapes are unknown.
    """
    if target.costs is None or not matches:
        return {}
    islands = _Islands(UnitGraph(model, matches, target, target.costs), target.costs)
    if islands.float_time < SHORTEST_RUN:
        return {}
    return islands.released()


def prices_of_float(model: Model, matches: Sequence[Pattern], costs: CostModel, target: Target) -> list[float]:
    """Returns for each match the microseconds that it adds to put it into float while all others stay in integers.

    What stands between integer operators costs its conversions too. Infinite where shapes or costs are unknown.
    """
    islands = _Islands(UnitGraph(model, matches, target, costs), costs)
    return [islands.change([unit]) for unit in islands.units]


class _Islands:
    def __init__(self, graph: UnitGraph, costs: CostModel) -> None:
        self.costs = costs
        self.units = graph.units
        self.float_time = sum(unit.float_time for unit in self.units)
        self.least = -min(LEAST_SAVING, LEAST_SHARE * self.float_time)

    def released(self) -> dict[int, str]:
        """Returns the units that are better off in float."""
        reasons: dict[int, str] = {}
        self._release_singly(reasons)
        self._release_groups(reasons)
        self._release_singly(reasons)
        self._restore(reasons)
        self._release_regions(reasons)
        while self.costs.fills_gaps and self._fill_gaps(reasons):
            pass
        return {position: reasons[id(unit)] for position, unit in enumerate(self.units) if not unit.integer}

    def _conversions(self, value: Value) -> float:
        """The microseconds that a value costs in conversions as things stand.

        An integer operator writes codes at no cost where nobody reads anything else.
        """
        giver = value.giver if value.giver is not None and value.giver.integer else None
        only_codes = value.integer_readers == len(value.readers) and not value.read_in_float
        has_codes = giver is not None and (giver.closes or self.costs.fuses_conversions or only_codes)
        spent = 0.0
        if not has_codes and value.integer_readers:
            spent += self.costs.float_costs["QuantizeLinear"].time(0, 2 * value.elements)
        written = giver is not None and giver.closes and not self.costs.fuses_conversions
        if written and not only_codes:
            spent += self.costs.float_costs["DequantizeLinear"].time(0, 2 * value.elements)
        return spent

    def change(self, units: Sequence[Unit]) -> float:
        """The microseconds that it adds to put integer units into float; negative when that is faster."""
        values = distinct(value for unit in units for value in unit.values)
        before = sum(map(self._conversions, values))
        self._switch(units, integer=False)
        after = sum(map(self._conversions, values))
        self._switch(units, integer=True)
        return sum(unit.gain for unit in units) + after - before

    def _switch(self, units: Sequence[Unit], *, integer: bool) -> None:
        for unit in units:
            unit.integer = integer
            for value in unit.reads:
                value.integer_readers += 1 if integer else -1

    def _release_singly(self, reasons: dict[int, str]) -> None:
        heap = [(self.change([unit]), order) for order, unit in enumerate(self.units) if unit.integer]
        orders = {id(unit): order for order, unit in enumerate(self.units)}
        heapq.heapify(heap)
        while heap:
            known, order = heapq.heappop(heap)
            unit = self.units[order]
            if known >= self.least or not unit.integer:
                continue
            change = self.change([unit])
            if not self._pays([unit], change):
                continue
            if change > known + 1e-9:
                heapq.heappush(heap, (change, order))
                continue
            self._release([unit], change, reasons)
            for near in self._neighbours([unit]):
                heapq.heappush(heap, (self.change([near]), orders[id(near)]))

    def _release_groups(self, reasons: dict[int, str]) -> None:
        """Releases neighbours that only pay together, grown from units that gain less than their conversions."""
        if _LARGEST_GROUP * self._most_saved() < -self.least:
            return  # in a large model no few operators save enough, and to try each group would be for nothing
        for unit in self.units:
            if unit.integer and len(unit.values) <= _CROWD and unit.gain < self._price(unit):
                group, change = self._grown(unit)
                if self._pays(group, change):
                    self._release(group, change, reasons)

    def _pays(self, units: Sequence[Unit], change: float) -> bool:
        """True for a change that saves more than estimates are wrong by."""
        return change < min(self.least, -LEAST_OF_OWN * sum(unit.float_time for unit in units))

    def _most_saved(self) -> float:
        """No unit of a group can save more microseconds than this: all conversions around it, and what it loses."""
        free = (unit for unit in self.units if unit.integer and unit.gain < inf and len(unit.values) <= _CROWD)
        return max((sum(map(self._both_ways, unit.values)) - min(unit.gain, 0) for unit in free), default=0.0)

    def _both_ways(self, value: Value) -> float:
        costs = (self.costs.float_costs[op] for op in _CONVERSIONS if op in self.costs.float_costs)
        return sum(cost.time(0, 2 * value.elements) for cost in costs)

    def _grown(self, unit: Unit) -> tuple[list[Unit], float]:
        group, change = [unit], self.change([unit])
        while not self._pays(group, change) and len(group) < _LARGEST_GROUP:
            near = [other for other in self._neighbours(group) if other.gain < inf]
            if not near:
                break
            tried = [(self.change([*group, other]), index) for index, other in enumerate(near)]
            change, index = min(tried)
            group.append(near[index])
        return group, change

    def _restore(self, reasons: dict[int, str]) -> None:
        """Takes back what went with a group and pays for itself after all."""
        for unit in self.units:
            if not unit.integer:
                self._switch([unit], integer=True)
                if self.change([unit]) > -self.least:
                    del reasons[id(unit)]
                else:
                    self._switch([unit], integer=False)

    def _fill_gaps(self, reasons: dict[int, str]) -> bool:
        """Takes back operators with a weight between pairs; True if there were any."""
        found = [unit for unit in self.units if not unit.integer and unit.has_weight and _between_pairs(unit)]
        self._switch(found, integer=True)
        for unit in found:
            del reasons[id(unit)]
        return bool(found)

    def _release_regions(self, reasons: dict[int, str]) -> None:
        seen: set[int] = set()
        for unit in self.units:
            if unit.integer and id(unit) not in seen:
                region = self._region(unit)
                seen.update(map(id, region))
                change = self.change(region)
                if change < 0:
                    self._release(region, change, reasons)

    def _region(self, unit: Unit) -> list[Unit]:
        region, seen, passed = [unit], {id(unit)}, set[int]()
        for known in region:
            for value in known.values:
                if id(value) not in passed:
                    passed.add(id(value))
                    near = [other for other in around(value) if other.integer and id(other) not in seen]
                    seen.update(map(id, near))
                    region += near
        return region

    def _neighbours(self, units: Sequence[Unit]) -> list[Unit]:
        inside = {id(unit) for unit in units}
        values = (value for unit in units for value in unit.values if len(value.readers) <= _CROWD)
        near = distinct(other for value in values for other in around(value))
        free = [other for other in near if other.integer and id(other) not in inside]
        return [other for other in free if len(other.values) <= _CROWD]

    def _price(self, unit: Unit) -> float:
        return sum(self.costs.float_costs["QuantizeLinear"].time(0, 2 * value.elements) for value in unit.values)

    def _release(self, units: Sequence[Unit], change: float, reasons: dict[int, str]) -> None:
        gain = sum(unit.gain for unit in units)
        told = (
            f"integers would gain {gain:.1f} µs and cost {gain - change:.1f} µs of conversions"
            if gain > 0
            else f"integers would be {-gain:.1f} µs slower"
        )
        together = f" (with {len(units) - 1} neighbours)" if len(units) > 1 else ""
        self._switch(units, integer=False)
        for unit in units:
            reasons[id(unit)] = f"float is faster here: {told}{together}, as estimated"


def _between_pairs(unit: Unit) -> bool:
    """True where a unit in float reads nothing but codes, and gives what is only read as codes."""
    reads_codes = all(v.giver is not None and v.giver.integer and v.giver.closes for v in unit.reads)
    results = [value for value in unit.values if value.giver is unit]
    return reads_codes and all(value.integer_readers and not value.read_in_float for value in results)
