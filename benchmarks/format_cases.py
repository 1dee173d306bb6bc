"""Models of one operator whose activation and weight have a format each, as `format_combinations.py` wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROWS, WIDTH, SIZE = 8, 256, 6

TYPES = {
    "int8": (TensorProto.INT8, -127, 127),
    "uint8": (TensorProto.UINT8, 0, 255),
    "int16": (TensorProto.INT16, -32767, 32767),
    "uint16": (TensorProto.UINT16, 0, 65535),
    "int4": (TensorProto.INT4, -7, 7),
    "uint4": (TensorProto.UINT4, 0, 15),
    "int2": (TensorProto.INT2, -1, 1),
    "uint2": (TensorProto.UINT2, 0, 3),
    "float8": (TensorProto.FLOAT8E4M3FN, -448, 448),
}
ACTIVATIONS = (
    "float",
    "dynamic",
    "uint8",
    "uint8 in",
    "int8",
    "uint16",
    "int16",
    "int4",
    "uint4",
    "int4 then int8",
    "float8",
)
WEIGHTS = ("int8", "int8 asymmetric", "int4 in int8", "uint8", "int4", "uint4", "int2", "uint2", "int16", "float8")
GRANULARITIES = ("tensor", "channel", "input channel", "group 16", "group 32", "group 128")
OPERATORS = ("MatMul", "MatMulAdd", "Gemm", "Conv", "DepthwiseConv")


@dataclass(frozen=True)
class Case:
    op: str
    activation: str
    weight: str
    granularity: str
    outputs: int = 128

    @property
    def can_be_said(self) -> bool:
        """False where ONNX has no such thing."""
        if self.activation == "dynamic":
            return self.weight in ("int8", "int8 asymmetric", "uint8") and self.granularity in ("tensor", "channel")
        return self.op != "DepthwiseConv" or self.granularity in ("tensor", "channel")


class Builder:
    """A model of one operator; `exact` has the float values of its weight in place of codes."""

    def __init__(self, case: Case, *, exact: bool) -> None:
        self.case, self.exact = case, exact
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        shape = [1, WIDTH, SIZE, SIZE] if "Conv" in self.case.op else [ROWS, WIDTH]
        if self.case.activation == "dynamic":
            self._dynamic()
        else:
            self._static()
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None))]
        graph = helper.make_graph(self.nodes, "case", ends[:1], ends[1:], self.constants)
        narrow = "int2" in self.case.weight
        opset, ir_version = (25, 13) if narrow and not self.exact else (21, 10)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)

    def _static(self) -> None:
        kinds = self.case.activation.removesuffix(" in").split(" then ")
        if kinds == ["float"]:
            kinds = []
        inputs = [self._pairs("x", kinds), self._weight()]
        if not self.case.op.startswith("MatMul"):
            inputs.append(self._constant("b", self._bias))
        self._node(self._operator, inputs, "result", **self._attributes)
        if self.case.op == "MatMulAdd":
            self._add_bias("result")
        if not self.case.activation.endswith(" in"):
            self._pairs(self.nodes[-1].output[0], kinds[::-1])
        self.nodes[-1].output[0] = "y"

    def _dynamic(self) -> None:
        codes, scale, zero_point = self._codes()
        wide = (1, -1, 1, 1) if "Conv" in self.case.op and scale.ndim else scale.shape
        if self.case.op == "Gemm":
            codes = codes.T
        if not np.ptp(zero_point):
            zero_point = zero_point.reshape(-1)[0]
        kind = TYPES[self.case.weight.split()[0]][0]
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]))
        inputs = ["xq", self._codes_constant("w", codes, kind), "xz", self._codes_constant("wz", zero_point, kind)]
        attributes = {} if self.case.op == "Gemm" else self._attributes
        self._node("ConvInteger" if "Conv" in self.case.op else "MatMulInteger", inputs, "total", **attributes)
        self._node("Cast", ["total"], "sum", to=TensorProto.FLOAT)
        self._node("Mul", ["xs", self._constant("ws", scale.reshape(wide))], "scale")
        self._node("Mul", ["sum", "scale"], "product")
        self._add_bias("product")
        self.nodes[-1].output[0] = "y"

    def _add_bias(self, name: str) -> None:
        """Adds the bias after what cannot take it itself."""
        shape = (1, -1, 1, 1) if "Conv" in self.case.op else (-1,)
        if self.case.op != "MatMul":
            self._node("Add", [name, self._constant("b", self._bias.reshape(shape))], f"{name}_biased")

    @property
    def _bias(self) -> np.ndarray:
        size = WIDTH if self.case.op == "DepthwiseConv" else self.case.outputs
        return np.random.default_rng(2).normal(size=size).astype(np.float32)

    @property
    def _operator(self) -> str:
        return self.case.op.removeprefix("Depthwise").removesuffix("Add")

    @property
    def _attributes(self) -> dict[str, Any]:
        if self.case.op == "DepthwiseConv":
            return {"pads": [1, 1, 1, 1], "group": WIDTH}
        return {"Conv": {"pads": [1, 1, 1, 1]}, "Gemm": {"transB": 1}}.get(self.case.op, {})

    def _pairs(self, name: str, kinds: Sequence[str]) -> str:
        """Adds a pair of each kind, all of the scale of the narrowest, and returns what they give."""
        taps = {"Conv": 9 * WIDTH, "DepthwiseConv": 9}.get(self.case.op, WIDTH)
        reach = 4.0 if name == "x" else 4.0 * np.sqrt(taps) * 0.05
        for kind in kinds:
            onnx_type, low, high = TYPES[kind]
            scale = np.float32(max(2 * reach / (TYPES[other][2] - TYPES[other][1]) for other in kinds))
            zero_point = 0 if low < 0 else (high + 1) // 2
            tail = f"{name}_{kind}"
            constants = [
                self._constant(f"{tail}_scale", scale),
                self._codes_constant(f"{tail}_zero", np.array(zero_point), onnx_type),
            ]
            self._node("QuantizeLinear", [name, *constants], f"{tail}_codes")
            self._node("DequantizeLinear", [f"{tail}_codes", *constants], f"{tail}_values")
            name = f"{tail}_values"
        return name

    def _weight(self) -> str:
        codes, scale, zero_point = self._codes()
        if self.exact:
            return self._constant("w", self._values(codes, scale, zero_point))
        kind = TYPES["int8" if self.case.weight == "int4 in int8" else self.case.weight.split()[0]][0]
        inputs = [
            self._codes_constant("w", codes, kind),
            self._constant("w_scale", scale),
            self._codes_constant("w_zero", zero_point, kind),
        ]
        attributes: dict[str, int] = {}
        if self.case.granularity != "tensor":
            attributes["axis"] = self._axis
        if group := self._group:
            attributes["block_size"] = group
        self._node("DequantizeLinear", inputs, "w_values", **attributes)
        return "w_values"

    def _codes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns codes, scale and zero point as DequantizeLinear wants them."""
        _, low, high = TYPES[self.case.weight.split()[0]]
        values = self.rng.normal(0, 0.05, self._shape).astype(np.float32)
        spread = np.abs(self._grouped(values)).max(self._others)
        scale = np.asarray(spread * 2 / (high - low), np.float32)
        middle = 0 if low < 0 else (high + 1) // 2
        shift = self.rng.integers(-1, 2, scale.shape) if "asymmetric" in self.case.weight or low == 0 else 0
        zero_point = np.broadcast_to(middle + shift, scale.shape)
        codes = values / self._spread(scale) + self._spread(zero_point)
        if self.case.weight == "float8":
            return codes.astype(ml_dtypes.float8_e4m3fn).astype(np.float32), scale, zero_point
        return np.clip(np.rint(codes), low, high), scale, zero_point

    def _values(self, codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
        return np.asarray((codes - self._spread(zero_point)) * self._spread(scale), np.float32)

    @property
    def _shape(self) -> tuple[int, ...]:
        outputs = self.case.outputs
        shapes = {"Gemm": (outputs, WIDTH), "Conv": (outputs, WIDTH, 3, 3), "DepthwiseConv": (WIDTH, 1, 3, 3)}
        return shapes.get(self.case.op, (WIDTH, outputs))

    @property
    def _group(self) -> int:
        return int(self.case.granularity.split()[1]) if self.case.granularity.startswith("group") else 0

    @property
    def _axis(self) -> int:
        """The axis of the outputs, or of the inputs where these have the scales."""
        outputs = 1 if self.case.op.startswith("MatMul") else 0
        return outputs if self.case.granularity == "channel" else 1 - outputs

    @property
    def _others(self) -> tuple[int, ...] | None:
        """The axes of `_grouped` along which a scale is shared."""
        if self.case.granularity == "tensor":
            return None
        if self._group:
            return (self._axis + 1,)
        return tuple(axis for axis in range(len(self._shape)) if axis != self._axis)

    def _grouped(self, values: np.ndarray) -> np.ndarray:
        axis, group = self._axis, self._group
        if not group:
            return values
        return values.reshape(*values.shape[:axis], -1, group, *values.shape[axis + 1 :])

    def _spread(self, numbers: np.ndarray) -> np.ndarray:
        """Returns one number for each value of the weight, or what broadcasts to that."""
        if self._group:
            return np.repeat(numbers, self._group, self._axis)
        if not numbers.ndim:
            return numbers
        return numbers.reshape([-1 if axis == self._axis else 1 for axis in range(len(self._shape))])

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))

    def _constant(self, name: str, values: np.ndarray | np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _codes_constant(self, name: str, codes: np.ndarray, kind: int) -> str:
        array = np.asarray(codes).astype(helper.tensor_dtype_to_np_dtype(kind))
        self.constants.append(numpy_helper.from_array(array, name))
        return name
