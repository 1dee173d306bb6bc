"""Rules about scales, zero points and types: what a target refuses, and what no runtime computes rightly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from quantonnx.linting.findings import Finding, error, warning
from quantonnx.linting.view import Coder, View

_NEEDS = ((25, "2"), (21, "4"), (21, "16"))
_FLOAT8_OPSET, _PER_AXIS_OPSET, _HALF_SCALE_OPSET = 19, 13, 19
_TENSORRT_FLOAT8 = "float8_e4m3fn"


def scales(view: View) -> Iterator[Finding]:
    """A scale is a stored, finite, positive number."""
    for coder in view.coders.values():
        place = str(coder.node.name)
        if coder.scale is None:
            yield warning(
                "scale-computed",
                place,
                "its scale is computed in the graph, so that no compiler can make an integer kernel",
                "store the scale as an initializer",
            )
            continue
        values = np.asarray(coder.scale, np.float64)
        if not np.isfinite(values).all() or (values <= 0).any():
            bad = values[~(np.isfinite(values) & (values > 0))].reshape(-1)[0]
            yield error("scale-invalid", place, f"its scale is {bad:g}, not a positive number", "calibrate again")
        elif (values < np.finfo(np.float32).tiny).any():
            yield warning(
                "scale-denormal",
                place,
                f"its scale {values.min():g} is denormal, which runtimes take for 0",
                "calibrate on data that reaches this tensor",
            )


def counts(view: View) -> Iterator[Finding]:
    """A scale per channel needs as many numbers as there are channels, and as many zero points."""
    for coder in view.coders.values():
        if coder.scale is None or coder.block_size:
            continue
        place, scales_given = str(coder.node.name), int(coder.scale.size)
        if coder.zero_point is not None and coder.zero_point.size != scales_given:
            yield error(
                "zero-point-count",
                place,
                f"it has {scales_given} scales and {coder.zero_point.size} zero points",
                "give one zero point for each scale",
            )
        shape = coder.node.inputs[0].shape
        if scales_given == 1 or shape is None:
            continue
        rank = len(shape)
        channels = shape[coder.axis] if -rank <= coder.axis < rank else None
        if channels is None or (isinstance(channels, int) and channels != scales_given):
            yield error(
                "scale-count",
                place,
                f"it has {scales_given} scales along axis {coder.axis}, which has {channels or 'no'} channels",
                "set the axis of the channels, with one scale for each",
            )


def zero_points(view: View) -> Iterator[Finding]:
    """Some targets take symmetric codes only."""
    for coder, weight in _integer_coders(view):
        symmetric = view.profile.refusal(coder.bits, signed=coder.signed, symmetric=True, weight=weight)
        reason = view.profile.refusal(coder.bits, signed=coder.signed, symmetric=False, weight=weight)
        if reason and not symmetric and not coder.zero_is_zero:
            yield error(
                "zero-point-refused",
                str(coder.node.name),
                f"its zero point is not 0, and {view.profile.name} refuses that: {reason}",
                "quantize symmetrically, with zero point 0",
            )


def types(view: View) -> Iterator[Finding]:
    """The element type of codes is one that the target has."""
    for coder, weight in _integer_coders(view):
        name, place = view.profile.name, str(coder.node.name)
        asked = view.profile.refusal(coder.bits, signed=coder.signed, symmetric=True, weight=weight)
        if asked and view.profile.refusal(coder.bits, signed=True, symmetric=True, weight=weight) is None:
            yield error("unsigned-refused", place, f"{name} refuses unsigned codes: {asked}", "use signed codes")
        elif asked:
            yield error("type-refused", place, f"{name} refuses {coder.dtype}: {asked}", "use 8 bits")
    yield from _float_types(view)


def runs_as_float(view: View) -> Iterator[Finding]:
    """Activations of another width than the integer kernels take, and weights of few bits under them, run in float."""
    bits = view.profile.integer_bits
    for pair, coder in view.quantizers:
        refused = view.profile.refusal(coder.bits, signed=coder.signed, symmetric=coder.symmetric, weight=False)
        if coder.is_integer and coder.bits != bits and not refused and not _is_narrowing(view, coder):
            yield warning(
                "runs-as-float",
                pair.tensor,
                f"it has {coder.bits}-bit codes, and the integer kernels of {view.profile.name} take {bits} bits",
                f"use {bits} bits",
            )


def opset(view: View) -> Iterator[Finding]:
    """QuantizeLinear has had an axis since opset 13, 4 and 16 bits since 21."""
    for coder in view.coders.values():
        if coder.node.domain:
            continue
        needed, what = _needed_opset(coder)
        if view.model.opset < needed:
            yield error(
                "opset-too-old",
                str(coder.node.name),
                f"{what} need opset {needed}, the file has {view.model.opset}",
                f"convert the model to opset {needed}",
            )


def sides(view: View) -> Iterator[Finding]:
    """Both sides of a pair have the same numbers."""
    for pair, coder in view.quantizers:
        for end in pair.dequantize:
            other = view.coders[id(end)]
            if coder.scale is not None and other.scale is not None and not coder.same_numbers(other):
                yield error(
                    "sides-differ",
                    pair.tensor,
                    f"{coder.node.name!r} and {end.name!r} have different scales or zero points",
                    "give both sides of the pair the same numbers",
                )
                break


def _integer_coders(view: View) -> Iterator[tuple[Coder, bool]]:
    """The coder of each pair and of each weight, with whether it is a weight; biases have rules of their own."""
    for _, coder in view.quantizers:
        if coder.is_integer:
            yield coder, False
    for constant, coder in view.constants:
        if coder.is_integer and not constant.is_bias:
            yield coder, True


def _float_types(view: View) -> Iterator[Finding]:
    known_width = view.profile.refusal(16, signed=True, symmetric=True, weight=False) is not None
    for coder in view.coders.values():
        if coder.is_integer:
            continue
        place, name = str(coder.node.name), view.profile.name
        if not known_width:
            yield warning("runs-as-float", place, f"{coder.dtype} codes run in float on {name}", "use 8-bit integers")
        elif coder.dtype.name.startswith("float8") and coder.dtype.name != _TENSORRT_FLOAT8:
            yield error("type-refused", place, f"{name} has no {coder.dtype}", "use float8_e4m3fn or int8")


def _is_narrowing(view: View, coder: Coder) -> bool:
    """A pair of fewer bits right before one of 8 with the same scale narrows its codes, which then stay integer."""
    values = (output for end in coder.node.outputs[0].outputs for output in end.outputs)
    readers = [view.coders.get(id(reader)) for value in values for reader in value.outputs]
    return bool(readers) and all(
        after is not None
        and after.bits == view.profile.integer_bits
        and after.scale is not None
        and coder.scale is not None
        and np.array_equal(after.scale, coder.scale)
        for after in readers
    )


def _needed_opset(coder: Coder) -> tuple[int, str]:
    if not coder.is_integer:
        return _FLOAT8_OPSET, f"{coder.dtype} codes"
    for version, bits in _NEEDS:
        if str(coder.bits) == bits:
            return version, f"codes of {bits} bits"
    if coder.scale is not None and coder.scale.dtype == np.float16:
        return _HALF_SCALE_OPSET, "float16 scales"
    return (_PER_AXIS_OPSET, "scales per channel") if coder.per_channel else (10, "pairs")
