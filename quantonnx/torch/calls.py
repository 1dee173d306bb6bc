"""A call of a module: what a person passes as its arguments, seen as named tensors, some of which hold a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantonnx.errors import DataError, said

Path = tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """Positional and keyword arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, module: Callable[..., Any]) -> Any:
        """Returns what the module returns for them as they are now: a module may write into its arguments."""
        fresh = with_tensors(self, Tensor.clone)
        return module(*fresh.args, **fresh.kwargs)


def call_of(args: Any, kwargs: Mapping[str, Any] | None = None) -> Call:
    """Returns a call of what a person gives: a tensor, a sequence of arguments, a mapping of keyword arguments."""
    more = _tensors_of(dict(kwargs or {}))
    if isinstance(args, Mapping):
        return Call((), _tensors_of(dict(args)) | more)
    given = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    return Call(_tensors_of(given), more)


def _tensors_of(value: Any) -> Any:
    return mapped(value, lambda path, leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf)


def bound(module: nn.Module, call: Call) -> Call:
    """Returns the call with arguments in the order of the signature. Raises DataError where they do not fit."""
    found = _arguments(module, call)
    return Call(found.args, found.kwargs)


def _arguments(module: nn.Module, call: Call) -> inspect.BoundArguments:
    try:
        return inspect.signature(module.forward).bind(*call.args, **call.kwargs)
    except TypeError as error:
        raise DataError(
            f"the arguments do not fit {type(module).__name__}.forward: {said(error)}",
            "give a tensor, a tuple of positional arguments, or a dict of keyword arguments",
        ) from error


def arguments(module: nn.Module, call: Call) -> dict[str, Any]:
    """Returns the arguments by parameter of `forward`, in its order: a tuple for *args, a dict for **kwargs."""
    return dict(_arguments(module, call).arguments)


def named_tensors(module: nn.Module, call: Call, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Returns the tensors among the arguments, in order, by `names` or what `forward` calls them.

    One inside a list is `x_0`; one inside a dict has its key. Raises DataError where there are none, or other names.
    """
    found = {path: leaf for path, leaf in leaves(arguments(module, call)) if isinstance(leaf, Tensor)}
    if not found:
        raise DataError("no argument is a tensor", "give an example of what the module takes")
    if names is not None and len(names) != len(found):
        raise DataError(f"{len(names)} input names for {len(found)} tensors: {', '.join(_joined(found))}")
    return dict(zip(names or _joined(found), found.values(), strict=True))


def named_results(results: Any) -> dict[str, Tensor]:
    """Returns the tensors that a module returned, by the keys of a dict, else `output` or `output_0`, `output_1`…"""
    found = {path or ("output",): leaf for path, leaf in leaves(results) if isinstance(leaf, Tensor)}
    names = [f"output_{'_'.join(path)}" if path[0].isdigit() else "_".join(path) for path in found]
    return dict(zip(_distinct(names), found.values(), strict=True))


def _joined(paths: Collection[Path]) -> list[str]:
    """The shortest names that tell tensors apart: the last key, with all numbers after it."""
    short = []
    for path in paths:
        start = max((place for place, part in enumerate(path) if not part.isdigit()), default=0)
        short.append("_".join(path[start:]))
    return short if len(set(short)) == len(short) else _distinct(["_".join(path) for path in paths])


def _distinct(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}_{place}" for place, name in enumerate(names)]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yields what lists, tuples, mappings and dataclasses hold, however deep, each with the keys that lead to it."""
    entries = _entries(value)
    if entries is None:
        yield path, value
        return
    for key, each in entries:
        yield from leaves(each, (*path, str(key)))


def mapped(value: Any, change: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """Returns lists, tuples, mappings and dataclasses of the same form with `change(keys, leaf)` for each leaf."""
    entries = _entries(value)
    if entries is None:
        return change(path, value)
    inner = {key: mapped(each, change, (*path, str(key))) for key, each in entries}
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**inner)
    if isinstance(value, Mapping):
        return inner
    return type(value)(*inner.values()) if hasattr(value, "_fields") else type(value)(inner.values())


def _entries(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """What a value holds, by key; None for a leaf. A dataclass may be a mapping too, of the fields that are set."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (list, tuple)):
        return zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    if is_dataclass(value) and not isinstance(value, type):
        return ((field.name, getattr(value, field.name)) for field in fields(value))
    return None


def with_tensors(call: Call, change: Callable[[Tensor], Tensor]) -> Call:
    """Returns the call with `change` made to every tensor."""
    made = mapped((call.args, call.kwargs), lambda path, leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)
    return Call(*made)


def with_rows(call: Call, batched: Collection[int], rows: int) -> Call:
    """Returns the call for `rows` samples: the first, or all of them over and over; `batched` are ids of tensors."""
    return with_tensors(call, lambda tensor: _rows(tensor, rows) if id(tensor) in batched else tensor)


def _rows(tensor: Tensor, rows: int) -> Tensor:
    times = -(-rows // len(tensor))
    return tensor.repeat(times, *(1 for _ in tensor.shape[1:]))[:rows]


def on_device(call: Call, module: nn.Module) -> Call:
    """Returns the call with its tensors where the module is, if it is in one place."""
    places = {value.device for value in (*module.parameters(), *module.buffers())}
    if len(places) != 1:
        return call
    place = places.pop()
    return with_tensors(call, lambda tensor: tensor.detach().to(place))
