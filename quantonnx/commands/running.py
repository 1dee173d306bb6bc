"""What every command shares: stages with their time, one result for people and for machines, errors as one line."""

from __future__ import annotations

import dataclasses
import math
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from quantonnx.errors import OutputError, QuantonnxError
from quantonnx.printable import json_text, printable
from quantonnx.version import version_of

if TYPE_CHECKING:
    from quantonnx.observing import Observer

CHECK_FAILED = 1
FAILED = 2
INTERRUPTED = 130

_PACKAGES = ("quantonnx", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime")
_WIDTH_OF_A_FILE = 240
_PANEL = "Output"
_OUTPUTS = frozenset({"out", "save_statistics", "svg", "emit_config"})


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
    """One run of a command: where its lines go, how long its stages took, and its result.

    `threads` are those of the models that it runs, None for as many as there are cores; `observer` runs the samples of
    a calibration, None for one pass here.
    """

    threads: int | None = None
    observer: Observer | None = None

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
        self._json_to_stdout = str(common.json) == "-"
        self._json = None if self._json_to_stdout else common.json
        self._out = _console(sys.stderr if self._json_to_stdout else sys.stdout, quiet=common.quiet)
        self._err = _console(sys.stderr, quiet=common.quiet)
        self._opened = ExitStack()

    def execute(self, function: Callable[..., int | None], options: dict[str, Any]) -> int:
        """Runs the command and returns its exit code; what it raises becomes one line on standard error."""
        error = None
        try:
            self._refuse_overwriting(options)
            with self._opened:
                code = function(self, **options) or 0
        except KeyboardInterrupt:
            code, error = INTERRUPTED, "interrupted"
        except Exception as raised:
            if self.common.traceback:
                sys.stderr.write(printable(traceback.format_exc()))
            code, error = FAILED, one_line(raised)
        if error:
            complain(error)
        return self._write(error) or code

    def _refuse_overwriting(self, options: dict[str, Any]) -> None:
        """Raises OutputError where a file to write is one of the files to read, or holds something else."""
        destination = self._json
        self._json = None  # not before it is known to harm nothing
        paths = dict(_paths(options))
        outputs = {name: paths.pop(name) for name in _OUTPUTS & set(paths)}
        if destination is not None:
            _check_json(destination)
            outputs["json"] = destination
        for name, path in outputs.items():
            others = {other: there for other, there in (paths | outputs).items() if other != name}
            twin = next((other for other, there in others.items() if there.resolve() == path.resolve()), None)
            if twin is not None:
                raise OutputError(
                    f"{str(path)!r} is given twice, as {name} and as {twin}", "write to a file that is no input"
                )
        self._json = destination

    def using(self, context: AbstractContextManager[Any]) -> None:
        """Enters a context that holds until the command ends."""
        self._opened.enter_context(context)

    def show(self, *renderables: RenderableType) -> None:
        """Prints text or tables for people."""
        for renderable in renderables:
            self._out.print(Text(printable(renderable)) if isinstance(renderable, str) else renderable)

    def show_text(self, text: str) -> None:
        """Prints text as it is: no markup, no wrapping."""
        self._out.print(printable(text), highlight=False, markup=False, soft_wrap=True, end="")

    @property
    def width(self) -> int:
        """The columns that there are for text."""
        return self._out.width

    @property
    def moving(self) -> Console | None:
        """The terminal on which things may move; None where lines are wanted, or nothing."""
        return self._err if self._err.is_terminal and not self.common.quiet else None

    def note(self, text: str) -> None:
        """Prints a line about how things go, apart from the result."""
        self._err.print(printable(text), highlight=False, markup=False, soft_wrap=True)

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
        destination = self._json
        if destination is None and not self._json_to_stdout:
            return 0
        self.result |= {"error": error, "peak_rss_mb": peak_rss_mb(), "versions": versions()}
        text = json_text(finite(self.result), indent=2, default=str) + "\n"
        if destination is None:
            sys.stdout.write(text)
            return 0
        try:
            write_text(destination, text)
        except (OSError, QuantonnxError) as failure:
            complain(one_line(failure))
            return FAILED
        return 0


def _paths(options: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """Every file that the options name."""
    for name, value in options.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _paths(vars(value))
        elif isinstance(value, list):
            yield from ((f"{name} {i + 1}", item) for i, item in enumerate(value) if isinstance(item, Path))
        elif isinstance(value, Path):
            yield name, value


def _check_json(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(64).strip()
    if start and not start.startswith(b"{"):
        raise OutputError(f"--json: {str(path)!r} exists and is no JSON file", "name another file")


def complain(message: str) -> None:
    """Prints the one line of an error."""
    print(f"quantonnx: error: {printable(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201


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
    from quantonnx.placing import into_place

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


def _console(file: Any, *, quiet: bool) -> Console:
    console = Console(file=file, quiet=quiet, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_FILE
    return console
