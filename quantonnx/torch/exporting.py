"""From a module to a float model that quantizes well: exported by the exporter that works, and proved."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from quantonnx.errors import ModelError, OutputError, PlanError, QuantonnxError
from quantonnx.exporting import EMBEDDED_LIMIT
from quantonnx.model import Model
from quantonnx.torch.agreement import require_agreement
from quantonnx.torch.calls import Call, call_of
from quantonnx.torch.examples import Example, evaluating_exactly, example_of, refuse_types, warn
from quantonnx.torch.exporters import EXPORTERS, written
from quantonnx.torch.modules import unwrapped
from quantonnx.torch.tidying import tidied

_DATA = "data-dependent"
"""What dynamo says of a branch that hangs on values."""


@dataclass(frozen=True)
class ExportSettings:
    """How a module is exported; each is that of `export`."""

    dynamic_batch: bool | Sequence[str] = True
    opset: int = 20
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    exporter: str = "auto"
    keep_batch_norm: bool = False
    verify: bool = True
    tolerance: float | None = None

    @property
    def order(self) -> tuple[str, ...]:
        """The exporters to try, in this order. Raises PlanError for one that does not exist."""
        if self.exporter == "auto":
            return tuple(EXPORTERS)
        if self.exporter not in EXPORTERS:
            raise PlanError(f"the exporter is {self.exporter!r}, expected auto, {' or '.join(EXPORTERS)}")
        return (self.exporter,)


def export(
    module: nn.Module,
    args: Any = (),
    path: str | PathLike[str] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool | Sequence[str] = True,
    opset: int = 20,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    exporter: str = "auto",
    keep_batch_norm: bool = False,
    verify: bool = True,
    tolerance: float | None = None,
    force: bool = False,
) -> Model:
    """Returns the module as a float ONNX model, and writes it to `path`, if given, whole or not at all.

    `args` is an example of what the module takes: a tensor, a tuple of arguments, or a dict of keyword arguments, as
    `kwargs` is. With `dynamic_batch` the first axis is free, of every input that is as long there as the first one, or
    of those named; where the module runs at one size only, an ExportWarning says so and all shapes are fixed.
    `exporter` is `dynamo`, `torchscript`, or `auto`: dynamo, and, with an ExportWarning, TorchScript where that fails.
    `keep_batch_norm` leaves BatchNormalization behind a convolution as it is, to train on. Initializers are called as
    the module's parameters are; a Linear's may be transposed.

    The result is run by ONNX Runtime on the example, and at other batch sizes if these are free: `tolerance` is how far
    outputs may be apart, of the largest value, by default 1e-4, of float16 0.02. The module is exported in evaluation
    mode, where it is, and left as it was. Raises ModelError where no exporter gives a file that agrees, OutputError
    where `path` exists (unless `force`), DataError for arguments that do not fit.
    """
    settings = ExportSettings(
        dynamic_batch, opset, input_names, output_names, exporter, keep_batch_norm, verify, tolerance
    )
    return exported(module, call_of(args, kwargs), settings, path, force=force)[0]


def exported(
    module: nn.Module, call: Call, settings: ExportSettings, path: str | PathLike[str] | None = None, *, force: bool
) -> tuple[Model, Example]:
    """Returns the module as a model, and the example that it was exported and verified by; see `export`."""
    if path is not None and Path(path).exists() and not force:
        raise OutputError(f"{str(path)!r} exists already", "use force=True to replace it")
    if not isinstance(module, nn.Module):
        raise ModelError(f"the module is a {type(module).__name__}, expected a torch.nn.Module")
    order, module = settings.order, unwrapped(module)
    refuse_types(module, call)
    if path is None:
        _refuse_large(module)
    with tempfile.TemporaryDirectory(prefix="quantonnx-") as folder, evaluating_exactly(module):
        example = example_of(
            module,
            call,
            dynamic_batch=settings.dynamic_batch,
            input_names=settings.input_names,
            output_names=settings.output_names,
        )
        model = _first_that_works(example, settings, order, Path(folder))
        return _kept(model, path, force=force), example


def _first_that_works(example: Example, settings: ExportSettings, order: Sequence[str], folder: Path) -> Model:
    """The model of the first exporter that gives one which agrees; says why others do not."""
    name, failures = type(example.module).__name__, []
    for exporter in order:
        try:
            model = _by(exporter, example, settings, folder)
        except QuantonnxError as error:
            if _DATA in str(error).lower() and len(order) > 1:
                raise _frozen(name, error) from error
            failures.append(f"{exporter}: {error}")
            continue
        if failures:
            warn(f"{name} is exported by {exporter}, since {failures[0]}")
        return model
    hint = "try dynamic_batch=False if one batch size will do" if example.batched else ""
    raise ModelError(f"{name} cannot be exported: {'; '.join(failures)}", hint)


def _frozen(name: str, error: QuantonnxError) -> ModelError:
    reason = f"{name} decides by its data what to do, which dynamo refuses and tracing would freeze: {error.message}"
    return ModelError(reason, "change the module, or say exporter='torchscript' to keep what the example does")


def _by(exporter: str, example: Example, settings: ExportSettings, folder: Path) -> Model:
    model = _read(written(exporter, example, settings.opset, folder)).with_opset(settings.opset)
    if model.opset != settings.opset:
        raise ModelError(f"it wrote opset {model.opset}, not {settings.opset}")
    model = tidied(model, example, keep_batch_norm=settings.keep_batch_norm)
    if settings.verify:
        require_agreement(model, example, settings.tolerance)
    return model


def _read(path: Path) -> Model:
    """Reads a file, whose folder will go away, into memory where it fits."""
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    return Model.read(path if size > EMBEDDED_LIMIT else onnx.load(path))


def _refuse_large(module: nn.Module) -> None:
    """Raises ModelError for weights that are too large for a model in memory."""
    size = sum(value.nbytes for value in (*module.parameters(), *module.buffers()))
    if size > 0.99 * EMBEDDED_LIMIT:
        raise ModelError(f"{type(module).__name__} has {size / 1e9:.1f} GB of weights", "give a path to export it to")


def _kept(model: Model, path: str | PathLike[str] | None, *, force: bool) -> Model:
    """Saves the model; one whose weights are in files that go away is read again."""
    if path is None:
        return model
    model.save(path, force=force)
    return model if model.folder is None else Model.read(path)
