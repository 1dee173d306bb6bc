"""New scales for a model that already has Q/DQ pairs, whoever put them there.

The pairs on activations are taken out of a copy, that float view is run over the data, and the new numbers are written
where the old ones were. Weights stay as they are; int32 biases follow the scale of their input, so that they keep their
value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from quantonnx.calibration.ranges import RangeMethod, choose_range, parse_method
from quantonnx.calibration.session import collect
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.editing import Rewriter
from quantonnx.errors import ModelError
from quantonnx.formats import Parameters, TensorFormat
from quantonnx.inspecting import MOVING, Pair, QuantizedConstant, constant_of, find_pairs, zero_point
from quantonnx.model import Model
from quantonnx.placement import Decision
from quantonnx.weights import to_numpy_dtype, to_onnx_dtype

if TYPE_CHECKING:
    from quantonnx.calibration.samples import Feed

Array = np.ndarray[Any, Any]

_INT32_MAX = 2**31 - 1
_SAME_PRODUCT = 1e-3
_KEEPS_RANGE = MOVING | {"Concat"}


@dataclass(frozen=True)
class Recalibrated:
    """A Q/DQ model with new numbers: how many pairs got them, how many biases followed, what was left and why."""

    model: Model
    pairs: int
    biases: int
    left: tuple[Decision, ...]


@dataclass(frozen=True, eq=False)
class _Numbers:
    """Scale, zero point and format of one activation pair as the file has them."""

    pair: Pair
    scale: Array
    zero_point: Array
    format: TensorFormat

    @property
    def key(self) -> tuple[bytes, bytes, str]:
        """What is equal where two pairs have the same numbers."""
        return self.scale.tobytes(), self.zero_point.tobytes(), self.format.storage.name


def recalibrate(
    source: str | Path | bytes | Model,
    samples: Iterable[Feed],
    *,
    method: str | RangeMethod = "minmax",
    threads: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Recalibrated:
    """Returns the model with new scales and zero points on its activation pairs, calibrated on `samples`.

    A signed pair with zero point 0 stays symmetric. Pairs with equal numbers on both sides of an operator that keeps
    the range (MaxPool, Concat, Reshape…) keep equal numbers. Raises ModelError where there is no pair to calibrate,
    and CalibrationError or DataError as `calibrate` does.
    """
    model, chosen = Model.read(source), parse_method(method)
    found, left = _readable(model)
    if not found:
        reason = f"{left[0].name!r}: {left[0].reason}" if left else "use `quantonnx quantize` for a float model"
        raise ModelError("no Q/DQ pair on an activation can be calibrated", reason)
    statistics = collect(
        float_view(model),
        list(dict.fromkeys(numbers.pair.tensor for numbers in found)),
        samples,
        histogram=chosen.needs_histogram,
        threads=threads,
        progress=progress,
    )
    writer = _Writer(model)
    for group in _groups(found):
        writer.change(group, _parameters(group, statistics, chosen))
    biases = writer.follow(left)
    model.sort()
    return Recalibrated(model, len(found), biases, tuple(left))


def float_view(source: Model) -> Model:
    """Returns a copy without the closed pairs on activations, and with stored codes as the float values they mean."""
    model = source.copy()
    editor, pairs = Rewriter(model), find_pairs(model)
    for constant in pairs.constants:
        _take_out_constant(editor, constant)
    for pair in pairs.activations:
        if pair.open:
            continue
        for node in pair.moving:
            for output in node.outputs:
                output.dtype = pair.quantize.inputs[0].dtype
        for node in (pair.quantize, *pair.dequantize):
            _take_out(editor, node)
    model.sort()
    return model


def _take_out_constant(editor: Rewriter, constant: QuantizedConstant) -> None:
    """ONNX Runtime cannot watch some values of a graph whose weights come from a DequantizeLinear."""
    node, stored = constant.node, constant.stored
    scale, zero = constant_of(node.inputs[1]), zero_point(editor.model, node)
    if scale is None or node.attrs.get("block_size") or editor.is_public(node.outputs[0]):
        return
    if node.inputs[0].inputs and node.inputs[0].inputs[0].op == "QuantizeLinear":
        compute = partial(editor.model.array, stored)
    else:
        compute = partial(_dequantized, editor.model, stored, scale, zero, int(node.attrs.get("axis", 1)))
    name = f"{node.outputs[0].name}_float"
    editor.bypass(node, editor.deferred(name, stored.shape, to_onnx_dtype(scale.dtype), compute))


def _dequantized(model: Model, stored: gs.Constant, scale: gs.Constant, zero: Array | None, axis: int) -> Array:
    codes, factors = model.array(stored).astype(np.float32), model.array(scale)
    shape = [-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)] if factors.size > 1 else ()
    offset = np.float32(0) if zero is None else zero.astype(np.float32).reshape(shape)
    return ((codes - offset) * factors.astype(np.float32).reshape(shape)).astype(factors.dtype)


def _take_out(editor: Rewriter, node: gs.Node) -> None:
    """Lets readers see what the node reads; one that gives a public value becomes an Identity, so that no name goes."""
    if not node.inputs:
        return  # another pair ends in the same node
    if not editor.is_public(node.outputs[0]):
        editor.bypass(node, node.inputs[0])
        return
    editor.drop_inputs(node, 1)
    node.op, node.domain = "Identity", None
    node.attrs.clear()


def _readable(model: Model) -> tuple[list[_Numbers], list[Decision]]:
    found: list[_Numbers] = []
    left: list[Decision] = []
    for pair in find_pairs(model).activations:
        numbers = _read(model, pair)
        if isinstance(numbers, str):
            left.append(Decision(pair.tensor, numbers))
        else:
            found.append(numbers)
    return found, left


def _read(model: Model, pair: Pair) -> _Numbers | str:
    """Returns the numbers of a pair, or why they cannot be replaced."""
    if pair.open:
        return pair.open
    dtype = _code_type(model, pair.quantize)
    read = [_scale_and_zero_point(model, node, dtype) for node in (pair.quantize, *pair.dequantize)]
    if any(numbers is None for numbers in read):
        return "its scale is computed in the graph"
    (scale, zero), *others = (numbers for numbers in read if numbers is not None)
    if scale.size != 1:
        return "it has a scale for each channel"
    if any(not np.array_equal(scale, s) or not np.array_equal(zero, z) for s, z in others):
        return "its two sides have different numbers"
    if zero.dtype.name not in ("int8", "uint8", "int16", "uint16"):
        return f"its codes are {zero.dtype}"
    return _Numbers(pair, scale, zero, _format(zero))


def _format(zero_point: Array) -> TensorFormat:
    signed = zero_point.dtype.kind == "i"
    bits = 8 * zero_point.dtype.itemsize
    middle = 0 if signed else 1 << (bits - 1)
    return TensorFormat(n_bits=bits, signed=signed, symmetric=int(zero_point.reshape(-1)[0]) == middle)


def _code_type(model: Model, quantize: gs.Node) -> Any:
    """The type of the codes: that of the zero point, else the attribute's, else uint8."""
    found = zero_point(model, quantize)
    return found.dtype if found is not None else to_numpy_dtype(quantize.attrs.get("output_dtype") or TensorProto.UINT8)


def _scale_and_zero_point(model: Model, node: gs.Node, dtype: Any) -> tuple[Array, Array] | None:
    scale = constant_of(node.inputs[1])
    if scale is None:
        return None
    values = model.array(scale)
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return values, np.zeros(values.shape, dtype)
    stored = constant_of(node.inputs[2])
    return None if stored is None else (values, model.array(stored))


def _groups(found: list[_Numbers]) -> list[list[_Numbers]]:
    """Joins pairs that have equal numbers on both sides of operators that keep the range."""
    by_end = {id(node.outputs[0]): numbers for numbers in found for node in numbers.pair.dequantize}
    group_of = {id(numbers): [numbers] for numbers in found}
    for numbers in found:
        for before in _pairs_before(numbers.pair.quantize.inputs[0], by_end):
            mine, other = group_of[id(numbers)], group_of[id(before)]
            if before.key == numbers.key and mine is not other:
                other += mine
                group_of.update((id(member), other) for member in mine)
    return list({id(group): group for group in group_of.values()}.values())


def _pairs_before(value: gs.Tensor, by_end: dict[int, _Numbers]) -> Iterator[_Numbers]:
    producer = value.inputs[0] if value.inputs else None
    if producer is None or producer.op not in _KEEPS_RANGE:
        return
    for read in producer.inputs:
        if id(read) in by_end:
            yield by_end[id(read)]


def _parameters(group: list[_Numbers], statistics: dict[str, TensorStatistics], method: RangeMethod) -> Parameters:
    fmt = group[0].format
    ranges = [choose_range(statistics[numbers.pair.tensor], method, fmt) for numbers in group]
    return fmt.parameters(min(low for low, _ in ranges), max(high for _, high in ranges))


class _Writer:
    """Puts new numbers where the old ones were; constants that others read too are left to them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.editor = Rewriter(model)
        self._factors: dict[int, float] = {}

    def change(self, group: list[_Numbers], parameters: Parameters) -> None:
        """Gives all pairs of a group the same numbers."""
        for numbers in group:
            pair = numbers.pair
            scale = self._shaped(pair.tensor, "scale", parameters.scale, numbers.scale)
            zero_point = self._shaped(pair.tensor, "zero_point", parameters.zero_point, numbers.zero_point)
            for node in (pair.quantize, *pair.dequantize):
                self.editor.set_input(node, 1, scale)
                self.editor.set_input(node, 2, zero_point)
                self._factors[id(node.outputs[0])] = float(scale.values.reshape(-1)[0] / numbers.scale.reshape(-1)[0])

    def _shaped(self, tensor: str, what: str, value: Array, old: Array) -> gs.Constant:
        return self.editor.constant(f"{tensor}_{what}", np.asarray(value).astype(old.dtype).reshape(old.shape))

    def follow(self, left: list[Decision]) -> int:
        """Changes int32 biases so that their scale is again the product of the two others; returns how many."""
        done: set[int] = set()
        for node in self.model.graph.nodes:
            bias = _int32_bias(node)
            factor = self._factors.get(id(node.inputs[0])) if bias is not None else None
            if bias is None or factor is None or id(bias) in done or not self._is_product(node, bias, factor):
                continue
            done.add(id(bias))
            self._rescale(node, bias, factor, left)
        return len(done)

    def _is_product(self, node: gs.Node, bias: gs.Node, factor: float) -> bool:
        """Whether the bias had the product of the old scales, as integer kernels take for granted."""
        scales = [constant_of(origin.inputs[1]) for value in node.inputs[:2] for origin in value.inputs[:1]]
        own = constant_of(bias.inputs[1])
        if own is None or len(scales) != 2 or scales[0] is None or scales[1] is None:
            return False
        product = self.model.array(scales[0]) / factor * self.model.array(scales[1])
        return bool(np.allclose(self.model.array(own), product, rtol=_SAME_PRODUCT, atol=0))

    def _rescale(self, node: gs.Node, bias: gs.Node, factor: float, left: list[Decision]) -> None:
        stored, scale = constant_of(bias.inputs[0]), constant_of(bias.inputs[1])
        assert stored is not None
        assert scale is not None
        old, name = self.model.array(scale), bias.outputs[0].name
        codes = np.rint(self.model.array(stored).astype(np.float64) / factor)
        if np.abs(codes).max(initial=0) > _INT32_MAX:
            left.append(Decision(name, "its int32 codes would overflow at the new scale, so it became float"))
            values = (self.model.array(stored) * old.astype(np.float64)).astype(old.dtype)
            self.editor.set_input(node, 2, self.editor.constant(f"{name}_float", values))
            return
        new = (old.astype(np.float64) * factor).astype(old.dtype)
        self.editor.set_input(bias, 0, self.editor.constant(f"{name}_codes", codes.astype(np.int32)))
        self.editor.set_input(bias, 1, self.editor.constant(f"{name}_scale", new))


def _int32_bias(node: gs.Node) -> gs.Node | None:
    """Returns the DequantizeLinear that gives an operator its int32 bias."""
    if node.op not in ("Conv", "ConvTranspose", "Gemm") or len(node.inputs) < 3 or not node.inputs[2].inputs:
        return None
    origin = node.inputs[2].inputs[0]
    stored = constant_of(origin.inputs[0]) if origin.op == "DequantizeLinear" else None
    return origin if stored is not None and np.dtype(stored.dtype) == np.int32 else None
