"""Exact rewrites that every target wants, applied until nothing changes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from quantonnx.editing import Rewriter
from quantonnx.element_types import ElementTypes
from quantonnx.pattern import Conversion, Mismatch, const, op, tensor, tensors

from .dimensions import dimensions
from .equivalents import equivalents
from .folding import FoldConstants
from .public import refuse_public
from .recomposition import recompositions
from .shapes import rank


class ConstantToInitializer(Conversion):
    """A Constant node becomes an initializer, so that a weight is a weight however it was written."""

    output = op.Constant()

    def check(self) -> None:
        """Refuses a constant that is an output of the graph, and text."""
        refuse_public(self)
        if not {"value", "value_float", "value_int", "value_floats", "value_ints"} & set(self.output.attrs):
            raise Mismatch(f"{self.result.name!r} is not a numeric constant")

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the node by its value."""
        (value,) = self.output.attrs.values()
        if isinstance(value, gs.Constant):
            initializer = gs.Constant(graph.constant(f"{self.result.name}_value", np.zeros(0)).name, value._values)
        else:
            kind = np.int64 if "int" in next(iter(self.output.attrs)) else np.float32
            initializer = graph.constant(f"{self.result.name}_value", np.asarray(value, dtype=kind))
        graph.bypass(self.output, initializer)


class RemoveIdentity(Conversion):
    """Identity, and what does nothing at inference, go away."""

    x = tensor()
    output = op.Identity(x)

    def check(self) -> None:
        """Refuses an Identity that joins two public names."""
        refuse_public(self, self.x)

    def rewrite(self, graph: Rewriter) -> None:
        """Lets the readers read the input."""
        graph.bypass(self.output, self.x)


class RemoveCast(Conversion):
    """A Cast to the type that a value has already does nothing."""

    x = tensor()
    output = op.Cast(x)

    def check(self) -> None:
        """Refuses a Cast that changes the type, or may do, and one that joins two public names."""
        refuse_public(self, self.x)
        kind, wanted = ElementTypes(self.model).of(self.x), helper.tensor_dtype_to_np_dtype(self.output.attrs["to"])
        if kind != wanted:
            raise Mismatch(f"{self.output.name!r} makes {wanted} of {self.x.name!r}, {kind or 'of unknown type'}")

    def rewrite(self, graph: Rewriter) -> None:
        """Lets the readers read the input."""
        graph.bypass(self.output, self.x)


class RemoveDropout(Conversion):
    """Dropout does nothing at inference."""

    x = tensor()
    output = op.Dropout(x, ...)

    def check(self) -> None:
        """Refuses training mode and a mask that is read."""
        refuse_public(self, self.x)
        if len(self.output.outputs) > 1 and self.output.outputs[1].outputs:
            raise Mismatch(f"the mask {self.output.outputs[1].name!r} is read")
        mode = self.output.inputs[2] if len(self.output.inputs) > 2 else None
        if mode is not None and mode.name and (not isinstance(mode, gs.Constant) or self.array(mode).any()):
            raise Mismatch(f"{self.output.name!r} is in training mode")

    def rewrite(self, graph: Rewriter) -> None:
        """Lets the readers read the input."""
        graph.bypass(self.output, self.x)


class SumToAdd(Conversion):
    """A Sum of two values is an Add, the form that compilers fuse."""

    values_ = tensors()
    output = op.Sum(values_)

    def check(self) -> None:
        """Refuses any other number of inputs."""
        if len(self.values_) != 2:
            raise Mismatch(f"{self.output.name!r} sums {len(self.values_)} values")

    def rewrite(self, graph: Rewriter) -> None:
        """Renames the operator."""
        self.output.op = "Add"
        graph.touched.append(self.output)


class PadIntoConv(Conversion):
    """Zero padding of the spatial axes before a Conv becomes the padding of the Conv."""

    x = tensor()
    weight = const()
    pad = op.Pad(x, ...)
    output = op.Conv(pad, weight, ...)

    def check(self) -> None:
        """Refuses padding that a Conv cannot do: other modes or values, batch or channel axes, cropping."""
        if self.output.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise Mismatch(f"{self.output.name!r} pads by itself (auto_pad)")
        if self.pad.attrs.get("mode", "constant") != "constant" or self._value() != 0:
            raise Mismatch(f"{self.pad.name!r} does not pad with zeros")
        pads = self._pads()
        if pads is None or len(pads) != 2 * self._rank():
            raise Mismatch(f"the padding of {self.pad.name!r} is not a constant over all axes")
        if any(p < 0 for p in pads) or any(pads[axis] or pads[axis + self._rank()] for axis in (0, 1)):
            raise Mismatch(f"{self.pad.name!r} crops, or pads the batch or channel axis")

    def rewrite(self, graph: Rewriter) -> None:
        """Adds the padding to the Conv's own."""
        pads, rank_ = self._pads() or [], self._rank()
        spatial = pads[2:rank_] + pads[rank_ + 2 :]
        own = self.output.attrs.get("pads", [0] * len(spatial))
        self.output.attrs["pads"] = [a + b for a, b in zip(own, spatial, strict=True)]
        self.output.attrs.pop("auto_pad", None)
        graph.set_input(self.output, 0, self.x)
        graph.remove(self.pad)

    def _rank(self) -> int:
        return len(self.weight.shape)

    def _pads(self) -> list[int] | None:
        if "pads" in self.pad.attrs:
            return [int(p) for p in self.pad.attrs["pads"]]
        inputs = [value for value in self.pad.inputs[1:2] if isinstance(value, gs.Constant)]
        if not inputs or (len(self.pad.inputs) > 3 and self.pad.inputs[3].name):
            return None
        return [int(p) for p in self.array(inputs[0])]

    def _value(self) -> float:
        if len(self.pad.inputs) > 2 and self.pad.inputs[2].name:
            value = self.pad.inputs[2]
            return float(self.array(value).reshape(-1)[0]) if isinstance(value, gs.Constant) else float("nan")
        return float(self.pad.attrs.get("value", 0.0))


_POOLED_TYPES = (np.dtype(np.float32), np.dtype(np.float16))


class MeanToGlobalPool(Conversion):
    """A mean over all spatial axes is global average pooling, the form that compilers know."""

    x = tensor()
    output = op.ReduceMean(x, ...)

    def check(self) -> None:
        """Refuses other axes, and values whose rank is unknown."""
        if rank(self.x) != 4:
            raise Mismatch(f"{self.x.name!r} is not known to have four axes")
        axes = self._axes()
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
            raise Mismatch(f"{self.output.name!r} is not a mean over the two spatial axes")
        if not self.output.attrs.get("keepdims", 1) and not _flat_result(graph_result=self.result):
            raise Mismatch(f"{self.output.name!r} drops its axes and {self.result.name!r} has another shape")
        if ElementTypes(self.model).of(self.x) not in _POOLED_TYPES:
            raise Mismatch(f"{self.x.name!r} is not known to hold float32 or float16, which is what pooling takes")

    def rewrite(self, graph: Rewriter) -> None:
        """Replaces the mean; a mean that drops its axes is followed by a Flatten."""
        keeps = self.output.attrs.get("keepdims", 1)
        graph.drop_inputs(self.output, 1)
        self.output.attrs.clear()
        self.output.op = "GlobalAveragePool" if keeps else "Flatten"
        if not keeps:
            pooled = graph.insert("GlobalAveragePool", [self.x], f"{self.output.name}_pool")
            graph.set_input(self.output, 0, pooled)

    def _axes(self) -> list[int] | None:
        if "axes" in self.output.attrs:
            return [int(axis) for axis in self.output.attrs["axes"]]
        inputs = [value for value in self.output.inputs[1:2] if isinstance(value, gs.Constant)]
        return [int(axis) for axis in np.atleast_1d(self.array(inputs[0]))] if inputs else None


def _flat_result(graph_result: gs.Tensor) -> bool:
    return graph_result.shape is None or len(graph_result.shape) == 2


conversions = (
    ConstantToInitializer,
    FoldConstants,
    *dimensions,
    RemoveIdentity,
    RemoveCast,
    RemoveDropout,
    SumToAdd,
    PadIntoConv,
    MeanToGlobalPool,
    *equivalents,
    *recompositions,
)
