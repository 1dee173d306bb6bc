"""One configuration after the other: placed anew, calibrated from what was seen once, and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from quantonnx.calibration.collected import Statistics
from quantonnx.config import QuantConfig
from quantonnx.quantized import QuantizedModel, calibrate, insert_qdq
from quantonnx.search.candidates import Candidate
from quantonnx.search.emitting import changed
from quantonnx.search.goals import Score
from quantonnx.search.measuring import Evaluation
from quantonnx.shapes import infer_shapes, multiply_accumulates

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried: the groups given up, and what came of it.

    `float_macs` is the share of the multiply-accumulates that are left in float, those that no pattern holds included.
    """

    given_up: tuple[Candidate, ...]
    score: Score
    reached: bool
    float_macs: float


class Quantizing:
    """Makes the quantized model of any configuration: without inference, unless a recipe changes activations."""

    def __init__(
        self, placed: QuantizedModel, samples: Any, statistics: Statistics | None, threads: int | None
    ) -> None:
        self.placed = placed
        self._samples, self._statistics, self._threads = samples, statistics, threads

    def with_config(self, config: QuantConfig) -> QuantizedModel:
        """Returns the calibrated model; one without sites where nothing is left to quantize."""
        found = insert_qdq(self.placed.model, self.placed.matches, config)
        if not found.sites:
            return found
        if self._statistics is not None and statistics_do(found):
            return calibrate(found, statistics=self._statistics)
        if self._samples is None and self._statistics is not None:
            return calibrate(found, statistics=self._statistics)
        return calibrate(found, self._samples, threads=self._threads) if found.needs_samples else calibrate(found)


def statistics_do(placed: QuantizedModel) -> bool:
    """Returns whether statistics give what samples would: no recipe changes activations, nor is a method to be found by
    running the quantized model."""
    found = any(str(site.ranging.method) == "auto" for site in placed.activation_sites)
    return not found and not placed.config.steps and not getattr(placed.matches.target, "recipe", ())


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
        self._progress = progress
        self._known: dict[frozenset[tuple[str, bool]], Trial | None] = {}

    @property
    def config(self) -> QuantConfig:
        """The configuration to start from."""
        return self.quantizing.placed.config

    def meets(self, given_up: Sequence[Candidate]) -> bool:
        """Returns whether a configuration meets the bar; no where it leaves nothing quantized, or none is left."""
        found = self.trial(given_up)
        return found is not None and found.reached

    def trial(self, given_up: Sequence[Candidate]) -> Trial | None:
        """Returns what comes of giving up some groups; None where nothing would be quantized or the budget is spent."""
        key = frozenset((candidate.group.name, candidate.rules is None) for candidate in given_up)
        if key not in self._known:
            if len(self.done) >= self.budget:
                self.spent = True
                return None
            self._known[key] = self._tried(tuple(given_up))
        return self._known[key]

    def _tried(self, given_up: tuple[Candidate, ...]) -> Trial | None:
        quantized = self.quantizing.with_config(changed(self.config, (each.change for each in given_up)))
        if not quantized.sites:
            return None
        score = self.evaluation.score(quantized.to_model())
        self.done.append(Trial(given_up, score, self.evaluation.goal.reached(score), float_share(quantized)))
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
