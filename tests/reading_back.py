"""A written Q/DQ file as its readers see it: through which pair an operator reads a value, and its numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

Array = np.ndarray


@dataclass(frozen=True)
class Pair:
    """What stands between a tensor and its reader; `codes` are those of a constant, `axis` None where none is said."""

    tensor: str
    scale: Array
    zero_point: Array
    codes: Array | None = None
    axis: int | None = None
    block_size: int | None = None
    dtype: str = ""

    @property
    def values(self) -> Array:
        """What the codes of a constant stand for."""
        assert self.codes is not None
        scale, zero_point = (np.asarray(part, np.float64) for part in (self.scale, self.zero_point))
        if scale.ndim == self.codes.ndim and self.block_size:
            scale, zero_point = (_spread(part, self.codes.shape, self.axis) for part in (scale, zero_point))
        elif scale.ndim == 1:
            shape = [-1 if i == (self.axis or 0) else 1 for i in range(self.codes.ndim)]
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        return (self.codes.astype(np.float64) - zero_point) * scale


class Written:
    """The operators and pairs of a Q/DQ model."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.givers = {out: node for node in proto.graph.node for out in node.output}
        self.constants = {item.name: item for item in proto.graph.initializer}
        self.opset = next(entry.version for entry in proto.opset_import if not entry.domain)

    def node(self, name: str) -> onnx.NodeProto:
        """Returns the node of a name."""
        return next(node for node in self.proto.graph.node if node.name == name)

    def reads(self, name: str, index: int = 0) -> Pair | None:
        """Returns the pair through which a node reads an input, None where it reads a float value."""
        return self._behind(self.node(name).input[index])

    def gives(self, name: str) -> Pair | None:
        """Returns the pair behind the first result of a node, where every reader or the graph's output has it."""
        given = self.node(name).output[0]
        outputs = [output.name for output in self.proto.graph.output]
        read = [read for node in self.proto.graph.node for read in node.input if node.op_type != "QuantizeLinear"]
        if given in (*outputs, *read):
            return None
        return next((pair for end in (*outputs, *read) if (pair := self._behind(end)) and pair.tensor == given), None)

    def operators(self) -> list[str]:
        """Returns the operators in the order of the file."""
        return [node.op_type for node in self.proto.graph.node]

    def array(self, name: str) -> Array:
        """Returns an initializer."""
        return numpy_helper.to_array(self.constants[name])

    def _behind(self, name: str) -> Pair | None:
        last = self.givers.get(name)
        if last is None or last.op_type != "DequantizeLinear":
            return None
        tensor = name
        while (node := self.givers.get(tensor)) and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            tensor = node.input[0]
        attributes = {attribute.name: attribute.i for attribute in last.attribute}
        zero_point = self.array(last.input[2])
        return Pair(
            tensor,
            self.array(last.input[1]),
            zero_point,
            self.array(tensor) if tensor in self.constants and "_quantized" in tensor else None,
            attributes.get("axis"),
            attributes.get("block_size"),
            zero_point.dtype.name,
        )


def _spread(part: Array, shape: tuple[int, ...], axis: int | None) -> Array:
    assert axis is not None
    size = -(-shape[axis] // part.shape[axis])
    return np.repeat(part, size, axis)[tuple(slice(length) for length in shape)]
