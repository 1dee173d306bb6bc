"""What one group alone does to the outputs of the model: behind it stands a copy of all float operators that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from quantonnx.evidence.findings import Errors
from quantonnx.evidence.gauges import ErrorGauge
from quantonnx.evidence.measuring import Bench, Subject
from quantonnx.model import Model

Run = Callable[[Model, Mapping[str, str]], tuple[Mapping[str, float], int]]

_GROUPS_AT_ONCE = 8
"""Groups in one model: each of them has up to all operators of the float model behind it."""


def errors_at_outputs(subject: Subject, names: Sequence[str], run: Run) -> tuple[dict[str, dict[str, Errors]], int]:
    """Returns the errors of the outputs that each named group reaches, and how often the data was read for it.

    `run` gives the sums of a model's outputs over all samples. Everything but the one group is float.
    """
    found: dict[str, dict[str, Errors]] = {}
    passes = 0
    for first in range(0, len(names), _GROUPS_AT_ONCE):
        bench = Bench(subject)
        gauges = dict(_gauges(bench, names[first : first + _GROUPS_AT_ONCE]))
        bench.gauges.close()
        if not bench.gauges.outputs:
            continue
        totals, _ = run(bench.model, bench.gauges.outputs)
        passes += 1
        for name, at in gauges.items():
            found[name] = {output: gauge.read(totals) for output, gauge in at.items()}
    return found, passes


def _gauges(bench: Bench, names: Sequence[str]) -> Iterator[tuple[str, dict[str, ErrorGauge]]]:
    floats = {value.name: value for value in bench.grafter.outputs if bench.is_float(value.name)}
    for index, (group, part) in enumerate(bench.groups):
        if group.tensor in names:
            result = bench.grafter.side(part, f"group_{index}/")
            reached = bench.grafter.later(bench.grafter.tensors[group.tensor], result, f"behind_{index}/")
            yield (
                group.tensor,
                {name: bench.gauges.errors(floats[name], value) for name, value in reached.items() if name in floats},
            )
