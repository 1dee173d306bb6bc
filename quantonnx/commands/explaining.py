"""Commands that say why, and what could be: `explain`, `targets`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantonnx.commands.loading import read_float
from quantonnx.commands.options import ModelArgument, NumberOptions, PlanOption, TargetOptions
from quantonnx.commands.running import Run
from quantonnx.errors import ConfigError

if TYPE_CHECKING:
    from quantonnx.explaining import Explainer, Explanation
    from quantonnx.target import Target

_WIDEST = 120
_HINT = "Ask about one of them: --node NAME or --tensor NAME; -v lists every pair and every name.\n"


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
        run.result["explanation"] = summary.explanation(found, explainer.quantized)
        run.show_text(_text(found, run.width))
        return
    _show_all(run, explainer)


def _show_all(run: Run, explainer: Explainer) -> None:
    from quantonnx import summary
    from quantonnx.commands import tables

    quantized = explainer.quantized
    run.result |= summary.plan(explainer.plan) | {"pairs": summary.pairs(quantized)}
    run.result |= {"sites": summary.sites(quantized), "excluded": summary.excluded(quantized)}
    run.show(tables.placed(quantized), "")
    if run.verbose:
        rows = [(site.tensor, f"{summary.site_format(site)}: {site.reason}") for site in quantized.sites]
        left = [(decision.name, decision.reason) for decision in summary.left_in_float(quantized)]
        run.show_text(entries("Pairs", rows, run.width) + entries("Left in float", left, run.width))
    else:
        groups = summary.grouped(summary.left_in_float(quantized))
        rows = [(f"{len(group.names)} × {group.reason}", tables.some(group.names)) for group in groups]
        run.show_text(entries("Left in float", rows, run.width) + _HINT)


def targets(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this target, or a target file: patterns, points, rules.")
    ] = None,
) -> None:
    """List the targets, or the patterns, points and rules of one."""
    from quantonnx.commands.tables import table
    from quantonnx.target import get_target, known_targets

    found = [get_target(name)] if name else list(known_targets().values())
    run.result["targets"] = [_described(target) for target in found]
    if name:
        run.result["target"] = found[0].name
        run.show_text(_target_text(run.result["targets"][0], run.width))
        return
    rows = [(target.name, target.description, target.method, len(target.patterns)) for target in found]
    run.show(table("Targets", "name", "what for", "ranges", "patterns", rows=rows, numbers=(3,)))


def entries(title: str, rows: Iterable[tuple[str, ...]], width: int) -> str:
    """Returns a titled list: the first cell of a row, and what belongs to it indented; names are never broken."""
    told = [
        "\n".join(_wrapped(cell, width, 2 if not index else 6) for index, cell in enumerate(row) if cell)
        for row in rows
    ]
    return f"{title}\n" + "\n".join(told) + "\n\n" if told else ""


def _wrapped(text: str, width: int, indent: int) -> str:
    left = " " * indent
    return textwrap.fill(
        text,
        min(width, _WIDEST),
        initial_indent=left,
        subsequent_indent=left + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _text(found: Explanation, width: int) -> str:
    head = f"{found.kind} {found.name!r}\n{_wrapped(found.answer, width, 0)}\n\n"
    nearly = [attempt for attempt in found.attempts if not attempt.holds]
    as_well = [attempt for attempt in found.attempts if attempt.holds]
    parts = (
        entries("Decided by", [(found.rule,)] if found.rule else [], width),
        entries("What would change it", [(f"- {change}",) for change in found.changes], width),
        entries("To know", [(note,) for note in found.notes], width),
        entries("Patterns that hold it", _claims(found), width),
        entries("Patterns that fit too", [(a.pattern, a.reason) for a in as_well], width),
        entries("Patterns that almost fit", [(f"{a.pattern} at {a.node}", a.reason) for a in nearly], width),
        entries("Pairs", [(site.tensor, site.reason) for site in found.sites], width),
        entries("Left in float", [(decision.name, decision.reason) for decision in found.decisions], width),
    )
    return head + "".join(parts)


def _claims(found: Explanation) -> Iterator[tuple[str, str]]:
    in_float = {decision.name for decision in found.decisions}
    for step in found.claims:
        state = "applied" if step.apply else "not applied"
        if step.apply and step.output in in_float:
            state = "fused, its decisions are below"
        yield f"{step.pattern} at {step.output}", f"{state}: {step.reason}" if step.reason else state


def _described(target: Target) -> dict[str, Any]:
    from quantonnx.summary import format_name

    return {
        "name": target.name,
        "description": target.description,
        "activation": format_name(target.activation),
        "weight": format_name(target.weight),
        "bias": target.bias.value,
        "ranges": target.method,
        "float_type": "float32",
        "same_scale": sorted(target.same_scale),
        "transparent": sorted(target.transparent),
        "only_between_integers": sorted(target.glue),
        "float_only": sorted(target.float_only),
        "costs": target.costs is not None,
        "patterns": [
            {
                "name": pattern.__name__,
                "about": _first_line(pattern),
                "points": [p.role.name for p in pattern.qdq_points],
            }
            for pattern in target.patterns
        ],
        "conversions": [{"name": pattern.__name__, "about": _first_line(pattern)} for pattern in target.conversions],
        "rules": [{"name": rule_name, "about": about} for rule_name, about in _rules(target)],
    }


def _rules(target: Target) -> Iterator[tuple[str, str]]:
    from quantonnx.decisions import rule_name

    for rule in target.rules:
        yield rule_name(rule), _first_line(rule)


def _target_text(about: dict[str, Any], width: int) -> str:
    bias = {"float": "stays float32", "int32": "int32, its scale is that of the input times that of the weight"}
    facts = [
        ("activations", about["activation"]),
        ("weights", about["weight"]),
        ("bias", bias[about["bias"]]),
        ("ranges, unless --method says otherwise", about["ranges"]),
        ("real numbers that are quantized", f"{about['float_type']} only"),
        ("copy codes, both sides under one scale", ", ".join(about["same_scale"])),
        ("only move data, one pair before them serves", ", ".join(about["transparent"])),
        ("integers only between integers", ", ".join(about["only_between_integers"])),
        ("no integer kernel", ", ".join(about["float_only"])),
        (
            "operators that are slower in integers",
            "stay in float, by measured costs" if about["costs"] else "not known",
        ),
    ]
    patterns = [(f"{p['name']}: {', '.join(p['points']) or 'no points'}", p["about"]) for p in about["patterns"]]
    parts = (
        entries(f"{about['name']}: {about['description']}", [fact for fact in facts if fact[1]], width),
        entries("Rules", [(rule["name"], rule["about"]) for rule in about["rules"]], width),
        entries("Patterns, and the points that they declare", patterns, width),
        entries("Conversions, exact in float", [(c["name"], c["about"]) for c in about["conversions"]], width),
    )
    return "".join(parts)


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]
