"""`diff`: what differs between two quantized models, grouped, the largest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.running import CHECK_FAILED, Run

if TYPE_CHECKING:
    from quantonnx.diffing import Change

_SHOWN = 10
_TITLES = {
    "only_in_a": "Quantized only in A",
    "only_in_b": "Quantized only in B",
    "formats": "Formats",
    "readers": "Read by",
    "scales": "Scales",
    "zero_points": "Zero points",
    "codes": "Codes of weights and biases",
    "constants": "Other constants",
    "operators": "Operators",
    "interface": "Interface",
    "provenance": "Made",
}
_SHARES = {"scales": "relative", "codes": "share", "constants": "share"}


def diff(
    run: Run,
    a: Annotated[Path, typer.Argument(metavar="A", help="A quantized model, whoever made it.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 where they differ.")] = False,
) -> int:
    """Show what differs between two quantized models: pairs, formats, scales, zero points, codes, operators, origin."""
    from quantonnx.diffing import diff as compare

    run.result |= {"model": str(a), "other": str(b)}
    with run.stage("diff", "diff"):
        found = compare(a, b)
    groups = found.groups()
    run.result |= {
        "equal": found.equal,
        "difference": {name: [asdict(change) for change in changes] for name, changes in groups.items()},
    }
    for name, changes in groups.items():
        if changes:
            _show(run, name, changes)
    if found.equal:
        run.show_text("no difference\n")
    return CHECK_FAILED if exit_code and not found.equal else 0


def _show(run: Run, name: str, changes: Sequence[Change]) -> None:
    from quantonnx.commands.tables import percent, table

    shown = changes if run.verbose else changes[:_SHOWN]
    share = _SHARES.get(name)
    columns = ["", "A", "B", *([share] if share else [])]
    rows = [
        (
            f"{change.kind} {change.name}".strip(),
            change.a or "–",
            change.b or "–",
            *([percent(change.amount)] if share else []),
        )
        for change in shown
    ]
    run.show(table(f"{_TITLES[name]}: {len(changes)}", *columns, rows=rows, numbers=(3,)))
    run.show_text(f"… {len(changes) - len(shown)} more: --verbose shows all\n\n" if len(shown) < len(changes) else "\n")
