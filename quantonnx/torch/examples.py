"""What an export goes by: an example call, the names of its tensors, which of them hold a batch, and the results."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantonnx.errors import DataError, ModelError, said
from quantonnx.torch.calls import Call, bound, leaves, named_results, named_tensors, on_device, with_rows
from quantonnx.torch.dtypes import to_numpy
from quantonnx.torch.modules import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = "batch"
"""What the free first axis is called in a file."""

Array = NDArray[Any]

_MOST_ROWS = 16
"""Samples of an example that are run at once; more of them prove nothing more."""


class ExportWarning(UserWarning):
    """Says in one line that an export was done in another way than asked for, and why."""


def warn(message: str) -> None:
    """Warns where the code that called this package stands."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith(__package__ or ""):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, ExportWarning, stacklevel=level + 1)


@dataclass(frozen=True)
class Trial:
    """One call of a module, what it returned, and the named tensors in that."""

    rows: int
    call: Call
    returned: Any
    results: Mapping[str, Tensor]


@dataclass(frozen=True)
class Example:
    """A module with calls to export it by: `trials[0]` is traced, all of them are what the file is verified on.

    `batched` are the names of inputs whose first axis is free; none where all shapes are fixed.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    batched: frozenset[str]
    trials: tuple[Trial, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the results."""
        return tuple(self.trials[0].results)

    @property
    def batched_outputs(self) -> tuple[str, ...]:
        """The names of the results whose first axis grows with the batch."""
        return tuple(name for name, shape in self.output_shapes().items() if shape[:1] == (BATCH,))

    def output_shapes(self) -> dict[str, tuple[int | str | None, ...]]:
        """Returns the shapes of the results: `batch`, or None, for what differs from one batch size to the next."""
        return {name: _shape([(t.rows, tuple(t.results[name].shape)) for t in self.trials]) for name in self.outputs}

    def tensors(self, call: Call) -> dict[str, Tensor]:
        """Returns the tensors of a call by the names of the inputs."""
        return named_tensors(self.module, call, self.inputs)

    def feed(self, call: Call) -> dict[str, Array]:
        """Returns the arrays of a call by the names of the inputs."""
        return {name: to_numpy(tensor) for name, tensor in self.tensors(call).items()}


def example_of(
    module: nn.Module,
    call: Call,
    *,
    dynamic_batch: bool | Sequence[str] = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Example:
    """Returns an example that was run, at several batch sizes where the batch is to be free.

    Warns, and fixes all shapes, where the module runs at no other batch size, unless `dynamic_batch` names inputs.
    Raises DataError for arguments that do not fit, and ModelError for a module that does not run on them.
    """
    call = bound(module, on_device(call, module))
    tensors = named_tensors(module, call, input_names)
    wanted = _wanted(tensors, dynamic_batch)

    def example(calls: Mapping[int, Call], batched: frozenset[str]) -> Example:
        trials = (_run(module, each, rows, output_names) for rows, each in calls.items())
        return Example(module, tuple(tensors), batched, tuple(_apart(trial, tensors) for trial in trials))

    if wanted:
        try:
            return _grown(example(_calls(call, tensors, wanted), wanted))
        except ModelError as error:
            fixed = example({0: call}, frozenset())
            if not isinstance(dynamic_batch, bool):
                raise
            warn(f"the batch of {type(module).__name__} is fixed, since it runs at no other size: {error.message}")
            return fixed
    return example({0: call}, frozenset())


def _wanted(tensors: Mapping[str, Tensor], dynamic_batch: bool | Sequence[str]) -> frozenset[str]:
    if dynamic_batch is False:
        return frozenset()
    if dynamic_batch is not True:
        names = [dynamic_batch] if isinstance(dynamic_batch, str) else list(dynamic_batch)
        for name in names:
            if name not in tensors or not tensors[name].dim():
                raise DataError(f"{name!r} is no input with axes, found {', '.join(map(repr, tensors))}")
        return frozenset(names)
    lengths = {name: len(tensor) for name, tensor in tensors.items() if tensor.dim()}
    rows = next(iter(lengths.values()), 0)
    return frozenset(name for name, length in lengths.items() if rows and length == rows)


def _calls(call: Call, tensors: Mapping[str, Tensor], wanted: frozenset[str]) -> dict[int, Call]:
    """The call for several numbers of samples; the first is at least two: exporters take a length of 1 for constant."""
    rows = len(tensors[next(iter(wanted))])
    batched = {id(tensors[name]) for name in wanted}
    sizes = (2, 1, rows if 2 < rows <= _MOST_ROWS else 3)
    return {size: with_rows(call, batched, size) for size in sizes}


def _grown(example: Example) -> Example:
    if not example.batched_outputs:
        raise ModelError("no result grows with the batch", "name the inputs that hold a batch in dynamic_batch")
    return example


def _run(module: nn.Module, call: Call, rows: int, names: Sequence[str] | None) -> Trial:
    try:
        returned = call(module)
    except Exception as error:  # the code of a module may raise anything
        at = f" on {rows} samples" if rows else ""
        raise ModelError(
            f"{type(module).__name__} does not run{at}: {said(error)[:300]}", "check the example"
        ) from error
    results = named_results(returned)
    if not results:
        kind = type(returned).__name__
        raise ModelError(f"{type(module).__name__} returns {kind}, expected tensors, or a tuple or dict of them")
    if names is not None and len(names) != len(results):
        raise DataError(f"{len(names)} output names for {len(results)} results: {', '.join(results)}")
    return Trial(rows, call, returned, dict(zip(names or results, results.values(), strict=True)))


def _apart(trial: Trial, inputs: Mapping[str, Tensor]) -> Trial:
    """Results that are called as an input is are called something else."""
    names = {name: f"{name}_output" if name in inputs else name for name in trial.results}
    return replace(trial, results={names[name]: value for name, value in trial.results.items()})


def _shape(seen: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[int | str | None, ...]:
    shapes = [shape for _, shape in seen]
    if len({len(shape) for shape in shapes}) > 1:
        return ()
    rows = [rows for rows, _ in seen]
    columns = [list(column) for column in zip(*shapes, strict=True)]
    return tuple(column[0] if len(set(column)) == 1 else BATCH if column == rows else None for column in columns)


@contextmanager
def evaluating_exactly(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, without gradients and fused attention, and every part back as it was.

    On GPUs cuDNN is left out, whose convolutions keep 11 bits of a number (TensorFloat-32) unless told otherwise.
    """
    fused, cudnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cudnn.enabled = False
        with torch.no_grad(), evaluating(module):
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        torch.backends.mha.set_fastpath_enabled(fused)


def refuse_types(module: nn.Module, call: Call) -> None:
    """Raises ModelError for element types that numpy and ONNX Runtime's processors do not have."""
    held = dict((*module.named_parameters(), *module.named_buffers()))
    held |= {f"the argument {'.'.join(path)}": leaf for path, leaf in leaves((call.args, call.kwargs))}
    for name, value in held.items():
        if isinstance(value, Tensor) and (value.dtype == torch.bfloat16 or "float8" in str(value.dtype)):
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(f"{name} is {kind}, which ONNX Runtime does not run on CPUs", "call module.float() first")
