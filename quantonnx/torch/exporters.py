"""Torch's two exporters, set so that files keep what patterns and people go by: scopes, names and every norm.

Dynamo optimizes its graph with the parameters as inputs: otherwise it merges parameters that are equal (the zeros of an
untrained network), and folds norms under names of its own.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from quantonnx.errors import ModelError
from quantonnx.torch.calls import named_results, with_tensors
from quantonnx.torch.examples import BATCH, Example

Tensors = tuple[Tensor, ...]

DYNAMO_FROM = 18
"""The oldest opset that dynamo writes."""

TORCHSCRIPT_TO = 20
"""The newest opset that TorchScript writes."""

_NOISY = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")
_PRIVATE = frozenset({"pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node", "pkg.torch.onnx.input_names"})
"""Metadata that quotes the user's sources and the places of their files."""


def dynamo(example: Example, tensors: Tensors, opset: int, path: Path) -> None:
    """Writes by torch.export."""
    if importlib.util.find_spec("onnxscript") is None:
        raise ModelError("it needs the package onnxscript", "pip install onnxscript")
    if opset < DYNAMO_FROM:
        raise ModelError(f"it writes opset {DYNAMO_FROM} or later, not {opset}")
    axis = torch.export.Dim(BATCH)
    free = tuple({0: axis} if name in example.batched else None for name in example.inputs)
    program = torch.onnx.export(
        example.module,
        tensors,
        dynamo=True,
        optimize=False,
        verbose=False,
        opset_version=opset,
        input_names=list(example.inputs),
        output_names=list(example.outputs),
        dynamic_shapes={"tensors": free} if example.batched else None,
    )
    assert program is not None
    _optimize(program, {name for name, _ in _parameters(example.module)})
    program.save(path, external_data=False)


def torchscript(example: Example, tensors: Tensors, opset: int, path: Path) -> None:
    """Writes by tracing."""
    free = (*example.batched, *example.batched_outputs) if example.batched else ()
    torch.onnx.export(
        example.module,
        tensors,
        str(path),
        dynamo=False,
        opset_version=min(opset, TORCHSCRIPT_TO),
        training=torch.onnx.TrainingMode.PRESERVE,  # which is evaluation here, and does not fold norms
        do_constant_folding=True,
        input_names=list(example.inputs),
        output_names=list(example.outputs),
        dynamic_axes={name: {0: BATCH} for name in free},
    )


EXPORTERS: Mapping[str, Callable[[Example, Tensors, int, Path], None]] = {"dynamo": dynamo, "torchscript": torchscript}


def written(exporter: str, example: Example, opset: int, folder: Path) -> Path:
    """Returns the file that an exporter wrote into a folder in `folder`. Raises ModelError with what it says."""
    path = folder / exporter / "model.onnx"
    path.parent.mkdir()
    try:
        with _silent(), _tensors_only(example) as tensors:
            EXPORTERS[exporter](example, tensors, opset, path)
    except ModelError:
        raise
    except Exception as error:  # the exporters raise nearly everything
        raise ModelError(_reason(error)) from error
    _clean(path, example.module)
    return path


@contextmanager
def _tensors_only(example: Example) -> Iterator[Tensors]:
    """Lets the module take and return a plain sequence of tensors, which is what both exporters understand alike.

    What else it takes is as in the example. A module around it would do the same, and be in every name.
    """
    module, call = example.module, example.trials[0].call
    own, original, tensors = (
        "forward" in vars(module),
        module.forward,
        tuple(value.clone() for value in example.tensors(call).values()),
    )
    if isinstance(module, torch.jit.ScriptModule):
        yield tensors
        return

    def forward(*tensors: Tensor) -> Tensors:
        given = iter(tensors)
        filled = with_tensors(call, lambda tensor: next(given))
        return tuple(named_results(original(*filled.args, **filled.kwargs)).values())

    try:
        object.__setattr__(module, "forward", forward)
        yield tensors
    finally:
        if own:
            object.__setattr__(module, "forward", original)
        else:
            object.__delattr__(module, "forward")


def _parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _optimize(program: Any, parameters: set[str]) -> None:
    """Optimizes the graph around parameters whose values are out of sight."""
    graph = program.model.graph
    held = [value for name, value in graph.initializers.items() if name in parameters]
    values = [value.const_value for value in held]
    for value in held:
        del graph.initializers[value.name]
        value.const_value = None
    graph.inputs.extend(held)
    program.optimize()
    graph = program.model.graph
    for value, known in zip(held, values, strict=True):
        graph.inputs.remove(value)
        value.const_value = known
        graph.register_initializer(value)


def _clean(path: Path, module: nn.Module) -> None:
    """Takes away what quotes the user's sources, and what ties parameters that only happen to be equal."""
    proto = onnx.load(path, load_external_data=False)
    for node in proto.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key not in _PRIVATE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    _untie(proto.graph, module)
    path.write_bytes(proto.SerializeToString())


def _untie(graph: onnx.GraphProto, module: nn.Module) -> None:
    """Parameters that TorchScript wrote as the Identity of an equal one get their values, unless they share memory."""
    held, places = {tensor.name: tensor for tensor in graph.initializer}, dict(_parameters(module))
    kept = []
    for node in graph.node:
        one, other = node.input[0] if node.input else "", node.output[0] if node.output else ""
        tied = one in places and other in places and places[one].data_ptr() == places[other].data_ptr()
        if node.op_type != "Identity" or one not in held or other not in places or tied:
            kept.append(node)
            continue
        twin = graph.initializer.add()
        twin.CopyFrom(held[one])
        twin.name = other
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps the exporters' advertisements and advice off the screen; what fails is raised."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    try:
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _reason(error: BaseException) -> str:
    """The first sentence of the exception that started it, with its kind."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    told = next((line for line in lines if line), "")
    return f"{type(error).__name__}: {told[:300]}" if told else type(error).__name__
