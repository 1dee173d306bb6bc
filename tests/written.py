"""What stands in a written graph, read with onnx alone: the pair through which each operator reads each tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper


@dataclass(frozen=True, eq=False)
class Pair:
    """The numbers of one DequantizeLinear, the type of its codes as ONNX has it, and the float tensor behind it."""

    tensor: str
    codes: str
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None
    block_size: int

    @property
    def per_tensor(self) -> bool:
        return self.scale.size == 1


class Written:
    """The pairs of a quantized model by (operator name, input index); graph outputs by ("", name)."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = proto.graph
        self.constants = {item.name: item for item in proto.graph.initializer}
        self.givers = {name: node for node in proto.graph.node for name in node.output}
        self.reads: dict[tuple[str, int | str], Pair | None] = dict(self._reads())

    def _reads(self) -> Iterator[tuple[tuple[str, int | str], Pair | None]]:
        for node in self.graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                for index, name in enumerate(node.input):
                    yield (node.name, index), self.pair(name)
        for output in self.graph.output:
            yield ("", output.name), self.pair(output.name)

    def pair(self, name: str) -> Pair | None:
        """Returns the pair that gives a value; None for one in float."""
        node = self.givers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        scale, zero_point = (numpy_helper.to_array(self.constants[item]) for item in node.input[1:3])
        kind = onnx.TensorProto.DataType.Name(self.constants[node.input[2]].data_type).lower()
        axis = given.get("axis") if scale.size > 1 or "axis" in given else None
        return Pair(self._behind(node), kind, scale, zero_point, axis, given.get("block_size", 0))

    def _behind(self, node: onnx.NodeProto) -> str:
        """The float tensor before the pair; of a constant, the name without what the writer puts behind it."""
        giver = self.givers.get(node.input[0])
        name = node.input[0] if giver is None else giver.input[0]
        return name.removesuffix("_quantized").removesuffix("_float")

    def codes_of(self, operator: str, index: int) -> str | None:
        """The type of the codes that an operator's input stands for; None for float."""
        found = self.reads[operator, index]
        return None if found is None else found.codes
