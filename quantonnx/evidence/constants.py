"""What quantization does to weights and biases: the stored codes against the float model's numbers, once, in numpy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.evidence.findings import Errors, SiteEvidence
from quantonnx.evidence.grafting import Grafter
from quantonnx.evidence.pairs import code_limits
from quantonnx.inspecting import QuantizedConstant, constant_of, find_pairs
from quantonnx.recalibration.numbers import code_type, scale_and_zero_point
from quantonnx.sites import Site

Array = np.ndarray[Any, Any]


def constant_sites(grafter: Grafter, sites: Iterable[Site] = ()) -> Iterator[SiteEvidence]:
    """Yields the evidence of each quantized constant that the float model has too.

    `sites` tell of formats that have fewer bits than the type that stores them.
    """
    narrow = {site.tensor: (site.format.qmin, site.format.qmax) for site in sites if site.is_weight}
    for constant in find_pairs(grafter.quantized).constants:
        found = _evidence(grafter, constant, narrow)
        if found is not None:
            yield found


def float_errors(exact: Array, rough: Array) -> Errors:
    """Returns the errors of an array against another one of its shape."""
    x, q = exact.astype(np.float32, copy=False), rough.astype(np.float32, copy=False)
    signal, noise, power = (float(np.sum(np.square(values), dtype=np.float64)) for values in (x, x - q, q))
    return Errors(signal, noise, power, x.size)


def _evidence(
    grafter: Grafter, constant: QuantizedConstant, narrow: Mapping[str, tuple[float, float]]
) -> SiteEvidence | None:
    node, model = constant.node, grafter.quantized
    origin = origin_of(grafter, node)
    dtype = _code_type(grafter, constant)
    numbers = scale_and_zero_point(model, node, dtype)
    if origin is None or numbers is None or tuple(origin.shape) != tuple(constant.stored.shape):
        return None
    x, stored = grafter.base.array(origin).astype(np.float32), model.array(constant.stored)
    axis, block = int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size", 0))
    scale, zero = (_spread(values, x.shape, axis, block) for values in numbers)
    limits = narrow.get(str(origin.name)) or code_limits(dtype)
    codes = stored.astype(np.float32)
    if constant.stored.dtype.kind == "f" and np.dtype(dtype).kind in "iu":  # a pair on stored float values
        codes = np.clip(np.rint(codes / scale) + zero, *limits)
    beyond = x - np.clip(x, (limits[0] - zero - 0.5) * scale, (limits[1] - zero + 0.5) * scale)
    errors = float_errors(x, (codes - zero) * scale)
    clipped = float(np.sum(np.square(beyond), dtype=np.float64))
    return SiteEvidence(
        tensor=str(origin.name),
        role="bias" if constant.is_bias else "weight",
        format=np.dtype(dtype).name,
        readers=tuple(dict.fromkeys(reader.name for reader in node.outputs[0].outputs)),
        errors=errors,
        accumulated=errors,
        clipped=float(np.count_nonzero(beyond)) / max(x.size, 1),
        clipping=clipped / errors.noise if errors.noise else 0.0,
        codes=(int(codes.min(initial=0)), int(codes.max(initial=0))),
        code_range_used=_used(codes, axis if numbers[0].size > 1 and not block else None, limits),
        seen=(float(x.min(initial=0)), float(x.max(initial=0))),
        range=(float(((limits[0] - zero) * scale).min()), float(((limits[1] - zero) * scale).max())),
        step_rms=float(np.sqrt(np.mean(np.square(x / scale)))) if x.size else 0.0,
        scale=(float(numbers[0].min()), float(numbers[0].max())),
        zero_point=(int(numbers[1].min()), int(numbers[1].max())),
        channels=int(numbers[0].size),
    )


def origin_of(grafter: Grafter, node: gs.Node) -> gs.Constant | None:
    """Returns the float model's constant at the place where the first reader of a DequantizeLinear has it, or None."""
    value = node.outputs[0]
    for reader in value.outputs:
        twin = grafter.original(reader)
        if twin is not None:
            index = next(i for i, read in enumerate(reader.inputs) if read is value)
            return constant_of(twin.inputs[index]) if index < len(twin.inputs) else None
    return None


def _code_type(grafter: Grafter, constant: QuantizedConstant) -> Any:
    before = constant.node.inputs[0].inputs
    if before and before[0].op == "QuantizeLinear":
        return code_type(grafter.quantized, before[0])
    return np.dtype(constant.stored.dtype)


def _spread(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Numbers of channels, or of blocks, in a shape that broadcasts over the tensor."""
    numbers = values.astype(np.float32)
    if block:
        return numbers.take(np.arange(shape[axis]) // block, axis)
    if numbers.size == 1:
        return numbers.reshape(())
    return numbers.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


def _used(codes: Array, axis: int | None, limits: tuple[float, float]) -> float:
    """The mean over channels of the share of codes between the lowest and the highest one that occur."""
    if not codes.size:
        return 0.0
    others = None if axis is None else tuple(i for i in range(codes.ndim) if i != axis % codes.ndim)
    spans = codes.max(axis=others) - codes.min(axis=others) + 1
    return float(np.mean(spans) / (limits[1] - limits[0] + 1))
