"""How inner tensors of a float model are made visible while ONNX Runtime runs it, without slowing it down.

ONNX Runtime keeps the activations of convolutions in a blocked layout and has to reorder every one that becomes an
output, which costs more than the statistics. Its pooling works on blocks: a global maximum is all that `minmax` needs
of a tensor that is never negative, and every third or fifth row and column all that a histogram needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import numpy_helper

from quantonnx.calibration.statistics import COUNTED_PER_SAMPLE, TensorStatistics
from quantonnx.errors import CalibrationError
from quantonnx.model import Model

Array = NDArray[Any]

STRIDES = {5: 40, 3: 12}
"""Every fifth or third row and column (odd, unlike the strides of networks) of images of at least so many.

Extremes stay exact; the tails of the histogram are then those of the values that are left.
"""

_FOLDED_CONSTANT = 1024
_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax"}
_POOLS = {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"}


@dataclass(frozen=True)
class Tap:
    """The outputs that tell about one tensor: the tensor itself, or its maximum and perhaps a thinned copy."""

    tensor: str
    whole: str = ""
    maximum: str = ""
    thinned: str = ""
    stride: int = 1

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs to fetch."""
        return tuple(name for name in (self.whole, self.maximum, self.thinned) if name)

    def record(self, stats: TensorStatistics, values: Mapping[str, Array], rows: int) -> None:
        """Add to the statistics what was fetched for `rows` samples."""
        if self.whole:
            whole = values[self.whole]
            stats.update(whole, _samples(whole, rows))
            return
        rows = _samples(values[self.maximum], rows)
        maxima = values[self.maximum].reshape(rows, -1).max(axis=1)
        stats.add_extremes(maxima * 0, maxima)
        if self.thinned:
            stats.add_values(values[self.thinned].reshape(rows, -1), self.stride**2)


def add_taps(proto: onnx.ModelProto, wanted: Mapping[str, bool], shapes: Mapping[str, Sequence[int]]) -> list[Tap]:
    """Add outputs to `proto` for the tensors in `wanted` (name to: with a histogram), given the inputs' shapes."""
    images = _large_images(proto, wanted, shapes)
    own = {value.name for value in proto.graph.output}
    taken = {value.name for value in (*proto.graph.input, *proto.graph.initializer)}
    taken |= {name for node in proto.graph.node for name in node.output}
    names = (f"tap_{i}" for i in range(10**9))
    free = (name for name in names if name not in taken)
    taps = []
    for tensor, histogram in wanted.items():
        tap = Tap(tensor, whole=tensor)
        if tensor in images:
            tap = _pooled(proto, tensor, images[tensor] if histogram else 0, free)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tap.outputs if name not in own)
        taps.append(tap)
    return taps


def add_mean_taps(
    proto: onnx.ModelProto, wanted: Mapping[str, bool], shapes: Mapping[str, Sequence[int]], taps: Sequence[Tap] = ()
) -> dict[str, str]:
    """Add outputs that tell the channel means of the tensors in `wanted` (name to: has spatial axes), and name them.

    A tensor without spatial axes is [samples, channels] and its own answer; others are pooled where they are computed,
    images after thinning, for which `taps` may have been made already.
    """
    own = {value.name for value in proto.graph.output}
    taken = {value.name for value in (*proto.graph.input, *proto.graph.initializer)}
    taken |= {name for node in proto.graph.node for name in node.output}
    free = (name for i in range(10**9) if (name := f"mean_{i}") not in taken)
    thinned = {tap.tensor: tap.thinned for tap in taps if tap.thinned}
    known = _float_shapes(proto, shapes) if any(wanted.values()) else {}
    answers = {}
    for tensor, spatial in wanted.items():
        answers[tensor] = next(free) if spatial else tensor
        if spatial:
            stride = 0 if tensor in thinned else _thinning(known.get(tensor, ()), counted=0)
            if stride:
                thinned[tensor] = next(free)
                proto.graph.node.append(_thinned(tensor, thinned[tensor], stride))
            source, mean = thinned.get(tensor, tensor), answers[tensor]
            proto.graph.node.append(onnx.helper.make_node("GlobalAveragePool", [source], [mean], name=mean))
        if answers[tensor] not in own:
            proto.graph.output.append(onnx.ValueInfoProto(name=answers[tensor]))
    return answers


def add_outputs(proto: onnx.ModelProto, names: Collection[str]) -> None:
    """Make outputs of the computed tensors in `names` that are none yet."""
    own = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)


def _samples(value: Array, rows: int) -> int:
    """Return the samples in a value: one where its first axis cannot hold `rows`, as in a model without batches."""
    return rows if value.ndim and value.shape[0] % rows == 0 else 1


def _pooled(proto: onnx.ModelProto, tensor: str, stride: int, free: Iterator[str]) -> Tap:
    """Add the pooling of a maximum and, unless the stride is 0, of a thinned copy."""
    maximum = next(free)
    proto.graph.node.append(onnx.helper.make_node("GlobalMaxPool", [tensor], [maximum], name=maximum))
    if not stride:
        return Tap(tensor, maximum=maximum)
    thinned = next(free)
    proto.graph.node.append(_thinned(tensor, thinned, stride))
    return Tap(tensor, maximum=maximum, thinned=thinned, stride=stride)


def _thinned(tensor: str, result: str, stride: int) -> onnx.NodeProto:
    strides = [stride] * 2
    return onnx.helper.make_node("MaxPool", [tensor], [result], name=result, kernel_shape=[1, 1], strides=strides)


def _large_images(
    proto: onnx.ModelProto, names: Mapping[str, bool], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Return the stride for each large float32 [samples, channels, height, width] that is never negative."""
    producers = {output: node for node in proto.graph.node for output in node.output}
    candidates = {name for name in names if name in producers and _never_negative(producers, proto, name)}
    found = _float_shapes(proto, shapes) if candidates else {}
    strides = {name: _thinning(found[name]) for name in candidates if name in found}
    return {name: stride for name, stride in strides.items() if stride}


def _thinning(shape: tuple[int, ...], counted: int = COUNTED_PER_SAMPLE) -> int:
    """Return the widest stride that leaves enough of an image to count, or 0."""
    for stride, least in STRIDES.items() if len(shape) == 4 else ():
        if min(shape[2:]) >= least and 2 * prod(shape[1:]) >= counted * stride**2:
            return stride
    return 0


def _never_negative(producers: Mapping[str, onnx.NodeProto], proto: onnx.ModelProto, name: str) -> bool:
    node = producers.get(name)
    while node is not None and node.op_type in _POOLS:
        node = producers.get(node.input[0])
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type in _NEVER_NEGATIVE or (node.op_type == "Clip" and _lower_bound(producers, proto, node) >= 0)


def _lower_bound(producers: Mapping[str, onnx.NodeProto], proto: onnx.ModelProto, clip: onnx.NodeProto) -> float:
    for attribute in clip.attribute:
        if attribute.name == "min":
            return float(attribute.f)
    if len(clip.input) < 2:
        return float("-inf")
    for value in _scalars(producers, proto, clip.input[1]):
        return float(numpy_helper.to_array(value).reshape(-1)[0])
    return float("-inf")


def _scalars(producers: Mapping[str, onnx.NodeProto], proto: onnx.ModelProto, name: str) -> Iterator[onnx.TensorProto]:
    yield from (
        value for value in proto.graph.initializer if value.name == name and prod(value.dims) == 1 and _is_here(value)
    )
    if name in producers and producers[name].op_type == "Constant":
        yield from (attribute.t for attribute in producers[name].attribute if attribute.name == "value")


def _is_here(value: onnx.TensorProto) -> bool:
    return value.data_location != onnx.TensorProto.EXTERNAL


def inferred_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> Sequence[onnx.ValueInfoProto]:
    """Return what ONNX infers of inner values from the inputs' `shapes`; nothing of a model that it cannot follow."""
    light = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    light.graph.name = "shapes"
    light.graph.node.extend(proto.graph.node)
    for value in proto.graph.initializer:
        if prod(value.dims) <= _FOLDED_CONSTANT and _is_here(value):
            light.graph.initializer.append(value)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(value.name, value.data_type, list(value.dims)))
    for item in proto.graph.input:
        shape = shapes.get(item.name)
        if shape is not None:
            kind = item.type.tensor_type.elem_type
            light.graph.input.append(onnx.helper.make_tensor_value_info(item.name, kind, list(shape)))
    try:
        inferred = onnx.shape_inference.infer_shapes(light)
    except Exception:  # of a type that does not exist, or whatever else a file may claim: nothing is known
        return ()
    found: Sequence[onnx.ValueInfoProto] = inferred.graph.value_info
    return found


def _float_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return the inferred shapes of the float32 tensors whose dimensions all follow from the inputs' `shapes`."""
    return {item.name: shape for item in inferred_shapes(proto, shapes) if (shape := _static_float_shape(item))}


def _static_float_shape(item: onnx.ValueInfoProto) -> tuple[int, ...]:
    kind = item.type.tensor_type
    known = kind.elem_type == onnx.TensorProto.FLOAT and all(d.HasField("dim_value") for d in kind.shape.dim)
    return tuple(d.dim_value for d in kind.shape.dim) if known else ()


def check_known(model: Model, tensors: Sequence[str]) -> None:
    """Raises CalibrationError for a tensor that the model does not compute."""
    known = model.tensors()
    for name in tensors:
        if not isinstance(known.get(name), gs.Variable):
            found = "is a constant" if name in known else "is not in the model"
            raise CalibrationError(f"tensor {name!r} {found}, expected one that the model computes")


def check_type(name: str, value: Any) -> None:
    """Raises CalibrationError for a value of a type that is not watched."""
    if value.dtype not in ("float32", "float16"):
        hint = "convert the model to float32 first, or exclude the operator"
        raise CalibrationError(f"tensor {name!r} is {value.dtype}, expected float32 or float16", hint)
