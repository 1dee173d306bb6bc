"""Models in float16: which targets take them, scales of their type, calibration, and files that run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from models import Feeds, feeds_of, operators, parse, read, run
from onnx import numpy_helper

from quantonnx.calibration.feeds import input_specs
from quantonnx.calibration.samples import open_samples
from quantonnx.config import FixedRange, QuantConfig
from quantonnx.element_types import ElementTypes
from quantonnx.errors import ConfigError, DataError
from quantonnx.explaining import Explainer
from quantonnx.formats import TensorFormat, dequantize
from quantonnx.formats import quantize as codes_of
from quantonnx.inspecting import find_pairs
from quantonnx.model import Model
from quantonnx.pipeline import quantize
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.recalibration import recalibrate
from quantonnx.rewriting import transform
from quantonnx.target import get_target
from quantonnx.verification import compare

TARGETS = ("tensorrt", "openvino")
BLOCK = (
    "agraph (float16[2,16,6,6] x) => (float16[2,16,6,6] y) <float16[16,16,3,3] w1, float16[16,16,3,3] w2, "
    "float16[16] b1, float16[16] b2, float16[16] gamma, float16[16] beta, float16[16] mean, float16[16] variance> { "
    "c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) n1 = BatchNormalization(c1, gamma, beta, mean, variance) r1 = Relu(n1) "
    "c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2) s = Add(c2, x) y = Relu(s) }"
)
MIXED = (
    "agraph (float[2,16] x) => (float[2,16] y) <float16[16,32] w1, float[32] scale, float[32] shift, "
    "float16[32,16] w2, float16[16] b2> { h = Cast<to=10>(x) m = MatMul(h, w1) f = Cast<to=1>(m) "
    "n = LayerNormalization(f, scale, shift) g = Cast<to=10>(n) z = MatMul(g, w2) a = Add(z, b2) y = Cast<to=1>(a) }"
)


def samples(proto: onnx.ModelProto, count: int = 3) -> list[Feeds]:
    return [feeds_of(proto, seed=seed) for seed in range(count)]


def done(graph: str, target: str, *, opset: int = 17, **config: object) -> QuantizedModel:
    proto = parse(graph, opset=opset)
    return quantize(proto, samples(proto), target=target, config=QuantConfig(**config))


def decibels(exact: np.ndarray, rough: np.ndarray) -> float:
    exact, rough = exact.astype(np.float64), rough.astype(np.float64)
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - rough).sum()))


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


# ------------------------------------------------------------------------------------ the whole


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("graph", [BLOCK, MIXED], ids=["all", "mixed"])
def test_the_result_is_valid_runs_and_is_near_the_float_model(graph: str, target: str) -> None:
    proto = parse(graph)
    result = quantize(proto, samples(proto), target=target).to_onnx()
    onnx.checker.check_model(result, full_check=True)
    feeds = feeds_of(proto, seed=0)
    assert decibels(run(proto, feeds)["y"], run(result, feeds)["y"]) > 25


@pytest.mark.parametrize("storage", ["integer", "float"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_scale_is_float16_in_a_file_of_opset_19(target: str, storage: str) -> None:
    result = done(BLOCK, target, opset=13, weight_storage=storage).to_onnx()
    scales = {name: values for name, values in constants(result).items() if name.endswith("_scale")}
    assert len(scales) == 4
    assert {values.dtype.name for values in scales.values()} == {"float16"}
    assert result.opset_import[0].version == 19
    assert constants(result)["b2"].dtype == np.float16


def test_a_float32_file_keeps_its_opset_and_scales() -> None:
    result = done(BLOCK.replace("float16", "float"), "tensorrt", opset=13).to_onnx()
    assert result.opset_import[0].version == 13
    assert {v.dtype.name for name, v in constants(result).items() if name.endswith("_scale")} == {"float32"}


def test_what_a_file_does_not_declare_makes_no_difference() -> None:
    proto = parse(BLOCK)
    plain = quantize(proto, samples(proto), target="tensorrt")
    del proto.graph.value_info[:]
    bare = quantize(proto, samples(proto), target="tensorrt")
    assert [(site.tensor, site.float_type) for site in bare.sites] == [(s.tensor, s.float_type) for s in plain.sites]
    assert {site.float_type for site in bare.sites} == {"float16"}


def test_only_the_float16_part_of_a_mixed_model_has_float16_scales() -> None:
    graph = MIXED.replace("float16[16,32] w1", "float[16,32] w1").replace("h = Cast<to=10>(x)", "h = Identity(x)")
    result = done(graph.replace("f = Cast<to=1>(m)", "f = Identity(m)"), "tensorrt").to_onnx()
    onnx.checker.check_model(result, full_check=True)
    kinds = {name: values.dtype.name for name, values in constants(result).items() if name.endswith("_scale")}
    assert {kinds["w1_scale"], kinds["x_scale"]} == {"float32"}
    assert {kinds["w2_scale"], kinds["g_scale"]} == {"float16"}


# ------------------------------------------------------------------------------------ refusals


def decisions(graph: str, target: str) -> dict[str, str]:
    fused = transform(parse(graph), target=target)
    return {decision.name: decision.reason for decision in insert_qdq(fused.model, fused.matches).decisions}


def test_onnxruntime_refuses_float16_and_says_what_to_do() -> None:
    reason = decisions(BLOCK, "onnxruntime")["y"]
    assert reason.endswith(
        "is float16, and onnxruntime makes integer operators of float32 only: convert the model to float32 first"
    )


@pytest.mark.parametrize("kind", ["bfloat16", "double"])
def test_other_floats_are_refused(kind: str) -> None:
    graph = f"agraph ({kind}[2,16] x) => ({kind}[2,16] y) <{kind}[16,32] w, {kind}[32,16] v> {{ h = MatMul(x, w) y = MatMul(h, v) }}"
    reasons = decisions(graph, "tensorrt")
    assert "makes integer operators of float16 and float32 only" in reasons["h"]
    assert reasons["y"].startswith("'h' is bfloat16" if kind == "bfloat16" else "'h' is float64")


def test_an_int32_bias_stays_in_float() -> None:
    onnxruntime = get_target("onnxruntime")
    target = replace(onnxruntime, name="wide", float_types=frozenset({"float16"}), costs=None)
    proto = parse(BLOCK)
    result = quantize(proto, samples(proto), target=target)
    reasons = {decision.name: decision.reason for decision in result.decisions}
    assert reasons["b2"] == "it stays in float: float16 cannot hold the scale of an int32 bias"
    assert not [site for site in result.sites if site.derived_from]
    feeds = feeds_of(proto, seed=0)
    assert decibels(run(proto, feeds)["y"], run(result.to_onnx(), feeds)["y"]) > 20


# ------------------------------------------------------------------------------------ element types


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Relu(x)", "float16"),
        ("a = Cast<to=1>(x) y = Exp(a)", "float32"),
        ("a = Shape(x) y = Cast<to=16>(a)", "bfloat16"),
        ("y = Shape(x)", "int64"),
        ("a = Greater(x, x) y = Where(a, x, x)", "float16"),
        ("y = ConstantOfShape(s)", "float32"),
        ("a, y = TopK(x, s)", "int64"),
        ("a, y = Split<num_outputs=2>(x)", "float16"),
        ("a = Cast<to=1>(x) y = CastLike(a, x)", "float16"),
        ("y = com.custom.Swish(s, x)", "float16"),
        ("y = com.custom.Swish(s)", None),
        ("a = SequenceConstruct(x) y = SequenceAt(a, s)", None),
    ],
)
def test_types_follow_from_the_operators(body: str, expected: str | None) -> None:
    graph = f"agraph (float16[4,4] x, int64[1] s) => (y) {{ {body} }}"
    model = read(graph, opset=18, domain="com.custom")
    found = ElementTypes(model).of(model.find("y"))
    assert (found.name if found is not None else None) == expected


def test_types_of_a_long_chain_take_linear_time() -> None:
    steps = " ".join(f"t{i + 1} = Add(t{i}, t{i})" for i in range(3000))
    model = read(f"agraph (float16[4] x) => (y) {{ t0 = Relu(x) {steps} y = Relu(t3000) }}")
    types = ElementTypes(model)
    assert {types.of(value).name for value in model.tensors().values()} == {"float16"}


# ------------------------------------------------------------------------------------ numbers

FORMATS = [TensorFormat(), TensorFormat(narrow_range=True), TensorFormat(signed=False, symmetric=False)]


@pytest.mark.parametrize("fmt", FORMATS, ids=["symmetric", "narrow", "asymmetric"])
@pytest.mark.parametrize(("low", "high"), [(0, 0), (-1e-9, 1e-8), (-3, 5), (-65504, 65504), (0, 65504), (-1e5, 9e4)])
@pytest.mark.parametrize("float_type", ["float16", "float32"])
def test_no_code_means_nothing_or_infinity(fmt: TensorFormat, low: float, high: float, float_type: str) -> None:
    parameters = fmt.parameters(low, high, float_type)
    assert parameters.scale.dtype == float_type
    assert parameters.scale > 0
    codes = np.array([fmt.qmin, fmt.qmax], fmt.dtype)
    assert np.isfinite(dequantize(codes, parameters, fmt)).all()


def test_weights_are_rounded_with_the_scale_that_is_written() -> None:
    proto = parse(BLOCK)
    stored = constants(quantize(proto, samples(proto), target="tensorrt").to_onnx())
    weight, scale = constants(proto)["w2"].astype(np.float64), stored["w2_scale"].astype(np.float64)
    expected = np.clip(np.rint(weight / scale.reshape(-1, 1, 1, 1)), -128, 127)
    np.testing.assert_array_equal(stored["w2_quantized"], expected)


def test_codes_and_values_are_those_of_onnx_runtime() -> None:
    fmt = TensorFormat(signed=False, symmetric=False)
    parameters = fmt.parameters(-2.7, 3.31, "float16")
    graph = (
        "agraph (float16[1000] x) => (uint8[1000] q, float16[1000] y) "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 19]> ' + graph)
    proto.graph.initializer.append(numpy_helper.from_array(parameters.scale, "s"))
    proto.graph.initializer.append(numpy_helper.from_array(parameters.zero_point, "z"))
    feeds = {"x": np.random.default_rng(0).normal(size=1000).astype(np.float16)}
    found = run(proto, feeds)
    np.testing.assert_array_equal(codes_of(feeds["x"], parameters, fmt), found["q"])
    np.testing.assert_array_equal(dequantize(found["q"], parameters, fmt), found["y"])


def test_a_fixed_scale_that_float16_cannot_hold_is_refused() -> None:
    assert constants(done(BLOCK, "tensorrt", fixed={"x": FixedRange(scale=0.5)}).to_onnx())["x_scale"] == 0.5
    for scale in (1e-9, 1e6):
        with pytest.raises(ConfigError, match="'x' has scale .*, which float16 cannot hold"):
            done(BLOCK, "tensorrt", fixed={"x": FixedRange(scale=scale)})


# ------------------------------------------------------------------------------------ data and the other verbs


def test_float32_samples_are_cast_and_too_large_ones_refused() -> None:
    inputs = input_specs(Model.read(parse(BLOCK)))
    data = np.ones((2, 16, 6, 6))
    for kind in (np.float16, np.float32, np.float64):
        (feed,) = open_samples([{"x": data.astype(kind)}], inputs)
        assert feed["x"].dtype == np.float16
    with pytest.raises(DataError, match="'x' of .* holds 70000, which float16 cannot hold"):
        list(open_samples([{"x": data * 70000}], inputs))
    with pytest.raises(DataError, match="is uint8, expected float16"):
        list(open_samples([{"x": data.astype(np.uint8)}], inputs))


def test_recalibration_keeps_float16() -> None:
    proto = parse(BLOCK)
    first = quantize(proto, samples(proto), target="openvino").to_onnx()
    again = recalibrate(Model.read(first), [{"x": 4 * feed["x"]} for feed in samples(proto)]).model.to_proto()
    onnx.checker.check_model(again, full_check=True)
    before, after = constants(first)["x_scale"], next(v for n, v in constants(again).items() if n.startswith("x_scale"))
    assert after.dtype == np.float16
    assert after > 2 * before
    feeds = feeds_of(proto, seed=0)
    assert decibels(run(proto, feeds)["y"], run(again, feeds)["y"]) > 20


def test_compare_takes_a_float32_and_a_float16_version() -> None:
    wide = parse(BLOCK.replace("float16", "float"))
    narrow = parse(BLOCK)
    assert compare(wide, narrow, samples(wide)).sqnr_db > 40
    assert compare(narrow, wide, samples(narrow)).sqnr_db > 40


def test_compare_is_not_misled_by_a_runtime_that_rounds_biases_with_float16_scales() -> None:
    proto = parse(BLOCK)
    for item in proto.graph.initializer:
        if item.name in ("w1", "w2"):
            small = numpy_helper.to_array(item) / np.float16(1000)
            item.CopyFrom(numpy_helper.from_array(small, item.name))
    result = quantize(
        proto, [{"x": feed["x"] / np.float16(10)} for feed in samples(proto)], target="openvino"
    ).to_onnx()
    feeds = {"x": feeds_of(proto, seed=0)["x"] / np.float16(10)}
    expected = decibels(run(proto, feeds)["y"], run(result, feeds)["y"])
    assert compare(proto, result, [feeds]).sqnr_db == pytest.approx(expected, abs=1)


def test_inspect_and_explain_know_the_pairs() -> None:
    proto = parse(BLOCK)
    pairs = find_pairs(Model.read(quantize(proto, samples(proto), target="tensorrt").to_onnx()))
    assert (len(pairs.activations), pairs.weights) == (2, 2)
    explainer = Explainer(proto, get_target("tensorrt"))
    assert {site.float_type for site in explainer.tensor("x").sites} == {"float16"}
    assert "convert the model to float32" in Explainer(proto, get_target("onnxruntime")).tensor("y").answer


def test_a_mean_over_float16_images_becomes_a_pool_without_declared_types() -> None:
    graph = "agraph (float16[1,8,6,6] x) => (y) <float16[8,8,1,1] w> { c = Conv(x, w) r = Relu(c) y = ReduceMean<axes=[2,3]>(r) }"
    model = read(graph)
    assert "GlobalAveragePool" in operators(transform(model, target="tensorrt").model)
