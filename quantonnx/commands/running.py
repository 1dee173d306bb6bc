"""What every command shares: stages with their time, one result for people and for machines, errors as one line."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import inspect
import json
import math
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console, RenderableType

from quantonnx.errors import OutputError, QuantonnxError

CHECK_FAILED = 1
FAILED = 2
INTERRUPTED = 130

_PACKAGES = ("quantonnx", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime")
_WIDTH_OF_A_FILE = 240
_PANEL = "Output"


@dataclass(frozen=True)
class CommonOptions:
    """The options of every command."""

    json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write the result as JSON; - for standard output.", rich_help_panel=_PANEL
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=_PANEL)] = (
        False
    )
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print everything, name by name.", rich_help_panel=_PANEL)
    ] = False
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.", rich_help_panel=_PANEL)
    ] = False


class Stage:
    """One step of a command while it runs: `report(done, total)` moves the bar, `detail` ends up in its line."""

    def __init__(self, report: Callable[[int, int | None], None]) -> None:
        self.report = report
        self.detail = ""


class Run:
    """One run of a command: where its lines go, how long its stages took, and its result."""

    def __init__(self, name: str, common: CommonOptions) -> None:
        self.common = common
        self.verbose = common.verbose
        self.result: dict[str, Any] = {
            "command": name,
            "model": None,
            "target": None,
            "pairs": {"activation": 0, "weight": 0},
            "matches": [],
            "sites": [],
            "excluded": [],
            "metrics": {},
            "seconds": {},
        }
        to_stdout = str(common.json) != "-"
        self._out = _console(sys.stdout if to_stdout else sys.stderr, quiet=common.quiet)
        self._err = _console(sys.stderr, quiet=common.quiet)

    def execute(self, function: Callable[..., int | None], options: dict[str, Any]) -> int:
        """Runs the command and returns its exit code; what it raises becomes one line on standard error."""
        error = None
        try:
            code = function(self, **options) or 0
        except KeyboardInterrupt:
            code, error = INTERRUPTED, "interrupted"
        except Exception as raised:
            if self.common.traceback:
                traceback.print_exc()
            code, error = FAILED, one_line(raised)
        if error:
            complain(error)
        return self._write(error) or code

    def show(self, *renderables: RenderableType) -> None:
        """Prints text or tables for people."""
        for renderable in renderables:
            self._out.print(renderable)

    def show_text(self, text: str) -> None:
        """Prints text as it is: no markup, no wrapping."""
        self._out.print(text, highlight=False, markup=False, soft_wrap=True, end="")

    def note(self, text: str) -> None:
        """Prints a line about how things go, apart from the result."""
        self._err.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[Stage]:
        """Times a step under `name`: a progress bar on a terminal, one line when it is done."""
        started = time.perf_counter()
        with self._bar(title) as report:
            stage = Stage(report)
            yield stage
        elapsed = time.perf_counter() - started
        seconds = self.result["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + elapsed, 4)
        self.note(f"{title}{': ' if stage.detail else ''}{stage.detail} ({elapsed:.1f} s)")

    @contextmanager
    def _bar(self, title: str) -> Iterator[Callable[[int, int | None], None]]:
        if not self._err.is_terminal or self.common.quiet:
            yield lambda _done, _total: None
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._err, transient=True) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def _write(self, error: str | None) -> int:
        destination = self.common.json
        if destination is None:
            return 0
        self.result |= {"error": error, "peak_rss_mb": peak_rss_mb(), "versions": versions()}
        text = json.dumps(finite(self.result), indent=2, ensure_ascii=False, default=str) + "\n"
        if str(destination) == "-":
            sys.stdout.write(text)
            return 0
        try:
            write_text(destination, text)
        except (OSError, QuantonnxError) as failure:
            complain(one_line(failure))
            return FAILED
        return 0


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """Returns what typer takes as the command: the function's parameters, those of its option groups, and the common
    ones. The function itself gets a Run first, and each group as one dataclass."""
    hints = get_type_hints(function, include_extras=True)
    given = [p for p in inspect.signature(function).parameters.values() if p.name != "run"]
    groups = {p.name: hints[p.name] for p in given if dataclasses.is_dataclass(hints[p.name])}
    parameters = [
        parameter
        for p in given
        for parameter in (
            _fields(groups[p.name])
            if p.name in groups
            else [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)]
        )
    ] + _fields(CommonOptions)

    @functools.wraps(function)
    def called(**options: Any) -> None:
        common = _taken(CommonOptions, options)
        built = {name: _taken(group, options) for name, group in groups.items()}
        code = Run(function.__name__, common).execute(function, options | built)
        if code:
            raise typer.Exit(code)

    del called.__wrapped__  # type: ignore[attr-defined]  # or its parameters would be taken for these
    called.__signature__ = inspect.Signature(parameters)
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def _taken(group: Any, options: dict[str, Any]) -> Any:
    return group(**{field.name: options.pop(field.name) for field in dataclasses.fields(group)})


def complain(message: str) -> None:
    """Prints the one line of an error."""
    print(f"quantonnx: error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201


def one_line(error: BaseException) -> str:
    """Returns what went wrong, in one line for a person."""
    if isinstance(error, QuantonnxError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "out of memory; give fewer samples at once (--batch-size 1)"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the output'}: {error.strerror}"
    text = " ".join(str(error).split())[:400]
    return f"unexpected {type(error).__name__}: {text}; run again with --traceback and report it"


def write_text(path: Path, text: str, *, force: bool = True) -> None:
    """Writes a text file, whole or not at all. Raises OutputError where it exists, unless `force`."""
    from quantonnx.writing import into_place

    if not path.parent.is_dir():
        raise OutputError(f"the folder {str(path.parent)!r} does not exist", "create it first")
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe: nothing to move into place
        path.write_text(text, encoding="utf-8")
        return
    with into_place(path, force=force, sources=frozenset()) as (temporary,):
        temporary.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """Returns a result with null in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def peak_rss_mb() -> float:
    """Returns the most memory that this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024), 1)


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in _PACKAGES}}


def version_of(package: str) -> str:
    """Returns the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _console(file: Any, *, quiet: bool) -> Console:
    console = Console(file=file, quiet=quiet, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_FILE
    return console
