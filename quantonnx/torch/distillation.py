"""Fine-tuning without labels: a quantized student learns from samples what its float teacher says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantonnx.calibration.feeds import Progress
from quantonnx.errors import ConfigError
from quantonnx.plan import near
from quantonnx.torch.checkpoints import Checkpoint
from quantonnx.torch.settings import Distilled, Settings
from quantonnx.torch.training import Training

DEFAULT_EPOCHS = 10


def distill(
    student: nn.Module,
    teacher: nn.Module,
    loader: Any,
    *,
    evaluation: Any = None,
    blocks: Sequence[str] | str | None = "auto",
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    device: torch.device | str | None = None,
    **settings: Any,
) -> Distilled:
    """Trains a student, in place, to give the teacher's outputs, and returns what that came to.

    `loader` is any iterable of batches: tensors, or tuples or dictionaries of them, of which labels are left out; or
    what `qx.calibrate` takes: a path, stacked arrays or tensors, alone or by input name. The latter and lists are kept
    in memory and shuffled; all else is iterated anew in every epoch. `evaluation`, such an
    iterable too, is measured on; without it an eighth of what is kept is held out, at most 64 samples. The weights
    that were best there stay: on held-out samples the result is never worse than the start. `blocks` names values
    inside the graph whose error counts too; "auto" takes the sums of residual branches. `settings` are those of
    `Settings`; without `epochs`, `steps` or `minutes` it trains for 10 epochs, and with several until the first is
    over.

    A `checkpoint` file is written every half minute, and when it is interrupted; where it exists, training goes on
    from it as if it had never stopped: bit for bit, unless `minutes` lets the clock decide. Raises ConfigError for
    settings that make no sense and for a checkpoint of other work, DataError for samples that do not fit.
    """
    known = Settings.__dataclass_fields__
    for name in settings:
        if name not in known:
            raise ConfigError(f"distill has no setting {name!r}", near(name, known) or f"known are {', '.join(known)}")
    if all(settings.get(name) is None for name in ("epochs", "steps", "minutes")):
        settings["epochs"] = DEFAULT_EPOCHS
    training = Training(student, teacher, loader, evaluation, blocks, Settings(**settings), device)
    file = Checkpoint(Path(checkpoint), training.identity()) if checkpoint is not None else None
    return training.run(file, progress)
