"""A closer look at some groups: which of their pairs is to blame, and what each alone does to the model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quantonnx.evidence.constants import origin_of
from quantonnx.evidence.findings import Errors
from quantonnx.evidence.gauges import ErrorGauge
from quantonnx.evidence.grafting import Slice
from quantonnx.evidence.groups import Group
from quantonnx.evidence.measuring import Bench, Subject
from quantonnx.model import Model

Run = Callable[[Model, Mapping[str, str]], tuple[Mapping[str, float], int]]

_GROUPS_AT_ONCE = 8
"""Groups in one model: each of them may have all operators of the float model behind it."""


@dataclass(frozen=True)
class Closer:
    """What more is known of a group: the errors of the outputs that it reaches, and those of its own value where one of
    its pairs, by the name of the tensor, is left out."""

    at_outputs: Mapping[str, Errors]
    without: Mapping[str, Errors]


@dataclass(frozen=True)
class Look:
    """What was found, by the name of a group's tensor, in so many passes over so many samples."""

    groups: Mapping[str, Closer]
    passes: int
    samples: int


@dataclass(frozen=True)
class _Gauges:
    outputs: Mapping[str, ErrorGauge]
    without: Mapping[str, ErrorGauge]


def look_closer(subject: Subject, at_outputs: Sequence[str], blame: Sequence[str], run: Run) -> Look:
    """Returns more about some groups.

    `at_outputs` are those whose effect on the outputs is wanted, `blame` those whose pairs are left out in turn. `run`
    gives the sums of a model's outputs over all samples. Everything but the one group is float.
    """
    names = list(dict.fromkeys((*at_outputs, *blame)))
    found: dict[str, Closer] = {}
    passes = samples = 0
    for first in range(0, len(names), _GROUPS_AT_ONCE):
        some = names[first : first + _GROUPS_AT_ONCE]
        bench = Bench(subject)
        gauges = {
            group.tensor: _Gauges(
                _at_outputs(bench, group, part) if group.tensor in at_outputs else {},
                _without(bench, group, part) if group.tensor in blame else {},
            )
            for group, part in bench.groups
            if group.tensor in some
        }
        bench.gauges.close()
        totals: Mapping[str, float] = {}
        if bench.gauges.outputs:
            totals, samples = run(bench.model, bench.gauges.outputs)
            passes += 1
        found |= {name: Closer(_read(g.outputs, totals), _read(g.without, totals)) for name, g in gauges.items()}
    return Look(found, passes, samples)


def _read(gauges: Mapping[str, ErrorGauge], totals: Mapping[str, float]) -> dict[str, Errors]:
    return {name: gauge.read(totals) for name, gauge in gauges.items()}


def _at_outputs(bench: Bench, group: Group, part: Slice) -> dict[str, ErrorGauge]:
    floats = {value.name: value for value in bench.grafter.outputs if bench.is_measured(value.name)}
    result = bench.grafter.side(part, f"{group.tensor}/alone/")
    reached = bench.grafter.later(bench.grafter.tensors[group.tensor], result, f"{group.tensor}/behind/")
    return {name: bench.gauges.errors(floats[name], value) for name, value in reached.items() if name in floats}


def _without(bench: Bench, group: Group, part: Slice) -> dict[str, ErrorGauge]:
    """The group with one of its pairs, or of its constants, as in the float model."""
    inside = {id(node) for node in part.nodes}
    exact = bench.grafter.tensors[group.tensor]
    left_out = {}
    for row in bench.rows:
        value = bench.grafter.float_value(row.quantize.inputs[0])
        if id(row.quantize) in inside and value is not None:
            left_out[str(value.name)] = part.with_alias(row.result, row.quantize.inputs[0])
    for node in part.nodes:
        origin = origin_of(bench.grafter, node) if node.op == "DequantizeLinear" else None
        if origin is not None:
            left_out[str(origin.name)] = part.with_bound(node.outputs[0], origin)
    return {
        name: bench.gauges.errors(exact, bench.grafter.side(other, f"{group.tensor}/without {name}/"))
        for name, other in left_out.items()
    }
