"""Training with fake quantization: pairs at the sites, gradients, and the way back into the same graph."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import NETWORK, feeds_of, parse, run

import quantonnx as qx

torch = pytest.importorskip("torch")

from quantonnx.torch import freeze_bn_stats, from_onnx, prepare_qat, to_onnx  # noqa: E402 - torch may be missing

NORMALIZED = """
normalized (float[N,3,8,8] image) => (float[N,5] scores)
<float[8,3,3,3] stem__weight, float[8] stem__norm__weight, float[8] stem__norm__bias, float[8] mean_1, float[8] variance_1,
 float[8,1,3,3] deep__weight, float[8] deep__bias, float[8] deep__norm__weight, float[8] deep__norm__bias, float[8] mean_2,
 float[8] variance_2, float[8,5] head__weight, float[5] head__bias> {
    a = Conv <pads: ints = [1, 1, 1, 1]> (image, stem__weight)
    b = BatchNormalization (a, stem__norm__weight, stem__norm__bias, mean_1, variance_1)
    c = Relu (b)
    d = Conv <pads: ints = [1, 1, 1, 1], group: int = 8> (c, deep__weight, deep__bias)
    e = BatchNormalization (d, deep__norm__weight, deep__norm__bias, mean_2, variance_2)
    f = Add (e, c)
    g = Relu (f)
    pooled = GlobalAveragePool (g)
    flat = Flatten (pooled)
    scores = Gemm (flat, head__weight, head__bias)
}
"""
JOINED = """
joined (float[N,4,6,6] image) => (float[N,8,6,6] result)
<float[4,4,1,1] left, float[4,4,1,1] right, float[8,8,1,1] last> {
    a = Conv (image, left)
    b = Conv (image, right)
    c = Concat <axis: int = 1> (a, b)
    result = Conv (c, last)
}
"""
GRAPHS = {"network": NETWORK, "normalized": NORMALIZED, "joined": JOINED}


def samples(proto: onnx.ModelProto, count: int = 4) -> list[dict[str, np.ndarray]]:
    return [feeds_of(proto, seed=seed) for seed in range(count)]


def made(graph: str) -> onnx.ModelProto:
    """Returns the model of a text in which two underscores stand for a dot, which names in text cannot have."""
    proto = parse(graph)
    for item in proto.graph.initializer:
        item.name = item.name.replace("__", ".")
    for node in proto.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
    return proto


def quantized(graph: str, target: str = "tensorrt", **settings: object) -> tuple[onnx.ModelProto, qx.QuantizedModel]:
    proto = made(graph)
    config = qx.QuantConfig(keep_slow=True, **settings)  # type: ignore[arg-type]
    return proto, qx.quantize(proto, samples(proto), target=target, config=config)


def result(module: torch.nn.Module, feed: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(module(**{name: torch.from_numpy(value) for name, value in feed.items()}))


def trained(module: torch.nn.Module, feed: dict[str, np.ndarray], steps: int = 3) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in feed.items()}
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        module(**tensors).square().mean().backward()
        optimizer.step()
    module.eval()


def without_numbers(proto: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for item in bare.graph.initializer:
        item.ClearField("raw_data")
    return bare


def largest_step(model: qx.QuantizedModel) -> float:
    assert model.parameters is not None
    return max(float(numbers.scale.max()) for site, numbers in model.parameters.items() if site.on_activation)


@pytest.mark.parametrize(
    ("target", "preset"),
    [
        ("tensorrt", "w8a8"),
        ("tensorrt", "w4a8"),
        ("onnxruntime", "w8a8"),
        ("openvino", "w8a8"),
        ("onnxruntime", "w8a16"),
    ],
)
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_module_computes_what_the_file_does(graph: str, preset: str, target: str) -> None:
    proto, model = quantized(GRAPHS[graph], target, preset=preset)
    module = prepare_qat(model)
    feed = feeds_of(proto, seed=9)
    expected = next(iter(run(model.to_onnx(), feed).values()))
    step = largest_step(model) if model.activation_sites else 1e-5
    assert np.abs(result(module, feed) - expected).max() <= 1.01 * step


@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("graph", GRAPHS)
def test_what_is_not_trained_comes_back_as_it_was(graph: str, learn: bool) -> None:
    _, model = quantized(GRAPHS[graph], "onnxruntime", preset="w4a8")
    again = to_onnx(prepare_qat(model, learn_scales=learn))
    assert again.to_onnx().SerializeToString() == model.to_onnx().SerializeToString()


@pytest.mark.parametrize("graph", GRAPHS)
def test_training_changes_numbers_and_nothing_else(graph: str) -> None:
    proto, model = quantized(GRAPHS[graph], "onnxruntime", preset="w4a8")
    module = prepare_qat(model)
    trained(module, feeds_of(proto))
    before, after = model.to_onnx(), to_onnx(module).to_onnx()
    assert after.SerializeToString() != before.SerializeToString()
    assert after.metadata_props.pop() == onnx.StringStringEntryProto(
        key="quantonnx.trained", value="with fake quantization"
    )
    assert without_numbers(after) == without_numbers(before)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_trained_file_computes_what_the_module_does(graph: str, learn: bool, target: str) -> None:
    proto, model = quantized(GRAPHS[graph], target, preset="w4a8")
    module = prepare_qat(model, learn_scales=learn)
    trained(module, feeds_of(proto))
    after, feed = to_onnx(module), feeds_of(proto, seed=9)
    expected = next(iter(run(after.to_onnx(), feed).values()))
    assert np.abs(result(module, feed) - expected).max() <= 1.01 * largest_step(after)


def test_parameters_have_the_names_of_the_file() -> None:
    _, model = quantized(NORMALIZED)
    module = prepare_qat(model)
    weights = {name for name, _ in module.named_parameters() if "quantize" not in name}
    assert weights == {
        *("stem.weight", "stem.norm.weight", "stem.norm.bias", "deep.weight", "deep.bias"),
        *("deep.norm.weight", "deep.norm.bias", "head.weight", "head.bias"),
    }
    assert {"mean_1", "variance_1", "mean_2", "variance_2"} <= {name for name, _ in module.named_buffers()}


def test_every_parameter_gets_a_gradient() -> None:
    proto, model = quantized(NORMALIZED, "onnxruntime", preset="w4a8")
    module = prepare_qat(model)
    trained(module, feeds_of(proto), steps=1)
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


def test_statistics_move_until_they_are_frozen() -> None:
    proto, model = quantized(NORMALIZED)
    module = prepare_qat(model)
    start = module.get_buffer("mean_1").clone()
    trained(module, feeds_of(proto), steps=1)
    moved = module.get_buffer("mean_1").clone()
    assert not torch.equal(start, moved)
    freeze_bn_stats(module)
    trained(module, feeds_of(proto), steps=1)
    assert torch.equal(module.get_buffer("mean_1"), moved)


def test_moved_statistics_reach_the_file() -> None:
    _, model = quantized(NORMALIZED)
    module = prepare_qat(model)
    module.get_buffer("variance_1").mul_(4)
    folded = "b_weight"
    before, after = model.model, to_onnx(module).model
    ratio = after.array(after.tensors()[folded]) / before.array(before.tensors()[folded])
    np.testing.assert_allclose(ratio, 0.5, rtol=1e-4)


def test_weights_that_an_algorithm_chose_are_where_training_starts() -> None:
    proto, model = quantized(NORMALIZED, "onnxruntime", preset="w4a8", recipe=["gptq"])
    module = prepare_qat(model)
    feed = feeds_of(proto, seed=9)
    expected = run(model.to_onnx(), feed)["scores"]
    assert np.abs(result(module, feed) - expected).max() <= 1.01 * largest_step(model)


def test_branches_of_a_concat_keep_one_scale() -> None:
    proto, model = quantized(JOINED)
    module = prepare_qat(model)
    trained(module, feeds_of(proto))
    after = to_onnx(module)
    assert after.parameters is not None
    scales = {site.tensor: float(after.parameters[site].scale) for site in after.activation_sites}
    assert scales["a"] == scales["b"] == scales["c"]


def test_training_lessens_the_error_of_few_bits() -> None:
    proto, model = quantized(NETWORK, "onnxruntime", preset="w4a8")
    feed = {"image": np.concatenate([feeds_of(proto, seed=seed)["image"] for seed in range(16)])}
    expected = torch.from_numpy(run(proto, feed)["scores"])
    module = prepare_qat(model).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.mse_loss(module(torch.from_numpy(feed["image"])), expected)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = run(to_onnx(module.eval()).to_onnx(), feed)["scores"]
    assert np.square(found - expected.numpy()).mean() < 0.5 * losses[0]


def test_a_copy_is_independent() -> None:
    proto, model = quantized(NETWORK)
    module = prepare_qat(model)
    twin = copy.deepcopy(module)
    trained(twin, feeds_of(proto))
    assert to_onnx(module).to_onnx().SerializeToString() == model.to_onnx().SerializeToString()


def test_a_float_module_goes_back_into_its_file(tmp_path: Path) -> None:
    proto = made(NORMALIZED)
    proto.metadata_props.add(key="author", value="us")
    onnx.save(proto, tmp_path / "float.onnx")
    module = from_onnx(tmp_path / "float.onnx")
    trained(module, feeds_of(proto))
    to_onnx(module).save(tmp_path / "trained.onnx")
    after = onnx.load(tmp_path / "trained.onnx")
    told = [[(n.op_type, n.input, n.output, n.attribute) for n in model.graph.node] for model in (after, proto)]
    assert told[0] == told[1]
    assert after.metadata_props == proto.metadata_props
    assert [item.name for item in after.graph.initializer] == [item.name for item in proto.graph.initializer]
    feed = feeds_of(proto, seed=9)
    np.testing.assert_allclose(result(module, feed), run(after, feed)["scores"], atol=1e-5)
    assert not np.allclose(run(after, feed)["scores"], run(proto, feed)["scores"], atol=1e-3)


def test_weights_in_constant_nodes_are_written_back() -> None:
    text = NETWORK.replace("float[8,3,3,3] weight, ", "").replace(
        "    first =", "    weight = Constant <value = float[1,3,1,1] {1.0, 2.0, 3.0}> ()\n    first ="
    )
    proto = parse(
        text.replace("float[8] bias", "float[1] bias")
        .replace("[8,8,1,1] inner", "[1,1,1,1] inner")
        .replace("float[8,5]", "float[1,5]")
        .replace("pads: ints = [1, 1, 1, 1]", "pads: ints = [0, 0, 0, 0]")
    )
    module = from_onnx(proto)
    with torch.no_grad():
        module.get_parameter("weight").mul_(2)
    feed = feeds_of(proto)
    np.testing.assert_allclose(run(to_onnx(module), feed)["scores"], result(module, feed), rtol=1e-4, atol=1e-5)


def test_another_file_is_refused() -> None:
    module = from_onnx(parse(NETWORK))
    with pytest.raises(qx.ModelError, match="no initializer"):
        to_onnx(module, parse(JOINED))
    _, model = quantized(NETWORK)
    with pytest.raises(qx.ModelError, match="not the model that was quantized"):
        to_onnx(prepare_qat(model), parse(JOINED))


def test_a_model_without_numbers_or_pairs_is_refused() -> None:
    fused = qx.transform(parse(NETWORK), target="tensorrt")
    placed = qx.insert_qdq(fused.model, fused.matches)
    with pytest.raises(qx.CalibrationError, match="not calibrated"):
        prepare_qat(placed)
    _, model = quantized(NETWORK)
    with pytest.raises(qx.PlanError, match="nothing to train for"):
        prepare_qat(replace(model, sites=()))


def test_the_training_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(next(block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "prepare_qat" in block), {})
    onnx.checker.check_model("demo.w4a8.onnx")


LOOPED = """<ir_version: 8, opset_import: ["": 17]> looped (float[2,4] x) => (float[2,4] y)
<int64 n = {2}, bool c = {1}, float[4,4] W> {
    y = Loop (n, c, x) <body = inner (int64 i, bool ci, float[2,4] v) => (bool co, float[2,4] o) {
        co = Identity (ci) m = MatMul (v, W) o = Tanh (m)
    }>
}"""
OWN = LOOPED.replace(", float[4,4] W> {", "> {").replace(
    "(bool co, float[2,4] o) {",
    "(bool co, float[2,4] o) <float[4,4] W = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2}> {",
)
LISTED = """listed (float[N,3] x) => (float[N,3] y) {
    w = Constant <value_floats = [1.0, 2.0, 3.0]> () y = Mul (x, w)
}"""


@pytest.mark.parametrize("text", [LOOPED, OWN, LISTED])
def test_weights_anywhere_in_the_file_are_written_back(text: str) -> None:
    proto = parse(text)
    module = from_onnx(proto)
    (weight,) = module.parameters()
    with torch.no_grad():
        weight.mul_(0.5)
    feed = feeds_of(proto)
    found = run(to_onnx(module), feed)["y"]
    np.testing.assert_allclose(found, result(module, feed), atol=1e-6)
    assert not np.allclose(found, run(proto, feed)["y"], atol=1e-3)


def test_a_wrapped_module_and_names_that_begin_with_module_go_back() -> None:
    proto = parse("single (float[N,3] x) => (float[N,1] y) <float[3,1] w, float[1] b> { y = Gemm (x, w, b) }")
    for item, place in zip(proto.graph.initializer, (1, 2), strict=True):
        item.name = proto.graph.node[0].input[place] = f"module.fc.{item.name}"
    module = from_onnx(proto)
    assert {name for name, _ in module.named_parameters()} == {"module.fc.w", "module.fc.b"}
    for wrapped in (module, torch.compile(module), torch.nn.DataParallel(module)):
        assert to_onnx(wrapped).to_proto() == to_onnx(module).to_proto()
    with pytest.raises(qx.ModelError, match="came from no ONNX file"):
        to_onnx(torch.nn.Linear(2, 2))


def test_a_statistic_that_is_a_bias_too_is_not_trained() -> None:
    text = """shared (float[N,4,3,3] x) => (float[N,4,3,3] y) <float[4] scale, float[4] bias, float[4] variance> {
        mean = Identity (bias) y = BatchNormalization (x, scale, bias, mean, variance)
    }"""
    proto = parse(text)
    module = from_onnx(proto)
    assert [name for name, _ in module.named_parameters()] == ["scale"]
    feed = feeds_of(proto)
    np.testing.assert_allclose(result(module, feed), run(proto, feed)["y"], atol=1e-5)


def test_further_training_starts_from_trained_statistics() -> None:
    proto, model = quantized(NORMALIZED)
    module = prepare_qat(model)
    trained(module, feeds_of(proto))
    again = prepare_qat(to_onnx(module))
    for name in ("mean_1", "variance_1"):
        assert torch.equal(again.get_buffer(name), module.get_buffer(name))
