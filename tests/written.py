"""What stands in a written graph, read with onnx alone: the pair through which each operator reads each tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Pair:
    """The numbers of one DequantizeLinear, the type of its codes, those of a constant, and the float tensor behind."""

    tensor: str
    dtype: str
    scale: Array
    zero_point: Array
    axis: int | None
    block_size: int
    codes: Array | None

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
    """The operators and pairs of a Q/DQ model; `places` has them by (operator name, input), outputs by ("", name)."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto, self.graph = proto, proto.graph
        self.opset = next(entry.version for entry in proto.opset_import if not entry.domain)
        self.constants = {item.name: item for item in proto.graph.initializer}
        self.givers = {name: node for node in proto.graph.node for name in node.output}
        self.places: dict[tuple[str, int | str], Pair | None] = dict(self._places())

    def node(self, name: str) -> onnx.NodeProto:
        """Returns the node of a name."""
        return next(node for node in self.graph.node if node.name == name)

    def operators(self) -> list[str]:
        """Returns the operators in the order of the file."""
        return [node.op_type for node in self.graph.node]

    def array(self, name: str) -> Array:
        """Returns an initializer."""
        return numpy_helper.to_array(self.constants[name])

    def reads(self, operator: str, index: int = 0) -> Pair | None:
        """Returns the pair through which an operator reads an input, None where it reads a float value."""
        return self.places[operator, index]

    def gives(self, name: str) -> Pair | None:
        """Returns the pair behind the first result of a node, where every reader or the graph's output has it."""
        given = self.node(name).output[0]
        outputs = [output.name for output in self.graph.output]
        read = [read for node in self.graph.node for read in node.input if node.op_type != "QuantizeLinear"]
        if given in (*outputs, *read):
            return None
        return next((pair for pair in self.places.values() if pair is not None and pair.tensor == given), None)

    def codes_of(self, operator: str, index: int | str) -> str | None:
        """The type of the codes that an operator's input stands for; None for float."""
        found = self.places[operator, index]
        return None if found is None else found.dtype

    def _places(self) -> Iterator[tuple[tuple[str, int | str], Pair | None]]:
        for node in self.graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                for index, name in enumerate(node.input):
                    yield (node.name, index), self._pair(name)
        for output in self.graph.output:
            yield ("", output.name), self._pair(output.name)

    def _pair(self, name: str) -> Pair | None:
        node = self.givers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        scale, zero_point = (self.array(item) for item in node.input[1:3])
        kind = onnx.TensorProto.DataType.Name(self.constants[node.input[2]].data_type).lower()
        codes = self.array(node.input[0]) if node.input[0] in self.constants else None
        numbers = (scale, zero_point, attributes.get("axis"), attributes.get("block_size", 0))
        return Pair(self._behind(node), kind, *numbers, codes)

    def _behind(self, node: onnx.NodeProto) -> str:
        """The float tensor before the pairs; of a constant, the name without what the writer puts behind it."""
        name = node.input[0]
        while (giver := self.givers.get(name)) and giver.op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = giver.input[0]
        return name.removesuffix("_quantized").removesuffix("_float")


def _spread(part: Array, shape: tuple[int, ...], axis: int | None) -> Array:
    assert axis is not None
    size = -(-shape[axis] // part.shape[axis])
    return np.repeat(part, size, axis)[tuple(slice(length) for length in shape)]
