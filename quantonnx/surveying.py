"""Calibrate once, try all: statistics of every value that any configuration could quantize.

What is remembered takes up to 100 kB a value (a histogram and the extremes of the newest 4096 samples), however many
samples there are; while the model runs, all its activations are held for up to four samples at a time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from quantonnx.algorithms.bias_correction import means_possible
from quantonnx.algorithms.smooth_quant import maxima_needed
from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.feeds import ForwardLoop, Progress
from quantonnx.calibration.session import Collector
from quantonnx.element_types import ElementTypes, type_name
from quantonnx.errors import PlanError
from quantonnx.memory import memory_limit_of
from quantonnx.model import Model
from quantonnx.plan import Plan
from quantonnx.rewriting import Source, transform
from quantonnx.target import Patterns, Target

_WATCHED = frozenset({"float32", "float16"})


def collect_statistics(
    source: Source,
    samples: Any = None,
    *,
    target: str | Path | Target | None = None,
    patterns: str | Path | Patterns = (),
    plan: Plan | None = None,
    forward_loop: ForwardLoop | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    memory_limit: int | str | None = None,
) -> Statistics:
    """Returns statistics of every float activation of the model as it is fused for a target.

    `samples`, `forward_loop` and `memory_limit` are those of `calibrate`, which takes the result with any
    configuration; `Statistics.save` writes it. Without `target` it is the plan's, or tensorrt. A value that holds NaN
    or infinity, or that no sample reaches, matters only where it is to be quantized.
    """
    fused = transform(source, target=target, patterns=patterns, plan=plan)
    return survey(
        fused.model,
        samples,
        forward_loop=forward_loop,
        limit=limit,
        threads=threads,
        progress=progress,
        memory_limit=memory_limit,
    )


def survey(
    model: Model,
    samples: Any = None,
    *,
    name: str = "",
    forward_loop: ForwardLoop | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    memory_limit: int | str | None = None,
) -> Statistics:
    """Returns statistics of every float activation of a model that is fused already; see `collect_statistics`.

    `name` is what the data is called; by default the name of its file or folder.
    """
    if (samples is None) == (forward_loop is None):
        raise PlanError("statistics need samples or a forward loop", "give exactly one of them")
    means = means_possible(model)
    channels, tensors = maxima_needed(model), float_activations(model)
    with Collector(
        model,
        tensors,
        means=means,
        channels=channels,
        threads=threads,
        lenient=True,
        memory_limit=memory_limit_of(memory_limit),
    ) as collector:
        collector.observe(samples, forward_loop, limit=limit, progress=progress)
        return collector.collected(name or _name(samples))


def float_activations(model: Model) -> list[str]:
    """Returns the names of the float inputs and of all float values that operators give, in the order of the graph.

    A value whose element type cannot be told is left out, and so are those inside bodies of If, Loop and Scan.
    """
    types = ElementTypes(model)
    values = [*model.graph.inputs, *(value for node in model.graph.nodes for value in _given(node))]
    kinds = {value.name: types.of(value) for value in values if isinstance(value, gs.Variable) and value.name}
    return [name for name, kind in kinds.items() if kind is not None and type_name(kind) in _WATCHED]


def _given(node: gs.Node) -> list[gs.Tensor]:
    return [] if node.op == "Constant" else list(node.outputs)


def _name(samples: Any) -> str:
    """What the data is called: its file or folder, never where that is."""
    return Path(samples).name if isinstance(samples, (str, os.PathLike)) else ""
