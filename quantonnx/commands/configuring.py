"""`config`: what a configuration comes to on a model, a file to start from, and a schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.loading import read_float
from quantonnx.commands.options import ModelArgument, NumberOptions, PlanOption, TargetOptions
from quantonnx.commands.running import Run, write_text

if TYPE_CHECKING:
    from quantonnx.quantized import QuantizedModel
    from quantonnx.sites import Site

OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it there, not to standard output.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file where it exists.")]


def show(
    run: Run,
    model: ModelArgument,
    compiler: TargetOptions,
    numbers: NumberOptions,
    plan: PlanOption = None,
    tensor: Annotated[
        str | None, typer.Option("--tensor", metavar="NAME", help="Only this tensor, or re:REGEX.")
    ] = None,
) -> None:
    """Print what is said about every tensor in the end: format, range, and the rule that decided it."""
    from quantonnx import summary
    from quantonnx.plan import Plan
    from quantonnx.quantized import insert_qdq
    from quantonnx.rewriting import transform

    wanted = Plan.load(plan) if plan else None
    target = compiler.choose(wanted)
    run.result |= {"model": str(model), "target": target.name}
    fused = transform(read_float(run, model), target=target, plan=wanted)
    placed = insert_qdq(fused.model, fused.matches, numbers.build())
    run.result |= {
        "pairs": summary.pairs(placed),
        "sites": summary.sites(placed),
        "excluded": summary.excluded(placed),
    }
    _show(run, placed, tensor)


def _show(run: Run, placed: QuantizedModel, tensor: str | None) -> None:
    from quantonnx.commands import tables
    from quantonnx.config import NameRules
    from quantonnx.summary import deciding_rule, ranging_text, site_format

    chosen = NameRules([tensor], "--tensor") if tensor is not None else None
    if chosen is not None:
        chosen.check([*placed.model.tensors(), *(decision.name for decision in placed.decisions)])
    shown = [site for site in placed.sites if chosen is None or chosen.first((site.tensor,))]
    rows = [(site.tensor, _roles(site), site_format(site), ranging_text(site), deciding_rule(site)) for site in shown]
    run.show(tables.table("Tensors", "tensor", "role", "format", "range", "decided by", rows=rows), "")
    off = [d for d in placed.decisions if chosen is None or chosen.first((d.name,))]
    if off:
        run.show(tables.table("Left in float", "where", "why", rows=[(d.name, d.reason) for d in off]))


def _roles(site: Site) -> str:
    return ", ".join(role.name for role in site.roles)


def init(run: Run, out: OutFile = None, force: Force = False) -> None:
    """Write a configuration to start from: every setting, commented out, with what it does."""
    from quantonnx.config.template import TEMPLATE

    _give(run, TEMPLATE, out, force=force)


def schema(run: Run, out: OutFile = None, force: Force = False) -> None:
    """Write the JSON Schema of configuration files, with which editors complete and check them."""
    from quantonnx.config import QuantConfig

    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", **QuantConfig.model_json_schema()}
    _give(run, json.dumps(described, indent=2, ensure_ascii=False) + "\n", out, force=force)


def _give(run: Run, text: str, out: Path | None, *, force: bool) -> None:
    if out is None:
        run.show_text(text)
        return
    write_text(out, text, force=force)
    run.result["output"] = str(out)
