"""A model keeps everything that it had when it is read, edited, copied, converted and written."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper, parser

from quantonnx.model import Model, constant, deferred

WHEEL_MODELS = Path(onnx.backend.test.__file__).parent / "data"

CHAIN = """<ir_version: 10, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] y)
<float[4, 4] w = {1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4}, float[1] b = {5}>
{
  a = MatMul(x, w)
  y = Add(a, b)
}"""

SMALL_TYPES = ("int4", "uint4", "int2", "uint2", "float4_e2m1fn", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2")
NUMPY_TYPES = ("float8_e5m2fnuz", "float8_e8m0fnu", "bfloat16", "float16", "int8", "uint16", "bool", "complex64")

SMALL = """<ir_version: 7, opset_import: ["" : 11]> g (float[2, 3] x) => (float[N, M] y) { y = OP }"""


def parse(text: str) -> ModelProto:
    return parser.parse_model(text)


def round_trip(proto: ModelProto) -> ModelProto:
    return onnx.load_from_string(Model.read(proto).to_bytes())


def add_entry(properties, key: str, value: str) -> None:
    properties.add(key=key, value=value)


def decorated() -> ModelProto:
    proto = parse(CHAIN)
    proto.doc_string, proto.domain, proto.model_version = "about", "some.domain", 7
    proto.producer_name, proto.producer_version = "maker", "1.2"
    add_entry(proto.metadata_props, "author", "someone")
    proto.training_info.add().algorithm.name = "sgd"
    graph = proto.graph
    graph.doc_string = "the graph"
    add_entry(graph.metadata_props, "shape", "inferred")
    annotation = graph.quantization_annotation.add(tensor_name="a")
    add_entry(annotation.quant_parameter_tensor_names, "SCALE_TENSOR", "scale")
    graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "scale"))
    for node, name in zip(graph.node, ("mm", "add"), strict=True):
        node.name, node.doc_string, node.overload = name, f"doc of {name}", "v2"
        add_entry(node.metadata_props, "pkg.torch.onnx.class_hierarchy", name)
    graph.input[0].doc_string = "pixels"
    add_entry(graph.input[0].metadata_props, "layout", "NC")
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.initializer[0].doc_string = "a weight"
    hidden = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 4])
    hidden.doc_string = "hidden"
    graph.value_info.append(hidden)
    return proto


def attributed() -> ModelProto:
    proto = parse(CHAIN)
    node = proto.graph.node.add(op_type="Custom", domain="my.ops", name="custom", input=["x"], output=["z"])
    proto.opset_import.add(domain="my.ops", version=3)
    tensor = numpy_helper.from_array(np.arange(3, dtype=np.float32), "inside")
    sparse = onnx.SparseTensorProto(values=tensor, indices=numpy_helper.from_array(np.arange(3)), dims=[5])
    dtype = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    node.attribute.extend(
        [
            helper.make_attribute("float", 0.1),
            helper.make_attribute("int", 3),
            helper.make_attribute("text", "ü"),
            helper.make_attribute("ints", [1, 2]),
            helper.make_attribute("floats", [0.1, 2.0]),
            helper.make_attribute("texts", ["a", "b"]),
            AttributeProto(name="raw", type=AttributeProto.STRING, s=b"\xff\xfe"),
            AttributeProto(name="raws", type=AttributeProto.STRINGS, strings=[b"\xff", b"a"]),
            AttributeProto(name="no_ints", type=AttributeProto.INTS),
            AttributeProto(name="no_floats", type=AttributeProto.FLOATS),
            AttributeProto(name="no_texts", type=AttributeProto.STRINGS),
            AttributeProto(name="tensor", type=AttributeProto.TENSOR, t=tensor),
            AttributeProto(name="tensors", type=AttributeProto.TENSORS, tensors=[tensor]),
            AttributeProto(name="sparse", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse),
            AttributeProto(name="type", type=AttributeProto.TYPE_PROTO, tp=dtype),
            AttributeProto(name="types", type=AttributeProto.TYPE_PROTOS, type_protos=[dtype]),
            AttributeProto(name="graphs", type=AttributeProto.GRAPHS, graphs=[parse(CHAIN).graph]),
        ]
    )
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return proto


class TestRoundTrip:
    @pytest.mark.parametrize("make", [decorated, attributed], ids=["documentation", "attributes"])
    def test_nothing_is_lost(self, make):
        proto, result = make(), round_trip(make())
        for position, node in enumerate(proto.graph.node):
            node.name = node.name or f"{node.op_type}_{position}"
            if not node.domain:
                node.ClearField("domain")  # the parser sets it to an empty string
        assert result == proto

    def test_documentation_survives_a_copy_and_a_sort(self):
        model = Model.read(decorated()).copy()
        model.sort()
        model.metadata["more"] = "words"
        result = model.to_proto()
        assert [node.doc_string for node in result.graph.node] == ["doc of mm", "doc of add"]
        assert {entry.key for entry in result.metadata_props} == {"author", "more"}
        assert "scale" in {tensor.name for tensor in result.graph.initializer}

    @pytest.mark.parametrize(
        "kind",
        SMALL_TYPES + NUMPY_TYPES,
    )
    @pytest.mark.parametrize("how", ["untouched", "touched", "assigned", "deferred"])
    def test_a_constant_of_any_type_keeps_its_values(self, kind, how):
        dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
        values = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1]]).astype(np.float32).astype(dtype)
        proto = parse(CHAIN)
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
        model = Model.read(proto)
        weight = model.find("w")
        if how == "touched":
            assert weight.values.shape == (3, 3)
        elif how == "assigned":
            weight.values = values
        elif how == "deferred":
            model.graph.nodes[0].inputs[1] = deferred("w", (3, 3), proto.graph.initializer[0].data_type, lambda: values)
        result = onnx.load_from_string(model.to_bytes()).graph.initializer[0]
        assert result.data_type == proto.graph.initializer[0].data_type
        assert numpy_helper.to_array(result).tobytes() == values.tobytes()

    @pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.FLOAT8E4M3FNUZ])
    def test_a_constant_node_keeps_its_tensor(self, kind):
        tensor = helper.make_tensor("value", kind, [3], [1, 0, 1])
        node = helper.make_node("Constant", [], ["y"], value=tensor)
        graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", kind, [3])])
        model = Model.read(helper.make_model(graph, ir_version=11, opset_imports=[helper.make_opsetid("", 21)]))
        assert model.array(model.graph.nodes[0].attrs["value"]).tolist() == [1, 0, 1]
        assert model.copy().to_proto().graph.node[0].attribute[0].t == tensor

    def test_values_stored_as_numbers_stay_so(self):
        assert round_trip(parse(CHAIN)).graph.initializer[0].float_data[5] == 2

    @pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]])
    @pytest.mark.parametrize("raw", [True, False])
    def test_a_sparse_initializer_becomes_dense(self, indices, raw):
        proto = parse(SMALL.replace("OP", "Add(x, s)"))
        values = helper.make_tensor(
            "s", TensorProto.FLOAT, [2], np.float32([7, 8]).tobytes() if raw else [7, 8], raw=raw
        )
        where = numpy_helper.from_array(np.array(indices), "i")
        proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=where, dims=[2, 3]))
        model = Model.read(proto)
        assert model.array(model.find("s")).tolist() == [[0, 7, 0], [0, 0, 8]]
        assert numpy_helper.to_array(model.to_proto().graph.initializer[0]).tolist() == [[0, 7, 0], [0, 0, 8]]

    def test_old_files_keep_initializers_as_inputs_until_there_are_others(self):
        proto = parse(CHAIN)
        proto.ir_version = 3
        for name, shape in (("b", [1]), ("w", [4, 4])):
            proto.graph.input.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        model = Model.read(proto)
        assert [value.name for value in model.graph.inputs] == ["x"]
        assert [value.name for value in model.to_proto().graph.input] == ["w", "b", "x"]
        model.graph.nodes[1].inputs[1] = constant("new", np.float32([1]))
        model.sort()
        result = model.to_proto()
        assert (result.ir_version, [value.name for value in result.graph.input]) == (4, ["x"])

    def test_sequences_and_optionals_keep_their_types(self):
        proto = parse("""<ir_version: 10, opset_import: ["" : 17]>
        g (seq(float[2]) s, optional(float[2]) o) => (seq(float[2]) t, optional(float[2]) p) {
          t = Identity(s)
          p = Identity(o)
        }""")
        result = round_trip(proto)
        assert (result.graph.input, result.graph.output) == (proto.graph.input, proto.graph.output)

    @pytest.mark.parametrize(
        "path",
        [*sorted(WHEEL_MODELS.glob("simple/**/*.onnx")), *sorted(WHEEL_MODELS.glob("[np]*/**/*.onnx"))[::5]],
        ids=lambda path: path.parent.name,
    )
    def test_models_of_the_onnx_wheel(self, path):
        model, proto = Model.read(path), onnx.load(path)
        result = model.to_proto()
        assert [node.op_type for node in result.graph.node] == [node.op_type for node in proto.graph.node]
        assert [node.output for node in result.graph.node] == [node.output for node in proto.graph.node]
        assert sorted(t.name for t in result.graph.initializer) == sorted(t.name for t in proto.graph.initializer)
        assert (result.graph.input, result.graph.output) == (proto.graph.input, proto.graph.output)
        assert model.copy().to_bytes() == model.to_bytes()
