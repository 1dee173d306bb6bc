"""Evidence: figures are those of models that quantize one group, culprits come first, and only sums are kept."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import NETWORK, parse, run
from onnx import numpy_helper
from typer.testing import CliRunner

import quantonnx as qx
from quantonnx import cli
from quantonnx.config import QuantConfig
from quantonnx.errors import CalibrationError, ModelError
from quantonnx.evidence import (
    Errors,
    GroupEvidence,
    advice,
    collect_evidence,
    collecting,
    compare_layers,
    release,
    worst_site,
)
from quantonnx.evidence.collecting import subject_of
from quantonnx.evidence.measuring import Survey
from quantonnx.evidence.ranking import affordable
from quantonnx.pattern import Edge
from quantonnx.quantized import QuantizedModel
from quantonnx.sites import Site

LAYERS = """
    layers (float[N,16] x) => (float[N,16] y)
    <float[16,16] w0, float[16] b0, float[16,16] w1, float[16] b1, float[16,16] w2, float[16] b2, float[16,16] w3> {
        a0 = MatMul (x, w0)
        h0 = Add (a0, b0)
        r0 = Relu (h0)
        a1 = MatMul (r0, w1)
        h1 = Add (a1, b1)
        r1 = Relu (h1)
        a2 = MatMul (r1, w2)
        h2 = Add (a2, b2)
        r2 = Relu (h2)
        y = MatMul (r2, w3)
    }
"""
TARGETS = ("onnxruntime", "tensorrt")
CONFIG = QuantConfig(keep_slow=True)


def feeds(name: str, *shape: int, count: int = 6, seed: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{name: rng.standard_normal((1, *shape)).astype(np.float32)} for _ in range(count)]


IMAGES = feeds("image", 3, 8, 8)
ROWS = feeds("x", 16, count=32)


def quantized(target: str, proto: onnx.ModelProto | None = None, config: QuantConfig = CONFIG) -> QuantizedModel:
    proto = parse(NETWORK) if proto is None else proto
    samples = IMAGES if proto.graph.input[0].name == "image" else ROWS
    return qx.quantize(proto, samples, target=target, config=config)


def values_of(proto: onnx.ModelProto, tensors: list[str], samples: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    own = {output.name for output in tapped.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in own)
    return [run(tapped, feed) for feed in samples]


def errors_of(exact: list[np.ndarray], rough: list[np.ndarray]) -> Errors:
    x, q = (np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float64) for arrays in (exact, rough))
    return Errors(float(x @ x), float((x - q) @ (x - q)), float(q @ q), x.size)


def assert_near(found: Errors, expected: Errors, *, within: float = 1e-5) -> None:
    assert found.count == expected.count
    assert found.signal == pytest.approx(expected.signal, rel=1e-5)
    assert found.noise == pytest.approx(expected.noise, rel=within, abs=1e-12)
    assert found.power == pytest.approx(expected.power, rel=1e-5)
    assert found.cosine == pytest.approx(expected.cosine, rel=1e-5)


def only(model: QuantizedModel, group: GroupEvidence) -> QuantizedModel:
    """The same numbers at the pairs of one group and nowhere else."""
    kept: dict[Site, Any] = {}
    own = {site.tensor: site for site in model.sites if site.whole}
    for site in model.sites:
        read = tuple(edge for edge in site.edges if edge.node in with_moves(model, group))
        if site.whole and site.tensor != group.tensor:
            taken = {
                edge for other in model.sites if other.tensor == site.tensor and not other.whole for edge in other.edges
            }
            read = tuple(edge for edge in edges_of(model, group, site.tensor) if edge not in taken)
        if read or (site.whole and site.tensor == group.tensor):
            assert model.parameters is not None
            kept[replace(site, edges=read, whole=site is own.get(group.tensor))] = model.parameters[site]
    return replace(model, sites=tuple(kept), parameters=kept)


def with_moves(model: QuantizedModel, group: GroupEvidence) -> set[str]:
    """The nodes of a group and those before them that only move data: a pair stands before these."""
    own = [node for node in model.model.graph.nodes if node.name in group.nodes]
    before = [node for n in own for value in n.inputs for node in value.inputs if node.op == "Flatten"]
    return {node.name for node in (*own, *before)}


def edges_of(model: QuantizedModel, group: GroupEvidence, tensor: str) -> list[Edge]:
    nodes = [node for node in model.model.graph.nodes if node.name in with_moves(model, group)]
    return [Edge(node.name, i) for node in nodes for i, value in enumerate(node.inputs) if value.name == tensor]


def seen_by_readers(proto: onnx.ModelProto, tensor: str) -> str:
    """The value behind the pair on a tensor, where there is one."""
    codes = next(
        (n.output[0] for n in proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor), None
    )
    return next((n.output[0] for n in proto.graph.node if codes is not None and n.input[0] == codes), tensor)


@pytest.mark.parametrize("target", TARGETS)
def test_alone_means_that_nothing_else_is_quantized(target: str) -> None:
    model = quantized(target, config=QuantConfig(keep_slow=True, bias_correction=False))
    assert model.reference is not None
    found = collect_evidence(model, IMAGES, at_outputs=99)
    assert {group.tensor for group in found.groups} >= {"positive", "scores"}
    for group in found.groups:
        single = only(model, group).to_onnx()
        name = seen_by_readers(single, group.tensor) if closed(model, group) else group.tensor
        exact = values_of(model.reference.to_proto(), [group.tensor], IMAGES)
        rough = values_of(single, [name], IMAGES)
        assert_near(group.isolated, errors_of([v[group.tensor] for v in exact], [v[name] for v in rough]))
        at_output = errors_of([v["scores"] for v in exact], [v["scores"] for v in rough])
        assert_near(group.at_outputs["scores"], at_output, within=1e-3)  # noise is near the rounding of float32


def closed(model: QuantizedModel, group: GroupEvidence) -> bool:
    return any(site.whole and site.tensor == group.tensor for site in model.sites)


@pytest.mark.parametrize("target", TARGETS)
def test_accumulated_is_what_the_quantized_model_has(target: str) -> None:
    model = quantized(target)
    assert model.reference is not None
    found, proto = collect_evidence(model, IMAGES), model.to_onnx()
    for group in found.groups:
        name = seen_by_readers(proto, group.tensor) if closed(model, group) else group.tensor
        exact = values_of(model.reference.to_proto(), [group.tensor], IMAGES)
        rough = values_of(proto, [name], IMAGES)
        assert_near(group.accumulated, errors_of([v[group.tensor] for v in exact], [v[name] for v in rough]))
    exact, rough = (values_of(each, [], IMAGES) for each in (model.reference.to_proto(), proto))
    assert_near(found.outputs["scores"], errors_of([v["scores"] for v in exact], [v["scores"] for v in rough]))


@pytest.mark.parametrize("target", TARGETS)
def test_every_pair_and_weight_is_there(target: str) -> None:
    model = quantized(target)
    found = collect_evidence(model, IMAGES)
    expected = {site.tensor for site in model.sites}
    assert {site.tensor for site in found.sites} == expected
    assert {name for group in found.groups for name in group.sites} == expected
    effects = [group.effect for group in found.groups]
    assert effects == sorted(effects, reverse=True)
    assert effects == [group.at_output.relative for group in found.groups if group.at_output is not None]
    assert sum(group.share for group in found.groups) == pytest.approx(1)
    assert json.dumps(found.to_dict())


def with_weights(**changes: np.ndarray) -> onnx.ModelProto:
    proto = parse(LAYERS)
    for item in proto.graph.initializer:
        if item.name in changes:
            item.CopyFrom(numpy_helper.from_array(changes[item.name].astype(np.float32), item.name))
    return proto


def weight(name: str) -> np.ndarray:
    return next(numpy_helper.to_array(item) for item in parse(LAYERS).graph.initializer if item.name == name).copy()


def test_groups_tell_where_they_stand() -> None:
    found = collect_evidence(quantized("tensorrt", parse(LAYERS)), ROWS, at_outputs=0)
    assert [group.tensor for group in sorted(found.groups, key=lambda group: group.place)] == ["r0", "r1", "r2", "y"]


def test_used_codes_are_those_of_the_format_and_not_of_the_type_that_stores_it() -> None:
    config = QuantConfig(keep_slow=True, weight={"n_bits": 4, "per_channel": True})
    model = quantized("onnxruntime", parse(LAYERS), config)
    used = [site.code_range_used for site in collect_evidence(model, ROWS).sites if site.role == "weight"]
    assert len(used) == 4
    assert all(0.6 < share <= 1 for share in used)


@pytest.mark.parametrize("target", TARGETS)
def test_the_reader_of_an_outlier_is_the_worst_group(target: str) -> None:
    bias, matrix = weight("b1"), weight("w2")
    bias[3] += 3000.0  # one channel of r1 is large, and the layer behind it looks away
    matrix[3] *= 1e-4
    config = QuantConfig(keep_slow=True, recipe=[])  # scaled inputs would take the outlier out
    found = collect_evidence(quantized(target, with_weights(b1=bias, w2=matrix), config), ROWS, blame=1)
    worst = found.groups[0]
    assert worst.tensor in ("h2", "r2")
    site = worst_site(found, worst)
    assert site is not None
    assert site.tensor == "r1"
    assert worst.blame["r1"] > 0.5
    assert repr(worst.name) in advice(found, worst)


@pytest.mark.parametrize("target", TARGETS)
def test_a_weight_with_one_huge_channel_is_the_worst_of_weights(target: str) -> None:
    matrix, before, bias = weight("w2"), weight("w1"), weight("b1")
    matrix[5] *= 1000.0  # rows are input channels: what enters there is as small as the row is large
    before[:, 5] *= 1e-4
    bias[5] = 1e-4
    config = QuantConfig(keep_slow=True, weight={"per_channel": False})
    found = collect_evidence(quantized(target, with_weights(w1=before, w2=matrix, b1=bias), config), ROWS, blame=1)
    assert found.groups[0].tensor in ("h2", "r2")
    assert found.groups[0].isolated.sqnr_db < found.groups[1].isolated.sqnr_db - 6
    assert found.groups[0].blame["w2"] > 0.9
    assert "per_channel" in advice(found, found.groups[0])


BRANCHED = """
    branched (float[N,16] x) => (float[N,16] y)
    <float[16,16] w0, float[16] b0, float[16,16] w1, float[16] b1, float[16,16] w2, float[16] b2> {
        a0 = MatMul (x, w0)
        h0 = Add (a0, b0)
        a1 = MatMul (h0, w1)
        h1 = Add (a1, b1)
        r1 = Relu (h1)
        a2 = MatMul (r1, w2)
        h2 = Add (a2, b2)
        y = Add (h2, h0)
    }
"""


def branched() -> onnx.ModelProto:
    """A branch with rough weights adds next to nothing to a trunk that is quantized well."""
    proto = parse(BRANCHED)
    for item in proto.graph.initializer:
        values = numpy_helper.to_array(item).copy()
        if item.name == "w2":
            values *= 1e-3
            values[3, 5] = 0.1  # one scale for all: the other weights have few codes
        if item.name == "b2":
            values *= 1e-3
        item.CopyFrom(numpy_helper.from_array(values, item.name))
    return proto


@pytest.mark.parametrize("target", TARGETS)
def test_groups_are_ranked_by_what_they_do_to_the_outputs(target: str) -> None:
    config = QuantConfig(keep_slow=True, weight={"per_channel": False}, recipe=[])
    model = quantized(target, branched(), config)
    found = collect_evidence(model, ROWS)
    assert found.ranked_by == "what each alone does to the outputs, on 8 samples"
    rough, worst = (next(g for g in found.groups if g.tensor == name) for name in ("h2", "h0"))
    assert rough.isolated.sqnr_db < worst.isolated.sqnr_db - 6
    assert found.groups.index(worst) < found.groups.index(rough)
    assert worst.share > 5 * rough.share
    assert "h2" not in advice(found, found.groups[0])


def test_effects_that_are_not_measured_are_predicted() -> None:
    model = quantized("tensorrt", parse(LAYERS))
    none, one, every = (collect_evidence(model, ROWS, at_outputs=count) for count in (0, 1, 4))
    assert "expected" in none.ranked_by
    assert "1 measured on 32 samples" in one.ranked_by
    assert every.ranked_by == "what each alone does to the outputs, on 32 samples"
    assert [len(group.at_outputs) for group in none.groups] == [0] * 4
    for found in (none, one):
        effects = {group.tensor: group.effect for group in every.groups}
        assert all(effects[g.tensor] / 4 < g.effect < 4 * effects[g.tensor] for g in found.groups)


def test_the_look_at_effects_is_bounded() -> None:
    group = GroupEvidence("g", "Conv", ("g",), "g", Errors(), Errors())
    assert affordable([group] * 20, 100) == (20, 8)
    assert affordable([replace(group, macs=10**7)] * 40, 100) == (40, 8)
    many, samples = affordable([group] * 5000, 10000)
    assert (many, samples) == (6, 8)
    heavy, samples = affordable([replace(group, macs=10**9)] * 100, 100)
    assert 0 < heavy < 10
    assert samples == 2


def test_samples_that_can_be_read_once_are_enough() -> None:
    found = collect_evidence(quantized("tensorrt", parse(LAYERS)), iter(ROWS))
    assert found.passes == 1
    assert all(group.at_outputs for group in found.groups)


def test_a_narrow_range_shows_as_clipping() -> None:
    config = QuantConfig(keep_slow=True, fixed={"r1": {"scale": 0.01, "zero_point": 0}})
    model = quantized("onnxruntime", parse(LAYERS), config)
    found = collect_evidence(model, ROWS)
    site = next(site for site in found.sites if site.tensor == "r1")
    values = np.concatenate([v["r1"] for v in values_of(parse(LAYERS), ["r1"], ROWS)])
    assert site.clipped == pytest.approx(np.mean(values > 2.555))
    assert site.clipping > 0.99
    assert site.codes == (0, 255)
    assert site.range == (0, pytest.approx(2.55))
    assert site.seen == (0, pytest.approx(values.max()))
    assert found.sites[0].tensor == "r1"
    assert "is clipped" in advice(found, found.groups[0])


def test_the_used_codes_of_a_wide_range_are_few() -> None:
    config = QuantConfig(keep_slow=True, fixed={"r1": {"scale": 1.0, "zero_point": 0}})
    found = collect_evidence(quantized("onnxruntime", parse(LAYERS), config), ROWS)
    site = next(site for site in found.sites if site.tensor == "r1")
    values = np.concatenate([v["r1"] for v in values_of(parse(LAYERS), ["r1"], ROWS)])
    assert site.codes == (0, round(float(values.max())))
    assert site.code_range_used == (site.codes[1] + 1) / 256
    assert site.step_rms == pytest.approx(math.sqrt(np.mean(np.square(values))), rel=1e-5)
    assert site.clipped == 0


def test_batches_change_nothing() -> None:
    model = quantized("onnxruntime", parse(LAYERS))
    stacked = np.concatenate([feed["x"] for feed in ROWS])
    one = collect_evidence(model, ROWS)
    many = collect_evidence(model, [{"x": stacked[i : i + 10]} for i in range(0, 32, 10)])
    assert many.samples == one.samples == 32
    for first, second in zip(one.groups, many.groups, strict=True):
        assert second.name == first.name
        assert second.isolated.noise == pytest.approx(first.isolated.noise, rel=1e-5)
        assert second.accumulated.noise == pytest.approx(first.accumulated.noise, rel=1e-5)


def test_memory_does_not_grow_with_samples() -> None:
    model = quantized("tensorrt", parse(LAYERS))
    rng = np.random.default_rng(0)

    def stream(count: int) -> Iterator[dict[str, np.ndarray]]:
        return ({"x": rng.standard_normal((64, 16)).astype(np.float32)} for _ in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        assert collect_evidence(model, stream(count)).samples == 64 * count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(4)
    assert peak(800) < peak(8) + 500_000  # the data has 3.2 MB


def chain(layers: int) -> onnx.ModelProto:
    weights = ", ".join(f"float[16,16] w{number}" for number in range(layers))
    nodes = " ".join(f"h{n + 1} = MatMul (r{n}, w{n}) r{n + 1} = Relu (h{n + 1})" for n in range(1, layers))
    nodes = f"h1 = MatMul (x, w0) r1 = Relu (h1) {nodes}"
    return parse(f"chain (float[N,16] x) => (float[N,16] r{layers}) <{weights}> {{ {nodes} }}")


def most_waiting(model: qx.Model) -> int:
    """The most nodes that have all that they read, something computed among it, while others still run before them."""
    nodes = list(model.graph.nodes)
    places = {value.name: at for at, node in enumerate(nodes) for value in node.outputs}
    given = [[places[value.name] for value in node.inputs if value.name in places] for node in nodes]
    return max(sum(max(given[late], default=late) < at for late in range(at, len(nodes))) for at in range(len(nodes)))


@pytest.mark.parametrize("target", TARGETS)
def test_measures_stand_near_what_they_measure(target: str) -> None:
    """ONNX Runtime's time to load a model grows with the nodes that could run and wait, its memory with values held."""
    few, many = (most_waiting(Survey(subject_of(quantized(target, chain(n)))).model) for n in (3, 12))
    assert many <= few + 2


def test_weights_that_do_not_fit_beside_the_float_ones_take_more_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized("onnxruntime")
    one = collect_evidence(model, IMAGES)
    monkeypatch.setattr(collecting, "LARGEST_AT_ONCE", 500)
    several = collect_evidence(model, IMAGES)
    assert (one.passes, several.passes > 1) == (1, True)
    for first, second in zip(one.groups, several.groups, strict=True):
        assert second.name == first.name
        assert second.isolated.noise == pytest.approx(first.isolated.noise, rel=1e-4)
    assert {site.tensor for site in several.sites} == {site.tensor for site in one.sites}


@pytest.mark.parametrize("target", TARGETS)
def test_files_tell_the_same(target: str, tmp_path: Path) -> None:
    float_file, file = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    float_file.write_bytes(parse(NETWORK).SerializeToString())
    model = qx.quantize(float_file, IMAGES, target=target, config=CONFIG)
    model.save(file)
    own, read = collect_evidence(model, IMAGES, at_outputs=1), compare_layers(float_file, file, IMAGES, at_outputs=1)
    assert not read.notes
    assert len(read.groups) == len(own.groups)
    for first, second in zip(own.groups, read.groups, strict=True):
        assert second.name == first.name
        assert second.isolated.noise == pytest.approx(first.isolated.noise, rel=1e-4)
        assert second.accumulated.noise == pytest.approx(first.accumulated.noise, rel=1e-4)
    assert {(s.tensor, s.role, s.format) for s in read.sites} == {(s.tensor, s.role, s.format) for s in own.sites}


def test_files_of_others_have_operators_for_groups() -> None:
    proto = quantized("tensorrt", parse(LAYERS)).to_onnx()
    del proto.metadata_props[:]
    found = compare_layers(parse(LAYERS), proto.SerializeToString(), ROWS)
    assert {group.pattern for group in found.groups} == {"MatMul"}
    assert {group.tensor for group in found.groups} == {"a0", "a1", "a2", "y"}


@pytest.mark.parametrize("target", TARGETS)
def test_equalization_is_done_again_for_files(target: str) -> None:
    text = """
        pairs (float[N,3,8,8] image) => (float[N,8,8,8] y)
        <float[8,3,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[8] b1> {
            a = Conv <pads: ints = [1, 1, 1, 1]> (image, w0, b0)
            r = Relu (a)
            y = Conv <pads: ints = [1, 1, 1, 1]> (r, w1, b1)
        }
    """
    config = QuantConfig(keep_slow=True, recipe=["equalize"])
    model = qx.quantize(parse(text), IMAGES, target=target, config=config)
    own, read = (
        collect_evidence(model, IMAGES),
        compare_layers(parse(text), model.to_onnx().SerializeToString(), IMAGES),
    )
    assert not read.notes
    for first, second in zip(own.groups, read.groups, strict=True):
        assert second.name == first.name
        assert second.isolated.noise == pytest.approx(first.isolated.noise, rel=1e-3)


POST_NORM = """
    after (float[N,6,16] x) => (float[N,6,16] z) <float[16] g, float[16] b, float[16,48] w1, float[48,16] w2> {
        n = LayerNormalization <axis = -1> (x, g, b)
        h = MatMul (n, w1)
        r = Relu (h)
        y = MatMul (r, w2)
        z = Add (y, n)
    }
"""
PRE_NORM = """
    before (float[N,6,16] x) => (float[N,6,48] y) <float[16] g, float[16] b, float[16,48] w1> {
        n = LayerNormalization <axis = -1> (x, g, b)
        y = MatMul (n, w1)
    }
"""


@pytest.mark.parametrize("text", [POST_NORM, PRE_NORM], ids=["by a Mul", "at its norm"])
def test_inputs_are_scaled_again_for_files(text: str) -> None:
    proto, samples = parse(text, opset=17), feeds("x", 6, 16)
    for item in proto.graph.initializer:
        values = numpy_helper.to_array(item).copy()
        if item.name in ("g", "b"):
            values[3] *= 100
        elif item.name == "w1":
            values[3] /= 100
        item.CopyFrom(numpy_helper.from_array(values, item.name))
    model = qx.quantize(proto, samples, target="onnxruntime", config=QuantConfig(keep_slow=True))
    assert any("channels are scaled" in decision.reason for decision in model.decisions)
    own, read = collect_evidence(model, samples), compare_layers(proto, model.to_onnx().SerializeToString(), samples)
    assert [group.name for group in read.groups] == [group.name for group in own.groups]
    for first, second in zip(own.groups, read.groups, strict=True):
        assert second.isolated.noise == pytest.approx(first.isolated.noise, rel=2e-2)
        assert first.at_output is not None
        assert second.at_output is not None
        assert second.at_output.noise == pytest.approx(first.at_output.noise, rel=2e-2)
    expected = {(site.tensor, site.role): site.errors.sqnr_db for site in own.sites if site.role != "bias"}
    found = {(site.tensor, site.role): site.errors.sqnr_db for site in read.sites if site.role != "bias"}
    assert found == pytest.approx(expected, abs=0.1)


def test_a_smoothed_file_says_what_it_is_compared_with() -> None:
    text = """
        normed (float[N,4,16] x) => (float[N,4,16] y) <float[16] scale, float[16] shift, float[16,16] w> {
            n = LayerNormalization <axis: int = -1> (x, scale, shift)
            y = MatMul (n, w)
        }
    """
    samples = feeds("x", 4, 16)
    config = QuantConfig(smooth_quant={"alpha": 0.5}, keep_slow=True)
    proto = qx.quantize(parse(text), samples, target="tensorrt", config=config).to_onnx()
    found = compare_layers(parse(text), proto.SerializeToString(), samples)
    assert "smoothed" in found.notes[0]
    assert all(group.isolated.sqnr_db > 25 for group in found.groups)


def test_another_model_is_refused() -> None:
    proto = quantized("tensorrt", parse(LAYERS)).to_onnx()
    with pytest.raises(ModelError, match="inputs differ: image and x"):
        compare_layers(parse(NETWORK), proto.SerializeToString(), ROWS)
    del proto.metadata_props[:]
    strange = parse(LAYERS)
    for node in strange.graph.node:
        node.name = f"strange_{node.output[0]}"
        node.input[:] = [
            name if (len(name) == 2 and name[0] in "wb") or name == "x" else f"strange_{name}" for name in node.input
        ]
        node.output[:] = [f"strange_{name}" for name in node.output]
    strange.graph.output[0].name = "strange_y"
    with pytest.raises(ModelError, match="no operator that is quantized"):
        compare_layers(strange, proto.SerializeToString(), ROWS)


@pytest.mark.parametrize(
    "config",
    [
        QuantConfig(keep_slow=True, activation={"n_bits": 5}),
        QuantConfig(keep_slow=True, activation={"n_bits": 16}),
        QuantConfig(keep_slow=True, weight={"n_bits": 4, "per_channel": True}),
        QuantConfig(keep_slow=True, weight_storage="float"),
        QuantConfig(preset="w4a16"),
        QuantConfig(keep_slow=True, activation={"dynamic": True}),
    ],
    ids=["narrow", "wide", "w4", "float weights", "only weights", "dynamic"],
)
def test_all_formats_are_measured(config: QuantConfig) -> None:
    model = quantized("onnxruntime", parse(LAYERS), config)
    assert model.reference is not None
    found = collect_evidence(model, ROWS)
    exact, rough = (values_of(each, [], ROWS) for each in (model.reference.to_proto(), model.to_onnx()))
    expected = errors_of([v["y"] for v in exact], [v["y"] for v in rough])
    assert found.outputs["y"].sqnr_db == pytest.approx(expected.sqnr_db, abs=0.05)
    assert {group.tensor for group in found.groups} >= {"y"}
    assert all(group.isolated.noise > 0 for group in found.groups)
    assert all(0 < site.code_range_used <= 1 for site in found.sites)


def test_bodies_read_the_values_of_their_own_model() -> None:
    text = """
        branching (float[N,16] x, bool flag) => (float[N,16] y)
        <float[16,16] w0, float[16,16] w1> {
            a0 = MatMul (x, w0)
            r0 = Relu (a0)
            chosen = If (flag) <
                then_branch = yes () => (float[N,16] t) { t = Neg (r0) },
                else_branch = no () => (float[N,16] e) { e = Identity (r0) }
            >
            y = MatMul (chosen, w1)
        }
    """
    samples = [{**feed, "flag": np.array(index % 2 == 0)} for index, feed in enumerate(ROWS)]
    model = qx.quantize(parse(text), samples, target="tensorrt", config=CONFIG)
    found = collect_evidence(model, samples, at_outputs=9)
    first, last = (next(g for g in found.groups if g.tensor == name) for name in ("r0", "y"))
    assert first.at_outputs["y"].noise > 0
    assert last.accumulated.noise > last.isolated.noise


def test_calibration_comes_first() -> None:
    fused = qx.transform(parse(LAYERS), target="tensorrt")
    with pytest.raises(CalibrationError, match="not calibrated"):
        collect_evidence(qx.insert_qdq(fused.model, fused.matches), ROWS)


def test_sums_add_up() -> None:
    parts = Errors(4, 1, 3, 2) + Errors(6, 1, 5, 3)
    assert parts == Errors(10, 2, 8, 5)
    assert parts.sqnr_db == pytest.approx(10 * math.log10(5))
    assert parts.cosine == pytest.approx(8 / math.sqrt(80))
    assert math.isnan(Errors().sqnr_db)


def command(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    float_file, file, data = tmp_path / "float.onnx", tmp_path / "int8.onnx", tmp_path / "data.npz"
    float_file.write_bytes(parse(LAYERS).SerializeToString())
    np.savez(data, x=np.concatenate([feed["x"] for feed in ROWS]))
    quantized("tensorrt", parse(LAYERS)).save(file)
    return float_file, file, data


def test_the_command_ranks_and_says_what_to_do(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    float_file, file, data = files
    out = tmp_path / "result.json"
    shown = command(
        "compare", float_file, file, "--data", data, "--layers", "--at-outputs", 2, "--top", 3, "--json", out
    )
    layers = json.loads(out.read_text())["layers"]
    effects = [group["effect"] for group in layers["groups"]]
    assert effects == sorted(effects, reverse=True)
    assert sorted(len(group["at_outputs"]) for group in layers["groups"]) == [0, 0, 1, 1]
    assert layers["ranked_by"] == "what each alone does to the outputs: 2 measured on 32 samples, the others predicted"
    assert layers["samples"] == 32
    assert "(3 of 4" in shown
    last = shown.strip().splitlines()[-1]
    assert last.startswith("worst: ")
    assert "--exclude" in last


def test_the_advice_of_the_command_works(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    float_file, file, data = files
    shown = command("compare", float_file, file, "--data", data, "--layers")
    name = shown.split("--exclude '")[1].split("'")[0]
    again = tmp_path / "again.onnx"
    command("quantize", float_file, "-o", again, "--data", data, "--exclude", name, "--no-speed", "-q", "--keep-slow")
    assert name not in {group.name for group in compare_layers(float_file, again, ROWS).groups}


def test_options_of_layers_need_layers(files: tuple[Path, Path, Path]) -> None:
    float_file, file, data = files
    result = CliRunner().invoke(cli.app, ["compare", str(float_file), str(file), "--data", str(data), "--top", "3"])
    assert result.exit_code == 2
    assert "--layers" in result.output


def test_pairs_that_others_need_stay() -> None:
    """On onnxruntime a pair stands behind every operator: one that is released still stands between two of them."""
    found = collect_evidence(quantized("onnxruntime"), IMAGES, blame=9)
    total = next(group for group in found.groups if group.tensor == "total")
    assert set(total.kept) == {"positive", "second", "total"}
    assert len(release(found, total)) > 1
    config = QuantConfig(keep_slow=True, exclude=release(found, total))
    left = quantized("onnxruntime", config=config)
    site = worst_site(found, total)
    assert site is not None
    assert site.tensor not in {other.tensor for other in left.sites}


def test_models_in_float16_are_measured_in_float32() -> None:
    proto = parse(LAYERS.replace("float[", "float16["))
    samples = [{"x": feed["x"].astype(np.float16)} for feed in ROWS]
    model = qx.quantize(proto, samples, target="tensorrt", config=CONFIG)
    found = collect_evidence(model, samples, blame=9)
    assert len(found.groups) == 4
    assert all(20 < group.isolated.sqnr_db < 60 for group in found.groups)
    assert all(group.blame for group in found.groups)


CHOSEN = """
    g (float[N,16] x) => (float[k] y, float[N,16] h)
    <float[16,32] w1, float[32,16] w2, float zero = {0}, int64[1] all = {-1}> {
        a = MatMul (x, w1)
        r = Relu (a)
        h = MatMul (r, w2)
        f = Reshape (h, all)
        c = Greater (f, zero)
        y = Compress (f, c)
    }
"""


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_whose_shape_depends_on_rounded_values_are_left_out(target: str) -> None:
    found = collect_evidence(quantized(target, parse(CHOSEN)), ROWS, at_outputs=4, blame=2)
    assert set(found.outputs) == {"h"}
    assert len(found.groups) == 2
    assert all(set(group.at_outputs) == {"h"} for group in found.groups)
    assert any("'y'" in note for note in found.notes)
