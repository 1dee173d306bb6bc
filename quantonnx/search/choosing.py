"""Chooses calibration method and recipe by what comes out of the quantized model on samples that did not calibrate it.

Each candidate is made as `quantize` makes it. What is not clearly better than what stands is not taken: a few held-out
samples cannot tell tenths of a decibel apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantonnx.algorithms.equalization import equalize
from quantonnx.algorithms.norm_readers import NormReaders, norm_readers
from quantonnx.calibration.feeds import Progress
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.config import QuantConfig
from quantonnx.errors import ConfigError, QuantonnxError
from quantonnx.quantized import QuantizedModel
from quantonnx.search.emitting import Settings, settings_of, to_yaml
from quantonnx.search.goals import Feed, Goal
from quantonnx.search.measuring import Evaluation
from quantonnx.search.trials import Quantizing
from quantonnx.verification import Source, batch_of

MARGIN = 0.3
"""Decibels by which a candidate has to be better than what stands."""

TIME_BUDGET = 300.0
"""Seconds after which no further candidate is begun."""

EVERY, MOST_HELD_OUT = 4, 32
"""One sample in so many is held out, and no more than that."""

METHODS = ("mse", "minmax", "moving_average", "percentile:99.9", "percentile:99.99", "percentile:99.999")

SMOOTHED: dict[str, Any] = {"smooth_quant": {"alpha": "auto"}}


@dataclass(frozen=True)
class Option:
    """One candidate: what it says in addition, the SQNR in dB of the worst output on held-out samples, and the seconds
    that it took; or why it was not tried (`note`), or failed."""

    name: str
    config: QuantConfig
    sqnr_db: float = math.nan
    seconds: float = 0.0
    note: str = ""

    @property
    def result(self) -> str:
        """The SQNR, or why there is none."""
        return self.note or f"{self.sqnr_db:.2f} dB"


@dataclass(frozen=True)
class Choice:
    """The configuration that was chosen, and every candidate; `held_out` samples judged, `used` ones calibrated."""

    config: QuantConfig
    options: tuple[Option, ...]
    chosen: Option
    held_out: int
    used: int
    reasons: tuple[str, ...]

    def remarks(self) -> list[str]:
        """Returns what was tried and why this was taken, line by line."""
        rows = [f"  {option.result:>10}  {option.name}" for option in self.options]
        judged = f"judged by the worst output on {self.held_out} samples, calibrated on {self.used}:"
        return [f"Chosen: {self.chosen.name}; {judged}", *rows, *self.reasons]

    def to_yaml(self) -> str:
        """Returns the configuration as text, with what was tried."""
        return to_yaml(self.config, (), (*self.remarks(), ""))


@dataclass
class _Chooser:
    evaluation: Evaluation
    quantizing: Quantizing
    ends_at: float
    clock: Callable[[], float]
    progress: Progress | None
    options: list[Option] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def tried(self, name: str, config: QuantConfig, *, always: bool = False) -> Option:
        """Measures a candidate where there is time; what it raises becomes its note."""
        option = Option(name, config, note="no time left")
        started = self.clock()
        if always or started < self.ends_at:
            try:
                quantized = self.quantizing.exact(config)
                sqnr = self.evaluation.score(quantized.to_model()).sqnr_db
                option = Option(name, config, sqnr, self.clock() - started)
            except QuantonnxError as error:
                if always:
                    raise
                option = Option(name, config, note=str(error))
        self.options.append(option)
        if self.progress is not None:
            self.progress(len(self.options), None)
        return option

    def better(self, standing: Option, candidates: Iterable[Option], kind: str) -> Option:
        """Returns the best candidate where it is clearly better than what stands, and says why."""
        known = [option for option in candidates if not math.isnan(option.sqnr_db)]
        best = max(known, key=lambda option: option.sqnr_db, default=None)
        if best is None:
            return standing
        gain = best.sqnr_db - standing.sqnr_db
        if best.sqnr_db > standing.sqnr_db + MARGIN:
            self.reasons.append(f"{best.name} is {gain:.2f} dB better than {standing.name}.")
            return best
        self.reasons.append(
            f"{standing.name} stays: the best other {kind}, {best.name}, changes SQNR by {gain:+.2f} dB, "
            f"and {MARGIN} dB is the least that counts."
        )
        return standing


def choose_config(
    placed: QuantizedModel,
    samples: Any,
    *,
    exact: Source | None = None,
    time_budget: float = TIME_BUDGET,
    threads: int | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Returns the calibration method and the recipe with which a fused, placed model comes nearest to float.

    `samples` are what `open_samples` takes; every fourth is held out to judge by, unless there are fewer than eight.
    What the configuration says already stays: a method, or a recipe. The result is never worse than that configuration
    on the held-out samples. After `time_budget` seconds no further candidate is begun; with enough of them the result
    is the same each time.
    """
    started = clock()
    used, held_out = _split(open_samples(samples, input_specs(placed.model)))
    evaluation = Evaluation(exact if exact is not None else placed.model, held_out, Goal(min_sqnr=0.0), threads=threads)
    quantizing = Quantizing(placed, used, threads=threads)
    chooser = _Chooser(evaluation, quantizing, started + time_budget, clock, progress)
    best = chooser.tried("as configured", placed.config, always=True)
    best = chooser.better(best, [chooser.tried(*each) for each in _methods(best.config)], "method")
    best = chooser.better(best, [chooser.tried(*each) for each in _weight_ranges(best)], "range of weights")
    best = chooser.better(best, [chooser.tried(*each) for each in _recipes(best, placed)], "recipe")
    rows = sum(map(batch_of, used))
    return Choice(best.config, tuple(chooser.options), best, evaluation.count, rows, tuple(chooser.reasons))


def _methods(config: QuantConfig) -> Iterator[tuple[str, QuantConfig]]:
    if config.only_weights or config.activation is None or config.activation.calibration_method is not None:
        return
    for method in METHODS:
        yield from _with(config, f"method {method}", {"activation": {"calibration_method": method}})


def _weight_ranges(standing: Option) -> Iterator[tuple[str, QuantConfig]]:
    config, name = standing.config, _also(standing, "weight ranges mse")
    if config.weight is not None and config.weight.calibration_method is None:
        yield from _with(config, name, {"weight": {"calibration_method": "mse"}})


def _recipes(standing: Option, placed: QuantizedModel) -> Iterator[tuple[str, QuantConfig]]:
    """Recipes that have something to work on, the slow ones last; none where the user said one."""
    if standing.config.steps or "recipe" in standing.config.model_fields_set:
        return
    useless, usual = _useless(placed), placed.matches.target.recipe
    for recipe in _tried(usual):
        names = {step if isinstance(step, str) else next(iter(step)) for step in recipe}
        if useless.isdisjoint(names) and recipe != usual:
            yield from _with(standing.config, _also(standing, f"recipe {_shown(recipe)}"), {"recipe": list(recipe)})


def _tried(usual: tuple[str, ...]) -> tuple[tuple[Any, ...], ...]:
    """Recipes in place of the target's `usual` one."""
    return (), ("equalize", *usual), (SMOOTHED,), ("equalize", SMOOTHED), (*usual, "gptq"), (*usual, "adaround")


def _useless(placed: QuantizedModel) -> set[str]:
    """Steps that would change nothing of this model."""
    found = set() if any(isinstance(norm, NormReaders) for norm in norm_readers(placed.model)) else {"smooth_quant"}
    return found if equalize(placed.model).equalized else found | {"equalize"}


def _with(config: QuantConfig, name: str, more: Mapping[str, Any]) -> Iterator[tuple[str, QuantConfig]]:
    """The configuration that says more; none where this version does not know it."""
    settings: Settings = settings_of(config)
    for key, value in more.items():
        settings[key] = {**(settings.get(key) or {}), **value} if isinstance(value, dict) else value
    try:
        yield name, QuantConfig(**settings)
    except ConfigError:
        return


def _also(standing: Option, name: str) -> str:
    return name if standing.name == "as configured" else f"{standing.name}, {name}"


def _shown(recipe: Sequence[Any]) -> str:
    return (
        "none"
        if not recipe
        else " + ".join(step if isinstance(step, str) else " ".join(map(_words, step.items())) for step in recipe)
    )


def _words(step: tuple[str, Mapping[str, Any]]) -> str:
    name, settings = step
    return " ".join([name, *(f"{key} {value}" for key, value in settings.items())])


class _Some:
    """Those feeds of a stream whose number is wanted, read again each time."""

    def __init__(self, samples: Iterable[Feed], wanted: Callable[[int], bool], count: int) -> None:
        self._samples, self._wanted, self._count = samples, wanted, count

    def __iter__(self) -> Iterator[Feed]:
        return (feed for index, feed in enumerate(self._samples) if self._wanted(index))

    def __len__(self) -> int:
        return self._count


def _split(samples: Iterable[Feed]) -> tuple[_Some, _Some]:
    """The samples that calibrate, and those that judge; all of them both where there are few."""
    count = sum(1 for _ in samples)
    if count < 2 * EVERY:
        every = _Some(samples, lambda index: True, count)
        return every, every
    held = min(count // EVERY, MOST_HELD_OUT)
    stride = count // held
    chosen = frozenset(range(stride - 1, stride * held, stride))
    return _Some(samples, lambda i: i not in chosen, count - held), _Some(samples, lambda i: i in chosen, held)
