"""What is known of a quantized model's errors: per output, per matched group, per pair; plain data, worst first.

Every figure comes from sums over all samples, so that two runs over parts of the data could be added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Errors:
    """How near the values q of one tensor are to the float ones x, over all samples.

    `signal` is Σx², `noise` Σ(x−q)², `power` Σq², over `count` values. All are 0 where nothing was measured.
    """

    signal: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    count: int = 0

    @property
    def sqnr_db(self) -> float:
        """10·log10(Σx² / Σ(x−q)²): infinite where nothing differs, NaN where nothing was measured."""
        if not self.count or not math.isfinite(self.signal) or not math.isfinite(self.noise):
            return math.nan
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf

    @property
    def cosine(self) -> float:
        """Σxq / √(Σx²·Σq²) over all values at once; 1 where both are zero."""
        if not self.count:
            return math.nan
        product = (self.signal + self.power - self.noise) / 2
        if self.signal == 0 or self.power == 0:
            return 1.0 if self.signal == self.power else 0.0
        return max(-1.0, min(1.0, product / math.sqrt(self.signal * self.power)))

    @property
    def relative(self) -> float:
        """Σ(x−q)² / Σx²: the noise as a share of the signal; sort by it, the largest being the worst."""
        if not self.count or math.isnan(self.noise) or math.isnan(self.signal):
            return 0.0
        if self.signal > 0 and math.isfinite(self.signal):
            return self.noise / self.signal
        return math.inf if self.noise > 0 else 0.0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.signal + other.signal,
            self.noise + other.noise,
            self.power + other.power,
            self.count + other.count,
        )

    def to_dict(self) -> dict[str, float]:
        """Returns the figures and the sums behind them."""
        return {"sqnr_db": self.sqnr_db, "cosine": self.cosine, **asdict(self)}


@dataclass(frozen=True)
class SiteEvidence:
    """What one Q/DQ pair, or one quantized constant, does to the values of its tensor.

    `role` is input, residual_input, output, weight or bias, `format` its name; `readers` are the nodes that read the
    result. `errors` are those of x → DQ(Q(x)) on float values, `accumulated` those of the result in the quantized
    model. `clipped` is the share of values beyond the ends of `range` by more than half a step, and `clipping` the
    share that they have in the noise. `codes` are the lowest and the highest code that occur, `code_range_used` how
    much of all codes lies between. `seen` are the extremes of the float values, `range` those that codes stand for,
    and `step_rms` is √mean(x²) in steps; `scale` and `zero_point` are the smallest and the largest of `channels` ones.
    """

    tensor: str
    role: str
    format: str
    readers: tuple[str, ...]
    errors: Errors
    accumulated: Errors = Errors()
    clipped: float = 0.0
    clipping: float = 0.0
    codes: tuple[int, int] = (0, 0)
    code_range_used: float = 0.0
    seen: tuple[float, float] = (0.0, 0.0)
    range: tuple[float, float] = (0.0, 0.0)
    step_rms: float = 0.0
    scale: tuple[float, float] = (0.0, 0.0)
    zero_point: tuple[int, int] = (0, 0)
    channels: int = 1

    @property
    def peak(self) -> float:
        """The largest magnitude over √mean(x²): large where few values are much larger than all others."""
        mean = self.errors.signal / self.errors.count if self.errors.count else 0.0
        return max(-self.seen[0], self.seen[1]) / math.sqrt(mean) if mean > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return asdict(self) | {"errors": self.errors.to_dict(), "accumulated": self.accumulated.to_dict()}


@dataclass(frozen=True)
class GroupEvidence:
    """What quantizing one group does: one match of a pattern, which the target runs as one kernel.

    `name` is what `exclude` takes to leave it in float, `tensor` the value that it gives, `place` its position in the
    float graph, `sites` the tensors whose
    pairs it reads or gives, `kept` those of them whose pairs stay, for the sake of other groups, where only this one is
    released. `isolated` is the error of that value where only this group is quantized and everything
    before it is float; `accumulated` that in the quantized model; `at_outputs` that of each model output where only
    this group is quantized, and `blame`, by tensor, the share of the isolated noise that would go with that one of its
    pairs or constants: both for the groups for which they were measured. `effect` is the noise at the worst output over
    its signal, predicted where it was not measured, and `share` its part in the sum of those of all groups. `macs` are
    its multiply-accumulates, `float_us` and `integer_us` the times that the target's cost model expects, None where it
    has none.
    """

    name: str
    pattern: str
    nodes: tuple[str, ...]
    tensor: str
    isolated: Errors
    accumulated: Errors
    sites: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    effect: float = 0.0
    share: float = 0.0
    place: int = 0
    macs: int = 0
    float_us: float | None = None
    integer_us: float | None = None
    at_outputs: Mapping[str, Errors] = field(default_factory=dict)
    blame: Mapping[str, float] = field(default_factory=dict)

    @property
    def at_output(self) -> Errors | None:
        """The error of the worst model output where only this group is quantized; None where it was not measured."""
        return max(self.at_outputs.values(), key=lambda errors: errors.relative, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return asdict(self) | {
            "isolated": self.isolated.to_dict(),
            "accumulated": self.accumulated.to_dict(),
            "at_outputs": {name: errors.to_dict() for name, errors in self.at_outputs.items()},
            "blame": dict(self.blame),
        }


@dataclass(frozen=True)
class Evidence:
    """Where a quantized model loses accuracy: groups, worst first by what `ranked_by` says, sites by their own error
    (biases last, since correction moves them on purpose), and its outputs.

    `outputs` are the errors of the whole quantized model, `samples` the number that was seen, `passes` how often the
    data was read, `notes` what could not be measured, and why.
    """

    groups: tuple[GroupEvidence, ...]
    sites: tuple[SiteEvidence, ...]
    outputs: Mapping[str, Errors]
    samples: int
    passes: int = 1
    notes: tuple[str, ...] = ()
    ranked_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON has it, in the same order."""
        return {
            "samples": self.samples,
            "passes": self.passes,
            "ranked_by": self.ranked_by,
            "outputs": {name: errors.to_dict() for name, errors in self.outputs.items()},
            "groups": [group.to_dict() for group in self.groups],
            "sites": [site.to_dict() for site in self.sites],
            "notes": list(self.notes),
        }
