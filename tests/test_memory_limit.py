from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import parse, read

from quantonnx import QuantConfig, calibrate, collect_statistics, compare, insert_qdq, memory, quantize, transform
from quantonnx.calibration import staging
from quantonnx.calibration.running import check_loads, outputs_of
from quantonnx.cli import run
from quantonnx.errors import ConfigError, ModelError
from quantonnx.memory import memory_limit_of
from quantonnx.recalibration import recalibrate

RNG = np.random.default_rng(0)

_LAYERS = " ".join(
    f"n{i} = LayerNormalization<axis=-1>(x{i}, g, b) m{i} = MatMul(n{i}, w{i}) s{i} = Add(m{i}, c) "
    f"r{i} = Relu(s{i}) q{i} = MatMul(r{i}, v{i}) x{i + 1} = Add(x{i}, q{i})"
    for i in range(4)
)
BLOCKS = (
    "g (float[N,64] x0) => (float[N,64] x4) <float[64] g, float[64] b, float[128] c, "
    + ", ".join(f"float[64,128] w{i}, float[128,64] v{i}" for i in range(4))
    + "> { "
    + _LAYERS
    + " }"
)
"""Blocks with a residual stream that nobody looks at: 32 kB for each of 8 weights."""

IMAGES = (
    "g (float[N,16,12,12] x) => (float[N,8] y) <float[16,16,3,3] a, float[16,16,3,3] b, float[16,16,3,3] c, "
    "float[16,16,3,3] d, float[16,8] e> { p = Conv<pads=[1,1,1,1]>(x, a) q = Relu(p) r = Conv<pads=[1,1,1,1]>(q, b) "
    "s = Add(r, q) t = Relu(s) u = Conv<pads=[1,1,1,1]>(t, c) v = Relu(u) w = Conv<pads=[1,1,1,1]>(v, d) "
    "z = Relu(w) m = GlobalAveragePool(z) f = Flatten(m) y = MatMul(f, e) }"
)
SAMPLES = {
    BLOCKS: [{"x0": RNG.normal(size=(2, 64)).astype(np.float32)} for _ in range(3)],
    IMAGES: [{"x": RNG.normal(size=(1, 16, 12, 12)).astype(np.float32)} for _ in range(3)],
}
LIMITS = {BLOCKS: 260_000, IMAGES: 180_000}
ROWS = np.concatenate([feed["x0"] for feed in SAMPLES[BLOCKS]])


def configured(method: str, *steps: str) -> QuantConfig:
    recipe = [{step: {}} for step in steps]
    given = {"activation": {"calibration_method": method}, "keep_slow": True}
    return QuantConfig.model_validate(given | ({"recipe": recipe} if recipe else {}))


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """The stages that became sessions, in a process that seems to hold nothing."""
    stages = []
    original = staging.StageModels.open

    def spy(self, stage, *others):
        stages.append(stage)
        return original(self, stage, *others)

    monkeypatch.setattr(staging.StageModels, "open", spy)
    monkeypatch.setattr(memory, "resident", lambda: 0)
    return stages


@pytest.mark.parametrize(
    ("told", "size"),
    [("4GB", 4 * 10**9), ("800 mb", 8 * 10**8), ("1.5GiB", 3 << 29), ("12", 12), (77, 77), (None, None)],
)
def test_sizes(told, size):
    assert memory_limit_of(told) == size


@pytest.mark.parametrize("told", ["", "4 apples", "-1GB", "0", 0, -5, True, "1e9"])
def test_no_sizes(told):
    with pytest.raises(ConfigError, match="expected a size such as 4GB"):
        memory_limit_of(told)


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize(
    ("graph", "target"),
    [(BLOCKS, "onnxruntime"), (BLOCKS, "tensorrt"), (IMAGES, "onnxruntime")],
    ids=["blocks", "blocks for tensorrt", "images"],
)
def test_parts_give_the_same_file(graph, target, method, opened):
    config = configured(method)
    whole = quantize(parse(graph), SAMPLES[graph], target=target, config=config, threads=1)
    assert not opened
    parts = quantize(parse(graph), SAMPLES[graph], target=target, config=config, threads=1, memory_limit=LIMITS[graph])
    assert len(opened) > 1
    assert parts.to_model().to_bytes() == whole.to_model().to_bytes()


def test_statistics_of_everything_are_the_same(tmp_path, opened):
    for name, limit in (("whole", None), ("parts", LIMITS[BLOCKS])):
        found = collect_statistics(parse(BLOCKS), SAMPLES[BLOCKS], threads=1, memory_limit=limit)
        found.save(tmp_path / f"{name}.npz")
    assert len(opened) > 1
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "parts.npz").read_bytes()


def test_what_fits_runs_in_one_piece(opened):
    quantize(parse(BLOCKS), SAMPLES[BLOCKS], target="onnxruntime", memory_limit="1GB")
    assert not opened


def test_methods_are_tried_in_parts(opened):
    whole = quantize(parse(BLOCKS), SAMPLES[BLOCKS], target="onnxruntime", threads=1)
    parts = quantize(parse(BLOCKS), SAMPLES[BLOCKS], target="onnxruntime", threads=1, memory_limit=LIMITS[BLOCKS])
    assert parts.method == whole.method is not None
    assert len(opened) > 1


def test_quantized_models_run_in_parts(opened):
    made = quantize(parse(BLOCKS), SAMPLES[BLOCKS], target="onnxruntime", config=configured("minmax")).to_model()
    whole = list(outputs_of(made, SAMPLES[BLOCKS], threads=1))
    parts = list(outputs_of(made, SAMPLES[BLOCKS], threads=1, memory_limit=150_000))
    assert len(opened) > 1
    for before, after in zip(whole, parts, strict=True):
        np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-6)


def test_all_samples_are_read_once():
    reads = []

    def samples():
        for feed in SAMPLES[BLOCKS]:
            reads.append(feed)
            yield feed

    steps = []
    config = configured("minmax", "equalize")
    placed = transform(parse(BLOCKS), target="onnxruntime")
    quantized = insert_qdq(placed.model, placed.matches, config)
    limit = LIMITS[BLOCKS]
    calibrate(quantized, samples(), memory_limit=limit, progress=lambda done, total: steps.append((done, total)))
    assert len(reads) == 3
    assert steps[-1][0] == steps[-1][1] > 6


def test_cuts_are_narrow(opened):
    collect_statistics(parse(BLOCKS), SAMPLES[BLOCKS], target="onnxruntime", limit=1, memory_limit=LIMITS[BLOCKS])
    assert {len(stage.reads) for stage in opened} == {1}


def test_no_part_is_larger_than_allowed(opened):
    collect_statistics(parse(BLOCKS), SAMPLES[BLOCKS], target="onnxruntime", limit=1, memory_limit=LIMITS[BLOCKS])
    for stage in opened:
        weights = [name for node in stage.nodes for name in node.input if name[0] in "wv"]
        assert 2 * 32_768 * len(weights) < LIMITS[BLOCKS]


def test_one_operator_that_does_not_fit():
    expected = r"the operator 'm0' alone|'MatMul_1' alone needs about 1.. kB of memory, and the limit of 30 kB leaves 28 kB; al"
    with pytest.raises(ModelError, match=expected):
        collect_statistics(parse(BLOCKS), SAMPLES[BLOCKS], memory_limit=30_000)


def test_a_weight_that_does_not_fit():
    with pytest.raises(
        ModelError, match=r"quantizing 'w0', the largest weight, needs about 229 kB of memory, and the limit of 100 kB"
    ):
        quantize(parse(BLOCKS), SAMPLES[BLOCKS], memory_limit=100_000)


def test_a_forward_loop_needs_the_whole_model():
    def loop(run):
        for feed in SAMPLES[BLOCKS]:
            run(feed)

    options = {"target": "tensorrt", "config": configured("minmax"), "forward_loop": loop}
    assert quantize(parse(BLOCKS), **options, memory_limit="1GB").calibrated
    with pytest.raises(ModelError, match="a forward loop, which runs the whole model, needs about"):
        quantize(parse(BLOCKS), **options, memory_limit=300_000)


def test_steps_that_keep_all_weights_say_so():
    config = configured("minmax", "gptq")
    with pytest.raises(ModelError, match="gptq, which keeps all weights that it changed, needs about"):
        quantize(parse(BLOCKS), SAMPLES[BLOCKS], config=config, memory_limit=LIMITS[BLOCKS])


@pytest.mark.parametrize("step", ["smooth_quant", "scale_inputs"])
def test_steps_of_recipes_run_in_parts(step, opened):
    options = {"target": "onnxruntime", "config": configured("minmax", step), "threads": 1}
    whole = quantize(parse(BLOCKS), SAMPLES[BLOCKS], **options)
    before = len(opened)
    parts = quantize(parse(BLOCKS), SAMPLES[BLOCKS], **options, memory_limit=260_000)
    assert len(opened) > before
    assert parts.to_model().to_bytes() == whole.to_model().to_bytes()


def test_models_are_compared_in_parts(opened):
    labels = np.arange(6) % 64
    quantized = quantize(parse(BLOCKS), SAMPLES[BLOCKS], target="onnxruntime").to_model()
    whole = compare(read(BLOCKS), quantized, SAMPLES[BLOCKS], labels)
    assert not opened
    parts = compare(read(BLOCKS), quantized, SAMPLES[BLOCKS], labels, memory_limit=LIMITS[BLOCKS])
    assert len(opened) > 2
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db, abs=0.1)
    assert (parts.samples, parts.float_accuracy) == (whole.samples, whole.float_accuracy)


def test_pairs_get_new_numbers_in_parts(opened):
    made = quantize(parse(BLOCKS), SAMPLES[BLOCKS], target="tensorrt").to_model()
    whole = recalibrate(made, SAMPLES[BLOCKS], threads=1)
    parts = recalibrate(made, SAMPLES[BLOCKS], threads=1, memory_limit=LIMITS[BLOCKS])
    assert len(opened) > 1
    assert parts.model.to_bytes() == whole.model.to_bytes()


ODD = {
    "an output that is an input": "g (float[N,64] x) => (float[N,64] x, float[N,64] y) "
    "<float[64,64] a, float[64,64] b> { p = MatMul(x, a) y = MatMul(p, b) }",
    "a weight that is computed": "g (float[N,64] x) => (float[N,64] y) <float[64,64] a, float[64,64] b> "
    "{ t = Transpose(a) p = MatMul(x, t) q = Relu(p) r = MatMul(q, b) y = MatMul(r, t) }",
    "a body that reads from outside": "g (float[N,64] x, bool c) => (float[N,64] y) "
    "<float[64,64] a, float[64,64] b> { p = MatMul(x, a) q = Relu(p) y = If(c) "
    "<then_branch = g1 () => (float[N,64] u) { u = MatMul(q, b) }, else_branch = g2 () => (float[N,64] v) "
    "{ v = Identity(q) }> }",
    "no weights": "g (float[N,64] x) => (float[N,64] y) { p = Relu(x) y = Exp(p) }",
    "an early output": "g (float[N,64] x) => (float[N,64] p, float[N,64] y) <float[64,64] a, float[64,64] b> "
    "{ p = MatMul(x, a) q = Relu(p) y = MatMul(q, b) }",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_graphs_run_in_parts(name, opened):
    model = read(ODD[name])
    given = {"x": RNG.normal(size=(3, 64)).astype(np.float32), "c": np.array(True)}
    feed = {value.name: given[value.name] for value in model.graph.inputs}
    expected = next(outputs_of(model, [feed], threads=1))
    found = next(outputs_of(model, [feed], threads=1, memory_limit=90_000 if "computed" in name else 70_000))
    assert (len(opened) > 1) == (name != "no weights")
    for before, after in zip(expected, found, strict=True):
        np.testing.assert_array_equal(before, after)


def test_random_numbers_are_drawn_once(opened):
    text = (
        "g (float[N,64] x) => (float[N,64] y) <float[64,64] a, float[64,64] b> { n = RandomNormal<shape=[64]>() "
        "p = Mul(x, n) q = MatMul(p, a) r = MatMul(q, b) y = Sub(r, n) z = Add(y, n) }"
    )
    next(outputs_of(read(text), [{"x": np.ones((1, 64), np.float32)}], memory_limit=70_000))
    assert sum(node.op_type == "RandomNormal" for stage in opened for node in stage.nodes) == 1
    assert len(opened) > 1


def test_a_file_that_does_not_load_is_found_in_parts(tmp_path, opened):
    model = parse(BLOCKS)
    onnx.save(model, tmp_path / "m.onnx")
    assert check_loads(tmp_path / "m.onnx", LIMITS[BLOCKS], bounded=False) == len(opened) > 1
    model.graph.node[-3].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="NoSuchOperator"):
        check_loads(tmp_path / "m.onnx", LIMITS[BLOCKS], bounded=False)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    onnx.save(parse(BLOCKS), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", ROWS[:2])
    return tmp_path


def run_command(files: Path, *options: str) -> int:
    names = {"m.onnx", "x.npy", "q.onnx", "r.onnx", "report"}
    return run([str(files / option) if option in names else option for option in options])


def test_the_command_line(files, opened, capsys):
    limit = ("--memory-limit", "260kB")
    quantizing = ("quantize", "m.onnx", "-o", "q.onnx", "-t", "onnxruntime", "--data", "x.npy", "--eval-data", "x.npy")
    assert run_command(files, *quantizing, *limit, "--report", "report") == 0
    assert "layers and times are not measured: both models at once need about" in capsys.readouterr().err
    assert run_command(files, "compare", "m.onnx", "q.onnx", "--data", "x.npy", "--layers", *limit) == 0
    assert "layers and times are not measured" in capsys.readouterr().err
    assert run_command(files, "calibrate", "q.onnx", "-o", "r.onnx", "--data", "x.npy", *limit) == 0
    assert len(opened) > 10


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--memory-limit", "much"), "the memory limit is 'much'; expected a size such as 4GB"),
        (("--memory-limit", "260kB", "--min-sqnr", "30dB", "--eval-data", "x.npy"), "a search, which runs the whole"),
        (("--memory-limit", "1kB"), "the largest weight, needs about"),
    ],
)
def test_refusals_are_one_line(files, options, told, capsys):
    assert run_command(files, "quantize", "m.onnx", "-o", "q.onnx", "--data", "x.npy", *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("quantonnx: error")]
    assert len(lines) == 1
    assert told in lines[0]
