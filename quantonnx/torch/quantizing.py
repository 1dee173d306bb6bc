"""From a module and what its user calibrates it on to a quantized ONNX model, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import nn

from quantonnx import pipeline
from quantonnx.calibration.feeds import Progress, input_specs
from quantonnx.calibration.samples import Samples
from quantonnx.config import QuantConfig
from quantonnx.errors import DataError, PlanError
from quantonnx.plan import Plan
from quantonnx.quantized import QuantizedModel
from quantonnx.target import Patterns, Target
from quantonnx.torch.calls import Call, call_of
from quantonnx.torch.examples import Example
from quantonnx.torch.exporting import ExportSettings, exported
from quantonnx.torch.loaders import Batches, Feeds, Select, open_loader
from quantonnx.torch.looping import ExportedModule
from quantonnx.torch.modules import unwrapped

Loop = Callable[[Any], None]
"""A loop of the user's: it calls what it is given, which looks like the module, on samples."""


class QuantizeSettings(TypedDict, total=False):
    """Settings of `quantonnx.quantize`, by the same names."""

    target: str | Path | Target | None
    config: QuantConfig | None
    patterns: str | Path | Patterns
    plan: Plan | None
    limit: int | None
    threads: int | None
    progress: Progress | None
    memory_limit: int | str | None


def quantize(
    module: nn.Module,
    loader: Any = None,
    *,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    forward_loop: Loop | None = None,
    select: Select | None = None,
    dynamic_batch: bool | Sequence[str] = True,
    opset: int = 20,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    exporter: str = "auto",
    verify: bool = True,
    tolerance: float | None = None,
    **settings: Unpack[QuantizeSettings],
) -> QuantizedModel:
    """Returns a module as a calibrated Q/DQ model; `.save(path)` writes it.

    `loader` is a DataLoader, a dataset, stacked tensors, or an iterable of batches: tensors, dicts of arguments, or
    tuples whose labels are left out; `select` returns the arguments in a batch of another form. A path, and what else
    `quantonnx.quantize` takes, is samples too. `forward_loop`, in its place, is called with what looks like the module,
    and runs the float ONNX model. The module is exported by `args` and `kwargs`, by default the first batch; how is
    said by settings of `export`, all others are those of `quantonnx.quantize`. Raises QuantonnxErrors.
    """
    how = ExportSettings(dynamic_batch, opset, input_names, output_names, exporter, False, verify, tolerance)
    if (loader is None) == (forward_loop is None):
        raise PlanError("quantize() needs samples", "give either a loader or a forward_loop")
    module = unwrapped(module)
    batches, call = _opened(module, loader, args, kwargs, select)
    model, example = exported(module, call, how, force=False)
    known = frozenset(spec.name for spec in input_specs(model))
    samples = loader if batches is None else Feeds(batches, example.inputs, known).stream()
    loop = None if forward_loop is None else _looped(forward_loop, example, known)
    return pipeline.quantize(model, samples, forward_loop=loop, **settings)


def _opened(
    module: nn.Module, loader: Any, args: Any, kwargs: Mapping[str, Any] | None, select: Select | None
) -> tuple[Batches | None, Call]:
    """The batches, where the loader is one, and the call to export by."""
    given = None if args is None and kwargs is None else call_of(() if args is None else args, kwargs)
    if loader is not None and not _is_samples(loader):
        first, source = open_loader(loader)
        batches = Batches(module, source, select, _count(args))
        return batches, given or batches.call(first)
    if given is None:
        raise DataError("there is no example to export the module by", "give `args`, an example of what it takes")
    return None, given


def _count(args: Any) -> int | None:
    """How many arguments an example has, where it tells."""
    if args is None or isinstance(args, Mapping):
        return None
    return len(args) if isinstance(args, (tuple, list)) else 1


def _is_samples(loader: Any) -> bool:
    """True for what quantonnx reads by itself."""
    return isinstance(loader, (str, PathLike, Samples)) or hasattr(loader, "get_next")


def _looped(loop: Loop, example: Example, wanted: frozenset[str]) -> Callable[[Any], None]:
    return lambda run: loop(ExportedModule(example, run, wanted))
