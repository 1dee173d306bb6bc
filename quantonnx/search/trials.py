"""One configuration after the other: placed anew, calibrated from what was seen once, and measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from quantonnx.calibrating import calibrate
from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.feeds import Progress
from quantonnx.calibration.loading import weight_bytes
from quantonnx.calibration.methods import RangeMethod
from quantonnx.config import QuantConfig
from quantonnx.model import Model
from quantonnx.placement import Placement
from quantonnx.preparation import Feeding, prepared
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.search.candidates import Candidate
from quantonnx.search.emitting import changed, settings_of
from quantonnx.search.goals import Score
from quantonnx.search.measuring import Evaluation
from quantonnx.shapes import infer_shapes, multiply_accumulates
from quantonnx.surveying import survey

_LARGEST_COMPARED = 1_000_000_000
"""Bytes of weights up to which a model that was measured already is known again."""


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried: the groups given up, and what came of it.

    `float_macs` is the share of the multiply-accumulates that are left in float, those that no pattern holds included.
    """

    given_up: tuple[Candidate, ...]
    score: Score
    reached: bool
    float_macs: float

    @property
    def price(self) -> float:
        """The microseconds that it costs, as estimated."""
        return sum(candidate.price for candidate in self.given_up)


class Quantizing:
    """Makes the quantized model of any configuration of a placed one; `statistics` are the user's own.

    Those that are collected here tap every value of the float model, which ONNX Runtime then fuses otherwise, and know
    it as the recipe leaves it where nothing is given up: what they give may differ from what samples give by a code
    here and there.
    """

    def __init__(
        self, placed: QuantizedModel, samples: Any, statistics: Statistics | None = None, threads: int | None = None
    ) -> None:
        self.placed = placed
        self._samples, self._given, self._threads = samples, statistics, threads

    def exact(self, config: QuantConfig) -> QuantizedModel:
        """Returns what `quantize` makes of a configuration; without sites, the float model."""
        found = insert_qdq(self.placed.model, self.placed.matches, config)
        if not found.sites:
            return replace(found, parameters={})
        if self._given is not None:
            return calibrate(found, statistics=self._given)
        return calibrate(found, self._samples, threads=self._threads) if found.needs_samples else calibrate(found)

    def quick(self, config: QuantConfig) -> QuantizedModel:
        """Returns nearly that without inference; the same where weights are moved, which statistics do not tell."""
        moving = any(step.chooses_codes for step in config.steps)
        if self._given is not None or self._samples is None or moving:
            return self.exact(config)
        found = insert_qdq(self._prepared, self.placed.matches, without_recipe(config))
        return calibrate(found, statistics=self._collected) if found.sites else replace(found, parameters={})

    @cached_property
    def _prepared(self) -> Model:
        placed = self.placed
        standing = Placement(placed.sites, placed.decisions)
        feeding = Feeding(self._samples, threads=self._threads)
        return prepared(placed.model, standing, placed.matches, placed.config, feeding)[0]

    @cached_property
    def _collected(self) -> Statistics:
        return survey(self._prepared, self._samples, threads=self._threads)


def without_recipe(config: QuantConfig) -> QuantConfig:
    """Returns a configuration for a model that its recipe has changed already."""
    return QuantConfig(**settings_of(config) | {"recipe": [], "smooth_quant": None})


def with_method(config: QuantConfig, method: str) -> QuantConfig:
    """Returns the configuration with one calibration method for all activations about which nothing else is said.

    Activations must not be off: a method would turn them on.
    """
    settings = settings_of(config)
    return QuantConfig(
        **settings | {"activation": {**(settings.get("activation") or {}), "calibration_method": method}}
    )


class Trials:
    """Configurations tried, each once, at most `budget` of them."""

    def __init__(
        self, quantizing: Quantizing, evaluation: Evaluation, budget: int, progress: Progress | None = None
    ) -> None:
        self.quantizing = quantizing
        self.evaluation = evaluation
        self.budget = budget
        self.done: list[Trial] = []
        self.spent = False
        self.method: RangeMethod | None = None
        self._measured: dict[bytes, Trial] = {}
        self._progress = progress
        self._known: dict[tuple[bool, frozenset[tuple[str, bool]]], Trial | None] = {}

    @property
    def config(self) -> QuantConfig:
        """The configuration to start from."""
        return self.quantizing.placed.config

    def pin(self) -> None:
        """Says the method that `auto` came to, so that it is not looked for again at every trial."""
        placed = self.quantizing.placed
        known = placed.config.known_ranges or placed.matches.target.known_ranges
        if self.method is not None and not known and not placed.config.only_weights:
            self.quantizing.placed = replace(placed, config=with_method(placed.config, str(self.method)))

    def meets(self, given_up: Sequence[Candidate]) -> bool:
        """Returns whether a configuration meets the bar; not where nothing is quantized, or the budget is spent."""
        found = self.trial(given_up)
        return found is not None and found.reached

    def trial(self, given_up: Sequence[Candidate], *, final: bool = False) -> Trial | None:
        """Returns what comes of giving up some groups; None where nothing would be quantized or the budget is spent.

        A `final` one is exactly what `quantize` makes, and measured whatever the budget.
        """
        key = final, frozenset((candidate.group.name, candidate.rules is None) for candidate in given_up)
        if key not in self._known:
            if len(self.done) >= self.budget and not final:
                self.spent = True
                return None
            self._known[key] = self._tried(tuple(given_up), exact=final)
        return self._known[key]

    def quantized(self, given_up: Sequence[Candidate], *, exact: bool) -> QuantizedModel:
        """Returns the calibrated model without some groups."""
        config = changed(self.config, (each.change for each in given_up))
        return self.quantizing.exact(config) if exact else self.quantizing.quick(config)

    def _tried(self, given_up: tuple[Candidate, ...], *, exact: bool) -> Trial | None:
        quantized = self.quantized(given_up, exact=exact)
        if given_up and not quantized.sites:
            return None
        self.method = self.method or quantized.method
        model = quantized.to_model()
        digest = sha256(model.to_bytes()).digest() if weight_bytes(model) < _LARGEST_COMPARED else b""
        if digest in self._measured:
            return self._measured[digest]
        score = self.evaluation.score(model)
        self.done.append(Trial(given_up, score, self.evaluation.goal.reached(score), float_share(quantized)))
        self._measured |= {digest: self.done[-1]} if digest else {}
        if self._progress is not None:
            self._progress(len(self.done), self.budget)
        return self.done[-1]


def float_share(quantized: QuantizedModel) -> float:
    """Returns the share of a model's multiply-accumulates that its pairs leave in float; 0 where there are none."""
    shapes = infer_shapes(quantized.model)
    macs = {node.name: multiply_accumulates(node, shapes) for node in quantized.model.graph.nodes}
    total, integer = sum(macs.values()), _integer_nodes(quantized)
    return sum(count for name, count in macs.items() if name not in integer) / total if total else 0.0


def _integer_nodes(quantized: QuantizedModel) -> set[str]:
    """The operators of every match that has a pair or codes of its own before the operands of its products."""
    read = {edge.node for site in quantized.sites for edge in site.edges if not site.whole}
    weights = {edge.node for site in quantized.weight_sites for edge in site.edges}
    found: set[str] = set()
    for _, match in quantized.matches.resolve(quantized.model):
        names = [node.name for node in match.nodes]
        constant = any(_has_weight(node) for node in match.nodes)
        if not (weights if constant else read).isdisjoint(names):
            found.update(names)
    return found


def _has_weight(node: Any) -> bool:
    return node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and not node.inputs[1].inputs


def remaining(given_up: Iterable[Candidate], without: Candidate) -> tuple[Candidate, ...]:
    """Returns candidates without one of them."""
    return tuple(candidate for candidate in given_up if candidate is not without)
