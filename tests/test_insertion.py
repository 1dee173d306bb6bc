"""The written pairs: what stands in the graph, and that the numbers in it are right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from branches import written
from models import Feeds, feeds_of, parse, run
from onnx import TensorProto

from quantonnx.config import FixedRange, QuantConfig, TensorQuantConfig
from quantonnx.errors import CalibrationError, ConfigError
from quantonnx.formats import Rounding, ScaleType, Storage, TensorFormat
from quantonnx.inspecting import inspect
from quantonnx.pipeline import quantize
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import transform

BLOCK = (
    "agraph (float[2,16,6,6] x) => (float[2,16,6,6] y) <float[16,16,3,3] w1, float[16,16,3,3] w2, float[16] b1, "
    "float[16] b2, float[16] gamma, float[16] beta, float[16] mean, float[16] variance> { "
    "c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) n1 = BatchNormalization(c1, gamma, beta, mean, variance) r1 = Relu(n1) "
    "c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2) s = Add(c2, x) y = Relu(s) }"
)
NET = (
    "agraph (float[2,16,6,6] x) => (float[2,32] y) <float[16,16,1,1] w, float[16,16,1,1] u, float[16,32] v, float[16] b, "
    "float[32] d> { c = Conv(x, w, b) r = Relu(c) m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) e = Conv(m, u) "
    "p = GlobalAveragePool(e) f = Flatten(p) y = Gemm(f, v, d) }"
)
TARGETS = ("tensorrt", "onnxruntime")


def samples(proto: onnx.ModelProto, count: int = 3) -> list[Feeds]:
    return [feeds_of(proto, seed=seed) for seed in range(count)]


def quantized(graph: str, target: str, *, opset: int = 17, **config: object) -> QuantizedModel:
    proto = parse(graph, opset=opset)
    return quantize(proto, samples(proto), target=target, config=QuantConfig(**config))


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: onnx.numpy_helper.to_array(item) for item in proto.graph.initializer}


def givers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in proto.graph.node for output in node.output}


def dequantized(proto: onnx.ModelProto, node: onnx.NodeProto) -> np.ndarray:
    """Returns the real values of a constant behind a DequantizeLinear."""
    codes, scale, zero = (constants(proto)[name] for name in node.input)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    shape = [-1 if i == axis and scale.ndim else 1 for i in range(codes.ndim)]
    return (codes.astype(np.int64) - zero.reshape(shape if scale.ndim else ())) * scale.reshape(
        shape if scale.ndim else ()
    )


# ------------------------------------------------------------------------------------ the whole


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("graph", [BLOCK, NET], ids=["block", "net"])
def test_the_result_is_valid_runs_and_is_near_float(graph: str, target: str) -> None:
    proto = parse(graph)
    result = quantize(proto, samples(proto), target=target).to_onnx()
    onnx.checker.check_model(result, full_check=True)
    feeds = feeds_of(proto, seed=0)
    expected, found = run(proto, feeds)["y"], run(result, feeds)["y"]
    noise = np.square(expected - found).mean()
    assert 10 * np.log10(np.square(expected).mean() / noise) > 25


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_input_gives_the_same_bytes(target: str) -> None:
    assert quantized(NET, target).to_model().to_bytes() == quantized(NET, target).to_model().to_bytes()


def test_a_model_without_numbers_cannot_be_written() -> None:
    fused = transform(parse(BLOCK))
    with pytest.raises(CalibrationError, match="is not calibrated; call quantonnx.calibrate"):
        insert_qdq(fused.model, fused.matches).to_onnx()


def test_writing_changes_nothing_that_was_there() -> None:
    done = quantized(BLOCK, "onnxruntime")
    before = done.model.to_bytes()
    first, second = done.to_model().to_bytes(), done.to_model().to_bytes()
    assert done.model.to_bytes() == before
    assert first == second


# ------------------------------------------------------------------------------------ activations


def test_tensorrt_has_zero_points_of_zero_and_nothing_inside_a_group() -> None:
    result = quantized(BLOCK, "tensorrt").to_onnx()
    zero_points = [values for name, values in constants(result).items() if name.endswith("zero_point")]
    assert zero_points
    assert not any(values.any() for values in zero_points)
    by_output = givers(result)
    assert by_output["r1"].op_type == "Relu"
    (add,) = [node for node in result.graph.node if node.op_type == "Add"]
    assert [by_output[name].op_type for name in add.input] == ["Conv", "DequantizeLinear"]
    assert [node.op_type for node in result.graph.node].count("QuantizeLinear") == 2


def test_conv_and_skip_read_one_pair() -> None:
    result = quantized(BLOCK, "tensorrt").to_onnx()
    reads = [node for node in result.graph.node if "x" in node.input]
    assert [node.op_type for node in reads] == ["QuantizeLinear"]


def test_a_quantized_output_of_the_graph_keeps_its_name() -> None:
    result = quantized(BLOCK, "onnxruntime").to_onnx()
    assert [output.name for output in result.graph.output] == ["y"]
    pair = givers(result)["y"]
    assert pair.op_type == "DequantizeLinear"
    quantizer = givers(result)[pair.input[0]]
    assert givers(result)[quantizer.input[0]].op_type == "Relu"


def test_a_graph_output_that_other_nodes_read_keeps_its_name_too() -> None:
    graph = BLOCK.replace("(float[2,16,6,6] y)", "(float[2,16,6,6] y, float[2,16,6,6] r1)")
    result = quantized(graph, "onnxruntime").to_onnx()
    onnx.checker.check_model(result, full_check=True)
    assert [output.name for output in result.graph.output] == ["y", "r1"]
    assert givers(result)["r1"].op_type == "DequantizeLinear"
    assert sum("r1" in node.input for node in result.graph.node) == 1  # the second Conv


def test_a_value_that_a_body_reads_keeps_its_name() -> None:
    graph = (
        "agraph (float[1,4,6,6] x, bool k) => (float[1,4,6,6] y) <float[4,4,1,1] w> { c = Conv(x, w) r = Relu(c) "
        "y = If(k) <then_branch = t () => (float[1,4,6,6] p) { p = Neg(r) }, "
        "else_branch = e () => (float[1,4,6,6] q) { q = Abs(r) }> }"
    )
    result = quantized(graph, "onnxruntime").to_onnx()
    assert givers(result)["r"].op_type == "DequantizeLinear"
    run(result, feeds_of(parse(graph)))


def test_maxpool_has_the_same_numbers_on_both_sides() -> None:
    stored = constants(quantized(NET, "onnxruntime").to_onnx())
    assert stored["m_scale"] == stored["r_scale"]
    assert stored["m_zero_point"] == stored["r_zero_point"]


def test_a_shape_is_read_off_the_codes() -> None:
    """Through the pair it would cost a conversion of the whole value, before it it would undo the fusion with Conv."""
    graph = (
        "agraph (float[N,64,H,W] x) => (float[N,C,H,W] y, float[D] d) <float[64,64,3,3] w> "
        "{ c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) s = Shape(y) d = Cast<to=1>(s) }"
    )
    proto = quantized(graph, "onnxruntime").to_onnx()
    (shape,) = (node for node in proto.graph.node if node.op_type == "Shape")
    assert givers(proto)[shape.input[0]].op_type == "QuantizeLinear"
    feeds = feeds_of(proto)
    assert run(proto, feeds)["d"].tolist() == list(feeds["x"].shape)


def test_a_fixed_range_is_written_as_it_is() -> None:
    done = quantized(BLOCK, "onnxruntime", fixed={"r1": FixedRange(scale=0.125, zero_point=3)})
    stored = constants(done.to_onnx())
    assert stored["r1_scale"] == np.float32(0.125)
    assert stored["r1_zero_point"] == 3


@pytest.mark.parametrize(
    ("target", "zero_point", "message"),
    [("tensorrt", 1, "zero point 1.*symmetric"), ("onnxruntime", 256, "zero point 256.*codes are 0 to 255")],
)
def test_a_fixed_zero_point_that_the_format_has_not_is_refused(target: str, zero_point: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantized(BLOCK, target, fixed={"r1": FixedRange(scale=0.1, zero_point=zero_point)})


def test_sixteen_bits_raise_the_opset() -> None:
    result = quantized(BLOCK, "onnxruntime", activation=TensorQuantConfig(n_bits=16)).to_onnx()
    assert result.opset_import[0].version == 21
    assert constants(result)["r1_zero_point"].dtype == np.uint16
    run(result, feeds_of(parse(BLOCK)))


def test_an_old_opset_is_raised_for_scales_per_channel_only() -> None:
    graph = "agraph (float[1,16,6,6] x) => (float[1,16,6,6] y) <float[16,16,1,1] w> { y = Conv(x, w) }"
    assert quantized(graph, "tensorrt", opset=11).to_onnx().opset_import[0].version == 13
    per_tensor = quantized(graph, "tensorrt", opset=11, weight=TensorQuantConfig(per_channel=False))
    assert per_tensor.to_onnx().opset_import[0].version == 11
    assert quantized(graph, "tensorrt", opset=17).to_onnx().opset_import[0].version == 17


# ------------------------------------------------------------------------------------ weights


def test_weights_are_codes_per_channel_within_half_a_step() -> None:
    done = quantized(BLOCK, "tensorrt")
    result = done.to_onnx()
    (conv, _) = [node for node in result.graph.node if node.op_type == "Conv"]
    dequantize = givers(result)[conv.input[1]]
    scale = constants(result)[dequantize.input[1]]
    assert scale.shape == (16,)
    assert constants(result)[dequantize.input[0]].dtype == np.int8
    weight = done.model.array(done.model.find("n1_weight"))  # type: ignore[arg-type]
    error = np.abs(dequantized(result, dequantize) - weight)
    assert np.all(
        error <= scale.reshape(-1, 1, 1, 1) * 1.001
    )  # the largest code of a full range saturates by half a step
    assert "n1_weight" not in constants(result)


def test_weights_can_stay_float_with_a_pair() -> None:
    result = quantized(BLOCK, "tensorrt", weight_storage="float").to_onnx()
    assert "n1_weight" in constants(result)
    feeds = feeds_of(parse(BLOCK))
    integer = run(quantized(BLOCK, "tensorrt").to_onnx(), feeds)["y"]
    np.testing.assert_allclose(run(result, feeds)["y"], integer, atol=1e-5)


def test_a_shared_weight_is_stored_once() -> None:
    graph = "agraph (float[1,16,6,6] x) => (float[1,16,6,6] y) <float[16,16,1,1] w> { a = Conv(x, w) r = Relu(a) y = Conv(r, w) }"
    for target in TARGETS:
        result = quantized(graph, target).to_onnx()
        convs = [node for node in result.graph.node if node.op_type == "Conv"]
        assert len({conv.input[1] for conv in convs}) == 1
        assert [name for name in constants(result) if name.startswith("w")] == [
            "w_quantized",
            "w_scale",
            "w_zero_point",
        ]


def test_a_weight_that_another_operator_reads_stays_for_it() -> None:
    graph = "agraph (float[1,16,6,6] x) => (float[1,16,6,6] y, float[16,16,1,1] z) <float[16,16,1,1] w> { y = Conv(x, w) z = Neg(w) }"
    result = quantized(graph, "tensorrt").to_onnx()
    assert {"w", "w_quantized"} <= set(constants(result))


@pytest.mark.parametrize(("n_bits", "highest"), [(8, 127), (4, 7), (2, 1)])
def test_fewer_bits_use_fewer_codes(n_bits: int, highest: int) -> None:
    result = quantized(BLOCK, "tensorrt", weight=TensorQuantConfig(n_bits=n_bits)).to_onnx()
    codes = [values for name, values in constants(result).items() if name.endswith("_quantized")]
    assert {int(values.max()) for values in codes} == {highest}
    assert all(values.min() >= -highest - 1 for values in codes)


# ------------------------------------------------------------------------------------ biases


def bias_of(result: onnx.ModelProto, index: int = 0) -> onnx.NodeProto:
    conv = [node for node in result.graph.node if node.op_type in ("Conv", "Gemm")][index]
    return givers(result)[conv.input[2]]


def test_a_bias_is_int32_with_the_product_of_the_scales() -> None:
    done = quantized(BLOCK, "onnxruntime")
    result = done.to_onnx()
    stored = constants(result)
    codes, scale, zero = (stored[name] for name in bias_of(result, 1).input)
    assert (codes.dtype, zero.dtype, zero.any()) == (np.int32, np.int32, False)
    np.testing.assert_array_equal(scale, stored["r1_scale"] * stored["w2_scale"])
    bias = done.model.array(done.model.find("b2"))  # type: ignore[arg-type]
    assert np.all(np.abs(dequantized(result, bias_of(result, 1)) - bias) <= scale / 2 * 1.001)


def test_the_bias_of_the_classifier_takes_the_scale_before_the_flatten() -> None:
    result = quantized(NET, "onnxruntime").to_onnx()
    stored = constants(result)
    np.testing.assert_array_equal(stored[bias_of(result, -1).input[1]], stored["p_scale"] * stored["v_scale"])


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bias_that_would_overflow_widens_the_scale_of_its_channel(per_channel: bool) -> None:
    """A dead channel (no weight, a large bias) has a tiny scale, in which its bias is over 2³¹ steps."""
    proto = parse(
        "agraph (float[2,4,6,6] x) => (float[2,3,6,6] y) <float[3,4,1,1] w, float[3] b> { y = Conv(x, w, b) }"
    )
    for item in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(item).copy()
        values[1] = 0 if item.name == "w" else 5000.0
        if not per_channel and item.name == "w":
            values[:] = 0
        item.CopyFrom(onnx.numpy_helper.from_array(values, item.name))
    config = QuantConfig(weight=TensorQuantConfig(per_channel=per_channel))
    result = quantize(proto, samples(proto), target="onnxruntime", config=config).to_onnx()
    np.testing.assert_allclose(dequantized(result, bias_of(result))[1], 5000.0, rtol=1e-6)
    feeds = feeds_of(proto)
    expected, found = run(proto, feeds)["y"], run(result, feeds)["y"]
    assert np.abs(expected - found).max() < 5000 / 200
    if per_channel:
        scale = constants(result)["w_scale"]
        assert scale[1] > scale[0] * 1e-6
        np.testing.assert_allclose(
            dequantized(result, bias_of(result))[[0, 2]], constants(proto)["b"][[0, 2]], atol=1e-3
        )


def test_one_bias_of_two_convs_gets_a_scale_for_each() -> None:
    graph = (
        "agraph (float[2,4,6,6] x) => (float[2,4,6,6] y) <float[4,4,1,1] w, float[4,4,1,1] u, float[4] b> "
        "{ a = Conv(x, w, b) r = Relu(a) y = Conv(r, u, b) }"
    )
    result = quantized(graph, "onnxruntime").to_onnx()
    assert bias_of(result, 0).input[1] != bias_of(result, 1).input[1]
    for index in (0, 1):
        np.testing.assert_allclose(dequantized(result, bias_of(result, index)), constants(parse(graph))["b"], atol=1e-3)


def test_a_weight_and_bias_of_two_convs_that_read_different_values() -> None:
    graph = (
        "agraph (float[2,4,6,6] x) => (float[2,4,6,6] y) <float[4,4,1,1] w, float[4] b> "
        "{ a = Conv(x, w, b) r = Relu(a) y = Conv(r, w, b) }"
    )
    result = quantized(graph, "onnxruntime").to_onnx()
    stored = constants(result)
    scales = [stored[bias_of(result, index).input[1]] for index in (0, 1)]
    np.testing.assert_array_equal(scales[0], stored["x_scale"] * stored["w_scale"])
    np.testing.assert_array_equal(scales[1], stored["r_scale"] * stored["w_scale"])


def test_tensorrt_leaves_the_bias_in_float() -> None:
    result = quantized(BLOCK, "tensorrt").to_onnx()
    assert {"n1_bias", "b2"} <= set(constants(result))


def test_a_tied_weight_has_a_scale_for_each_of_its_axes() -> None:
    graph = (
        "agraph (float[4,16] x) => (float[4,16] y) <float[16,16] w, float[16] b> "
        "{ h = Gemm(x, w, b) r = Relu(h) y = Gemm<transB=1>(r, w, b) }"
    )
    done = quantized(graph, "onnxruntime")
    result = done.to_onnx()
    assert {site.format.axis for site in done.weight_sites} == {0, 1}
    gemms = [node for node in result.graph.node if node.op_type == "Gemm"]
    for gemm in gemms:
        x, weight, bias = (constants(result)[givers(result)[name].input[1]] for name in gemm.input)
        np.testing.assert_array_equal(bias, x * weight)
    assert len({gemm.input[1] for gemm in gemms}) == 2
    run(result, feeds_of(parse(graph)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["w", "b"])
def test_a_weight_or_bias_that_is_not_finite_is_named(name: str, value: float) -> None:
    proto = parse("agraph (float[2,16] x) => (float[2,16] y) <float[16,16] w, float[16] b> { y = Gemm(x, w, b) }")
    for item in proto.graph.initializer:
        if item.name == name:
            values = np.full(item.dims, value, np.float32)
            item.CopyFrom(onnx.numpy_helper.from_array(values, name))
    with pytest.raises(CalibrationError, match=f"{name!r} holds NaN or infinity"):
        quantize(proto, samples(proto), target="onnxruntime")


# ------------------------------------------------------------------------------------ formats in the file

GEMM = "agraph (float[4,40] x) => (float[4,6] y0) <float[40,6] w0, float[6] b> { y0 = Gemm(x, w0, b) }"
UINT8 = TensorFormat(signed=False, symmetric=False)
INT4 = TensorFormat(4, storage=Storage.NATIVE)


@pytest.mark.parametrize(
    ("weight", "activation", "contrib", "opset"),
    [
        (TensorFormat(), UINT8, False, 10),
        (TensorFormat(5, axis=1), UINT8, False, 13),
        (TensorFormat(float8=True, axis=1), None, False, 19),
        (TensorFormat(12), None, False, 21),
        (TensorFormat(12, axis=1), UINT8, True, 10),
        (INT4, None, False, 21),
        (INT4, UINT8, True, 10),
        (TensorFormat(4, axis=0, group_size=16), None, True, 21),
        (TensorFormat(4, axis=0, group_size=16, storage=Storage.NATIVE), None, True, 21),
        (TensorFormat(2, storage=Storage.NATIVE), None, True, 25),
        (TensorFormat(4), TensorFormat(4), False, 10),
        (TensorFormat(4), TensorFormat(9, signed=False), False, 21),
        (TensorFormat(4), TensorFormat(9, signed=False), True, 10),
    ],
)
@pytest.mark.parametrize("float_weights", [False, True])
def test_each_format_needs_its_opset_and_makes_a_valid_file(weight, activation, contrib, opset, float_weights):  # type: ignore[no-untyped-def]
    proto = parse(GEMM, opset=10)
    activations = None if activation is None else [activation]
    model = written(proto, [weight], activations, contrib=contrib, float_weights=float_weights)
    assert model.opset == opset
    result = model.to_proto()
    onnx.checker.check_model(result, full_check=True)
    assert run(result, feeds_of(proto))["y0"].shape == (4, 6)


def test_pairs_of_com_microsoft_stand_only_where_onnx_has_none() -> None:
    result = written(parse(GEMM), [TensorFormat(12, axis=1)], [UINT8], contrib=True).to_proto()
    assert {entry.domain: entry.version for entry in result.opset_import} == {"": 17, "com.microsoft": 1}
    domains = {(node.name.partition("_")[0], node.domain) for node in result.graph.node if "Linear" in node.op_type}
    assert domains == {("w0", "com.microsoft"), ("x", "")}


@pytest.mark.parametrize("external", [False, True])
def test_int4_codes_are_packed_in_groups(external: bool, tmp_path) -> None:  # type: ignore[no-untyped-def]
    fmt = TensorFormat(4, False, False, axis=0, group_size=16, storage=Storage.NATIVE)
    proto = parse(GEMM.replace("40,6", "4000,6").replace("4,40]", "4,4000]"))
    written(proto, [fmt]).save(tmp_path / "m.onnx", external_data=external)
    result = onnx.load(tmp_path / "m.onnx")
    stored = {item.name: item for item in result.graph.initializer}
    assert stored["w0_quantized"].data_type == stored["w0_zero_point"].data_type == TensorProto.UINT4
    assert len(stored["w0_quantized"].raw_data) == 4000 * 6 // 2
    assert dict(inspect(tmp_path / "m.onnx").bytes_by_type)["uint4"] == 4000 * 6 // 2 + 250 * 6 // 2
    assert list(stored["w0_scale"].dims) == list(stored["w0_zero_point"].dims) == [250, 6]
    (dequantize,) = (node for node in result.graph.node if node.op_type == "DequantizeLinear")
    assert {item.name: item.i for item in dequantize.attribute} == {"axis": 0, "block_size": 16}


def test_an_activation_under_8_bits_has_three_pairs_of_one_scale() -> None:
    """The first saturates below, the second, of the other signedness, above; the third has the format's own codes."""
    for fmt, expected in (
        (TensorFormat(4, False, False), [("uint8", 6), ("int8", 127 - 9), ("uint8", 6)]),
        (TensorFormat(4), [("int8", -128 + 8), ("uint8", 255 - 7), ("int8", 0)]),
        (TensorFormat(12), [("int16", -(2**15) + 2**11), ("uint16", 2**16 - 2**11), ("int16", 0)]),
        (TensorFormat(8), [("int8", 0)]),
        (TensorFormat(8, narrow_range=True), [("int8", 0)]),
    ):
        result = written(parse(GEMM), [TensorFormat()], [fmt]).to_proto()
        stored, found, value = constants(result), [], "x"
        while (node := next(n for n in result.graph.node if value in n.input)).op_type != "Gemm":
            if node.op_type == "QuantizeLinear":
                found.append((stored[node.input[2]].dtype.name, int(stored[node.input[2]])))
                assert stored[node.input[1]] == fmt.parameters(-1.3, 1.7).scale
            value = node.output[0]
        assert found == expected


@pytest.mark.parametrize(
    "fmt",
    [
        TensorFormat(4),
        TensorFormat(4, axis=0, group_size=16),
        TensorFormat(narrow_range=True, scale_type=ScaleType.POWER_OF_TWO),
        TensorFormat(rounding=Rounding.STOCHASTIC),
        TensorFormat(3, rounding=Rounding.FLOOR, axis=1),
    ],
    ids=str,
)
def test_float_weights_are_those_of_the_codes_where_quantize_linear_finds_others(fmt: TensorFormat) -> None:
    proto = parse(GEMM)
    integer, floating = written(proto, [fmt]), written(proto, [fmt], float_weights=True)
    assert "w0_rounded" in constants(floating.to_proto())
    np.testing.assert_array_equal(*(run(model, feeds_of(proto))["y0"] for model in (integer, floating)))


def test_float_weights_are_left_where_quantize_linear_finds_the_codes() -> None:
    for fmt in (TensorFormat(axis=1), TensorFormat(narrow_range=True), TensorFormat(float8=True), INT4):
        proto = parse(GEMM)
        assert "w0_rounded" not in constants(written(proto, [fmt], float_weights=True).to_proto())


def test_stochastic_codes_differ_between_tensors_and_not_between_runs() -> None:
    graph = (
        "agraph (float[4,40] x) => (float[4,6] y0, float[4,6] y1) <float[40,6] w0, float[40,6] w1> "
        "{ y0 = Gemm(x, w0) y1 = Gemm(x, w1) }"
    )
    proto = parse(graph)
    proto.graph.initializer[1].raw_data = proto.graph.initializer[0].raw_data
    fmt = TensorFormat(rounding=Rounding.STOCHASTIC)
    first, second = (written(proto, [fmt, fmt]).to_proto() for _ in range(2))
    assert first == second
    stored = constants(first)
    assert (stored["w0_quantized"] != stored["w1_quantized"]).any()
    assert np.abs(stored["w0_quantized"].astype(int) - stored["w1_quantized"]).max() == 1
