"""What can be said of a distillation beforehand, and what is told of it afterwards."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from quantonnx.errors import ConfigError
from quantonnx.torch.objectives import Fidelity
from quantonnx.torch.optimizing import OptimizerName, Rates

Augmentation = Literal["none", "flip", "shift", "mix"]

_FRACTIONS = ("warm_up", "batchnorm_until")
_SEEDS = 1 << 31
_POSITIVE = ("epochs", "steps", "minutes", "batch_size", "temperature", "clip")


@dataclass(frozen=True)
class Settings:
    """How to distill. The first of `epochs`, `steps` and `minutes` that is over ends it.

    A step is taken on `batch_size` samples. Rates are peaks of a cosine schedule after a linear rise over the part
    `warm_up` of it, as parts of the root mean square of each tensor at the start: `learning_rate` is that of weights,
    `bias_rate` of what has one axis, `scale_rate` of learned scales and zero points; both are the same by default.
    `clip` is the largest norm of all gradients, `temperature` that of the softmax of class scores, `blocks_weight` what
    the error of values inside counts beside that of the outputs. `augment` mirrors images at random (`flip`), and moves
    them too (`shift`), or shows parts of them, some mixed with others (`mix`). Up to the part `batchnorm_until`, batch
    normalizations have the statistics of each batch; by default never. Raises ConfigError for what makes no sense.
    """

    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 8
    learning_rate: float = 1e-3
    bias_rate: float | None = None
    scale_rate: float | None = None
    optimizer: OptimizerName = "adamw"
    temperature: float = 1.0
    blocks_weight: float = 1.0
    warm_up: float = 0.05
    clip: float = 1.0
    augment: Augmentation = "none"
    batchnorm_until: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in _POSITIVE and value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}, expected more than 0")
            if name.endswith(("_rate", "_weight")) and value is not None and not value >= 0:
                raise ConfigError(f"{name} is {value}, expected 0 or more")
            if name in _FRACTIONS and not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}, expected a part between 0 and 1")
        if not 0 <= self.seed < _SEEDS:
            raise ConfigError(f"seed is {self.seed}, expected a number from 0 to {_SEEDS - 1}")
        for name, known in (("optimizer", ("adamw", "sgd")), ("augment", ("none", "flip", "shift", "mix"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", f"known are {', '.join(known)}")

    @property
    def rates(self) -> Rates:
        """The peak rates of all that is trained."""
        others = (self.learning_rate if rate is None else rate for rate in (self.bias_rate, self.scale_rate))
        return Rates(self.learning_rate, *others)


@dataclass(frozen=True)
class Distilled:
    """What a distillation came to. `before` and `after` are measured on `held_out` samples that were not trained on
    (`trained_on` where there are no others), and so is `measured` as training went; `losses` are its means between
    measurements. `best_step` is where the weights that stay are from, 0 where nothing was better than the start;
    `blocks` are the values inside that counted, and it has `diverged` where a loss was not finite.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]
    measured: tuple[Fidelity, ...]
    before: Fidelity
    after: Fidelity
    best_step: int
    held_out: int
    trained_on: bool
    blocks: tuple[str, ...]
    diverged: bool = False
