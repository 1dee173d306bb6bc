"""Dynamic activations: the graph that is written, its numbers against a statement in numpy, and the kernels that run."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from models import Feeds, feeds_of, operators, parse, producer, read, run
from onnx.reference import ReferenceEvaluator

from quantonnx.dynamic import activation_refusal, insert_dynamic, refusal
from quantonnx.errors import ConfigError, TargetError
from quantonnx.formats import Parameters, Storage, TensorFormat, dequantize, quantize
from quantonnx.model import Model
from quantonnx.pattern import Edge, Role
from quantonnx.runtimes.onnxruntime import optimized_layers
from quantonnx.sites import Site

DYNAMIC = TensorFormat(signed=False, symmetric=False)
INT8 = TensorFormat(narrow_range=True)
WEIGHTS = {
    "int8": INT8,
    "int8 asymmetric": TensorFormat(symmetric=False),
    "uint8": TensorFormat(signed=False, symmetric=False),
    "uint8 symmetric": TensorFormat(signed=False),
    "2 bits": TensorFormat(n_bits=2, narrow_range=True),
    "4 bits": TensorFormat(n_bits=4),
    "5 bits unsigned": TensorFormat(n_bits=5, signed=False, symmetric=False),
}
LINEAR = {
    "MatMul": "agraph (float[2,5,12] x) => (float[2,5,8] y) <float[12,8] w> { y = MatMul(x, w) }",
    "MatMul vector": "agraph (float[12] x) => (float[8] y) <float[12,8] w> { y = MatMul(x, w) }",
    "MatMul Add": "agraph (float[5,12] x) => (float[5,8] y) <float[12,8] w, float[8] b> { m = MatMul(x, w) y = Add(m, b) }",
    "MatMul 3d": "agraph (float[2,5,12] x) => (float[2,5,8] y) <float[2,12,8] w> { y = MatMul(x, w) }",
    "Gemm": "agraph (float[5,12] x) => (float[5,8] y) <float[12,8] w, float[8] b> { y = Gemm(x, w, b) }",
    "Gemm transB": "agraph (float[5,12] x) => (float[5,8] y) <float[8,12] w, float[8] b> { y = Gemm<transB=1>(x, w, b) }",
    "Gemm transA": "agraph (float[12,5] x) => (float[5,8] y) <float[12,8] w> { y = Gemm<transA=1>(x, w) }",
    "Gemm alpha beta": (
        "agraph (float[5,12] x) => (float[5,8] y) <float[8,12] w, float[5,1] b> "
        "{ y = Gemm<transB=1, alpha=0.5, beta=-2.0>(x, w, b) }"
    ),
    "Gemm computed bias": (
        "agraph (float[5,12] x, float[8] d) => (float[5,8] y) <float[12,8] w> { b = Neg(d) y = Gemm<beta=3.0>(x, w, b) }"
    ),
}
CONVOLUTIONS = {
    "Conv": "agraph (float[1,6,7,7] x) => (float[1,8,7,7] y) <float[8,6,3,3] w, float[8] b> { y = Conv<pads=[1,1,1,1]>(x, w, b) }",
    "no bias": "agraph (float[1,6,7,7] x) => (float[1,8,3,3] y) <float[8,6,3,3] w> { y = Conv<strides=[2,2]>(x, w) }",
    "computed bias": "agraph (float[1,6,4,4] x, float[8] d) => (float[1,8,4,4] y) <float[8,6,1,1] w> { b = Neg(d) y = Conv(x, w, b) }",
    "grouped": (
        "agraph (float[1,6,7,7] x) => (float[1,8,7,7] y) <float[8,3,3,3] w, float[8] b> "
        "{ y = Conv<group=2, dilations=[2,2], pads=[2,2,2,2]>(x, w, b) }"
    ),
    "depthwise": 'agraph (float[1,6,7,7] x) => (float[1,6,7,7] y) <float[6,1,3,3] w> { y = Conv<group=6, auto_pad="SAME_UPPER">(x, w) }',
    "1d": "agraph (float[1,6,9] x) => (float[1,8,9] y) <float[8,6,3] w, float[8] b> { y = Conv<pads=[1,1]>(x, w, b) }",
}


def dynamic_sites(model: Model, weight: TensorFormat, *, per_channel: bool = False) -> tuple[list[Site], list[Site]]:
    """Returns the sites of every Conv, Gemm and MatMul whose second input is a constant: activations and weights."""
    activations: dict[str, Site] = {}
    weights: dict[str, Site] = {}
    for node in model.graph.nodes:
        if node.op not in ("Conv", "Gemm", "MatMul"):
            continue
        x, w = (value.name for value in node.inputs[:2])
        axis = 0 if node.op == "Conv" or node.attrs.get("transB") else len(node.inputs[1].shape) - 1
        fmt = replace(weight, axis=axis if per_channel else None)
        for found, name, index, role, kind in (
            (activations, x, 0, Role.INPUT, DYNAMIC),
            (weights, w, 1, Role.WEIGHT, fmt),
        ):
            site = found.get(name) or Site(name, (role,), kind, (), "Linear", "y")
            found[name] = replace(site, edges=(*site.edges, Edge(node.name, index)))
    return list(activations.values()), list(weights.values())


def numbers(model: Model, sites: list[Site]) -> dict[Site, Parameters]:
    values = {site: model.array(model.tensors()[site.tensor]) for site in sites}
    return {site: site.format.parameters(*site.format.extremes(values[site])) for site in sites}


def quantized(proto: onnx.ModelProto, weight: TensorFormat = INT8, *, per_channel: bool = False) -> Model:
    model = Model.read(proto)
    activations, weights = dynamic_sites(model, weight, per_channel=per_channel)
    insert_dynamic(model, activations, weights, numbers(model, weights))
    model.sort()
    return model


def dynamically_quantized(x: np.ndarray) -> np.ndarray:
    """Returns the values that the codes of ONNX DynamicQuantizeLinear stand for, by the formula of its documentation."""
    high, low = np.maximum(x.max(), np.float32(0)), np.minimum(x.min(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255))
    zero_point = np.clip(np.rint(-low / scale), 0, 255)
    codes = np.clip(np.rint(x / scale) + zero_point, 0, 255)
    return (codes - zero_point).astype(np.float64) * scale


def emulated(proto: onnx.ModelProto, weight: TensorFormat, feeds: Feeds, *, per_channel: bool) -> np.ndarray:
    """Returns what the float model gives for the values that the codes stand for, in float64."""
    model = Model.read(proto)
    _, (site,) = dynamic_sites(model, weight, per_channel=per_channel)
    values = model.array(model.tensors()["w"])
    parameters = numbers(model, [site])[site]
    seen = dequantize(quantize(values, parameters, site.format), parameters, site.format)
    double = onnx.ModelProto.FromString(proto.SerializeToString())
    for item in double.graph.initializer:
        array = seen if item.name == "w" else onnx.numpy_helper.to_array(item)
        item.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float64), item.name))
    for info in (*double.graph.input, *double.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    given = {name: array.astype(np.float64) for name, array in feeds.items()} | {"x": dynamically_quantized(feeds["x"])}
    return np.asarray(ReferenceEvaluator(double).run(["y"], given)[0])


def assert_as_emulated(graph: str, weight: TensorFormat, *, per_channel: bool) -> None:
    proto = parse(graph)
    feeds = feeds_of(proto)
    found = run(quantized(proto, weight, per_channel=per_channel), feeds)["y"]
    expected = emulated(proto, weight, feeds, per_channel=per_channel)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("graph", [graph for name, graph in LINEAR.items() if name != "MatMul 3d"])
def test_linear_layers_give_what_the_formula_says(graph: str, weight: TensorFormat, per_channel: bool) -> None:
    assert_as_emulated(graph, weight, per_channel=per_channel)


@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
def test_a_stack_of_matrices_gives_what_the_formula_says(per_channel: bool) -> None:
    assert_as_emulated(LINEAR["MatMul 3d"], INT8, per_channel=per_channel)


@pytest.mark.parametrize(
    ("weight", "per_channel"),
    [(weight, per) for weight in WEIGHTS.values() for per in (False, True) if weight.symmetric or not per],
)
@pytest.mark.parametrize("graph", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_give_what_the_formula_says(graph: str, weight: TensorFormat, per_channel: bool) -> None:
    assert_as_emulated(graph, weight, per_channel=per_channel)


def test_a_tensor_of_zeros_gives_the_bias() -> None:
    proto = parse(LINEAR["Gemm"])
    bias = next(onnx.numpy_helper.to_array(item) for item in proto.graph.initializer if item.name == "b")
    found = run(quantized(proto), {"x": np.zeros((5, 12), np.float32)})["y"]
    np.testing.assert_array_equal(found, np.broadcast_to(bias, (5, 8)))


# ------------------------------------------------------------------------------------ the graph


FAN = (
    "agraph (float[5,12] x) => (float[5,8] q, float[5,8] k, float[5,8] z) <float[12,8] w, float[12,8] u, float[8,12] t> "
    "{ q = MatMul(x, w) k = MatMul(x, u) v = Gemm<transB=1>(x, t) z = Relu(v) }"
)


def test_all_readers_of_a_tensor_share_its_codes() -> None:
    assert Counter(operators(quantized(parse(FAN))))["DynamicQuantizeLinear"] == 1


def test_the_weight_that_two_nodes_share_is_stored_once() -> None:
    shared = FAN.replace("MatMul(x, u)", "MatMul(x, w)")
    stored = [item for item in quantized(parse(shared)).to_proto().graph.initializer if item.name.startswith("w_quant")]
    assert len(stored) == 1


def test_names_of_results_and_nodes_stay() -> None:
    before = read(FAN)
    after = quantized(parse(FAN))
    assert [output.name for output in after.graph.outputs] == ["q", "k", "z"]
    names = {node.name for node in before.graph.nodes if node.op != "Relu"}
    assert {node.name for node in after.graph.nodes if node.op == "MatMulInteger"} == names
    onnx.checker.check_model(after.to_proto(), full_check=True)


def test_the_inputs_of_replaced_nodes_are_returned() -> None:
    model = read(LINEAR["Gemm"])
    activations, weights = dynamic_sites(model, INT8)
    name = producer(model, "y").name
    gone = insert_dynamic(model, activations, weights, numbers(model, weights))
    assert gone == {Edge(name, 0), Edge(name, 1), Edge(name, 2)}


def test_other_readers_keep_the_float_values() -> None:
    model = quantized(parse(FAN.replace("z = Relu(v)", "n = Add(v, v) r = ReduceSum<keepdims=1>(x) z = Add(n, r)")))
    assert next(node for node in model.graph.nodes if node.op == "ReduceSum").inputs[0].name == "x"


def test_codes_of_a_convolution_are_unsigned_for_runtimes_without_signed_kernels() -> None:
    proto = quantized(parse(CONVOLUTIONS["Conv"]), per_channel=True).to_proto()
    types = {item.name: item.data_type for item in proto.graph.initializer}
    assert types["w_quantized"] == types["w_zero_point"] == onnx.TensorProto.UINT8


# ------------------------------------------------------------------------------------ kernels


def kernels(model: Model) -> Counter[str]:
    return Counter(layer.kernel for layer in optimized_layers(model.to_bytes()))


@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("name", ["MatMul", "MatMul Add", "Gemm", "Gemm transB"])
def test_one_reader_becomes_one_kernel(name: str, weight: TensorFormat, per_channel: bool) -> None:
    found = kernels(quantized(parse(LINEAR[name]), weight, per_channel=per_channel))
    assert found == {"DynamicQuantizeMatMul": 1}


def test_several_readers_become_kernels_that_give_floats() -> None:
    found = kernels(quantized(parse(FAN), per_channel=True))
    assert found == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 3, "Relu": 1}


@pytest.mark.parametrize("graph", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_is_an_integer_kernel(graph: str) -> None:
    found = kernels(quantized(parse(graph), per_channel=True))
    assert found["ConvInteger"] == 1
    assert not found["Conv"]


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("op", "weight", "said"),
    [
        ("ConvTranspose", INT8, "ConvTranspose has no operator .* only Conv, Gemm and MatMul can be dynamic"),
        ("MatMul", TensorFormat(n_bits=16), "takes no 16-bit weight; use n_bits: 8 or less"),
        ("Gemm", TensorFormat(float8=True), "takes no float8 weight"),
        ("MatMul", TensorFormat(n_bits=4, storage=Storage.NATIVE), "use storage: narrowed"),
        ("MatMul", TensorFormat(n_bits=4, axis=0, group_size=4), "has no groups; leave out group_size"),
        ("Conv", TensorFormat(symmetric=False, axis=0), "use symmetric: true or per_channel: false"),
    ],
)
def test_a_weight_that_has_no_operator_is_refused(op: str, weight: TensorFormat, said: str) -> None:
    assert re.search(said, refusal(op, weight) or "")


@pytest.mark.parametrize(
    "fmt", [INT8, TensorFormat(n_bits=4, signed=False, symmetric=False), TensorFormat(signed=False)]
)
def test_an_activation_that_is_not_uint8_is_refused(fmt: TensorFormat) -> None:
    assert "use n_bits: 8, signed: false, symmetric: false" in (activation_refusal(fmt) or "")


def test_an_activation_with_scales_per_channel_is_refused() -> None:
    assert "one scale per tensor" in (activation_refusal(replace(DYNAMIC, axis=1)) or "")


def attempt(graph: str, weight: TensorFormat = INT8, **activation: object) -> None:
    model = read(graph)
    activations, weights = dynamic_sites(model, weight)
    sites = [replace(site, **activation) for site in activations]  # type: ignore[arg-type]
    insert_dynamic(model, sites, [replace(site, format=weight) for site in weights], {})


def test_a_float_weight_is_an_error() -> None:
    model = read(LINEAR["MatMul"])
    activations, _ = dynamic_sites(model, INT8)
    with pytest.raises(
        ConfigError, match=r"'x' is dynamic, but MatMul .* has no quantized weight .* quantize its weight"
    ):
        insert_dynamic(model, activations, [], {})
    assert operators(model) == ["MatMul"]


def test_a_model_in_float16_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'x' is float16, DynamicQuantizeLinear takes float32"):
        attempt(LINEAR["MatMul"], float_type="float16")


def test_the_output_of_an_operator_cannot_be_dynamic() -> None:
    with pytest.raises(ConfigError, match="say dynamic of the inputs that read it"):
        attempt(LINEAR["MatMul"], whole=True)


def test_a_signed_activation_is_an_error_that_names_it() -> None:
    with pytest.raises(TargetError, match="'x': DynamicQuantizeLinear gives asymmetric uint8"):
        attempt(LINEAR["MatMul"], format=INT8)


@pytest.mark.parametrize(
    ("name", "axis", "hint"),
    [("MatMul", 0, "use axis: 1"), ("Gemm transB", 1, "use axis: 0"), ("MatMul 3d", 0, "use axis: 2")],
)
def test_scales_along_the_summed_axis_are_an_error(name: str, axis: int, hint: str) -> None:
    with pytest.raises(TargetError, match=f"along axis {axis}, not per output; {hint}"):
        attempt(LINEAR[name], replace(INT8, axis=axis))


def test_zero_points_per_column_of_a_stack_of_matrices_are_an_error() -> None:
    with pytest.raises(TargetError, match="one zero point per matrix; use symmetric: true"):
        attempt(LINEAR["MatMul 3d"], TensorFormat(symmetric=False, axis=2))
