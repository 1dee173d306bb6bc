"""The loop of a distillation: steps along a schedule, measured as it goes, so that the best weights stay."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from quantonnx.calibration.feeds import Progress
from quantonnx.torch.augmenting import augmented
from quantonnx.torch.batches import Batch, Kept, Unit, joined, on_device, open_batches, rows_in, tensors_in
from quantonnx.torch.checkpoints import Checkpoint, State, digest_of, digest_of_tensors
from quantonnx.torch.holding import hold_out
from quantonnx.torch.modules import evaluating, normalizations
from quantonnx.torch.objectives import Fidelity, blocks_loss, output_loss
from quantonnx.torch.optimizing import make_optimizer, rate_factor, set_rate
from quantonnx.torch.settings import Distilled, Settings
from quantonnx.torch.viewing import Teacher, block_names, check_blocks, comparable, view

_MEASUREMENTS = 8
_BETWEEN_CHECKPOINTS = 30.0
_CHECKPOINTS_PART = 0.02


class Training:
    """One distillation: what it goes by, and how far it has come."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        loader: Any,
        evaluation: Any,
        blocks: Sequence[str] | str | None,
        settings: Settings,
        device: torch.device | str | None,
    ) -> None:
        self.settings = settings
        self.device = _device_of(student) if device is None else torch.device(device)
        self.student = student.to(self.device)
        self.blocks = block_names(student, teacher, blocks if settings.blocks_weight else None)
        self.teacher = Teacher(teacher.to(self.device).eval(), self.blocks, self.device)
        source = open_batches(loader, student, settings.batch_size)
        if blocks == "auto" and isinstance(source, Kept):
            self.blocks = comparable(self.blocks, student, self.teacher, source.units[0].batch)
            self.teacher = Teacher(self.teacher.module, self.blocks, self.device)
        self.source, self.held = hold_out(source, evaluation, student, self.teacher, settings.batch_size)
        self.teacher.remember(self.source, changes=settings.augment != "none")
        self.optimizer = make_optimizer(student, settings.rates, settings.optimizer)
        self.step = self.epoch = self.at = self.best_step = 0
        self.length = len(self.source)
        self.seconds = 0.0
        self.losses: list[float] = []
        self.measured: list[Fidelity] = []
        self.diverged = False
        self._sums = [0.0, 0.0]
        self._random: Tensor | None = None
        self._after_step, self._between_steps = torch.get_rng_state(), False
        self._before = self._best = Fidelity(math.inf, -math.inf, None)
        self._best_state: State = {}

    def identity(self) -> dict[str, Any]:
        """Returns what a checkpoint of this work is known by."""
        units = self.source.units if isinstance(self.source, Kept) else []
        data = ((str(unit.number), value) for unit in units for value in tensors_in(unit.batch))
        return {
            **asdict(self.settings),
            "blocks": list(self.blocks),
            "student": digest_of(self.student),
            "teacher": digest_of(self.teacher.module),
            "data": digest_of_tensors(data),
            "evaluation": digest_of_tensors(self.held.tensors()),
        }

    def run(self, file: Checkpoint | None, progress: Progress | None) -> Distilled:
        """Trains to the end; whatever stops it, the student then has the best weights."""
        with torch.random.fork_rng(), evaluating(self.student):
            torch.manual_seed(self.settings.seed)
            state = file.load() if file else None
            if file is None or state is None:
                self._measure()
            else:
                self._restore(state, file)
            try:
                self._train(file, progress)
            finally:
                self.student.load_state_dict(self._best_state)
        return self._told()

    def _told(self) -> Distilled:
        return Distilled(
            steps=self.step,
            seconds=self.seconds,
            losses=tuple(self.losses),
            measured=tuple(self.measured),
            before=self._before,
            after=self._best,
            best_step=self.best_step,
            held_out=len(self.held),
            trained_on=self.held.trained_on,
            blocks=self.blocks,
            diverged=self.diverged,
        )

    def _train(self, file: Checkpoint | None, progress: Progress | None) -> None:
        try:
            self._take_steps(file, progress)
        except KeyboardInterrupt:
            if file is not None and self._between_steps:
                file.save(self._state())
            raise

    def _take_steps(self, file: Checkpoint | None, progress: Progress | None) -> None:
        started, saved, pause = time.monotonic() - self.seconds, time.monotonic(), _BETWEEN_CHECKPOINTS
        measured = True
        for units in self._steps():
            self._learn(units)
            self.seconds = time.monotonic() - started
            measured = math.floor(self._progress() * _MEASUREMENTS) > len(self.measured)
            if measured:
                self._measure()
            self._after_step, self._between_steps = torch.get_rng_state(), True
            now = time.monotonic()
            if file is not None and (now - saved > pause or self._progress() >= 1):
                file.save(self._state())
                saved = time.monotonic()
                pause = max(_BETWEEN_CHECKPOINTS, (saved - now) / _CHECKPOINTS_PART)
            if progress is not None:
                progress(*self._done())
        if not measured:  # a loader that does not tell its length has come to its end
            self._measure()
            if file is not None:
                file.save(self._state())

    def _progress(self) -> float:
        """How far training has come, in 0..1, by the limit that is over first."""
        limits = self.settings
        parts = [self.step / limits.steps] if limits.steps else []
        if limits.epochs:
            parts.append((self.epoch + (self.at / self.length if self.length else 0)) / limits.epochs)
        if limits.minutes:
            parts.append(self.seconds / (60 * limits.minutes))
        return min(1.0, max(parts))

    def _done(self) -> tuple[int, int | None]:
        limits, length = self.settings, self.length
        totals = [limits.steps] if limits.steps else []
        if limits.epochs and length:
            totals.append(limits.epochs * length)
        if limits.minutes:
            return round(100 * self._progress()), 100
        return self.step, min(totals, default=None)

    def _steps(self) -> Iterator[list[Unit]]:
        """Yields what each step trains on, from where training stands."""
        while self._progress() < 1:
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.epoch)
            batches = self.source.epoch(generator)
            deque(islice(batches, self.at), 0)
            if self._random is not None and self.at:
                torch.set_rng_state(self._random)
            self._random = None
            for units in batches:
                yield units
                if self.diverged or self._progress() >= 1:
                    return
            self.length = self.length or self.at
            self.epoch, self.at = self.epoch + 1, 0

    def _learn(self, units: Sequence[Unit]) -> None:
        """One step of the optimizer."""
        settings = self.settings
        set_rate(self.optimizer, rate_factor(self._progress(), settings.warm_up))
        self._set_modes()
        self.optimizer.zero_grad()
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step)
        groups = [units] if self.source.joined else [[unit] for unit in units]
        rows = sum(rows_in(unit.batch) for unit in units)
        loss = 0.0
        for group in groups:
            batch = augmented(joined([unit.batch for unit in group]), settings.augment, generator)
            part = self._loss(group, batch) * (rows_in(batch) / rows)
            part.backward()
            loss += float(part.detach())
        self._between_steps = False
        self.step, self.at = self.step + 1, self.at + 1
        self.diverged = not math.isfinite(loss)
        if not self.diverged:
            nn.utils.clip_grad_norm_(self.student.parameters(), settings.clip)
            self.optimizer.step()
            self._sums = [self._sums[0] + loss, self._sums[1] + 1]

    def _loss(self, units: Sequence[Unit], batch: Batch) -> Tensor:
        wanted = self.teacher.about(units, batch)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            found = view(self.student, on_device(batch, self.device), self.blocks)
        if not self.step:
            check_blocks(found, wanted)
        loss = output_loss(found.outputs, wanted.outputs, self.settings.temperature)
        if self.blocks:
            loss = loss + self.settings.blocks_weight * blocks_loss(found.inside, wanted.inside)
        return loss

    def _set_modes(self) -> None:
        """Only batch normalization may be in training mode, and only at first."""
        tracking = self._progress() < self.settings.batchnorm_until
        for layer in normalizations(self.student):
            layer.train(tracking)

    def _measure(self) -> None:
        """Measures the student, and remembers its weights where they are the best so far."""
        found = self.held.measure(self.student, self.settings.temperature)
        if not self.step:
            self._before = found
        else:
            self.losses.append(self._sums[0] / self._sums[1] if self._sums[1] else math.nan)
            self.measured.append(found)
            self._sums = [0.0, 0.0]
        if not self.step or found.loss < self._best.loss:
            self._best, self.best_step = found, self.step
            self._best_state = {name: value.detach().clone() for name, value in self.student.state_dict().items()}

    def _state(self) -> State:
        fidelities = {"before": asdict(self._before), "best": asdict(self._best)}
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_state": self._best_state,
            "random": self._after_step,
            "sums": self._sums,
            "losses": self.losses,
            "measured": [asdict(each) for each in self.measured],
            **fidelities,
            **counts,
        }

    def _restore(self, state: State, file: Checkpoint) -> None:
        try:
            self._take(state)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            file.refuse(error)

    def _take(self, state: State) -> None:
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._before, self._best = Fidelity(**state["before"]), Fidelity(**state["best"])
        self._best_state, self._random = state["best_state"], state["random"]
        self._sums, self.losses = state["sums"], state["losses"]
        self.measured = [Fidelity(**each) for each in state["measured"]]
        for name in _COUNTS:
            setattr(self, name, state[name])


_COUNTS = ("step", "epoch", "at", "length", "best_step", "seconds", "diverged")


def _device_of(module: nn.Module) -> torch.device:
    return next((value.device for value in module.parameters()), torch.device("cpu"))
