"""The calibration of one model spread over workers by ranges of its samples: statistics that add up to the same bits.

Extremes, counts and sums of a part do not depend on what else is seen and merge exactly (see calibration.statistics and
calibration.summing). What does depend on the whole stream, the digest of the samples and which of them are kept, is
found here by reading them once more, without running the model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from quantonnx.calibration.collected import DataSource, Statistics
from quantonnx.calibration.digest import SampleDigest
from quantonnx.calibration.keeping import KeptSamples
from quantonnx.calibration.samples import Samples, input_specs
from quantonnx.calibration.sources import shared_rows
from quantonnx.errors import CalibrationError
from quantonnx.memory import resident
from quantonnx.model import Model
from quantonnx.observing import Observed, Watch, observe
from quantonnx.preparation import Feeding

REFUSED = 3
"""The exit code of a part whose model or samples are refused: it would end so again."""


@dataclass(frozen=True)
class Part:
    """A range of feeds for a worker: `model` is the fused model, `settings` say where samples come from, `out` is where
    statistics go; `begun` counts the samples before feed `start`."""

    module: str
    model: str
    settings: Mapping[str, Any]
    tensors: tuple[str, ...]
    histogram: tuple[str, ...]
    means: Mapping[str, bool]
    start: int
    stop: int
    begun: int
    out: str
    threads: int | None = None
    memory_limit: int | None = None

    def to_json(self) -> str:
        """Returns the part as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Part:
        """Returns the part that `to_json` wrote."""
        return cls(**json.loads(text))

    def watch(self, model: Model) -> Watch:
        """Returns what is to be seen; what is wrong with a tensor is remembered."""
        return Watch(model, frozenset(self.tensors), frozenset(self.histogram), dict(self.means), lenient=True)


@dataclass(frozen=True)
class Ended:
    """How a part ended: `reason` is "" where it is done; one that was `refused` would end so again."""

    reason: str = ""
    refused: bool = False


class PartError(CalibrationError):
    """A part that was ended by a crash, a limit or a full disk, which may be over next time."""


RunParts = Callable[[list[Part]], Iterable[Ended]]
"""Runs parts and yields for each, in any order, how it ended."""


def run_part(text: str) -> Ended:
    """Runs one part in a process of its own; returns how it ended."""
    part = Part.from_json(text)
    done = subprocess.run(
        [sys.executable, "-P", "-m", part.module], input=text + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode == 0 and Path(part.out).is_file():
        return Ended()
    lines = done.stderr.strip().splitlines() or [f"its process ended with code {done.returncode}"]
    reason = f"from sample {part.begun} on: {' '.join(lines[-1].split())[:300]}"
    return Ended(reason, done.returncode == REFUSED)


def run_here(parts: list[Part]) -> Iterator[Ended]:
    """Runs parts one after the other on this machine, where what this process holds counts to the limit too."""
    for part in parts:
        limit = None if part.memory_limit is None else max(part.memory_limit - resident(), 1)
        yield run_part(replace(part, memory_limit=limit).to_json())


@dataclass(frozen=True)
class SplitObserver:
    """An observer whose samples are run in parts of about `size` by `run_parts`.

    `samples` opens the samples for a model, `settings` are what workers open them with, `folder` is one that they see.
    """

    module: str
    size: int
    samples: Callable[[Model], Samples]
    settings: Mapping[str, Any]
    folder: Path
    run_parts: RunParts = run_here

    def __call__(self, watch: Watch, feeding: Feeding) -> Observed:
        """Returns what one pass over all samples would see, bit by bit."""
        samples = self.samples(watch.model)
        stream = _Stream(watch, samples, self.size)
        if len(stream.ranges) < 2 or feeding.forward_loop is not None:
            return observe(watch, feeding)
        with tempfile.TemporaryDirectory(prefix=".split-", dir=self.folder) as folder:
            found = self._gathered(watch, feeding, stream, Path(folder))
        if not found.refused.keys().isdisjoint(watch.tensors) or found.means.keys() != watch.means.keys():
            return observe(watch, replace(feeding, samples=samples))  # which knows what to say
        data = (DataSource("", stream.digest.samples, stream.digest.hexdigest),)
        return Observed(replace(found, model=watch.model.digest, data=data), stream.kept.spread() if watch.keep else ())

    def _gathered(self, watch: Watch, feeding: Feeding, stream: _Stream, folder: Path) -> Statistics:
        model = folder / "model.onnx"
        watch.model.save(model)
        parts = [
            Part(
                self.module,
                str(model),
                self.settings,
                tuple(sorted(watch.tensors)),
                tuple(sorted(watch.histogram)),
                watch.means,
                *where,
                str(folder / f"{number}.npz"),
                feeding.threads,
                feeding.memory_limit,
            )
            for number, where in enumerate(stream.ranges)
        ]
        for done, ended in enumerate(self.run_parts(parts), 1):
            if ended.reason:
                kind = CalibrationError if ended.refused else PartError
                raise kind(f"a part of the calibration failed {ended.reason}")
            if feeding.progress is not None:
                feeding.progress(done * stream.digest.samples // len(parts), stream.digest.samples)
        return reduce(Statistics.merged, (Statistics.load(part.out) for part in parts))


class _Stream:
    """What the whole stream of samples says: its digest, the samples that are kept, and the ranges of its parts."""

    def __init__(self, watch: Watch, samples: Samples, size: int) -> None:
        self.digest = SampleDigest([spec.name for spec in input_specs(watch.model)])
        self.kept = KeptSamples()
        self.ranges: list[tuple[int, int, int]] = []
        start = begun = index = 0
        for index, feed in enumerate(samples, 1):
            if watch.keep:
                self.kept.offer(feed)
            self.digest.update(feed, shared_rows(feed))
            if self.digest.samples - begun >= size:
                self.ranges.append((start, index, begun))
                start, begun = index, self.digest.samples
        if start < index:
            self.ranges.append((start, index, begun))
