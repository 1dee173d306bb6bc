"""`compare --layers`: which groups and pairs lose most, as tables, and what to do about the worst."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.reporting import BLAMED, check_report_folder
from quantonnx.commands.running import Run
from quantonnx.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from quantonnx.calibration.samples import Samples
    from quantonnx.evidence import Errors, Evidence, GroupEvidence

_PANEL = "Layers"
_SHOWN = 10


@dataclass(frozen=True)
class LayerOptions:
    """Whether to look at each layer, and how closely."""

    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="Errors of each matched group and each pair, worst first.", rich_help_panel=_PANEL
        ),
    ] = False
    top: Annotated[
        int | None,
        typer.Option("--top", metavar="N", min=1, help="Show so many of each; 10 by default.", rich_help_panel=_PANEL),
    ] = None
    at_outputs: Annotated[
        int | None,
        typer.Option(
            "--at-outputs",
            metavar="N",
            min=0,
            help="Measure for N groups, on all samples, what each alone does to the model's outputs; by default for as "
            "many as take a short time, on 8 samples. Groups are ranked by it.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME",
            help="The target whose groups to look at, where the file does not name it.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="DIR", help="Write report.html and report.json there.", rich_help_panel=_PANEL
        ),
    ] = None

    def check(self) -> None:
        """Raises ConfigError where an option for layers is given without --layers."""
        given = {
            "--top": self.top,
            "--at-outputs": self.at_outputs,
            "--target": self.target,
            "--report": self.report,
        }
        first = next((name for name, value in given.items() if value is not None), None)
        if first and not self.layers:
            raise ConfigError(f"{first} is given without --layers", "add --layers")
        if self.report is not None:
            check_report_folder(self.report)


def show_layers(run: Run, model: Path, quantized: Path, samples: Samples, options: LayerOptions) -> Evidence:
    """Measures the layers of two files, shows and keeps what was found, and returns it."""
    from quantonnx.evidence import compare_layers

    with run.stage("layers", "layers") as stage:
        found = compare_layers(
            model,
            quantized,
            samples,
            target=options.target,
            at_outputs=options.at_outputs,
            blame=max(options.at_outputs or 0, BLAMED),
            progress=stage.report,
        )
        stage.detail = f"{len(found.groups)} groups, {len(found.sites)} pairs and weights, {found.samples} samples"
    run.result["layers"] = found.to_dict()
    for note in found.notes:
        run.note(f"note: {note}")
    most = max(len(found.groups), len(found.sites)) if run.verbose else options.top or _SHOWN
    run.show("", _groups_table(found, most), "", _sites_table(found, most), "")
    if options.report is None:  # which ends with lines that say it too
        run.show_text(last_line(found))
    return found


def last_line(found: Evidence) -> str:
    """Returns what to do about the worst group."""
    from quantonnx.evidence import advice

    if not found.groups or not found.groups[0].isolated.noise:
        return "no group changes its values\n"
    worst = found.groups[0]
    return f"worst: {worst.pattern} {worst.name!r}: {advice(found, worst)}\n"


def _groups_table(found: Evidence, most: int) -> Table:
    from quantonnx.commands.tables import percent, table

    rows = [
        (
            group.name,
            group.pattern,
            _at_output(group),
            percent(group.share),
            _to_blame(found, group),
            _decibels(group.isolated),
            f"{group.isolated.cosine:.5f}",
            _decibels(group.accumulated),
            f"{group.macs / 1e6:.2f}",
        )
        for group in found.groups[:most]
    ]
    columns = ["group", "pattern", "outputs dB", "share of noise", "mostly by"]
    columns += ["its own dB", "cosine", "with all before dB", "million MACs"]
    title = _title(f"Groups by {found.ranked_by}", len(rows), len(found.groups))
    return table(title, *columns, rows=rows, numbers=range(2, len(columns)))


def _at_output(group: GroupEvidence) -> str:
    """The SQNR of the worst output where only this group is quantized; one that is predicted is marked."""
    if group.at_output is not None:
        return _decibels(group.at_output)
    return f"~{-10 * math.log10(group.effect):.1f}" if 0 < group.effect < math.inf else "–"


def _to_blame(found: Evidence, group: GroupEvidence) -> str:
    """The role of the pair to blame, and its share."""
    from quantonnx.evidence import worst_site

    site = worst_site(found, group) if group.blame else None
    return "–" if site is None else f"{site.role} {group.blame[site.tensor]:.0%}"


def _sites_table(found: Evidence, most: int) -> Table:
    from quantonnx.commands.tables import percent, table

    rows = [
        (
            site.tensor,
            site.role,
            site.format,
            "–" if site.role == "bias" else _decibels(site.errors),  # correction changes it on purpose
            f"{100 * site.clipped:.3g} %",
            percent(site.clipping),
            percent(site.code_range_used),
            _span(site.seen),
            _span(site.range),
        )
        for site in found.sites[:most]
    ]
    columns = ("tensor", "role", "format", "SQNR dB", "clipped", "noise by clipping", "codes used", "values", "range")
    title = _title("Pairs and weights by their own error, whatever it does to the outputs", len(rows), len(found.sites))
    return table(title, *columns, rows=rows, numbers=range(3, 9))


def _title(text: str, shown: int, total: int) -> str:
    return f"{text} ({total})" if shown == total else f"{text} ({shown} of {total}: --top N or --verbose shows more)"


def _decibels(errors: Errors) -> str:
    return f"{errors.sqnr_db:.1f}"


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3g} … {ends[1]:.3g}"
