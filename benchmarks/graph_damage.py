"""Models whose graph is damaged field by field, so that protobuf still reads them, for corrupt_files.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

Random = np.random.Generator

SIZES = (0, -1, 1, 3, 1 << 31, (1 << 63) - 1, -(1 << 63))
NAMES = ("", "x", "y", "\x1b[31m", "a" * 5000, "/", "w", "input")
OPERATORS = (
    *("Conv", "MatMul", "Add", "Reshape", "Transpose", "Gemm", "Concat", "Slice", "Clip", "LayerNormalization", "LSTM"),
    *("BatchNormalization", "QuantizeLinear", "DequantizeLinear", "If", "Loop", "Constant", "Split", "Cast", "Relu"),
    *("ReduceMean", "Softmax", "Resize", "MaxPool", "AveragePool", "Pow", "Sqrt", "Div", "Sub", "Mul", "ConvTranspose"),
)


def restructured(content: bytes, random: Random) -> bytes:
    """Returns the model after one to four edits."""
    model = onnx.load_from_string(content)
    for _ in range(random.integers(1, 5)):
        EDITS[random.integers(len(EDITS))](model, random)
    return bytes(model.SerializeToString())


def pick(items: Sequence[Any], random: Random) -> Any:
    return items[int(random.integers(len(items)))] if len(items) else None


def node(model: ModelProto, random: Random) -> NodeProto:
    found = pick(model.graph.node, random)
    return found if found is not None else model.graph.node.add(op_type="Relu", input=["x"], output=["extra"])


def drop_attribute(model: ModelProto, random: Random) -> None:
    chosen = node(model, random)
    if chosen.attribute:
        del chosen.attribute[int(random.integers(len(chosen.attribute)))]


def change_attribute(model: ModelProto, random: Random) -> None:
    """Another number, of the same kind or another."""
    chosen = pick(node(model, random).attribute, random)
    if chosen is None:
        return
    values = (pick(SIZES, random), 0.5, float("nan"), "text", [pick(SIZES, random)] * int(random.integers(1, 6)), [0.5])
    made = helper.make_attribute(chosen.name, pick(values, random))
    if chosen.type == AttributeProto.INTS and random.random() < 0.5:
        made = helper.make_attribute(chosen.name, [pick(SIZES, random) for _ in range(int(random.integers(1, 6)))])
    chosen.CopyFrom(made)


def drop_operand(model: ModelProto, random: Random) -> None:
    chosen = node(model, random)
    field = chosen.input if random.random() < 0.7 else chosen.output
    if field:
        del field[int(random.integers(len(field)))]


def swap_operand(model: ModelProto, random: Random) -> None:
    chosen = node(model, random)
    if chosen.input:
        names = [name for other in model.graph.node for name in (*other.input, *other.output)]
        chosen.input[int(random.integers(len(chosen.input)))] = pick(names, random)


def add_operand(model: ModelProto, random: Random) -> None:
    node(model, random).input.append(pick(NAMES, random))


def rename(model: ModelProto, random: Random) -> None:
    chosen = node(model, random)
    if chosen.output:
        chosen.output[0] = pick(NAMES, random)


def change_operator(model: ModelProto, random: Random) -> None:
    chosen = node(model, random)
    if random.random() < 0.2:
        chosen.domain = pick(("com.microsoft", "ai.onnx.ml", "own", "ai.onnx"), random)
    chosen.op_type = pick(OPERATORS, random)


def drop_node(model: ModelProto, random: Random) -> None:
    if model.graph.node:
        del model.graph.node[int(random.integers(len(model.graph.node)))]


def repeat_node(model: ModelProto, random: Random) -> None:
    model.graph.node.add().CopyFrom(node(model, random))


def shuffle(model: ModelProto, random: Random) -> None:
    order = [model.graph.node[int(place)] for place in random.permutation(len(model.graph.node))]
    kept = GraphProto()
    kept.node.extend(order)
    del model.graph.node[:]
    model.graph.node.extend(kept.node)


def reshape_weight(model: ModelProto, random: Random) -> None:
    """Other dimensions; half the time with the data that they need, as long as that is little."""
    tensor = pick(model.graph.initializer, random)
    if tensor is None:
        return
    dims = list(tensor.dims)
    random.shuffle(dims)
    if dims and random.random() < 0.5:
        dims[int(random.integers(len(dims)))] = pick(SIZES, random)
    if random.random() < 0.3:
        dims = dims[: int(random.integers(len(dims) + 1))] + [1] * int(random.integers(3))
    tensor.dims[:] = dims
    if all(0 <= size < 5000 for size in dims) and np.prod(dims, dtype=float) < 1e6:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(dims, np.float32), tensor.name))


def retype_weight(model: ModelProto, random: Random) -> None:
    tensor = pick(model.graph.initializer, random)
    if tensor is not None:
        tensor.data_type = pick(list(TensorProto.DataType.values()), random)


def odd_weight(model: ModelProto, random: Random) -> None:
    tensor = pick(model.graph.initializer, random)
    if tensor is not None and tensor.data_type == TensorProto.FLOAT and len(tensor.raw_data):
        odd = pick((np.nan, np.inf, 3e38, 1e-45, 0.0, -0.0), random)
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, odd, np.float32).tobytes()


def reshape_value(model: ModelProto, random: Random) -> None:
    info = pick((*model.graph.input, *model.graph.output, *model.graph.value_info), random)
    if info is None:
        return
    shape = info.type.tensor_type.shape
    if random.random() < 0.3:
        info.type.tensor_type.ClearField("shape")
    elif shape.dim:
        pick(shape.dim, random).dim_value = pick(SIZES, random)
    else:
        shape.dim.add().dim_param = pick(NAMES, random)


def retype_value(model: ModelProto, random: Random) -> None:
    info = pick((*model.graph.input, *model.graph.output, *model.graph.value_info), random)
    if info is not None:
        info.type.tensor_type.elem_type = pick(list(TensorProto.DataType.values()), random)


def change_version(model: ModelProto, random: Random) -> None:
    if random.random() < 0.5:
        model.ir_version = pick((*SIZES, 3, 8, 13), random)
    else:
        pick(model.opset_import, random).version = pick((*SIZES, 1, 5, 9, 13, 21, 26, 99), random)


def change_metadata(model: ModelProto, random: Random) -> None:
    entry = pick(model.metadata_props, random)
    if entry is None:
        entry = model.metadata_props.add(key="quantonnx.config")
    entry.value = pick(("{", "[]", "null", "9" * 5000, "[" * 5000, '{"recipe": [[[]]]}', "\x1b[31m", ""), random)


EDITS: tuple[Callable[[ModelProto, Random], None], ...] = (
    *(drop_attribute, change_attribute, change_attribute, change_attribute, drop_operand, swap_operand, add_operand),
    *(rename, change_operator, change_operator, drop_node, repeat_node, shuffle, reshape_weight, reshape_weight),
    *(retype_weight, odd_weight, reshape_value, retype_value, change_version, change_metadata),
)
