"""Commands about one model and one target without numbers: `plan`, `transform`, `explain`, `inspect`, `targets`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantonnx.commands.options import (
    ModelArgument,
    NumberOptions,
    OutOptions,
    PlanOption,
    TargetOptions,
    check_out,
)
from quantonnx.commands.picturing import PictureOptions
from quantonnx.commands.quantizing import load, read_float
from quantonnx.commands.running import Run, write_text
from quantonnx.errors import ConfigError

if TYPE_CHECKING:
    from quantonnx.explaining import Explanation
    from quantonnx.inspecting import Inspection, Value
    from quantonnx.plan import Plan
    from quantonnx.target import Target


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
    from quantonnx.rewriting import make_plan

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
        stage.detail = f"{len(made.fusions)} fusions, {len(made.conversions)} conversions for {target.name}"
    run.result |= summary.plan(made)
    picture.save(run, source, f"{model.name} for {target.name}", target=target, plan=made)
    if out is None:
        if picture.svg is None:
            run.show_text(made.to_yaml())
        return
    write_text(out, made.to_yaml(), force=picture.force)
    run.result["output"] = str(out)
    run.show(_steps_table(made))


def transform(
    run: Run, model: ModelArgument, output: OutOptions, compiler: TargetOptions, plan: PlanOption = None
) -> None:
    """Fuse only: write the float model with its operators folded as the compiler folds them."""
    from quantonnx import summary
    from quantonnx.plan import Plan
    from quantonnx.rewriting import transform as fuse

    output.check()
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
    with run.stage("write", "write") as stage:
        output.save(fused.model)
        stage.detail = str(output.out)
    load(run, output.out)
    run.show(_steps_table(fused.plan))


def explain(
    run: Run,
    model: ModelArgument,
    compiler: TargetOptions,
    numbers: NumberOptions,
    tensor: Annotated[str | None, typer.Option("--tensor", metavar="NAME", help="Explain this tensor.")] = None,
    node: Annotated[str | None, typer.Option("--node", metavar="NAME", help="Explain this node.")] = None,
    plan: PlanOption = None,
) -> None:
    """Say why a tensor or node is, or is not, quantized; without a name, what stays in float and why."""
    from quantonnx import summary
    from quantonnx.commands import tables
    from quantonnx.explaining import Explainer
    from quantonnx.plan import Plan

    if tensor is not None and node is not None:
        raise ConfigError("--tensor and --node are both given", "give one of them")
    wanted = Plan.load(plan) if plan else None
    target = compiler.choose(wanted)
    run.result |= {"model": str(model), "target": target.name}
    explainer = Explainer(read_float(run, model), target, config=numbers.build(), plan=wanted)
    if tensor is not None or node is not None:
        found = explainer.tensor(tensor) if tensor is not None else explainer.node(str(node))
        shown_sites = [summary.described(explainer.quantized, site) for site in found.sites]
        run.result["explanation"] = asdict(replace(found, sites=())) | {"sites": shown_sites}
        _show_explanation(run, found)
        return
    quantized = explainer.quantized
    run.result |= summary.plan(explainer.plan) | {"pairs": summary.pairs(quantized)}
    run.result |= {"sites": summary.sites(quantized), "excluded": summary.excluded(quantized)}
    shown = [tables.placed(quantized), tables.sites(quantized), tables.in_float(quantized, every=run.verbose)]
    for part in filter(None, shown):
        run.show(part, "")


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


def targets(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this target: its patterns, points, rules.")
    ] = None,
) -> None:
    """List the targets, or the patterns and points of one."""
    from quantonnx.target import get_target, known_targets

    found = [get_target(name)] if name else list(known_targets().values())
    run.result["targets"] = [_described(target) for target in found]
    if name:
        run.result["target"] = found[0].name
        _show_target(run, found[0])
        return
    from quantonnx.commands.tables import table

    rows = [(target.name, target.description, len(target.patterns)) for target in found]
    run.show(table("Targets", "name", "what for", "patterns", rows=rows, numbers=(2,)))


def _steps_table(plan: Plan) -> Any:
    from quantonnx.commands.tables import table

    counts: dict[tuple[str, str], list[int]] = {}
    for kind, steps in (("conversion", plan.conversions), ("fusion", plan.fusions)):
        for step in steps:
            row = counts.setdefault((kind, step.pattern), [0, 0])
            row[not step.apply] += 1
    rows = [(*key, *row) for key, row in counts.items()]
    return table("Steps", "kind", "pattern", "applied", "skipped", rows=rows, numbers=(2, 3))


def _show_explanation(run: Run, found: Explanation) -> None:
    from quantonnx.commands.tables import table

    run.show_text(f"{found.kind} {found.name!r}\n{found.answer}\n")
    if found.claims:
        rows = [
            (step.pattern, step.output, "applied" if step.apply else "skipped", step.reason) for step in found.claims
        ]
        run.show(table("Patterns that hold it", "pattern", "at", "", "why", rows=rows), "")
    if found.attempts:
        tried = [(attempt.pattern, attempt.node, attempt.reason) for attempt in found.attempts]
        run.show(table("Patterns that do not", "pattern", "tried at", "why not", rows=tried), "")
    if found.sites:
        pairs = [(site.tensor, ", ".join(role.name for role in site.roles), site.reason) for site in found.sites]
        run.show(table("Pairs", "tensor", "roles", "why", rows=pairs), "")
    if found.decisions:
        run.show(table("Reasons", "where", "why", rows=[(d.name, d.reason) for d in found.decisions]))


def _show_inspection(run: Run, found: Inspection) -> None:
    from quantonnx.commands.tables import megabytes, table

    sizes = ", ".join(f"{megabytes(size)} of {name}" for name, size in found.bytes_by_type)
    facts = [
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
        ("with bodies", f"{found.bodies} operators (If, Loop, Scan)"),
    ]
    values = [("input", *_value_row(value)) for value in found.inputs]
    values += [("output", *_value_row(value)) for value in found.outputs]
    run.show(table("Model", "", "", rows=facts), "")
    run.show(table("Interface", "", "name", "type", "shape", rows=values), "")
    run.show(table("Operators", "operator", "count", rows=found.operators, numbers=(1,)))


def _value_row(value: Value) -> tuple[str, str, str]:
    shape = "unknown" if value.shape is None else " × ".join("?" if size is None else str(size) for size in value.shape)
    return value.name, value.dtype, shape or "scalar"


def _described(target: Target) -> dict[str, Any]:
    from quantonnx.summary import format_name

    return {
        "name": target.name,
        "description": target.description,
        "activation": format_name(target.activation),
        "weight": format_name(target.weight),
        "bias": target.bias.value,
        "patterns": [
            {
                "name": pattern.__name__,
                "about": _first_line(pattern),
                "points": [p.role.name for p in pattern.qdq_points],
            }
            for pattern in target.patterns
        ],
        "conversions": [{"name": pattern.__name__, "about": _first_line(pattern)} for pattern in target.conversions],
        "rules": [_first_line(rule) for rule in target.rules],
    }


def _show_target(run: Run, target: Target) -> None:
    from quantonnx.commands.tables import table

    about = _described(target)
    facts = [(key, about[key]) for key in ("name", "description", "activation", "weight", "bias")]
    facts += [("rule", rule) for rule in about["rules"]]
    patterns = [(p["name"], ", ".join(p["points"]) or "none", p["about"]) for p in about["patterns"]]
    conversions = [(c["name"], c["about"]) for c in about["conversions"]]
    run.show(table("Target", "", "", rows=facts), "")
    run.show(table("Patterns", "pattern", "points", "", rows=patterns), "")
    run.show(table("Conversions", "pattern", "", rows=conversions))


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]
