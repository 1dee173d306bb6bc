"""What a report says, as plain data; the page and report.json hold the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from quantonnx.algorithms.layerwise import LayerChange
from quantonnx.evidence import Evidence, advice
from quantonnx.provenance import Fact
from quantonnx.report.changes import Change
from quantonnx.report.channel_ranges import ChannelRanges
from quantonnx.report.environment import Environment
from quantonnx.report.histograms import Histogram
from quantonnx.speed import Speed
from quantonnx.summary import metrics
from quantonnx.tallying import Comparison

VERSION = 1
"""The version of the layout of report.json."""

_ADVISED = 8


@dataclass(frozen=True)
class GroupFacts:
    """One match of a pattern, or one operator that no pattern took.

    `state` is integer, float, or "not applied"; `nodes` are operators of the fused model, `place` the position of the
    last of them, `sites` the numbers of the sites that it reads or gives. `reason` says why, `decided_by` which rule.
    """

    name: str
    pattern: str
    nodes: tuple[str, ...]
    state: str
    reason: str
    decided_by: str
    place: int
    sites: tuple[int, ...] = ()


@dataclass(frozen=True)
class SiteFacts:
    """One Q/DQ pair, or one quantized constant, with its numbers.

    `ends` are the real numbers at the ends of its codes, `clipped` the shares of calibrated values below and above
    them by more than half a step; `evidence` is its position in the sites of the evidence.
    """

    tensor: str
    kind: str
    roles: tuple[str, ...]
    format: str
    pattern: str
    owner: str
    readers: tuple[str, ...]
    reason: str
    range: str
    decided_by: str
    ends: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    zero_point: tuple[int, int] | None = None
    clipped: tuple[float, float] | None = None
    histogram: Histogram | None = None
    channels: ChannelRanges | None = None
    evidence: int | None = None


@dataclass(frozen=True)
class StepFacts:
    """One algorithm of the recipe, with its settings and what it tells: names of what it changed or left alone, and
    why."""

    name: str
    settings: Mapping[str, Any]
    told: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Facts:
    """All that one report says; `picture` is the graph as SVG, which stands on the page only.

    `sizes` are the bytes of the float file and of the quantized one, `changes` what the steps of the recipe made of
    weights and biases, `layers` how algorithms that choose the codes of weights fared, `samples` how many samples the
    histograms are of.
    """

    model: str
    output: str
    target: str
    groups: tuple[GroupFacts, ...]
    sites: tuple[SiteFacts, ...]
    environment: Environment
    provenance: tuple[Fact, ...] = ()
    recipe: tuple[StepFacts, ...] = ()
    changes: tuple[Change, ...] = ()
    layers: tuple[LayerChange, ...] = ()
    evidence: Evidence | None = None
    comparison: Comparison | None = None
    speed: Speed | None = None
    sizes: tuple[int, int] | None = None
    samples: int = 0
    notes: tuple[str, ...] = ()
    picture: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the picture as JSON has it: null for what is not finite, and for what is unknown."""
        found = {
            "version": VERSION,
            "model": self.model,
            "output": self.output,
            "target": self.target,
            "groups": [asdict(group) for group in self.groups],
            "sites": [asdict(site) for site in self.sites],
            "recipe": [asdict(step) for step in self.recipe],
            "changes": [asdict(change) for change in self.changes],
            "layers": [asdict(layer) for layer in self.layers],
            "evidence": None if self.evidence is None else self.evidence.to_dict(),
            "advice": {} if self.evidence is None else _advised(self.evidence),
            "metrics": None if self.comparison is None else metrics(self.comparison),
            "speed": None if self.speed is None else asdict(self.speed),
            "bytes": None if self.sizes is None else {"float": self.sizes[0], "quantized": self.sizes[1]},
            "samples": self.samples,
            "environment": asdict(self.environment),
            "provenance": [asdict(fact) for fact in self.provenance],
            "notes": list(self.notes),
        }
        return {key: _plain(value) for key, value in found.items()}


def _advised(evidence: Evidence) -> dict[str, str]:
    """What to try for the worst groups, by their names."""
    return {group.name: advice(evidence, group) for group in evidence.groups[:_ADVISED] if group.isolated.noise}


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity, nor tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
