"""Commands about one model without numbers: `plan`, `transform`, `inspect`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantonnx.commands.libraries import NO_LIBRARIES, LibraryOptions
from quantonnx.commands.loading import load, read_float
from quantonnx.commands.options import (
    ModelArgument,
    OutOptions,
    PlanOption,
    TargetOptions,
    check_out,
)
from quantonnx.commands.picturing import PictureOptions
from quantonnx.commands.running import Run, write_text

if TYPE_CHECKING:
    from quantonnx.inspecting import Inspection, Value
    from quantonnx.plan import Plan


def plan(
    run: Run,
    model: ModelArgument,
    compiler: TargetOptions,
    picture: PictureOptions,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PLAN.yaml", help="Write the plan; without it, it is printed.")
    ] = None,
) -> None:
    """Show what would be done, as text to edit or as a picture; `quantize --plan` then does that."""
    from quantonnx import summary
    from quantonnx.quantized import insert_qdq
    from quantonnx.rewriting import make_plan
    from quantonnx.rewriting import transform as fuse

    if out is not None:
        check_out(out, force=picture.force)
    picture.check()
    run.result["model"] = str(model)
    target = compiler.choose()
    run.result["target"] = target.name
    source = read_float(run, model)
    with run.stage("plan", "plan") as stage:
        made = make_plan(source, target=target)
        made.model = model.name
        fusions, steps = len(made.every_step(fusions=True)), len(made.every_step())
        stage.detail = f"{fusions} fusions, {steps - fusions} conversions for {target.name}"
    with run.stage("place", "place") as stage:
        fused = fuse(source, target=target, plan=made)
        placed = insert_qdq(fused.model, fused.matches)
        left_in_float = (decision for part in placed.parts for decision in part.decisions)
        made.left_in_float = [{"name": left.name, "reason": left.reason} for left in left_in_float]
        counts = summary.pairs(placed)
        stage.detail = f"{counts['activation']} activation pairs, {counts['weight']} weights"
    run.result |= {"pairs": counts, **summary.plan(made), "excluded": made.left_in_float}
    picture.save(run, source, f"{model.name} for {target.name}", target=target, plan=made)
    if out is None:
        if picture.svg is None:
            run.show_text(made.to_yaml())
        return
    write_text(out, made.to_yaml(), force=picture.force)
    run.result["output"] = str(out)
    run.show(_steps_table(made))


def transform(
    run: Run,
    model: ModelArgument,
    output: OutOptions,
    compiler: TargetOptions,
    plan: PlanOption = None,
    libraries: LibraryOptions = NO_LIBRARIES,
) -> None:
    """Fuse only: write the float model with its operators folded as the compiler folds them."""
    from quantonnx import summary
    from quantonnx.plan import Plan
    from quantonnx.provenance import describe
    from quantonnx.rewriting import transform as fuse

    output.check()
    run.using(libraries.registered())
    run.result |= {"model": str(model), "output": str(output.out)}
    wanted = Plan.load(plan) if plan else None
    target = compiler.choose(wanted)
    run.result["target"] = target.name
    source = read_float(run, model)
    before = len(source.graph.nodes)
    with run.stage("transform", "fuse") as stage:
        fused = fuse(source, target=target, plan=wanted)
        after = len(fused.model.graph.nodes)
        stage.detail = f"{before} operators became {after}"
    run.result |= summary.plan(fused.plan) | {"operators": {"before": before, "after": after}}
    fused.model.metadata |= describe(source.digest, target=target.name)
    with run.stage("write", "write") as stage:
        output.save(fused.model)
        stage.detail = str(output.out)
    load(run, output.out, foreign=True)
    run.show(_steps_table(fused.plan))


def inspect(run: Run, model: ModelArgument, picture: PictureOptions) -> None:
    """Show the inputs, outputs, opset, operators, Q/DQ pairs and sizes of any ONNX file, or draw it."""
    from quantonnx.inspecting import inspect as look
    from quantonnx.model import Model

    picture.check()
    run.result["model"] = str(model)
    found = look(model)
    run.result |= {"inspection": asdict(found)}
    run.result["pairs"] = {"activation": found.activation_pairs, "weight": found.weight_pairs}
    if picture.svg is not None:
        picture.save(run, Model.read(model), model.name)
    _show_inspection(run, found)


def _steps_table(plan: Plan) -> Any:
    from quantonnx.commands.tables import table

    counts: dict[tuple[str, str], list[int]] = {}
    fusions = {id(step) for step in plan.every_step(fusions=True)}
    for step in plan.every_step():
        row = counts.setdefault(("fusion" if id(step) in fusions else "conversion", step.pattern), [0, 0])
        row[not step.apply] += 1
    rows = [(*key, *row) for key, row in counts.items()]
    return table("Steps", "kind", "pattern", "applied", "skipped", rows=rows, numbers=(2, 3))


def _show_inspection(run: Run, found: Inspection) -> None:
    from quantonnx.commands.tables import megabytes, table
    from quantonnx.provenance import facts

    sizes = ", ".join(f"{megabytes(size)} of {name}" for name, size in found.bytes_by_type)
    rows = [
        ("opset", ", ".join(f"{domain} {version}" for domain, version in found.domains) or found.opset),
        ("IR version", found.ir_version),
        ("producer", found.producer or "–"),
        ("file", megabytes(found.file_bytes)),
        ("constants", f"{found.parameters:,} numbers{': ' if sizes else ''}{sizes}"),
        (
            "Q/DQ pairs",
            f"{found.activation_pairs} activations, {found.weight_pairs} weights, {found.bias_pairs} biases",
        ),
        ("activation formats", "; ".join(f"{count} × {name}" for name, count in found.formats) or "–"),
        ("with bodies", f"{found.bodies} operators (If, Loop, Scan){_pairs_inside(found)}"),
    ]
    values = [("input", *_value_row(value)) for value in found.inputs]
    values += [("output", *_value_row(value)) for value in found.outputs]
    run.show(table("Model", "", "", rows=rows), "")
    if found.provenance:
        run.show(table("Made", "", "", rows=[(fact.name, fact.text) for fact in facts(found.provenance)]), "")
    run.show(table("Interface", "", "name", "type", "shape", rows=values), "")
    run.show(table("Operators", "operator", "count", rows=found.operators, numbers=(1,)))
    if found.inside:
        bodies = [
            (
                body.name,
                ", ".join(f"{count} {name}" for name, count in body.operators) or body.reason,
                body.activation_pairs,
                body.weight_pairs,
            )
            for body in found.inside
        ]
        run.show("", table("Bodies", "body", "operators", "pairs", "weights", rows=bodies, numbers=(2, 3)))


def _pairs_inside(found: Inspection) -> str:
    pairs, weights = (
        sum(getattr(body, kind) for body in found.inside) for kind in ("activation_pairs", "weight_pairs")
    )
    return f", in them {pairs} pairs on activations and {weights} weights" if pairs or weights else ""


def _value_row(value: Value) -> tuple[str, str, str]:
    shape = "unknown" if value.shape is None else " × ".join("?" if size is None else str(size) for size in value.shape)
    return value.name, value.dtype, shape or "scalar"
