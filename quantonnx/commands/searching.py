"""The options of `quantize` that go from evidence to action: a bar on accuracy, and choices made from evidence."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantonnx.commands.options import SampleOptions, check_out
from quantonnx.commands.running import CHECK_FAILED, Run, complain, write_text
from quantonnx.errors import ConfigError

if TYPE_CHECKING:
    from quantonnx.calibration.collected import Statistics
    from quantonnx.calibration.samples import Samples
    from quantonnx.quantized import QuantizedModel
    from quantonnx.search import Found, Goal
    from quantonnx.search.choosing import Choice
    from quantonnx.search.goals import Metric

_PANEL = "Search"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class SearchOptions:
    """The bar that the result has to meet, and what may be chosen to meet it."""

    max_drop: Annotated[
        str | None,
        typer.Option(
            "--max-drop",
            metavar="0.5%",
            help="Keep as little in float as it takes for the metric to fall no further; exit with 1 where it does.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    min_sqnr: Annotated[
        str | None,
        typer.Option(
            "--min-sqnr",
            metavar="30dB",
            help="Keep as little in float as it takes for the worst output to be so near to float.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="accuracy (with labels, then the default), agreement, sqnr, or FILE.py:FUNCTION, which gets "
            "(run, samples) and returns a number, larger being better.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    evaluations: Annotated[
        int | None,
        typer.Option(
            "--evaluations",
            metavar="N",
            min=2,
            help="Measure at most so many configurations; 24 by default.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="Choose method and recipe by the outputs on held-out calibration samples.",
            rich_help_panel=_PANEL,
        ),
    ] = False
    time_budget: Annotated[
        str | None,
        typer.Option(
            "--time-budget",
            metavar="5m",
            help="Begin no further candidate of --auto then; 5m by default.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    emit_config: Annotated[
        Path | None,
        typer.Option(
            "--emit-config",
            metavar="FILE.yaml",
            help="Write the configuration that was found, with the reason of each entry.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    @property
    def wanted(self) -> bool:
        """True where a bar is set."""
        return self.max_drop is not None or self.min_sqnr is not None

    def check(self, source: SampleOptions, eval_data: Path | None, *, force: bool) -> None:
        """Raises, before any work, where options are wrong or lack something."""
        self.goal()
        self.seconds()
        if self.metric is not None and not self.wanted:
            raise ConfigError("--metric has no bar", "give --max-drop or --min-sqnr")
        if self.wanted and eval_data is None and source.data is None:
            option = "--max-drop" if self.max_drop is not None else "--min-sqnr"
            raise ConfigError(f"{option} has nothing to measure on", "give --eval-data DATA")
        if self.auto and source.data is None:
            raise ConfigError("--auto has no samples to judge by", "give --data DATA")
        if self.time_budget is not None and not self.auto:
            raise ConfigError("--time-budget is that of --auto", "give both, or neither")
        if self.emit_config is not None and not (self.wanted or self.auto):
            raise ConfigError("--emit-config has nothing to write", "give --max-drop, --min-sqnr or --auto")
        if self.emit_config is not None and self.emit_config.suffix.lower() not in (".yaml", ".yml"):
            raise ConfigError(f"--emit-config is {str(self.emit_config)!r}", "name a .yaml file")
        if self.emit_config is not None:
            check_out(self.emit_config, force=force)

    def goal(self) -> Goal | None:
        """Returns the bar; None where there is none."""
        if not self.wanted:
            return None
        from quantonnx.search.goals import METRICS, Goal, parse_decibels, parse_drop

        own = None if self.metric is None or self.metric in METRICS else load_metric(self.metric)
        drop = None if self.max_drop is None else parse_drop(self.max_drop, share=own is None)
        sqnr = None if self.min_sqnr is None else parse_decibels(self.min_sqnr)
        return Goal(drop, sqnr, own or self.metric)

    def seconds(self) -> float:
        """Returns the time that --auto has. Raises ConfigError where it is no time."""
        found = _DURATION.fullmatch((self.time_budget or "5m").strip().lower())
        if found is None:
            raise ConfigError(f"--time-budget is {self.time_budget!r}", "expected a time such as 90s, 5m or 1h")
        return float(found[1]) * _SECONDS[found[2]]


def load_metric(told: str) -> Metric:
    """Returns the function written as FILE.py:FUNCTION. Raises ConfigError, and PatternError where the file fails."""
    from quantonnx.search.goals import METRICS
    from quantonnx.target import load_module

    path, colon, name = told.rpartition(":")
    if not colon or not path.endswith(".py"):
        expected = f"expected {', '.join(METRICS)}, or FILE.py:FUNCTION"
        raise ConfigError(f"--metric is {told!r}", expected)
    found = getattr(load_module(path), name, None)
    if not callable(found):
        raise ConfigError(f"--metric: {path} has no function {name!r}", "name one that takes (run, samples)")
    return found  # type: ignore[no-any-return]  # what a user's file holds


def show_choice(run: Run, choice: Choice) -> None:
    """Prints what --auto tried, and why it took what it took."""
    from quantonnx.commands import tables

    rows = [(option.name, option.result, f"{option.seconds:.1f} s") for option in choice.options]
    title = f"Tried on {choice.held_out} held-out samples, calibrated on {choice.used}"
    run.show(tables.table(title, "candidate", "SQNR of the worst output", "time", rows=rows, numbers=(1, 2)), "")
    for reason in choice.reasons:
        run.show_text(f"{reason}\n")
    run.result["auto"] = {
        "chosen": choice.chosen.name,
        "reasons": list(choice.reasons),
        "options": [asdict(option) | {"config": None} for option in choice.options],
    }


def show_found(run: Run, found: Found) -> None:
    """Prints what a search found, group by group."""
    from quantonnx.commands import tables

    rows = [(change.name, "16 bits" if change.rules else "float", change.reason) for change in found.changes]
    if rows:
        run.show(tables.table("Given up to meet the bar", "group", "now", "why", rows=rows), "")
    for line in found.remarks():
        run.show_text(f"{line}\n")
    run.result["search"] = {
        "reached": found.reached,
        "goal": str(found.goal),
        "samples": found.samples,
        "score": asdict(found.score),
        "before": asdict(found.before.score),
        "float_macs": found.best.float_macs,
        "changes": [{"name": change.name, "reason": change.reason} for change in found.changes],
        "trials": [_trial(trial) for trial in found.trials],
        "limit": found.limit,
    }


def _trial(trial: Any) -> dict[str, Any]:
    names = [candidate.group.name for candidate in trial.given_up]
    return {"given_up": names, "reached": trial.reached, "float_macs": trial.float_macs, **asdict(trial.score)}


class Acting:
    """What `quantize` does from evidence: choose, search, and say what came of it."""

    def __init__(
        self,
        run: Run,
        options: SearchOptions,
        placed: QuantizedModel,
        samples: Samples | None,
        evaluation: Samples | None,
        model: Path,
    ) -> None:
        self.run, self.options, self.placed = run, options, placed
        self.samples, self.evaluation, self.model = samples, evaluation, model
        self.choice: Choice | None = None
        self.found: Found | None = None

    def choose(self) -> QuantizedModel:
        """Returns the model placed as configured, or as --auto finds best."""
        if not self.options.auto:
            return self.placed
        from quantonnx.quantized import insert_qdq
        from quantonnx.search.choosing import choose_config

        with self.run.stage("choose", "choose method and recipe") as stage:
            self.choice = choose_config(
                self.placed,
                self.samples,
                exact=self.model,
                time_budget=self.options.seconds(),
                progress=stage.report,
            )
            stage.detail = self.choice.chosen.name
        self.placed = insert_qdq(self.placed.model, self.placed.matches, self.choice.config)
        return self.placed

    def search(self, statistics: Statistics | None) -> QuantizedModel:
        """Returns the calibrated model that meets the bar, or is nearest to it."""
        from quantonnx import summary
        from quantonnx.search.searching import BUDGET, Search

        goal = self.options.goal()
        assert goal is not None
        if self.evaluation is None:
            self.run.note("the bar is measured on the data that calibrated: give --eval-data for figures that hold")
        with self.run.stage("search", f"search for {goal}") as stage:
            search = Search(
                self.placed,
                self.model,
                goal,
                samples=self.samples,
                evaluation=self.evaluation,
                statistics=statistics,
                budget=self.options.evaluations or BUDGET,
            )
            self.found = found = search.run(stage.report)
            stage.detail = f"{len(found.trials)} configurations measured on {found.samples} samples"
        self.run.result |= {
            "samples": sum(source.samples for source in found.quantized.data),
            "pairs": summary.pairs(found.quantized),
            "sites": summary.sites(found.quantized),
            "excluded": summary.excluded(found.quantized),
        }
        return found.quantized

    def tell(self, *, force: bool) -> None:
        """Prints what was chosen and found, and writes the configuration where it is asked for."""
        if self.choice is not None:
            show_choice(self.run, self.choice)
        if self.found is not None:
            show_found(self.run, self.found)
        if self.options.emit_config is not None:
            write_text(self.options.emit_config, self._config(), force=force)
            self.run.result["config"] = str(self.options.emit_config)
            self.run.note(f"configuration: {self.options.emit_config}")

    def verdict(self) -> int:
        """Returns the exit code, and complains where the bar is not met."""
        if self.found is None or self.found.reached:
            return 0
        found, score, parts = self.found, self.found.score, []
        if found.goal.max_drop is not None and not score.drop <= found.goal.max_drop:
            parts.append(f"{score.metric} fell by {score.drop:.4f}, more than --max-drop {self.options.max_drop}")
        if found.goal.min_sqnr is not None and not score.sqnr_db >= found.goal.min_sqnr:
            parts.append(f"the SQNR is {score.sqnr_db:.2f} dB, less than --min-sqnr {self.options.min_sqnr}")
        complain(f"{' and '.join(parts)}: {found.limit}; the nearest that was found is written")
        return CHECK_FAILED

    def _config(self) -> str:
        from quantonnx.search.emitting import to_yaml

        told = self.choice.remarks() if self.choice is not None else []
        if self.found is not None:
            return self.found.to_yaml(told)
        return to_yaml(self.placed.config, (), (*told, "") if told else ())
