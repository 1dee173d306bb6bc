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
    relative = [group.isolated.relative for group in found.groups]
    assert relative == sorted(relative, reverse=True)
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
    assert "clipping" in advice(found, found.groups[0])


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
    assert peak(800) < peak(8) + 200_000  # the data has 3.2 MB


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
    levels = [group["isolated"]["sqnr_db"] for group in layers["groups"]]
    assert levels == sorted(levels)
    assert len(layers["groups"][0]["at_outputs"]) == 1
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
