"""A file says what made it: digests, not paths; no times, so that the bytes are the same each time."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
from models import parse

import quantonnx as qx
from quantonnx import cli, provenance
from quantonnx.calibration.collected import DataSource
from quantonnx.inspecting import inspect
from quantonnx.recalibration import recalibrate

NETWORK = """
    network (float[N,3,8,8] image) => (float[N,5] scores)
    <float[8,3,3,3] weight, float[8] bias, float[8,5] matrix, float[5] offset> {
        first = Conv <pads: ints = [1, 1, 1, 1]> (image, weight, bias)
        positive = Relu (first)
        pooled = GlobalAveragePool (positive)
        flat = Flatten (pooled)
        scores = Gemm (flat, matrix, offset)
    }
"""
X = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)


def described(**config):
    fused = qx.transform(parse(NETWORK), target="onnxruntime")
    settings = qx.QuantConfig(keep_slow=True, **config)
    placed = qx.insert_qdq(fused.model, fused.matches, settings)
    data = (DataSource("/home/me/photos.npz", 5, "ab" * 32),)
    return provenance.describe(
        placed.model.digest, target="onnxruntime", config=settings, sites=placed.sites, data=data
    )


def test_all_that_made_a_file():
    found = described(activation={"calibration_method": {"method": "percentile", "percentile": 99.9}})
    content = parse(NETWORK).SerializeToString(deterministic=True)
    config = '{"activation":{"calibration_method":{"method":"percentile","percentile":99.9}},"keep_slow":true}'
    assert found == {
        "quantonnx.version": found["quantonnx.version"],
        "quantonnx.target": "onnxruntime",
        "quantonnx.model_sha256": hashlib.sha256(content).hexdigest(),
        "quantonnx.config": config,
        "quantonnx.config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        "quantonnx.data": json.dumps([{"samples": 5, "sha256": "ab" * 32}], separators=(",", ":")),
        "quantonnx.method": "percentile:99.9",
    }


def quantized(samples=None, **options):
    settings = qx.QuantConfig(keep_slow=True, activation={"calibration_method": "percentile:99"})
    return qx.quantize(parse(NETWORK), samples, target="onnxruntime", config=settings, **options)


def test_a_quantized_file_says_it_all():
    model = quantized({"image": X}).to_onnx()
    found = {entry.key.removeprefix("quantonnx."): entry.value for entry in model.metadata_props}
    assert set(found) == {"version", "target", "model_sha256", "config", "config_sha256", "data", "method"}
    assert found["method"] == "percentile:99"
    assert json.loads(found["data"])[0]["samples"] == 5


def test_however_the_data_came_the_bytes_are_the_same():
    expected = quantized({"image": X}).to_model().to_bytes()
    assert quantized({"image": X}).to_model().to_bytes() == expected
    one_by_one = quantized([{"image": X[i : i + 1]} for i in range(5)]).to_model()
    by_loop = quantized(forward_loop=lambda run: [run({"image": X[i : i + 1]}) for i in range(5)]).to_model()
    kept = quantized(statistics=qx.collect_statistics(parse(NETWORK), {"image": X}, target="onnxruntime")).to_model()
    told = {model.metadata["quantonnx.data"] for model in (one_by_one, by_loop, kept)}
    assert told == {quantized({"image": X}).to_model().metadata["quantonnx.data"]}


def test_nothing_in_a_file_depends_on_where_it_was_made(tmp_path):
    written = []
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.onnx").write_bytes(parse(NETWORK).SerializeToString())
        np.savez(tmp_path / folder / f"{folder}.npz", image=X)
        data, out = tmp_path / folder / f"{folder}.npz", tmp_path / folder / "out.onnx"
        options = ["--data", data, "-o", out, "--target", "onnxruntime", "--keep-slow", "--no-speed", "-q"]
        assert cli.run(["quantize", str(tmp_path / folder / "model.onnx"), *map(str, options)]) == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]


def test_the_order_of_settings_does_not_matter():
    one = described(weight={"n_bits": 4, "symmetric": True}, activation={"signed": True})
    other = described(activation={"signed": True}, weight={"symmetric": True, "n_bits": 4})
    assert one == other
    assert one["quantonnx.config_sha256"] != described()["quantonnx.config_sha256"]


def test_seeds_are_told_where_rounding_is_random():
    assert "quantonnx.seed" not in described()
    found = described(weight={"rounding": "stochastic", "seed": 7})
    assert found["quantonnx.seed"] == "7"


def test_recalibration_keeps_what_was_said():
    quantized = qx.quantize(parse(NETWORK), {"image": X}, target="onnxruntime", config=qx.QuantConfig(keep_slow=True))
    model = quantized.to_model()
    model.metadata |= {"quantonnx.target": "onnxruntime", "author": "me"}
    data = model.to_bytes()
    found = recalibrate(data, [{"image": X}], method="moving_average:0.2").model.metadata
    assert found["author"] == "me"
    assert found["quantonnx.target"] == "onnxruntime"
    assert found["quantonnx.method"] == "moving_average:0.2"
    assert found["quantonnx.recalibrated_sha256"] == hashlib.sha256(data).hexdigest()
    (part,) = json.loads(found["quantonnx.data"])
    assert part == {
        "samples": 5,
        "sha256": qx.collect_statistics(parse(NETWORK), {"image": X}).data[0].digest,
    }


@pytest.fixture
def transformed(tmp_path):
    path, out = tmp_path / "model.onnx", tmp_path / "fused.onnx"
    path.write_bytes(parse(NETWORK).SerializeToString())
    assert cli.run(["transform", str(path), "-o", str(out), "-q", "--target", "onnxruntime"]) == 0
    return path, out


def test_transform_says_where_a_file_comes_from(transformed):
    path, out = transformed
    found = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert found["quantonnx.model_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["quantonnx.target"] == "onnxruntime"
    assert str(path.parent) not in str(found)


def test_inspect_shows_it(transformed, capsys):
    _, out = transformed
    assert set(inspect(out).provenance) == {"version", "target", "model_sha256"}
    assert cli.run(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "for onnxruntime" in shown
    assert f"SHA-256 {inspect(out).provenance['model_sha256']}" in shown


def test_inspect_says_nothing_of_other_files(tmp_path, capsys):
    (tmp_path / "model.onnx").write_bytes(parse(NETWORK).SerializeToString())
    assert cli.run(["inspect", str(tmp_path / "model.onnx")]) == 0
    assert "made by" not in capsys.readouterr().out


def test_facts_are_readable_and_bad_ones_do_no_harm():
    found = provenance.provenance(described() | {"other": "x"})
    shown = {fact.name: fact.text for fact in provenance.facts(found)}
    assert shown["calibrated on"] == f"5 samples, SHA-256 {'ab' * 32}"
    assert shown["made by"].endswith("for onnxruntime")
    assert "other" not in shown
    assert provenance.facts({}) == []
    assert provenance.facts({"data": "[1]"})[-1].text == "[1]"
