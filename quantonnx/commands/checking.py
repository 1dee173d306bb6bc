"""`check`: whether anybody's Q/DQ file suits a target, and what the target's real runtime makes of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantonnx.commands.libraries import NO_LIBRARIES, LibraryOptions
from quantonnx.commands.options import TargetOptions
from quantonnx.commands.running import CHECK_FAILED, Run
from quantonnx.errors import ConfigError, TargetError

if TYPE_CHECKING:
    from rich.table import Table

    from quantonnx.linting import Finding
    from quantonnx.runtimes.report import RunReport

_MOST_ROWS = 20
_RUNNING = "Running"


@dataclass(frozen=True)
class RunningOptions:
    """Whether to run the file, and on what."""

    running: Annotated[
        bool,
        typer.Option("--run", help="Compile it with the target's real runtime, and time it.", rich_help_panel=_RUNNING),
    ] = False
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            metavar="NAME",
            help="Run with onnxruntime, openvino or tensorrt instead of the target's own.",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    float_model: Annotated[
        Path | None,
        typer.Option(
            "--float",
            metavar="FILE",
            help="The float model to time against; by default the file without its pairs.",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="INPUT=1x3x224x224",
            help="The shape of an input with open dimensions; repeatable.",
            rich_help_panel=_RUNNING,
        ),
    ] = None

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes by the name of the input."""
        return dict(_size(text) for text in self.shape or [])


def check(
    run: Run,
    model: Annotated[
        Path, typer.Argument(metavar="QDQ_MODEL", help="A model with Q/DQ pairs, whoever put them there.")
    ],
    compiler: TargetOptions,
    options: RunningOptions,
    libraries: LibraryOptions = NO_LIBRARIES,
) -> int:
    """Check where the pairs of a quantized file stand, and with --run what the real runtime makes of it."""
    from quantonnx.linting import Severity, lint
    from quantonnx.model import Model

    run.using(libraries.registered())
    target = compiler.choose()
    run.result |= {"model": str(model), "target": target.name}
    sizes = options.sizes()
    with run.stage("read", "read") as stage:
        read = Model.read(model)
        stage.detail = model.name
    with run.stage("lint", "lint") as stage:
        findings = lint(read, target)
        stage.detail = f"{len(findings)} finding{'s' * (len(findings) != 1)} for {target.name}"
    run.result["findings"] = [_finding(finding) for finding in findings]
    run.result["run"] = None
    run.show(findings_table(findings, every=run.verbose) if findings else f"No findings for {target.name}.")
    failed = any(finding.severity is Severity.ERROR for finding in findings)
    if options.running or options.runtime is not None:
        report = _run(run, model, options.runtime or target.name, options.float_model, sizes)
        failed = failed or (report is not None and bool(report.error))
    return CHECK_FAILED if failed else 0


def _run(
    run: Run, model: Path, runtime: str, float_model: Path | None, sizes: dict[str, tuple[int, ...]]
) -> RunReport | None:
    """Runs, or says why that is not possible here: `trtexec` is seldom at hand, and linting does not need it."""
    from quantonnx.runtimes.running import RUNTIMES, run_with, why_not

    if runtime not in RUNTIMES:
        raise TargetError(f"there is no runtime for the target {runtime!r}", f"name one: --runtime {RUNTIMES[0]}")
    missing = why_not(runtime)
    if missing is not None and runtime == "tensorrt":
        run.note(f"not run: {missing}")
        run.result["run"] = {"runtime": runtime, "error": "", "note": str(missing)}
        return None
    with run.stage("run", "run") as stage:
        report = run_with(runtime, model, float_model=float_model, sizes=sizes)
        stage.detail = f"{runtime} {report.version}".strip()
    run.result["run"] = _described(report)
    _show_run(run, report)
    return report


def _size(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    try:
        found = tuple(int(size) for size in sizes.lower().split("x"))
    except ValueError:
        found = ()
    if not name or not found:
        raise ConfigError(f"--shape is {text!r}", "expected a name and sizes, such as image=1x3x224x224")
    return name, found


def _finding(finding: Finding) -> dict[str, str]:
    return {
        "severity": finding.severity.value,
        "rule": finding.rule,
        "place": finding.place,
        "reason": finding.reason,
        "remedy": finding.remedy,
    }


def findings_table(findings: list[Finding], *, every: bool) -> Table:
    """One row for each finding, or for each kind of them with the first of its places."""
    from quantonnx.commands.tables import table

    kinds: dict[Any, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding if every else (finding.severity, finding.rule), []).append(finding)
    counts = Counter(finding.severity.value for finding in findings)
    title = "Findings: " + ", ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items())
    rows = [
        (f"{found[0].severity.value}\n{found[0].rule}", f"{_places(found)}\n{found[0].reason}\n→ {found[0].remedy}")
        for found in kinds.values()
    ]
    made = table(title, "what", "where, why, and what to do", rows=rows)
    made.columns[0].no_wrap = True
    made.show_lines = len(rows) > 1
    return made


def _places(findings: list[Finding]) -> str:
    more = len(findings) - 1
    return f"{findings[0].place}{f' and {more} more (--verbose shows all)' if more else ''}"


def _described(report: RunReport) -> dict[str, Any]:
    from quantonnx import summary

    operators = [
        {
            "name": item.name,
            "operator": item.operator,
            "integer": item.integer,
            "kernel": item.kernel,
            "multiply_accumulates": item.multiply_accumulates,
        }
        for item in report.operators
    ]
    return {
        "runtime": report.runtime,
        "version": report.version,
        "error": report.error,
        "note": report.note,
        "integer_share": report.integer_share,
        "operators": operators,
        "layers": report.layers or {},
        "conversions": report.conversions or {},
        "speed": summary.speed(report.speed) if report.speed else None,
    }


def _show_run(run: Run, report: RunReport) -> None:
    from quantonnx.commands.tables import percent, table

    if report.error:
        run.show(f"{report.runtime} does not run it: {report.error}")
        return
    facts = [
        ("runtime", f"{report.runtime} {report.version}"),
        ("multiply-accumulates in integers", percent(report.integer_share)),
        (
            "conversions left",
            ", ".join(f"{count} {kind}" for kind, count in (report.conversions or {}).items()) or "none",
        ),
    ]
    if report.speed is not None:
        speed = report.speed
        times = f"{speed.quantized_ms:.3g} ms, {speed.ratio:.2f} of float's {speed.float_ms:.3g} ms"
        facts.append(("time of one run, 1 thread", times))
    if report.note:
        facts.append(("note", report.note))
    run.show("", table("What the runtime made of it", "", "", rows=facts), "")
    run.show(_kernels_table(report), "")
    left = report.in_float
    if left:
        shown = left if run.verbose else left[:_MOST_ROWS]
        rows = [
            (item.name, item.operator, item.kernel or "–", f"{item.multiply_accumulates / 1e6:.2f}") for item in shown
        ]
        title = f"In float ({len(left)})" if len(shown) == len(left) else f"In float ({len(left)}, the largest first)"
        run.show(table(title, "name", "operator", "kernel", "million MACs", rows=rows, numbers=(3,)))


def _kernels_table(report: RunReport) -> Table:
    from quantonnx.commands.tables import table

    counts: dict[str, list[int]] = {}
    kernels: dict[str, Counter[str]] = {}
    for item in report.operators:
        counts.setdefault(item.operator, [0, 0])[0] += item.integer
        counts[item.operator][1] += 1
        kernels.setdefault(item.operator, Counter())[item.kernel or "–"] += 1
    weighty = {item.operator for item in report.operators if item.multiply_accumulates}
    order = sorted(counts, key=lambda operator: (operator not in weighty, operator))
    rows = [
        (operator, f"{counts[operator][0]} of {counts[operator][1]}", ", ".join(kernels[operator]))
        for operator in order
        if operator in weighty or counts[operator][0]
    ]
    return table("Operators of the file", "operator", "integer", "kernels", rows=rows, numbers=(1,))
