"""Linting: each fault planted in an otherwise good file is found, and good files have no findings."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from branches import written
from models import parse
from onnx import NodeProto, TensorProto, helper, numpy_helper

from quantonnx import demo
from quantonnx.formats import TensorFormat
from quantonnx.linting import Severity, lint
from quantonnx.pipeline import quantize

NETWORK = """
network (float[1,3,8,8] image) => (float[1,16] normal)
<float[16,3,3,3] outer, float[16] offset, float[16,16,1,1] middle, float[16,16] matrix, float[16] bias,
 float[16] gain, float[16] shift> {
    first = Conv <pads: ints = [1, 1, 1, 1]> (image, outer, offset)
    positive = Relu (first)
    inner = Conv (positive, middle)
    total = Add (inner, positive)
    tail = Relu (total)
    pooled = GlobalAveragePool (tail)
    flat = Flatten (pooled)
    product = MatMul (flat, matrix)
    scores = Add (product, bias)
    normal = LayerNormalization (scores, gain, shift)
}
"""
TARGETS = ("tensorrt", "onnxruntime", "openvino")


@cache
def _good(target: str, opset: int) -> bytes:
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    return quantize(parse(NETWORK, opset=opset), feeds, target=target).to_onnx().SerializeToString()


class File:
    """A good quantized file, to plant faults in."""

    def __init__(self, target: str, opset: int = 17) -> None:
        self.proto = onnx.ModelProto.FromString(_good(target, opset))
        self.graph = self.proto.graph

    def node(self, op: str, value: str = "") -> NodeProto:
        """The node of an operator that gives a value, or whose first input is called so."""
        found = (n for n in self.graph.node if n.op_type == op)
        return next(n for n in found if not value or value in (n.output[0], n.input[0]) or n.name.startswith(value))

    def get(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(next(t for t in self.graph.initializer if t.name == name))

    def put(self, name: str, values: object) -> str:
        """Gives a constant other values, or adds it."""
        for tensor in [t for t in self.graph.initializer if t.name == name]:
            self.graph.initializer.remove(tensor)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def pair(self, tensor: str) -> tuple[NodeProto, NodeProto]:
        return self.node("QuantizeLinear", tensor), self.node("DequantizeLinear", f"{tensor}_DequantizeLinear")

    def numbers(self, tensor: str, scale: object = None, zero: object = None, *, sides: int = 2) -> None:
        """Gives one or both sides of a pair a new scale or zero point."""
        for node in self.pair(tensor)[2 - sides :]:
            if scale is not None:
                node.input[1] = self.put(f"{tensor}_new_scale", scale)
            if zero is not None:
                node.input[2] = self.put(f"{tensor}_new_zero", zero)

    def add_pair(self, tensor: str, reader: NodeProto, scale: float = 0.05, zero: object = None) -> None:
        """Puts a pair between a value and one of its readers."""
        zero = np.int8(0) if zero is None else zero
        inputs = [self.put(f"{tensor}_s", np.float32(scale)), self.put(f"{tensor}_z", zero)]
        index = list(reader.input).index(tensor)
        position = list(self.graph.node).index(reader)
        reader.input[index] = f"{tensor}_dequantized"
        quantize_node = helper.make_node("QuantizeLinear", [tensor, *inputs], [f"{tensor}_codes"], f"{tensor}_Q")
        dequantize = helper.make_node(
            "DequantizeLinear", [f"{tensor}_codes", *inputs], [reader.input[index]], f"{tensor}_D"
        )
        self.graph.node.insert(position, dequantize)
        self.graph.node.insert(position, quantize_node)

    def take_out(self, tensor: str) -> None:
        """Lets the readers of a pair read the float value."""
        first, last = self.pair(tensor)
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                if name == last.output[0]:
                    node.input[index] = first.input[0]
        self.graph.node.remove(first)
        self.graph.node.remove(last)

    def to_float(self, weight: str) -> None:
        """Gives an operator its float weight back."""
        node = self.node("DequantizeLinear", f"{weight}_quantized")
        self.put(node.output[0], self.get(node.input[0]).astype(np.float32))
        self.graph.node.remove(node)


def rules_in(file: File, target: str) -> list[str]:
    return sorted({finding.rule for finding in lint(file.proto, target)})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("opset", [17, 21])
def test_own_files_have_no_findings(target: str, opset: int) -> None:
    assert lint(_good(target, opset), target) == []


@pytest.mark.parametrize("target", TARGETS)
def test_the_demo_has_no_findings(target: str) -> None:
    made = quantize(demo.model_path(), demo.calibration_path(), target=target)
    assert lint(made.to_onnx(), target) == []


Plant = Callable[[File], None]
FAULTS: list[tuple[str, str, int, Plant]] = []


def fault(rule: str, target: str, opset: int = 17) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        FAULTS.append((rule, target, opset, plant))
        return plant

    return add


@fault("orphan-quantize", "tensorrt")
def quantize_without_end(file: File) -> None:
    numbers = [file.put("s", np.float32(0.1)), file.put("z", np.int8(0))]
    file.graph.node.append(helper.make_node("QuantizeLinear", ["scores", *numbers], ["codes"], "open"))


@fault("orphan-dequantize", "tensorrt")
def dequantize_without_beginning(file: File) -> None:
    file.graph.node.extend(
        [
            helper.make_node("Cast", ["scores"], ["codes"], to=TensorProto.INT8),
            helper.make_node("DequantizeLinear", ["codes", file.put("s", np.float32(0.1))], ["open"], "open"),
        ]
    )


@fault("duplicate-pair", "tensorrt")
def one_pair_for_each_reader(file: File) -> None:
    first, last = file.pair("positive")
    scale, zero = first.input[1:]
    add = next(n for n in file.graph.node if n.op_type == "Add" and last.output[0] in n.input)
    add.input[list(add.input).index(last.output[0])] = "twin"
    position = list(file.graph.node).index(add)
    file.graph.node.insert(position, helper.make_node("DequantizeLinear", ["codes", scale, zero], ["twin"], "twin_D"))
    file.graph.node.insert(position, helper.make_node("QuantizeLinear", ["positive", scale, zero], ["codes"], "twin_Q"))


@fault("double-quantization", "tensorrt")
def quantized_twice(file: File) -> None:
    first, last = file.pair("image")
    conv = file.node("Conv", "first")
    file.add_pair(last.output[0], conv, float(file.get(first.input[1])))


@fault("requantization", "tensorrt")
def quantized_twice_with_other_numbers(file: File) -> None:
    _, last = file.pair("image")
    file.add_pair(last.output[0], file.node("Conv", "first"), 0.9)


def test_a_row_of_pairs_that_saturates_at_fewer_bits_is_no_fault() -> None:
    graph = "agraph (float[2,16] x) => (float[2,16] y0) <float[16,16] w0> { y0 = MatMul(x, w0) }"
    row = TensorFormat(4, signed=False, symmetric=False)
    model = written(parse(graph), [TensorFormat(axis=1)], [row], outputs=True)
    assert [node.op for node in model.graph.nodes].count("QuantizeLinear") == 6
    assert not lint(model.to_proto(), "onnxruntime")


@fault("scale-computed", "tensorrt")
def computed_scale(file: File) -> None:
    for node in file.pair("image"):
        node.input[1] = "computed"
    file.put("one", np.float32(0.05))
    file.graph.node.insert(0, helper.make_node("Neg", ["one"], ["computed"]))


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.inf])
def test_a_scale_that_is_no_positive_number_is_found(scale: float) -> None:
    file = File("tensorrt")
    file.numbers("image", np.float32(scale))
    findings = lint(file.proto, "tensorrt")
    assert {f.rule for f in findings} == {"scale-invalid"}
    assert findings[0].severity is Severity.ERROR


@fault("scale-denormal", "tensorrt")
def denormal_scale(file: File) -> None:
    file.numbers("image", np.float32(1e-40))


@fault("zero-point-count", "tensorrt")
def fewer_zero_points(file: File) -> None:
    node = file.node("DequantizeLinear", "middle_quantized")
    node.input[2] = file.put("few", np.zeros(3, np.int8))


@fault("scale-count", "tensorrt")
def fewer_scales(file: File) -> None:
    node = file.node("DequantizeLinear", "middle_quantized")
    node.input[1], node.input[2] = file.put("few", np.ones(15, np.float32)), file.put("zeros", np.zeros(15, np.int8))


@fault("activation-per-channel", "tensorrt")
def activation_per_channel(file: File) -> None:
    file.numbers("image", np.full(3, 0.02, np.float32), np.zeros(3, np.int8))


@fault("wrong-axis", "tensorrt")
@fault("wrong-axis", "openvino")
def convolution_along_its_inputs(file: File) -> None:
    file.node("DequantizeLinear", "middle_quantized").attribute[0].i = 1


@fault("wrong-axis", "onnxruntime")
@fault("wrong-axis", "tensorrt")
def product_along_its_inputs(file: File) -> None:
    file.node("DequantizeLinear", "matrix_quantized").attribute[0].i = 0


@fault("zero-point-refused", "tensorrt")
def shifted_codes(file: File) -> None:
    file.numbers("image", zero=np.int8(3))


@fault("unsigned-refused", "tensorrt")
def unsigned_codes(file: File) -> None:
    file.numbers("image", zero=np.uint8(0))


@fault("type-refused", "tensorrt", 21)
@fault("type-refused", "openvino", 21)
def sixteen_bits_refused(file: File) -> None:
    file.numbers("image", zero=np.int16(0))


@fault("runs-as-float", "onnxruntime", 21)
def sixteen_bits_in_float(file: File) -> None:
    file.numbers("image", zero=np.uint16(0))


@fault("opset-too-old", "tensorrt")
def scales_per_channel_before_opset_13(file: File) -> None:
    file.proto.opset_import[0].version = 12


@fault("bias-refused", "tensorrt")
def integer_bias(file: File) -> None:
    conv = file.node("Conv", "first")
    codes, scale = file.put("codes", np.zeros(16, np.int32)), file.put("bias_scale", np.ones(16, np.float32))
    file.graph.node.insert(0, helper.make_node("DequantizeLinear", [codes, scale], ["float_bias"], axis=0))
    conv.input[2] = "float_bias"


@fault("bias-scale", "onnxruntime")
def bias_with_another_scale(file: File) -> None:
    node = file.node("DequantizeLinear", "offset_quantized")
    node.input[1] = file.put("other", 2 * file.get(node.input[1]))


@fault("bias-bits", "onnxruntime")
def bias_of_eight_bits(file: File) -> None:
    node = file.node("DequantizeLinear", "offset_quantized")
    node.input[0] = file.put("codes", file.get(node.input[0]).astype(np.int8))
    node.input[2] = file.put("zeros", np.zeros(16, np.int8))


@fault("sides-differ", "tensorrt")
def another_scale_at_the_end(file: File) -> None:
    file.numbers("image", np.float32(0.7), sides=1)


@fault("weight-per-tensor", "tensorrt")
def one_scale_for_a_weight(file: File) -> None:
    node = file.node("DequantizeLinear", "middle_quantized")
    node.input[1], node.input[2] = file.put("one", np.float32(0.01)), file.put("zero", np.int8(0))


@fault("weight-format", "openvino")
def unsigned_weight(file: File) -> None:
    node = file.node("DequantizeLinear", "middle_quantized")
    node.input[0] = file.put("codes", (file.get(node.input[0]).astype(np.int16) + 128).astype(np.uint8))
    node.input[2] = file.put("middle_zero", np.full(16, 128, np.uint8))


def four_bits(file: File, weight: str) -> None:
    node = file.node("DequantizeLinear", f"{weight}_quantized")
    codes = np.clip(file.get(node.input[0]) // 16, -8, 7)
    tensor = helper.make_tensor("four", TensorProto.INT4, codes.shape, codes.reshape(-1).tolist())
    file.graph.initializer.extend([tensor, helper.make_tensor("zeros", TensorProto.INT4, [16], [0] * 16)])
    node.input[0], node.input[2] = "four", "zeros"


@fault("runs-as-float", "onnxruntime", 21)
@fault("runs-as-float", "openvino", 21)
def weight_of_four_bits(file: File) -> None:
    four_bits(file, "middle")


@fault("weight-float", "tensorrt")
@fault("weight-float", "openvino")
def float_weight(file: File) -> None:
    file.to_float("middle")


@fault("weight-only", "tensorrt")
@fault("weight-only", "openvino")
def float_input(file: File) -> None:
    file.take_out("image")


@fault("weight-saturated", "tensorrt")
def saturated_weight(file: File) -> None:
    codes = file.get("middle_quantized")
    file.put("middle_quantized", np.where(codes > 0, 127, -128).astype(np.int8))


@fault("weight-coarse", "tensorrt")
def coarse_weight(file: File) -> None:
    file.put("middle_quantized", np.clip(file.get("middle_quantized"), -2, 2))


@fault("pair-inside-group", "tensorrt")
@fault("pair-inside-group", "openvino")
def pair_between_convolution_and_relu(file: File) -> None:
    file.add_pair("first", file.node("Relu", "positive"))


@fault("pair-on-residual-branch", "tensorrt")
@fault("pair-on-residual-branch", "openvino")
def pair_on_the_convolution_branch(file: File) -> None:
    file.add_pair("inner", file.node("Add", "total"))


@fault("output-without-pair", "onnxruntime")
def open_output(file: File) -> None:
    file.take_out("inner")


@fault("range-not-implied", "onnxruntime")
def range_that_does_not_imply_the_relu(file: File) -> None:
    file.numbers("tail", zero=np.uint8(20))


@fault("scale-changes", "onnxruntime")
def scale_changes_at_flatten(file: File) -> None:
    file.numbers("flat", np.float32(0.5))


@fault("signed-activations", "onnxruntime")
def signed_codes(file: File) -> None:
    file.numbers("image", zero=np.int8(0))


@fault("sensitive-operator", "tensorrt")
@fault("sensitive-operator", "onnxruntime")
def quantized_normalization(file: File) -> None:
    file.add_pair("scores", file.node("LayerNormalization"), zero=np.uint8(0) if has_unsigned(file) else np.int8(0))


@fault("integer-operator", "tensorrt")
def operator_on_codes(file: File) -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["scores"], ["codes", "scale", "zero"])
    file.graph.node.append(node)


@fault("foreign-pair", "tensorrt")
def pair_of_another_domain(file: File) -> None:
    file.proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for node in file.pair("image"):
        node.domain = "com.microsoft"


def has_unsigned(file: File) -> bool:
    return any(t.data_type == TensorProto.UINT8 for t in file.graph.initializer)


@pytest.mark.parametrize(
    ("rule", "target", "opset", "plant"), FAULTS, ids=[f"{r}-{t}-{p.__name__}" for r, t, _, p in FAULTS]
)
def test_a_planted_fault_is_found_and_nothing_else(rule: str, target: str, opset: int, plant: Plant) -> None:
    file = File(target, opset)
    plant(file)
    assert rules_in(file, target) == [rule]


def test_there_are_many_kinds() -> None:
    assert len({rule for rule, *_ in FAULTS}) >= 30


def test_a_float_model_is_no_quantized_file() -> None:
    (found,) = lint(parse(NETWORK), "tensorrt")
    assert (found.rule, found.severity) == ("no-pairs", Severity.ERROR)


def test_every_finding_says_where_why_and_what_to_do() -> None:
    for finding in lint(_good("onnxruntime", 17), "tensorrt"):
        assert finding.place
        assert finding.reason
        assert finding.remedy


def test_errors_come_first() -> None:
    severities = [finding.severity.value for finding in lint(_good("onnxruntime", 17), "tensorrt")]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert len(set(severities)) > 1


def test_sixteen_bits_need_opset_21() -> None:
    file = File("onnxruntime")
    file.numbers("image", zero=np.uint16(0))
    assert "opset-too-old" in rules_in(file, "onnxruntime")


@pytest.mark.parametrize(("block", "expected"), [(32, ["block-size"]), (64, [])])
def test_weights_of_four_bits_alone_come_in_blocks(block: int, expected: list[str]) -> None:
    proto = parse("m (float[2,128] x) => (float[2,16] y) <float[128,16] w> { y = MatMul(x, w) }", opset=21)
    shape = [128 // block, 16]
    proto.graph.initializer.append(helper.make_tensor("codes", TensorProto.INT4, [128, 16], [1, -7] * 1024))
    proto.graph.initializer.append(numpy_helper.from_array(np.full(shape, 0.1, np.float32), "scale"))
    proto.graph.node[0].input[1] = "weight"
    node = helper.make_node("DequantizeLinear", ["codes", "scale"], ["weight"], axis=0, block_size=block)
    proto.graph.node.insert(0, node)
    assert [finding.rule for finding in lint(proto, "tensorrt")] == expected
    assert lint(proto, "onnxruntime") == []


SMALL = "<float s = {0.02}, float t = {0.5}, int8 z = {0}, int8[16,16,1,1] w, float[16] sw, int8[16] zw"


def paired(*tensors: str, scale: str = "s") -> str:
    return "".join(
        f"{t}q = QuantizeLinear({t}, {scale}, z) {t}d = DequantizeLinear({t}q, {scale}, z) " for t in tensors
    )


@pytest.mark.parametrize(("second", "expected"), [("s", []), ("t", ["concat-scales"])])
def test_branches_of_a_concat_share_a_scale_where_the_target_wants_it(second: str, expected: list[str]) -> None:
    proto = parse(
        f"""m (float[1,8,4,4] a, float[1,8,4,4] b) => (float[1,16,4,4] y) {SMALL}> {{
        {paired("a")} {paired("b", scale=second)}
        c = Concat<axis=1>(ad, bd)
        f = DequantizeLinear<axis=0>(w, sw, zw)
        y = Conv(c, f) }}"""
    )
    spread_weight(proto)
    assert [finding.rule for finding in lint(proto, "tensorrt")] == expected


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [("x", "input-pair"), ("n", "useless-pair")],
)
def test_a_pair_that_nothing_gains_from_is_found(tensor: str, expected: str) -> None:
    reader = {"x": "n = Neg(xd) y = Sin(n)", "n": f"n = Neg(x) {paired('n')} y = Sin(nd)"}[tensor]
    before = paired("x") if tensor == "x" else ""
    proto = parse(f"m (float[1,8] x) => (float[1,8] y) <float s = {{0.02}}, int8 z = {{0}}> {{ {before} {reader} }}")
    assert [finding.rule for finding in lint(proto, "tensorrt")] == [expected]


def test_a_pair_through_operators_that_move_codes_serves_what_is_behind_them() -> None:
    proto = parse(
        f"""m (float[1,4,4,16] x) => (float[1,16,4,4] y) {SMALL}> {{
        {paired("x")}
        m = Transpose<perm=[0,3,1,2]>(xd)
        f = DequantizeLinear<axis=0>(w, sw, zw)
        y = Conv(m, f) }}"""
    )
    spread_weight(proto)
    assert lint(proto, "tensorrt") == []


def test_the_axis_of_a_weight_counts_behind_its_transpose() -> None:
    proto = parse(
        """m (float[2,16] x) => (float[2,16] y) <float s = {0.02}, int8 z = {0}, int8[16,16] w, float[16] sw> {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        f = DequantizeLinear<axis=0>(w, sw)
        t = Transpose<perm=[1,0]>(f)
        y = MatMul(d, t) }"""
    )
    spread_weight(proto)
    assert lint(proto, "tensorrt") == []
    proto.graph.node[2].attribute[0].i = 1
    assert [finding.rule for finding in lint(proto, "tensorrt")] == ["wrong-axis"]


def spread_weight(proto: onnx.ModelProto) -> None:
    """Gives the weight codes over the whole range, and scales above 0."""
    rng = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(rng.integers(-100, 100, tensor.dims).astype(np.int8), "w"))
        elif tensor.name == "sw":
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, 0.01, np.float32), "sw"))
        elif tensor.name == "zw":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, np.int8), "zw"))


def test_a_target_of_the_user_s_own_lints_too(tmp_path: Path) -> None:
    path = tmp_path / "npu.py"
    path.write_text(
        """
from quantonnx import INPUT, WEIGHT, BiasKind, Pattern, Target, TensorFormat, const, op, tensor

class ConvRelu(Pattern):
    x, w, b = tensor(), const(), const(optional=True)
    output = op.Relu(op.Conv(x, w, b))
    qdq_points = (INPUT(x), WEIGHT(w, axis=0))

target = Target(
    name="npu", description="", conversions=(), patterns=(ConvRelu,), activation=TensorFormat(), bias=BiasKind.FLOAT,
    weight=TensorFormat(axis=0), refuses=lambda asked: None if asked.format.signed else "it is signed",
)
"""
    )
    file = File("tensorrt")
    file.add_pair("first", file.node("Relu", "positive"))
    file.numbers("image", zero=np.uint8(0))
    assert {"pair-inside-group", "unsigned-refused"} <= {finding.rule for finding in lint(file.proto, path)}


class _Reader:
    """Calibration data as quantize_static wants it."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [{"image": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(3)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_file_of_quantize_static_has_pairs_between_conv_and_relu_for_tensorrt(
    symmetric: bool, tmp_path: Path
) -> None:
    from onnxruntime.quantization import quantize_static

    source, made = tmp_path / "float.onnx", tmp_path / "static.onnx"
    source.write_bytes(parse(NETWORK).SerializeToString())
    quantize_static(str(source), str(made), _Reader(), extra_options={"ActivationSymmetric": symmetric})
    between = [f for f in lint(made, "tensorrt") if f.rule == "pair-inside-group" and "Conv" in f.reason]
    assert between
    assert all("Relu" in finding.reason for finding in between)
