"""Models that no exporter writes, or only a strange one: each builder writes `model.onnx` into a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from models import parse
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

Build = Callable[[Path], None]

MATMUL = "g (float[1,64] x) => (float[1,64] y) <float[64,64] w> { y = MatMul(x, w) }"
CONVOLUTION = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,3,3] w, float[4] b>
    { c = Conv<pads=[1,1,1,1]>(x, w, b)  y = Relu(c) }"""


def write(model: ModelProto) -> Build:
    return lambda folder: _write(folder, model)


def text(graph: str, **options: object) -> Build:
    return write(parse(graph, **options))


def changed(graph: str, change: Callable[[ModelProto], object]) -> Build:
    """The model of a text after `change`."""
    model = parse(graph)
    change(model)
    return write(model)


def external(entries: dict[str, str], *, dims: Sequence[int] = (64, 64), beside: Build | None = None) -> Build:
    """A model whose weight is outside, as `entries` say; `beside` prepares the folder."""

    def build(folder: Path) -> None:
        model = parse(MATMUL)
        weight = model.graph.initializer[0]
        weight.CopyFrom(TensorProto(name="w", dims=dims, data_type=1, data_location=TensorProto.EXTERNAL))
        for key, value in entries.items():
            weight.external_data.add(key=key, value=value)
        _write(folder, model)
        (beside or weights())(folder)

    return build


def weights(name: str = "w.bin", size: int = 1 << 14) -> Build:
    return lambda folder: void((folder / name).write_bytes(np.ones(size // 4, np.float32).tobytes()))


def link(name: str, target: str) -> Build:
    return lambda folder: (folder / name).symlink_to(target)


def linked_folder(folder: Path) -> None:
    """A link to a folder outside, in which the weights are."""
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    weights("w.bin")(outside)
    (folder / "sub").symlink_to(outside)


def hard_link(folder: Path) -> None:
    weights("other.bin")(folder)
    os.link(folder / "other.bin", folder / "w.bin")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "w.bin")


def initializer(**fields: object) -> Build:
    """MATMUL with other words in its weight."""

    def change(model: ModelProto) -> None:
        weight = model.graph.initializer[0]
        for name, value in fields.items():
            if isinstance(value, (list, tuple)):
                getattr(weight, name)[:] = value
            elif value is None:
                weight.ClearField(name)
            else:
                setattr(weight, name, value)

    return changed(MATMUL, change)


def input_shape(*sizes: int | str) -> Build:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)
    return changed(MATMUL, lambda model: model.graph.input[0].CopyFrom(info))


def renamed(names: dict[str, str], graph: str = CONVOLUTION) -> Build:
    """The model of a text with other names of values; a node is called as what it gives."""

    def change(model: ModelProto) -> None:
        for item in (*model.graph.initializer, *model.graph.input, *model.graph.output):
            item.name = names.get(item.name, item.name)
        for node in model.graph.node:
            for field in (node.input, node.output):
                field[:] = [names.get(name, name) for name in field]
            node.name = node.output[0]

    return changed(graph, change)


def named_everything(name: str) -> Build:
    """CONVOLUTION in which `name` is part of every text that there is."""

    def change(model: ModelProto) -> None:
        model.producer_name = model.producer_version = model.graph.name = model.doc_string = name
        model.domain = model.graph.doc_string = name
        model.metadata_props.add(key=name, value=name)
        model.opset_import.add(domain=name, version=1)
        node = model.graph.node.add(op_type=name, domain=name, name=name, input=["c"], output=[name])
        node.attribute.append(helper.make_attribute(name or "a", name))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [name]))
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name

    return changed(CONVOLUTION, change)


def nested(depth: int) -> Build:
    """If in If, to a depth; the innermost gives the outer x."""
    info = helper.make_tensor_value_info("r", TensorProto.FLOAT, [1])
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["r0"])], "g", [], [_as("r0", info)])
    for level in range(1, depth):
        node = _if(body, f"r{level}")
        body = helper.make_graph([node], "g", [], [_as(f"r{level}", info)])
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([_if(body, "y")], "g", [*ends, condition], [_as("y", info)])
    return write(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def deep_bytes(depth: int) -> Build:
    """If in If as raw bytes, deeper than protobuf itself would write."""

    def field(key: int, content: bytes) -> bytes:
        return bytes([key]) + _varint(len(content)) + content

    graph = b""
    for _ in range(depth):
        attribute = field(0x0A, b"then_branch") + field(0x32, graph) + b"\xa0\x01\x05"
        graph = field(0x0A, field(0x22, b"If") + field(0x2A, attribute))
    ends = parse(MATMUL).graph
    graph += b"".join(field(0x62, info.SerializeToString()) for info in ends.output)
    content = b"\x08\x08" + field(0x42, b"\x10\x11") + field(0x3A, graph)
    return lambda folder: void((folder / "model.onnx").write_bytes(content))


def chain(length: int) -> Build:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in reversed(range(length))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("v0", f"v{length}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return write(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def recursive_function(folder: Path) -> None:
    """Two functions that call each other."""
    opset = helper.make_opsetid("", 17), helper.make_opsetid("own", 1)
    model = parse("g (float[1] x) => (float[1] y) { y = own.F(x) }", domain="own")
    for name, other in (("F", "G"), ("G", "F")):
        node = helper.make_node(other, ["a"], ["b"], domain="own")
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], [node], opset))
    _write(folder, model)


def exploding_functions(folder: Path) -> None:
    """30 functions, each of which calls the next one twice: 2^30 nodes once inlined."""
    opset = helper.make_opsetid("", 17), helper.make_opsetid("own", 1)
    model = parse("g (float[1] x) => (float[1] y) { y = own.F0(x) }", domain="own")
    for level in range(30):
        calls = [helper.make_node(f"F{level + 1}", [a], [b], domain="own") for a, b in (("a", "m"), ("m", "b"))]
        model.functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], calls, opset))
    last = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("own", "F30", ["a"], ["b"], [last], opset))
    _write(folder, model)


def copied_function(folder: Path) -> None:
    """A function of 1 MB that is called 1500 times."""
    opset = helper.make_opsetid("", 17), helper.make_opsetid("own", 1)
    model = parse("g (float[1] x) => (float[1] y) { y = own.F(x) }", domain="own")
    del model.graph.node[:]
    ends = ["x", *(f"v{i}" for i in range(1, 1500)), "y"]
    model.graph.node.extend(helper.make_node("F", [a], [b], domain="own") for a, b in pairwise(ends))
    weight = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.zeros(1 << 18, np.float32)))
    nodes = [weight, helper.make_node("ReduceSum", ["w"], ["s"]), helper.make_node("Add", ["a", "s"], ["b"])]
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], nodes, opset))
    _write(folder, model)


def sparse(dims: Sequence[int], indices: Sequence[int], values: Sequence[float]) -> Build:
    """MATMUL with a sparse weight."""

    def change(model: ModelProto) -> None:
        del model.graph.initializer[:]
        held = numpy_helper.from_array(np.array(values, np.float32), "w")
        where = numpy_helper.from_array(np.array(indices, np.int64), "w_indices")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(held, where, dims))

    return changed(MATMUL, change)


def training(model: ModelProto) -> None:
    info = model.training_info.add()
    info.algorithm.CopyFrom(onnx.parser.parse_graph("t (float[1] g) => (float[1] n) { n = Identity(g) }"))
    info.update_binding.add(key="w", value="n")


def also_inputs(model: ModelProto) -> None:
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def attribute_of_unknown_kind(folder: Path) -> None:
    model = parse(CONVOLUTION)
    model.graph.node[0].attribute.append(AttributeProto(name="strange", type=AttributeProto.TYPE_PROTOS))
    content = model.SerializeToString().replace(b"strange\xa0\x01\x0e", b"strange\xa0\x01\x63")
    (folder / "model.onnx").write_bytes(content)


def without_shapes(model: ModelProto) -> None:
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.ClearField("shape")


def without_types(model: ModelProto) -> None:
    for info in (*model.graph.input, *model.graph.output):
        info.ClearField("type")


def unknown_fields(folder: Path) -> None:
    """Fields that no version of ONNX has yet, at the end of the model."""
    _write(folder, parse(CONVOLUTION))
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\xc2\x3e\x04what")


def void(_: object) -> None:
    return None


def _write(folder: Path, model: ModelProto) -> None:
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _if(body: onnx.GraphProto, output: str) -> onnx.NodeProto:
    """An If with the body in one branch; in both, each level would double the file."""
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "g", [], [_as("e", body.output[0])])
    return helper.make_node("If", ["c"], [output], then_branch=body, else_branch=other)


def _as(name: str, info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    made = onnx.ValueInfoProto()
    made.CopyFrom(info)
    made.name = name
    return made
