"""`batch`: many models times several targets, each in a process of its own, resumable, with one summary."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantonnx.commands.libraries import LibraryOptions
from quantonnx.commands.options import NumberOptions, SampleOptions
from quantonnx.commands.running import CHECK_FAILED, Run
from quantonnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantonnx.batch.expansion import Job
    from quantonnx.batch.running import Item, Options
    from quantonnx.batch.settings import EntrySettings

_WORK, _SPREAD = "Work", "Processes"
_SHOWN = {
    "entry": "entry",
    "state": "state",
    "seconds": "seconds",
    "activation_pairs": "pairs",
    "weights": "weights",
    "sqnr_db": "SQNR dB",
    "agreement": "agreement",
    "accuracy": "accuracy",
}
"""What people see of an entry, and what that is called."""

_SCHEME = re.compile(r"^([a-z][a-z0-9+]+):/(?!/)")


@dataclass(frozen=True)
class WorkOptions:
    """What is made of each model besides its samples and numbers."""

    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", metavar="NAME", help="A target; repeatable.", rich_help_panel=_WORK),
    ] = None
    patterns: Annotated[
        Path | None,
        typer.Option("--patterns", metavar="FILE.py", help="Your own patterns: code.", rich_help_panel=_WORK),
    ] = None
    eval_data: Annotated[
        str | None,
        typer.Option("--eval-data", metavar="DATA", help="Compare both models on this.", rich_help_panel=_WORK),
    ] = None
    report: Annotated[
        bool, typer.Option("--report", help="A report for each entry, beside its file.", rich_help_panel=_WORK)
    ] = False


@dataclass(frozen=True)
class SpreadOptions:
    """How the work is spread, and what one entry may cost."""

    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, help="Models at a time.", rich_help_panel=_SPREAD)
    ] = 1
    memory_limit: Annotated[
        str | None,
        typer.Option(
            "--memory-limit", metavar="SIZE", help="The most that a model may take, as 4GB.", rich_help_panel=_SPREAD
        ),
    ] = None
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout", metavar="TIME", help="The longest that an entry may take, as 10min.", rich_help_panel=_SPREAD
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="tcp://HOST:PORT",
            help="Run on the workers of this Dask cluster, a model for each thread.",
            rich_help_panel=_SPREAD,
        ),
    ] = None
    split_samples: Annotated[
        int | None,
        typer.Option(
            "--split-samples",
            metavar="N",
            min=1,
            help="Calibrate in parts of N samples, which the cluster shares out: for few and large models.",
            rich_help_panel=_SPREAD,
        ),
    ] = None
    retry: Annotated[
        bool, typer.Option("--retry", help="Try again what failed for a lasting reason.", rich_help_panel=_SPREAD)
    ] = False


def batch(
    run: Run,
    source: Annotated[
        str,
        typer.Argument(metavar="SPEC|FOLDER|GLOB", help="A folder, a glob, or a YAML, TOML or JSON list of models."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where results go.")],
    work: WorkOptions,
    samples: SampleOptions,
    numbers: NumberOptions,
    spread: SpreadOptions,
    libraries: LibraryOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
) -> int:
    """Quantize many models for several targets; run it again to go on where it was ended."""
    from quantonnx.batch.expansion import expand

    place = _plain(out)
    given = _given(work, samples, numbers, spread)
    given.ort_extension = tuple(map(str, libraries.ort_extension)) if libraries.ort_extension else None
    jobs = expand(source, given, place)
    _check(jobs)
    options = _options(place, work, spread)
    _check_split(jobs, options)
    items = _foreseen(jobs, options) if dry_run else _carried_out(run, jobs, options)
    _show(run, items, options)
    return 0 if dry_run or all(item.succeeded for item in items) else CHECK_FAILED


def _given(work: WorkOptions, samples: SampleOptions, numbers: NumberOptions, spread: SpreadOptions) -> EntrySettings:
    """What the command line says of every model, by the names of a spec."""
    from quantonnx.batch.settings import EntrySettings

    images = {name: getattr(samples, name) for name in ("resize", "crop", "scale", "mean", "std", "layout", "rgb")}
    said: dict[str, Any] = {
        "targets": tuple(work.target) if work.target else None,
        "patterns": work.patterns,
        "eval_data": work.eval_data,
        "data": samples.data,
        "random_data": samples.random_data,
        "samples": samples.samples,
        "batch_size": samples.batch_size if samples.batch_size != SampleOptions.batch_size else None,
        "images": images if images != {name: getattr(SampleOptions, name) for name in images} else None,
        "config": numbers.config,
        "preset": numbers.preset,
        "method": numbers.method,
        "exclude": tuple(numbers.exclude) if numbers.exclude else None,
        "keep_slow": numbers.keep_slow or None,
        "memory_limit": spread.memory_limit,
        "timeout": spread.timeout,
    }
    given: dict[str, Any] = {name: _plain(value) for name, value in said.items() if value is not None}
    return EntrySettings(**given)


def _plain(value: Any) -> Any:
    """Paths as text; a path has made one slash of the two in a URL, or of the three."""
    if not isinstance(value, Path):
        return value
    return _SCHEME.sub(lambda found: f"{found[1]}:///" if found[1] == "file" else f"{found[1]}://", str(value))


def _check(jobs: Sequence[Job]) -> None:
    """Raises, before any work, for a target or a configuration that no model could have."""
    from quantonnx.commands.batch_options import GivenOptions
    from quantonnx.provenance import canonical

    seen: set[str] = set()
    for job in jobs:
        settings = job.settings.model_dump(mode="json")
        if job.settings.data is not None and job.settings.random_data is not None:
            raise ConfigError(f"{job.name} has data and random_data", "give one of them")
        for entry in job.entries:
            about = {name: settings[name] for name in ("patterns", "config", "preset", "method", "exclude", "images")}
            if (said := canonical([entry.target, about])) not in seen:
                seen.add(said)
                options = GivenOptions(job.model, settings)
                options.target(entry.target).choose()
                options.numbers.build()
                options.samples.images()


def _options(place: str, work: WorkOptions, spread: SpreadOptions) -> Options:
    from quantonnx.batch.remote import is_url
    from quantonnx.batch.running import Options
    from quantonnx.calibration.concurrency import cores
    from quantonnx.commands.batch_worker import MODULE
    from quantonnx.commands.reporting import check_report_folder

    remote = is_url(place)
    out = _remembering(place) if remote else Path(place)
    threads = max(cores(None) // spread.jobs, 1)
    if work.report:
        check_report_folder(out)
    return Options(
        MODULE,
        out,
        spread.jobs,
        threads,
        report=work.report,
        retry=spread.retry,
        scheduler=spread.scheduler,
        split=spread.split_samples,
        storage=place if remote else "",
    )


def _check_split(jobs: Sequence[Job], options: Options) -> None:
    """Raises ConfigError where the workers of a cluster could not see what they are to share."""
    from quantonnx.batch.remote import is_url
    from quantonnx.batch.settings import DATA

    if options.split is None or options.scheduler is None:
        return
    places = [options.storage, *(str(getattr(job.settings, name)) for job in jobs for name in DATA)]
    remote = next((place for place in places if is_url(place)), None)
    if remote is not None:
        raise ConfigError(
            f"--split-samples on a cluster, and {remote!r} is a URL", "name a folder that all workers see"
        )


def _remembering(url: str) -> Path:
    """The folder that has what a batch remembers of results behind a URL, and their temporary files."""
    return Path.home() / ".cache" / "quantonnx" / "batch" / hashlib.sha256(url.encode()).hexdigest()[:16]


def _foreseen(jobs: Sequence[Job], options: Options) -> list[Item]:
    """What would be done and what is done already; nothing is written."""
    from quantonnx.batch.journal import read_records
    from quantonnx.batch.keys import Keys
    from quantonnx.batch.running import planned

    return list(planned(jobs, options, read_records(options.out), Keys()))


def _carried_out(run: Run, jobs: Sequence[Job], options: Options) -> list[Item]:
    from quantonnx.batch.board import Board
    from quantonnx.batch.cluster import ClusterEngine
    from quantonnx.batch.running import run_batch
    from quantonnx.batch.summary import write_summary

    board = Board(run.note, run.moving)
    with board.shown():
        return run_batch(
            jobs,
            options,
            hear=board.hear,
            begin=board.begin,
            finish=lambda items: write_summary(items, options.out, options.storage),
            note=run.note,
            engine=None if options.scheduler is None else lambda _lock: ClusterEngine(str(options.scheduler)),
        )


def _show(run: Run, items: Sequence[Item], options: Options) -> None:
    from quantonnx.batch.summary import counts, row
    from quantonnx.commands.tables import table

    rows = [row(item, options.out) for item in items]
    run.result |= {"output": options.storage or str(options.out), "counts": counts(items), "entries": rows}
    shown = [[_cell(found.get(name)) for name in _SHOWN] for found in rows]
    run.show(table("", *_SHOWN.values(), rows=shown, numbers=range(2, len(_SHOWN))))
    run.show_text(", ".join(f"{number} {name}" for name, number in counts(items).items() if number) + "\n")
    run.show_text("".join(f"{found['entry']}: {found['reason']}\n" for found in rows if found["state"] == "failed"))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
