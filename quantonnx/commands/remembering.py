"""The options that keep what calibration saw, and that use it again in place of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.options import OutOptions, SampleOptions, check_out
from quantonnx.errors import ConfigError

if TYPE_CHECKING:
    from quantonnx.calibration.collected import Statistics

_PANEL = "Statistics"


@dataclass(frozen=True)
class StatisticsOptions:
    """Where statistics come from, and where they go."""

    statistics: Annotated[
        list[Path] | None,
        typer.Option(
            "--statistics",
            metavar="FILE",
            help="Take statistics from here instead of --data, and run nothing; repeatable: all files count.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    save_statistics: Annotated[
        Path | None,
        typer.Option(
            "--save-statistics",
            metavar="FILE.npz",
            help="Keep statistics of all that could be quantized, for other methods and settings.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    @property
    def asked(self) -> bool:
        """True where statistics are given, or are to be kept."""
        return bool(self.statistics) or self.save_statistics is not None

    def check(self, command: str, source: SampleOptions, output: OutOptions, *, needs_data: bool = True) -> None:
        """Raises, before any work, where there is neither data nor statistics, or both, or no place for the file."""
        if not self.statistics and (needs_data or source.given or self.save_statistics is not None):
            source.check(command)
        given = {"--data": source.data, "--random-data": source.random_data, "--samples": source.samples}
        for option, value in given.items() if self.statistics else ():
            if value is not None:
                raise ConfigError(f"{option} and --statistics are both given", "statistics need no data: give one")
        if self.save_statistics is not None:
            check_out(self.save_statistics, force=output.force)

    def gather(self, collect: Callable[[], Statistics], output: OutOptions) -> Statistics | None:
        """Returns statistics from the files, or those that `collect` gives where they are to be saved; else None."""
        from quantonnx.calibration.collected import Statistics

        found = Statistics.load(*self.statistics) if self.statistics else None
        if self.save_statistics is None:
            return found
        found = collect() if found is None else found
        found.save(self.save_statistics, force=output.force)
        return found
