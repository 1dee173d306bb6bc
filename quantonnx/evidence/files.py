"""Evidence from two files: which groups there are follows from what the quantized one says of its making."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantonnx.bodies import open_bodies
from quantonnx.calibration.feeds import Progress
from quantonnx.config import QuantConfig
from quantonnx.errors import ModelError, TargetError
from quantonnx.evidence.collecting import measure
from quantonnx.evidence.findings import Evidence
from quantonnx.evidence.groups import matched_groups
from quantonnx.evidence.measuring import Bench, Subject
from quantonnx.evidence.rescaling import rescaled
from quantonnx.inspecting import find_pairs
from quantonnx.model import Model
from quantonnx.placement import Placement, place
from quantonnx.preparation import Feeding, prepared, steps_of
from quantonnx.provenance import provenance
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.recalibration import float_view
from quantonnx.rewriting import transform
from quantonnx.target import Target, get_target, named_target

Source = str | Path | bytes | Model

_SCALING = frozenset({"awq", "smooth_quant"})
"""Steps of a recipe that scale inner values by what samples show, so that they cannot be done again here."""

_CHANGED = (
    "the float model was smoothed before it was quantized, so inner values have no counterpart in the given one: "
    "they are compared with those of the quantized file without its pairs, and errors of weights are not seen"
)


def compare_layers(
    float_source: Source,
    quantized_source: Source,
    samples: Any,
    *,
    target: str | Path | Target | None = None,
    at_outputs: int | None = None,
    blame: int = 0,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Returns the evidence of a quantized file beside the float one that it was made from, whoever made it.

    The file's metadata names target and configuration, by which the float model is fused and matched again; without
    them, and without `target`, a group is a single operator that reads quantized values. `at_outputs` and
    `blame` are those of `collect_evidence`. Raises ModelError where no operator that reads quantized
    values is known by its name in the float model.
    """
    subject, notes = subject_of_files(float_source, quantized_source, target)
    _check_groups(subject)
    wanted: dict[str, Any] = {"limit": limit, "threads": threads, "progress": progress}
    found = measure(subject, samples, at_outputs=at_outputs, blame=blame, **wanted)
    return replace(found, notes=(*notes, *found.notes))


def subject_of_files(
    float_source: Source, quantized_source: Source, target: str | Path | Target | None = None
) -> tuple[Subject, list[str]]:
    """Returns what there is to measure of two files, and what a person should know about it."""
    exact, quantized = Model.read(float_source), Model.read(quantized_source)
    _check_inputs(exact, quantized)
    told = provenance(quantized.metadata)
    notes = []
    if told.get("model_sha256", exact.digest) != exact.digest:
        notes.append("the quantized model was made from another float file than the given one")
    if target is None and "target" not in told:
        return Subject(exact, quantized, ()), notes
    config = config_of(told)
    fused = transform(exact, target=get_target(target) if target is not None else _told_target(told["target"]))
    placed = insert_qdq(fused.model, fused.matches, config)
    model, placement = _equalized(placed)
    if any(step.name == "scale_inputs" for step in steps_of(config, placed.matches.target)):
        model = rescaled(model, quantized)
        placement = place(model, placed.matches, config)
    groups = matched_groups(model, placed.matches.resolve(model), placement.sites, placed.matches.target)
    if not any(step.name in _SCALING for step in config.steps):
        return Subject(model, quantized, groups, placement.sites), notes
    return Subject(float_view(quantized).model, quantized, groups, placement.sites), [*notes, _CHANGED]


def _equalized(placed: QuantizedModel) -> tuple[Model, Placement]:
    """The float model and its placement after the steps of the recipe that change inner values and need no samples."""
    steps = tuple(step for step in placed.config.steps if step.name == "equalize")
    config = placed.config.model_copy(update={"smooth_quant": None, "recipe": steps})
    placement = Placement(placed.sites, placed.decisions)
    return prepared(placed.model, placement, placed.matches, config, Feeding())


def _check_inputs(exact: Model, quantized: Model) -> None:
    given = [sorted(value.name for value in model.graph.inputs) for model in (exact, quantized)]
    if given[0] != given[1]:
        shown = [", ".join(names) for names in given]
        raise ModelError(f"the inputs differ: {shown[0]} and {shown[1]}", "compare two versions of one model")


def _check_groups(subject: Subject) -> None:
    if Bench(subject).groups:
        return
    pairs = find_pairs(subject.quantized)
    if not pairs.activations and not pairs.constants:
        bodies = (body.model for body in open_bodies(subject.quantized) if body.model is not None)
        if any(part.activations or part.constants for part in map(find_pairs, bodies)):
            found = "all pairs of the second model are in bodies of control flow, which are not compared by layers"
            raise ModelError(found, "compare without --layers")
        raise ModelError("the second model has no Q/DQ pair", "nothing is quantized, so no layer differs")
    raise ModelError(
        "no operator that is quantized in the one model is in the other",
        "give the float model that the quantized one was made from",
    )


def _told_target(name: str) -> Target:
    try:
        return named_target(name)
    except TargetError as error:
        raise TargetError(f"the file was made for {name!r}: {error.message}", "give --target FILE.py") from error


def config_of(told: dict[str, str]) -> QuantConfig:
    """Returns the configuration that a file was made with, as far as this version knows it."""
    try:
        return QuantConfig(**json.loads(told.get("config", "{}")))
    except Exception:  # of another version: positions of pairs are read from the file all the same
        return QuantConfig()
