"""Finds the configuration that meets a bar and gives up the least.

Candidates stand in the order of noise removed for time lost. How many of them it takes is found by doubling and
halving, from what their noise predicts; then those that turn out not to be needed are taken back, dearest first. Every
step measures the real metric on the data, so what is said of the result was measured, and not predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.feeds import Progress
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.config import QuantConfig
from quantonnx.errors import ConfigError, DataError
from quantonnx.evidence import Evidence, collect_evidence
from quantonnx.model import Model
from quantonnx.plan import Plan
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import Source, transform
from quantonnx.search.candidates import Candidate, raised, ranked
from quantonnx.search.emitting import Change, changed, to_yaml
from quantonnx.search.goals import Array, Goal, Score
from quantonnx.search.measuring import Evaluation
from quantonnx.search.trials import Quantizing, Trial, Trials, remaining
from quantonnx.target import Patterns, Target

BUDGET = 24
"""Measurements on the whole evaluation data."""

EVIDENCE_SAMPLES, EVIDENCE_GROUPS = 16, 64
"""Samples that evidence is gathered on, and the groups whose effect on the outputs is measured."""

_CONFIRMED = 5
"""Configurations that met the bar as trials, of which the cheapest is taken that meets it as `quantize` makes it."""

_SPARED = 0.02
"""Of all noise: a candidate that takes away less may turn out not to be needed, whatever its noise predicts."""


@dataclass(frozen=True)
class Found:
    """What a search found: a configuration, the calibrated model that it gives, and whether it meets the bar.

    Where `reached` is false it is the nearest that was tried, and `limit` says what stood in the way. `trials` are all
    configurations that were measured, `before` the first: what was there without any change.
    """

    config: QuantConfig
    quantized: QuantizedModel
    goal: Goal
    best: Trial
    trials: tuple[Trial, ...]
    samples: int
    start: QuantConfig
    limit: str = ""

    @property
    def reached(self) -> bool:
        """True where the bar is met."""
        return self.best.reached

    @property
    def score(self) -> Score:
        """What was measured of the result."""
        return self.best.score

    @property
    def before(self) -> Trial:
        """What was measured without any change."""
        return self.trials[0]

    @property
    def given_up(self) -> tuple[Candidate, ...]:
        """The groups that are left in float, or raised to 16 bits."""
        return self.best.given_up

    @property
    def changes(self) -> tuple[Change, ...]:
        """What the configuration says for them, with the reasons."""
        return tuple(candidate.change for candidate in self.given_up)

    def remarks(self) -> list[str]:
        """Returns what was reached, and for how much, in a few lines."""
        verdict = "Meets" if self.reached else "DOES NOT MEET"
        macs = f"{self.before.float_macs:.1%} before, {self.best.float_macs:.1%} with this"
        return [
            f"{verdict} {self.goal} on {self.samples} samples: {self.score}.",
            f"Before: {self.before.score}.",
            f"Multiply-accumulates in float: {macs}; {len(self.trials)} configurations were measured.",
        ]

    def to_yaml(self, remarks: Iterable[str] = ()) -> str:
        """Returns the configuration as text, with the reason of each entry, and more `remarks` above all."""
        return to_yaml(self.start, self.changes, (*remarks, *self.remarks(), ""))


def find_config(
    source: Source,
    samples: Any = None,
    *,
    goal: Goal,
    target: str | Path | Target | None = None,
    config: QuantConfig | None = None,
    evaluation: Any = None,
    labels: Array | None = None,
    statistics: Statistics | str | Path | None = None,
    patterns: str | Path | Patterns = (),
    plan: Plan | None = None,
    budget: int = BUDGET,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Found:
    """Returns the smallest change to a configuration with which a model meets a bar on accuracy.

    `samples` calibrate (or `statistics` do); `evaluation`, with `labels`, is what the bar is measured on: by default
    the calibration samples, on which figures look better than they are. Both are what `open_samples` takes, and are
    read many times. At most `budget` configurations are measured. `progress` is told of them. Raises DataError where
    there is nothing to measure on, ConfigError where the bar has nothing to measure, PlanError where nothing can be
    quantized.
    """
    exact = Model.read(source)
    fused = transform(exact, target=target, patterns=patterns, plan=plan)
    placed = insert_qdq(fused.model, fused.matches, config)
    placed.refuse_nothing("the model")
    known = Statistics.load(statistics) if isinstance(statistics, (str, Path)) else statistics
    search = Search(placed, exact, goal, samples, evaluation, labels, known, budget, threads)
    return search.run(progress)


@dataclass(frozen=True)
class Search:
    """A search on a model that was fused and placed, against `exact`, the float model; see `find_config`."""

    placed: QuantizedModel
    exact: Source
    goal: Goal
    samples: Any = None
    evaluation: Any = None
    labels: Array | None = None
    statistics: Statistics | None = None
    budget: int = BUDGET
    threads: int | None = None

    def run(self, progress: Progress | None = None) -> Found:
        """Returns what was found: it was made as `quantize` makes it, and then measured."""
        trials = self._trials(progress)
        first = trials.trial((), final=True)
        assert first is not None
        if first.reached or not self.placed.sites:
            return self._found(trials, first, "" if first.reached else "nothing is quantized, all is float")
        trials.pin()
        order = self._order(trials)
        best = self._confirmed(trials, self._least(trials, order, first))
        return self._found(trials, best, "" if best.reached else _limit(trials, order))

    def _trials(self, progress: Progress | None) -> Trials:
        if self.samples is None and self.evaluation is None:
            raise DataError("a search has nothing to measure on", "give samples, or evaluation data")
        if self.budget < 1:
            raise ConfigError(f"the budget is {self.budget} measurements", "expected at least 1")
        shown = self.samples if self.evaluation is None else self.evaluation
        evaluated = open_samples(shown, input_specs(self.placed.model))
        labels = evaluated.labels if self.labels is None else self.labels
        evaluation = Evaluation(self.exact, evaluated, self.goal, labels, self.threads)
        quantizing = Quantizing(self.placed, self.samples, self.statistics, self.threads)
        return Trials(quantizing, evaluation, self.budget, progress)

    def _confirmed(self, trials: Trials, best: Trial) -> Trial:
        """The best as `quantize` makes it; where that misses a bar that was met by a hair, the next best."""
        met = sorted((trial for trial in trials.done if trial.reached), key=lambda trial: trial.price)
        made = []
        for each in [best, *(trial for trial in met if trial is not best)][:_CONFIRMED]:
            found = trials.trial(each.given_up, final=True)
            if found is not None and found.reached:
                return found
            made += [found] if found is not None else []
        return min(made, key=lambda trial: self.goal.shortfall(trial.score))

    def _order(self, trials: Trials) -> list[Candidate]:
        """What can be given up, the most worthwhile first."""
        quantized = trials.quantizing.exact(trials.config)
        wide = raised(quantized).values()
        all_wide = trials.quantizing.exact(changed(trials.config, wide)) if wide else None
        return ranked(quantized, self._evidence(quantized), None if all_wide is None else self._evidence(all_wide))

    def _evidence(self, quantized: QuantizedModel) -> Evidence:
        return collect_evidence(
            quantized,
            self.evaluation if self.samples is None else self.samples,
            at_outputs=EVIDENCE_GROUPS,
            limit=EVIDENCE_SAMPLES,
            threads=self.threads,
        )

    def _least(self, trials: Trials, order: Sequence[Candidate], first: Trial) -> Trial:
        """The cheapest that meets the bar; the nearest to it where none does."""
        for candidates in _alternatives(order):
            meets = partial(_prefix_meets, trials, candidates)
            count = shortest(meets, _longest(candidates), self._guess(candidates, first))
            if count is not None:
                return self._pruned(trials, candidates[:count], first)
        return min(trials.done, key=lambda trial: self.goal.shortfall(trial.score))

    def _pruned(self, trials: Trials, candidates: Sequence[Candidate], first: Trial) -> Trial:
        """What meets the bar still without those candidates that it does not need, the dearest taken back first."""
        best = trials.trial(candidates)
        assert best is not None
        for candidate in sorted(candidates, key=lambda each: -each.price):
            fewer = remaining(best.given_up, candidate)
            if fewer and self._may_be_spared(candidate, best, first):
                found = trials.trial(fewer)
                best = found if found is not None and found.reached else best
        return best

    def _may_be_spared(self, candidate: Candidate, best: Trial, first: Trial) -> bool:
        """False where a bar on the SQNR leaves by far no room for the noise that a candidate takes away."""
        if self.goal.min_sqnr is None:
            return True
        before, now, most = (_noise(db) for db in (first.score.sqnr_db, best.score.sqnr_db, self.goal.min_sqnr))
        return candidate.removed * before <= _SPARED * before + 2 * (most - now)

    def _guess(self, order: Sequence[Candidate], first: Trial) -> int:
        """How many candidates it takes if the noise of groups adds up; 1 where the bar is not about noise."""
        if self.goal.min_sqnr is None or not self.goal.min_sqnr > first.score.sqnr_db:
            return 1
        needed = 1 - _noise(self.goal.min_sqnr) / _noise(first.score.sqnr_db)
        sums = accumulate(candidate.removed for candidate in order)
        return next((count for count, removed in enumerate(sums, 1) if removed >= needed), len(order))

    def _found(self, trials: Trials, best: Trial, limit: str) -> Found:
        config = changed(trials.config, (each.change for each in best.given_up))
        quantized = trials.quantizing.exact(config)
        done = tuple(trials.done)
        return Found(config, quantized, self.goal, best, done, trials.evaluation.count, trials.config, limit)


def shortest(meets: Callable[[int], bool], longest: int, guess: int) -> int | None:
    """Returns the least number from 1 to `longest` that meets a bar, taking for granted that more of them do too; None
    where none does. It asks about 2·log₂ of the distance to `guess` times."""
    low, high, step = 0, longest + 1, max(1, min(guess, longest))
    while high - low > 1:
        asked = min(step, longest) if high > longest else (low + high) // 2
        if meets(asked):
            high = asked
        else:
            low = asked
        step = 2 * max(step, 1)
    return None if high > longest else high


def _prefix_meets(trials: Trials, candidates: Sequence[Candidate], count: int) -> bool:
    return trials.meets(candidates[:count])


def _longest(candidates: Sequence[Candidate]) -> int:
    """With every group in float, nothing would be quantized."""
    wide = any(candidate.rules is not None for candidate in candidates)
    return len(candidates) if wide else len(candidates) - 1


def _noise(decibels: float) -> float:
    return float(10 ** (-decibels / 10))


def _alternatives(order: Sequence[Candidate]) -> list[list[Candidate]]:
    """The candidates as they are; then with float wherever 16 bits were tried."""
    found = [list(order)]
    if any(candidate.rules is not None for candidate in order):
        found.append([replace(candidate, rules=None) for candidate in order])
    return found


def _limit(trials: Trials, order: Sequence[Candidate]) -> str:
    most = max((len(trial.given_up) for trial in trials.done), default=0)
    if trials.spent:
        return f"all {trials.budget} measurements are spent, with up to {most} of {len(order)} groups given up"
    return f"even {most} of {len(order)} groups given up do not reach it, and one has to stay in integers"
