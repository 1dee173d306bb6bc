"""Models become sessions of ONNX Runtime: small ones through memory, large ones through a temporary file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from quantonnx.calibration.concurrency import MOST_AT_ONCE, cores
from quantonnx.calibration.extensions import register
from quantonnx.errors import ModelError
from quantonnx.model import Model

LARGEST_IN_MEMORY = 250_000_000
"""Bytes of weights beyond which a model reaches ONNX Runtime through a temporary file and not through memory."""

LARGEST_REARRANGED = 750_000_000
"""Bytes of weights beyond which ONNX Runtime may not keep them a second time, rearranged for speed."""

FLOAT_BIASES = ("WeightBiasQuantization",)
"""The optimizers without which biases that are float stay so."""
NEEDS_EXTENSION = "give the library that has it: --ort-extension, or `with qx.ort_extensions(…)`"
"""What to do about an operator that ONNX Runtime does not have."""

_QUIET = 4
_UNKNOWN = "is not a registered function/op"
_NO_KERNEL = "float8e4m3fn"
"""What an error names where optimizers move float8 pairs to operators that take none; as it stands, the file loads."""


def open_session(
    model: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    *,
    threads: int | None = None,
    optimize: bool = True,
    float_biases: bool = False,
) -> ort.InferenceSession:
    """Return a quiet session on the CPU; ModelError says why ONNX Runtime does not load the model.

    `threads` is the number within an operator, None as many as ONNX Runtime likes; without `optimize`
    every operator runs as it stands in the file. With `float_biases`, biases that are float stay so: ONNX Runtime
    otherwise gives them int32 codes between Q/DQ pairs, with a product of two scales that float16 rounds to nothing.
    """
    disabled = FLOAT_BIASES if float_biases else ()
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    if not isinstance(model, Model):
        return load_session(model, threads, optimize=optimize, disabled=disabled)
    with ExitStack() as stack:
        source = prepared(model, stack, lambda proto: None)
        return load_session(source, threads, optimize=optimize, bounded=is_large(model), disabled=disabled)


def prepared(model: Model, stack: ExitStack, change: Callable[[onnx.ModelProto], None]) -> bytes | str:
    """Return what ONNX Runtime loads, with `change` made to a copy of the model: bytes, or a temporary file."""
    if weight_bytes(model) <= LARGEST_IN_MEMORY:
        proto = model.to_proto()
        change(proto)
        return bytes(proto.SerializeToString())
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantonnx-"))) / "model.onnx"
    model.save(path, external_data=True)
    proto = onnx.load(path, load_external_data=False)
    change(proto)
    path.write_bytes(proto.SerializeToString())
    return str(path)


def weight_bytes(model: Model) -> int:
    """Return the bytes of all constants."""
    constants = (value for value in model.tensors().values() if isinstance(value, gs.Constant))
    return sum(prod(value.shape) * getattr(value.dtype, "itemsize", 1) for value in constants)


def is_large(model: Model) -> bool:
    """Return whether ONNX Runtime may not keep the weights a second time."""
    return weight_bytes(model) > LARGEST_REARRANGED


def samples_at_once(model: Model, threads: int | None) -> int:
    """Return how many samples run side by side: a core each, but one at a time where the model is large."""
    return 1 if is_large(model) else min(cores(threads), MOST_AT_ONCE)


def load_session(
    source: bytes | str | os.PathLike[str],
    threads: int | None,
    *,
    optimize: bool = True,
    bounded: bool = False,
    disabled: Sequence[str] = (),
    pairs_as_written: bool = False,
) -> ort.InferenceSession:
    """Load a model; `bounded` spares the memory of rearranged weights, for some speed; `disabled` are optimizers.

    With `pairs_as_written`, operators between Q/DQ pairs compute in float, and run in the order of the file.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads or 0
    register(options)
    # Idle threads otherwise spin on the core that the statistics need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if bounded:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if pairs_as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    try:
        loaded = source if isinstance(source, bytes) else os.fspath(source)
        return ort.InferenceSession(
            loaded, options, providers=["CPUExecutionProvider"], enable_fallback=0, disabled_optimizers=list(disabled)
        )
    except Exception as error:
        if optimize and _NO_KERNEL in str(error):
            return load_session(source, threads, optimize=False, bounded=bounded, pairs_as_written=pairs_as_written)
        hint = NEEDS_EXTENSION if _UNKNOWN in str(error) else ""
        raise ModelError(f"ONNX Runtime cannot load the model: {first_line(error)}", hint) from error


def first_line(error: Exception) -> str:
    """Return what an error of ONNX Runtime says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
