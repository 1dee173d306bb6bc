"""What PyTorch users have, a DataLoader, a dataset, stacked tensors, a loop of their own, becomes feeds of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from quantonnx.calibration.sources import LABELS
from quantonnx.errors import DataError, said
from quantonnx.torch.calls import Call, bound, call_of, leaves, mapped, named_tensors
from quantonnx.torch.dtypes import to_numpy
from quantonnx.torch.examples import Array

Select = Callable[[Any], Any]
"""Takes a batch of a loader and returns the arguments of the module in it."""

_ROWS = 8
"""Samples in a batch that is made here."""


@dataclass(frozen=True)
class Batches:
    """The batches of a loader as calls of a module.

    `select` returns the arguments in a batch. Without it, a batch is a tensor, a dict of arguments with labels and what
    the module does not take among them, or a sequence of arguments, perhaps with labels behind: the first `count`, or
    as many as `forward` takes but for lists of whole numbers that it does not ask for.
    """

    module: nn.Module
    loader: Iterable[Any]
    select: Select | None = None
    count: int | None = None

    def call(self, batch: Any) -> Call:
        """Returns the call that a batch stands for."""
        if self.select is not None:
            return call_of(self.select(batch))
        if isinstance(batch, Mapping):
            return call_of(self._keywords(batch))
        if not isinstance(batch, (tuple, list)):
            return call_of(batch)
        return call_of(batch[: self.count] if self.count is not None else self._positional(batch))

    def _keywords(self, batch: Mapping[str, Any]) -> Any:
        known = inspect.signature(self.module.forward).parameters
        given = {key: value for key, value in batch.items() if key not in LABELS and _has_arrays(value)}
        taken = {key: value for key, value in given.items() if key in known}
        if taken:
            return taken
        if len(given) == 1 and (self.count in (None, 1)):
            return next(iter(given.values()))
        raise DataError(
            f"a batch has {', '.join(map(repr, batch))}, and {type(self.module).__name__}.forward takes "
            f"{', '.join(map(repr, known))}",
            "give `select`, a function that returns the arguments in a batch",
        )

    def _positional(self, batch: tuple[Any, ...] | list[Any]) -> list[Any]:
        needed, most = _arity(self.module)
        given = list(batch)[:most]
        while len(given) > max(needed, 1) and _is_label(given[-1]):
            given.pop()
        return given


@dataclass(frozen=True)
class Feeds:
    """The arrays of batches by the names of a model's inputs; `wanted` are those that the model still has."""

    batches: Batches
    names: tuple[str, ...]
    wanted: frozenset[str]

    def __iter__(self) -> Iterator[dict[str, Array]]:
        module = self.batches.module
        for index, batch in enumerate(self.batches.loader):
            try:
                tensors = named_tensors(module, bound(module, self.batches.call(batch)), self.names)
            except DataError as error:
                raise DataError(f"batch {index}: {error.message}", error.hint) from error
            yield {name: to_numpy(tensor) for name, tensor in tensors.items() if name in self.wanted}

    def stream(self) -> Iterable[dict[str, Array]]:
        """Returns what can be read as often as the loader can."""
        return iter(self) if isinstance(self.batches.loader, Iterator) else self


def _arity(module: nn.Module) -> tuple[int, int | None]:
    """How many positional arguments `forward` needs, and how many it takes, None for any number."""
    known = inspect.signature(module.forward).parameters.values()
    positional = [p for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(parameter.default is parameter.empty for parameter in positional)
    return needed, None if any(p.kind is p.VAR_POSITIONAL for p in known) else len(positional)


def _has_arrays(value: Any) -> bool:
    return any(isinstance(leaf, (Tensor, np.ndarray)) for _, leaf in leaves(value))


def _is_label(value: Any) -> bool:
    """One whole number a sample, or no array at all."""
    if not isinstance(value, (Tensor, np.ndarray)):
        return True
    return value.ndim <= 1 and not np.issubdtype(torch.empty(0, dtype=value.dtype).numpy().dtype, np.floating)


def open_loader(loader: Any) -> tuple[Any, Iterable[Any]]:
    """Returns the first batch of what a person has, and all batches, to be read again if the source allows it."""
    source = _batches(loader)
    reader = iter(source)
    try:
        first = next(reader)
    except StopIteration:
        raise DataError("the loader holds no batch, expected at least one") from None
    except TypeError as error:
        if not isinstance(loader, Dataset):
            raise
        raise DataError(f"samples of the dataset do not make a batch: {said(error)}", "give a DataLoader") from error
    return first, chain([first], reader) if reader is source else source


def _batches(loader: Any) -> Iterable[Any]:
    if isinstance(loader, Dataset) and not isinstance(loader, (list, tuple)):
        return DataLoader(loader, batch_size=_ROWS)
    if isinstance(loader, (Tensor, np.ndarray, Mapping)):
        return _cut(loader)
    if isinstance(loader, (str, bytes)) or not hasattr(loader, "__iter__"):
        kind = type(loader).__name__
        raise DataError(f"the loader is a {kind}, expected a DataLoader, a dataset, tensors, or an iterable of batches")
    return loader  # type: ignore[no-any-return]  # whatever iterates


def _cut(stacked: Any) -> list[Any]:
    """Tensors of many samples, as batches."""
    lengths = {len(leaf) for _, leaf in leaves(stacked)}
    if len(lengths) != 1:
        raise DataError(f"the stacked tensors hold {sorted(lengths)} samples, expected one number")
    starts = range(0, lengths.pop(), _ROWS)
    return [_slice(stacked, slice(start, start + _ROWS)) for start in starts]


def _slice(stacked: Any, part: slice) -> Any:
    return mapped(stacked, lambda path, leaf: leaf[part])
