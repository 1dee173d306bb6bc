"""The graph of a model: names, order, bodies of control flow, copies, and other opsets."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from quantonnx.errors import ModelError
from quantonnx.model import Model, constant, deferred
from quantonnx.weights import load_array

CHAIN = """<ir_version: 10, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] y)
<float[4, 4] w = {1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4}, float[1] b = {5}>
{
  a = MatMul(x, w)
  y = Add(a, b)
}"""

CONTROL = """<ir_version: 10, opset_import: ["" : 17]>
g (bool c, float[4] x) => (float[4] y) <float[4] only_inside = {1, 2, 3, 4}, float[4] unused = {0, 0, 0, 0}> {
  h = Relu(x)
  dead = Neg(x)
  y = If (c) <
    then_branch = t () => (float[4] p) { p = Add(h, only_inside) },
    else_branch = e () => (float[4] q) { q = Identity(h) }
  >
}"""


SMALL = """<ir_version: 7, opset_import: ["" : 11]> g (float[2, 3] x) => (float[N, M] y) { y = OP }"""


def parse(text: str) -> ModelProto:
    return parser.parse_model(text)


def run(proto: ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    session = pytest.importorskip("onnxruntime").InferenceSession(proto.SerializeToString())
    return session.run(None, feeds)


class TestNames:
    def test_unnamed_and_repeated_nodes_get_names_of_their_own(self):
        proto = parse(CHAIN)
        proto.graph.node[1].name = "MatMul_0"
        proto.graph.node.add(op_type="Relu", name="MatMul_0", input=["y"], output=["z"])
        names = [node.name for node in Model.read(proto).graph.nodes]
        assert names == ["MatMul_0_", "MatMul_0", "Relu_2"]

    def test_an_edit_that_loses_a_producer_is_refused_when_written(self):
        model = Model.read(parse(CHAIN))
        del model.graph.nodes[0]
        with pytest.raises(ModelError, match="node 'Add_1' reads 'a', which nothing gives"):
            model.to_bytes()

    @pytest.mark.parametrize("name", ["a", "x", "w"])
    def test_a_value_given_twice_is_refused(self, name):
        proto = parse(CHAIN)
        proto.graph.node.add(op_type="Relu", input=["x"], output=[name])
        with pytest.raises(ModelError, match=f"'{name}' is given more than once"):
            Model.read(proto)

    def test_a_twin_that_an_edit_made_is_refused_when_written(self):
        model = Model.read(parse(CHAIN))
        model.graph.nodes[1].inputs[1] = constant("w", np.float32([1]))
        with pytest.raises(ModelError, match="'w' is given more than once"):
            model.to_bytes()

    def test_a_value_that_nothing_gives_is_refused(self):
        proto = parse(CHAIN)
        proto.graph.node[0].input[0] = "missing"
        with pytest.raises(ModelError, match="'missing', which nothing gives"):
            Model.read(proto)

    def test_find_suggests_the_closest_name(self):
        with pytest.raises(ModelError, match="did you mean 'only_inside'"):
            Model.read(parse(CONTROL)).find("only_insid")


class TestBodies:
    def test_a_body_stays_and_so_does_what_it_reads(self):
        proto = parse(CONTROL)
        model = Model.read(proto)
        model.sort()
        result = model.to_proto()
        assert model.captured == {"h", "only_inside"}
        assert model.left_in_float.keys() == {"If_2"}
        assert [t.name for t in result.graph.initializer] == ["only_inside"]
        assert [node.op_type for node in result.graph.node] == ["Relu", "If"]
        assert result.graph.node[1].attribute == proto.graph.node[2].attribute
        feeds = {"c": np.array(True), "x": np.float32([1, -1, 1, -1])}
        assert run(result, **feeds)[0].tolist() == run(proto, **feeds)[0].tolist()

    def test_sort_puts_the_producer_before_the_body_that_reads_it(self):
        model = Model.read(parse(CONTROL))
        model.graph.nodes.reverse()
        model.sort()
        assert [node.op for node in model.graph.nodes] == ["Relu", "If"]

    def test_an_edit_that_loses_what_a_body_reads_is_refused_when_written(self):
        model = Model.read(parse(CONTROL))
        model.graph.nodes[0].outputs[0].name = "renamed"
        with pytest.raises(ModelError, match="a control-flow body reads 'h'"):
            model.to_bytes()

    @pytest.mark.parametrize("opset", [17, 12])
    def test_functions_are_inlined(self, opset):
        text = """<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
        g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { y = local.f(x, w) }
        <domain: "local", opset_import: ["" : 17]> f (a, b) => (c) { s = Add(a, b) c = Relu(s) }"""
        proto = parse(text)
        proto.functions[0].opset_import[0].version = opset
        proto.functions[0].node[0].doc_string = "kept"
        result = Model.read(proto).to_proto()
        assert [(node.op_type, node.doc_string) for node in result.graph.node] == [("Add", "kept"), ("Relu", "")]
        assert not result.functions
        assert run(result, x=np.float32([-9, 1, 1, 1]))[0].tolist() == [0, 3, 4, 5]


class TestGraph:
    def test_sort_is_stable_and_does_not_recurse(self):
        nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], f"n{i}") for i in range(3000)]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("t0", "t3000")]
        model = Model.read(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])))
        model.graph.nodes[:] = [model.graph.nodes[i] for i in np.random.default_rng(0).permutation(3000)]
        model.sort()
        assert [node.name for node in model.graph.nodes] == [f"n{i}" for i in range(3000)]

    def test_sort_unlinks_what_it_drops(self):
        model = Model.read(parse(CONTROL))
        model.sort()
        assert [node.op for node in model.find("x").outputs] == ["Relu"]

    def test_a_cycle_is_refused(self):
        model = Model.read(parse(CHAIN))
        model.graph.nodes[0].inputs[0] = model.find("y")
        with pytest.raises(ModelError, match="cycle at node 'MatMul_0'"):
            model.sort()

    def test_a_copy_is_independent_and_shares_weights(self):
        model = Model.read(parse(CHAIN))
        twin = model.copy()
        twin.graph.nodes[0].op = "Gemm"
        twin.graph.nodes[1].inputs[1] = constant("other", np.float32([9]))
        assert model.graph.nodes[0].op == "MatMul"
        assert [tensor.name for tensor in model.graph.nodes[1].inputs] == ["a", "b"]
        assert twin.find("w")._values is model.find("w")._values

    def test_array_is_read_only_and_keeps_nothing(self):
        model = Model.read(parse(CHAIN))
        weight = model.find("w")
        values = model.array(weight)
        assert not values.flags.writeable
        assert not isinstance(weight._values, np.ndarray)

    def test_a_deferred_value_of_another_shape_is_refused(self):
        with pytest.raises(ModelError, match=r"computed as float32\[2\], announced as float32\[3\]"):
            load_array(deferred("d", (3,), TensorProto.FLOAT, lambda: np.zeros(2, np.float32)))

    def test_nodes_are_those_of_onnx_graphsurgeon(self):
        assert isinstance(Model.read(parse(CHAIN)).graph, gs.Graph)


class TestOpset:
    def test_conversion_keeps_documentation_weights_and_results(self):
        proto = parse(CHAIN)
        proto.metadata_props.add(key="author", value="someone")
        for node, name in zip(proto.graph.node, ("mm", "add"), strict=True):
            node.name, node.doc_string = name, f"doc of {name}"
        big = np.eye(40, dtype=np.float32) * 3
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(big, "w"))
        proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 40
        proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 40
        model = Model.read(proto)
        result = model.with_opset(21)
        assert (model.opset, result.opset) == (17, 21)
        written = result.to_proto()
        assert [node.doc_string for node in written.graph.node] == ["doc of mm", "doc of add"]
        assert written.metadata_props == proto.metadata_props
        assert [value.name for value in written.graph.input] == ["x"]
        x = np.ones((2, 40), np.float32)
        assert np.array_equal(run(written, x=x)[0], run(proto, x=x)[0])

    def test_an_operator_that_changed_is_converted(self):
        proto = parse(SMALL.replace("OP", "ReduceSum <axes = [0]> (x)"))
        result = Model.read(proto).with_opset(17).to_proto()
        assert run(result, x=np.ones((2, 3), np.float32))[0].tolist() == [[2, 2, 2]]

    def test_what_onnx_cannot_convert_is_one_line(self):
        proto = parse(SMALL.replace("OP", "Upsample (x, s)"))
        proto.opset_import[0].version = 9
        proto.graph.initializer.append(numpy_helper.from_array(np.float32([1, 1]), "s"))
        proto.graph.node[0].op_type = "NoSuchOperator"
        with pytest.raises(ModelError, match="cannot be converted to opset 17") as caught:
            Model.read(proto).with_opset(17)
        assert "\n" not in str(caught.value)

    def test_bodies_survive(self):
        model = Model.read(parse(CONTROL)).with_opset(21)
        model.sort()
        feeds = {"c": np.array(True), "x": np.float32([1, -1, 1, -1])}
        assert run(model.to_proto(), **feeds)[0].tolist() == [2, 2, 4, 4]

    def test_an_old_file_gets_the_format_of_its_new_opset(self):
        proto = parse(CHAIN)
        proto.ir_version = 3
        for tensor in proto.graph.initializer:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        result = Model.read(proto).with_opset(21).to_proto()
        assert (result.ir_version, [value.name for value in result.graph.input]) == (10, ["x"])

    def test_the_opset_is_never_lowered(self):
        assert Model.read(parse(CHAIN)).with_opset(13).opset == 17

    def test_files_are_written_for_the_installed_runtime(self):
        proto = parse(CHAIN)
        proto.ir_version = onnx.IR_VERSION
        run(Model.read(proto).to_proto(), x=np.ones((1, 4), np.float32))
