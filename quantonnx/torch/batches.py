"""What training is fed with: samples that stay the same are kept and shuffled here, a loader is taken as it comes.

A step takes one or more batches: several where the model's batch is fixed, whose gradients then add up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantonnx.calibration.samples import Samples, input_specs, open_samples
from quantonnx.errors import DataError
from quantonnx.torch.dtypes import to_numpy
from quantonnx.torch.modules import unwrapped

Batch = dict[str, Tensor] | tuple[Tensor, ...]

LARGEST_KEPT = 4 << 30
"""Bytes of samples that are kept in memory."""


@dataclass(frozen=True)
class Unit:
    """What is shuffled as one: a sample, or a batch as it was given; `number` tells it from others, -1 where it will
    not be seen again."""

    batch: Batch
    number: int = -1


class Kept:
    """Units in memory, shuffled for every epoch; a step takes `per_step` of them, joined where the model allows it."""

    def __init__(self, units: Sequence[Unit], per_step: int, *, joined: bool) -> None:
        self.units, self.per_step, self.joined = units, min(per_step, len(units)), joined

    def __len__(self) -> int:
        """The steps of an epoch; the last one takes from the units that the others left, and may be smaller."""
        return -(-len(self.units) // self.per_step)

    def without(self, units: Sequence[Unit]) -> Kept:
        """Returns all but some units."""
        numbers = {unit.number for unit in units}
        left = [unit for unit in self.units if unit.number not in numbers]
        return Kept(left, self.per_step, joined=self.joined)

    def epoch(self, generator: torch.Generator) -> Iterator[list[Unit]]:
        """Yields the units of each step."""
        order: list[int] = torch.randperm(len(self.units), generator=generator).tolist()
        for start in range(0, len(order), self.per_step):
            yield [self.units[index] for index in order[start : start + self.per_step]]


class Streamed:
    """Batches of somebody's loader, asked for anew in every epoch; `names` are the model's inputs."""

    def __init__(self, loader: Iterable[Any], names: Sequence[str]) -> None:
        self.loader, self.names, self.joined = loader, names, False

    def __len__(self) -> int:
        """The steps of an epoch; 0 where the loader does not tell."""
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            return 0

    def epoch(self, generator: torch.Generator) -> Iterator[list[Unit]]:
        """Yields the batches, one a step; what the loader shuffles hangs on torch's global generator."""
        torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
        found = False
        for item in self.loader:
            found = True
            yield [Unit(as_batch(item, self.names))]
        if not found:
            raise DataError("the loader gives no batch", "give a list, or a DataLoader that can be read again")


def open_batches(loader: Any, module: nn.Module, batch_size: int) -> Kept | Streamed:
    """Returns what to train on. Samples are kept as single ones; lists, and what can be read but once, as the batches
    that they hold; all else is iterated in every epoch, so that what it changes at random does change."""
    module = unwrapped(module)
    names = tuple(getattr(module, "input_names", ()))
    if isinstance(loader, (str, os.PathLike, np.ndarray, Tensor, Mapping)):
        loader = _samples(loader, module)
    if isinstance(loader, Samples):
        fixed = any(spec.batch is not None for spec in loader.inputs)
        batches = [as_batch(feed, names) for feed in loader]
        units = batches if fixed else [row for batch in batches for row in rows_of(batch)]
        per_step = max(1, batch_size // (rows_in(units[0]) if fixed else 1))
        return _kept(units, per_step, joined=not fixed and _alike(units))
    if isinstance(loader, Iterator):
        loader = list(loader)
    if isinstance(loader, (list, tuple)):
        if not loader:
            raise DataError("there are no samples to train on", "give at least one batch")
        return _kept([as_batch(item, names) for item in loader], 1, joined=False)
    if not hasattr(loader, "__iter__"):
        raise DataError(f"the samples are a {type(loader).__name__}, expected an iterable of batches")
    return Streamed(loader, names)


def _samples(data: Any, module: nn.Module) -> Samples:
    """Opens what `open_samples` takes, and stacked tensors, for the inputs of the ONNX model behind a module."""
    origin = getattr(module, "origin", None)
    if origin is None:
        found = f"the samples are a {type(data).__name__}, and the module has no ONNX model to fit them to"
        raise DataError(found, "give a DataLoader, or a list of batches")
    arrays = {name: _array(value) for name, value in data.items()} if isinstance(data, Mapping) else _array(data)
    return open_samples(arrays, input_specs(origin.model))


def _array(value: Any) -> Any:
    return to_numpy(value) if isinstance(value, Tensor) else value


def _kept(batches: Sequence[Batch], per_step: int, *, joined: bool) -> Kept:
    size = sum(value.nbytes for batch in batches for value in tensors_in(batch))
    if size > LARGEST_KEPT:
        raise DataError(
            f"the samples take {size / 1e9:.1f} GB, at most {LARGEST_KEPT / 1e9:.1f} GB are kept in memory",
            "give a DataLoader, which is read anew in every epoch, or fewer samples",
        )
    return Kept([Unit(batch, number) for number, batch in enumerate(batches)], per_step, joined=joined)


def as_batch(item: Any, names: Sequence[str]) -> Batch:
    """Returns what a loader gave as tensors of the model's inputs; what follows them, such as labels, is left out."""
    if isinstance(item, Mapping):
        wanted = names or tuple(item)
        missing = [name for name in wanted if name not in item]
        if missing:
            raise DataError(f"a batch has no {missing[0]!r}, found {sorted(map(str, item))}, expected {list(wanted)}")
        return {name: _tensor(item[name]) for name in wanted}
    if isinstance(item, (list, tuple)):
        if len(item) < len(names):
            raise DataError(f"a batch has {len(item)} values, expected those of the inputs {list(names)}")
        return tuple(_tensor(value) for value in item[: len(names) or None])
    return (_tensor(item),)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()  # torch would warn
    return torch.as_tensor(value)


def tensors_in(batch: Batch) -> tuple[Tensor, ...]:
    """Returns the tensors of a batch."""
    return tuple(batch.values()) if isinstance(batch, dict) else batch


def rows_in(batch: Batch) -> int:
    """Returns how many samples a batch holds."""
    first = tensors_in(batch)[0]
    return len(first) if first.ndim else 1


def rows_of(batch: Batch) -> list[Batch]:
    """Returns the samples of a batch, each a batch of its own; the batch itself where its first axes differ."""
    count = rows_in(batch)
    if any(value.ndim == 0 or len(value) != count for value in tensors_in(batch)):
        return [batch]
    return [mapped(batch, lambda value, at=at: value[at : at + 1]) for at in range(count)]


def joined(batches: Sequence[Batch]) -> Batch:
    """Returns batches as one, along the first axis."""
    first = batches[0]
    if len(batches) == 1:
        return first
    if isinstance(first, dict):
        return {name: torch.cat([batch[name] for batch in batches]) for name in first}  # type: ignore[call-overload]
    return tuple(torch.cat(values) for values in zip(*map(tensors_in, batches), strict=True))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Returns a batch on a device."""
    return mapped(batch, lambda value: value.to(device, non_blocking=True))


def mapped(batch: Batch, function: Any) -> Batch:
    """Returns a batch of what a function makes of each tensor."""
    if isinstance(batch, dict):
        return {name: function(value) for name, value in batch.items()}
    return tuple(function(value) for value in batch)


def _alike(units: Sequence[Batch]) -> bool:
    shapes = {tuple(value.shape for value in tensors_in(unit)) for unit in units}
    return len(shapes) == 1 and all(shape and shape[0] == 1 for shape in next(iter(shapes)))
