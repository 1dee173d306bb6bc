"""`--save-statistics` and `--statistics`: one pass over the data, then any method and setting without it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from models import parse
from onnx import numpy_helper

from quantonnx import cli
from quantonnx.calibration import session

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
OPTIONS = ("--target", "onnxruntime", "--keep-slow", "--no-speed", "-q")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "model.onnx").write_bytes(parse(NETWORK).SerializeToString())
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", image=rng.normal(size=(6, 3, 8, 8)).astype(np.float32))
    return tmp_path


def run(*arguments, code=0):
    assert cli.run([str(argument) for argument in arguments]) == code


def quantize(files, out, *options, code=0):
    run("quantize", files / "model.onnx", "-o", files / out, *OPTIONS, *options, code=code)


def scales(path):
    model = onnx.load(path)
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    return {n.input[0]: values[n.input[1]].item() for n in model.graph.node if n.op_type == "QuantizeLinear"}


def test_another_method_needs_no_data(files, monkeypatch):
    quantize(files, "first.onnx", "--data", files / "one.npz", "--save-statistics", files / "seen.npz")
    quantize(files, "expected.onnx", "--data", files / "one.npz", "--method", "percentile:99")

    def refuse(*_, **__):
        raise AssertionError("no inference")

    monkeypatch.setattr(session.Collector, "_infer", refuse)
    quantize(files, "second.onnx", "--statistics", files / "seen.npz", "--method", "percentile:99")
    assert scales(files / "second.onnx") == pytest.approx(scales(files / "expected.onnx"), rel=1e-4)
    assert scales(files / "second.onnx") != pytest.approx(scales(files / "first.onnx"), rel=1e-4)


def test_several_files_are_one(files):
    for name in ("one", "two"):
        quantize(files, f"{name}.onnx", "--data", files / f"{name}.npz", "--save-statistics", files / f"{name}.seen")
    given = [option for name in ("one", "two") for option in ("--statistics", files / f"{name}.seen")]
    quantize(files, "both.onnx", *given, "--save-statistics", files / "both.seen", "--json", files / "result.json")
    assert json.loads((files / "result.json").read_text())["samples"] == 12
    highest = {name: max(scales(files / f"{each}.onnx")[name] for each in ("one", "two")) for name in ("positive",)}
    assert scales(files / "both.onnx")["positive"] == pytest.approx(highest["positive"], rel=1e-5)
    quantize(files, "again.onnx", "--statistics", files / "both.seen")
    assert (files / "again.onnx").read_bytes() == (files / "both.onnx").read_bytes()


def test_a_model_that_has_pairs_is_calibrated_from_statistics(files):
    quantize(files, "pairs.onnx", "--data", files / "one.npz")
    common = (files / "pairs.onnx", "-q", "-o")
    data, seen = ("--data", files / "two.npz"), files / "pairs.seen"
    run("calibrate", *common, files / "a.onnx", *data, "--save-statistics", seen)
    run("calibrate", *common, files / "b.onnx", *data, "--method", "percentile:99")
    run("calibrate", *common, files / "c.onnx", "--statistics", seen, "--method", "percentile:99")
    assert scales(files / "c.onnx") == pytest.approx(scales(files / "b.onnx"), rel=1e-4)
    assert scales(files / "c.onnx") != pytest.approx(scales(files / "a.onnx"), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--statistics", "seen", "--samples", 3],
            "--samples and --statistics are both given; statistics need no data",
        ),
        (["--statistics", "seen", "--data", "one.npz"], "--data and --statistics are both given"),
        (["--statistics", "seen", "--random-data", 3], "--random-data and --statistics are both given"),
        (["--statistics", "none"], "cannot be read: No such file"),
        (["--statistics", "one.npz"], "one.npz' holds something else; name one that --save-statistics wrote"),
        (["--statistics", "seen", "--statistics", "other"], "statistics of two models do not merge"),
        (["--statistics", "other"], "the statistics are of another model"),
        (["--data", "one.npz", "--save-statistics", "seen"], "seen' exists already; use --force"),
        (
            ["--data", "one.npz", "--save-statistics", "one.npz", "--force"],
            "is given twice, as save_statistics and as data",
        ),
        (["--statistics", "seen", "--save-statistics", "seen", "--force"], "is given twice, as save_statistics and as"),
        ([], "quantize has no samples"),
    ],
    ids=str,
)
def test_refusals(files, capsys, options, message):
    quantize(files, "a.onnx", "--data", files / "one.npz", "--save-statistics", files / "seen")
    (files / "other.onnx").write_bytes(parse(NETWORK, seed=1).SerializeToString())
    other = ("quantize", files / "other.onnx", "-o", files / "b.onnx", *OPTIONS)
    run(*other, "--data", files / "one.npz", "--save-statistics", files / "other")
    given = [files / item if item in ("seen", "none", "one.npz", "other") else item for item in options]
    quantize(files, "c.onnx", *given, code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (files / "c.onnx").exists()
