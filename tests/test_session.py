from __future__ import annotations

import threading

import numpy as np
import pytest
from models import parse, read, run

from quantonnx.calibration import loading, taps
from quantonnx.calibration.loading import open_session
from quantonnx.calibration.session import Collector
from quantonnx.errors import CalibrationError, DataError, ModelError

CONVS = """
g (float[N,3,H,W] x) => (float[N,4] y)
<float[16,3,3,3] w1, float[16] b1, float[4,16,1,1] w2> {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    c = Conv(p, w2)
    m = GlobalAveragePool(c)
    y = Flatten(m)
}
"""
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3, 80, 80)).astype(np.float32)


def feeds(*cuts):
    return [{"x": part} for part in np.split(X, cuts)]


def collect(model, tensors, samples, *, histogram=True, threads=None, progress=None):
    with Collector(model, tensors, histogram=histogram, threads=threads) as collector:
        collector.run_all(samples, progress)
        return collector.finish()


def whole(name, x=X):
    proto = parse(CONVS)
    proto.graph.output.add().name = name
    return run(proto, {"x": x})[name]


@pytest.mark.parametrize("histogram", [True, False, ["r"]], ids=str)
def test_extremes_are_exact(histogram):
    found = collect(read(CONVS), ["x", "a", "r", "p", "c", "y"], feeds(1, 2, 3, 4, 5), histogram=histogram)
    assert list(found) == ["x", "a", "r", "p", "c", "y"]
    for name, stats in found.items():
        values = X if name == "x" else whole(name)
        assert stats.low == pytest.approx(min(values.min(), 0), rel=1e-5), name
        assert stats.high == pytest.approx(max(values.max(), 0), rel=1e-5), name
        assert stats.samples == 6
        assert (stats.counts is not None) == (histogram is True or (histogram is not False and name in histogram))


@pytest.mark.parametrize("cuts", [(), (3,), (1, 2, 4)])
def test_independent_of_batching(cuts):
    names = ["x", "a", "r", "c", "y"]
    one = collect(read(CONVS), names, feeds(1, 2, 3, 4, 5), threads=1)
    other = collect(read(CONVS), names, feeds(*cuts), threads=1)
    for name in names:
        a, b = one[name], other[name]
        assert (a.low, a.high) == pytest.approx((b.low, b.high), rel=1e-5)
        assert a.average(0.01) == pytest.approx(b.average(0.01), rel=1e-5)
        assert np.abs(a.counts - b.counts).sum() <= 1e-3 * a.counts.sum()


def test_large_images_are_thinned_and_their_histogram_is_right():
    proto = parse(CONVS)
    found = taps.add_taps(proto, {"r": True, "a": True, "p": True}, {"x": X.shape})
    assert [bool(tap.thinned) for tap in found] == [True, False, False]
    assert sum(node.op_type == "GlobalMaxPool" for node in proto.graph.node) == 1
    stats = collect(read(CONVS), ["r"], feeds())["r"]
    below = np.cumsum(stats.counts) / stats.counts.sum()
    values = whole("r")
    for quantile in (0.7, 0.9, 0.99, 0.999):
        edge = stats.edges[np.searchsorted(below, quantile) + 1]
        assert edge == pytest.approx(np.quantile(values, quantile), rel=0.05)


@pytest.mark.parametrize(
    ("clip", "thinned"),
    [
        ("Clip(a, zero, six)", True),
        ("Clip(a, six)", True),
        ("Clip(a, minus)", False),
        ("Clip(a)", False),
        ("Tanh(a)", False),
    ],
)
def test_only_what_is_never_negative_is_thinned(clip, thinned):
    text = f"""g (float[N,3,80,80] x) => (float[N,16,80,80] r)
    <float[16,3,3,3] w, float zero = {{0}}, float six = {{6}}, float minus = {{-1}}>
    {{ a = Conv<pads=[1,1,1,1]>(x, w) r = {clip} }}"""
    (tap,) = taps.add_taps(parse(text), {"r": True}, {"x": X.shape})
    assert bool(tap.thinned) == thinned


def test_dynamic_shapes_and_lengths():
    text = "g (float[N,T,8] x) => (float[N,T,8] y) { h = Tanh(x) y = Relu(h) }"
    data = [{"x": RNG.normal(size=(2, t, 8)).astype(np.float32)} for t in (3, 17, 5)]
    stats = collect(read(text), ["h"], data)["h"]
    assert (stats.samples, stats.count) == (6, 2 * 25 * 8)
    assert stats.high == pytest.approx(max(np.tanh(feed["x"]).max() for feed in data), abs=1e-6)


def test_inputs_that_do_not_share_a_batch():
    text = "g (float[N,4] x, float[2] s) => (float[N,4] y) { t = ReduceSum(s) y = Mul(x, t) }"
    data = [{"x": np.ones((5, 4), np.float32), "s": np.ones(2, np.float32)}]
    stats = collect(read(text), ["y", "t", "s"], data)
    assert [stats[name].high for name in ("y", "t", "s")] == [2, 2, 1]


def test_an_input_without_a_batch_axis():
    graph = CONVS.replace("float[N,3,H,W] x", "float[3,80,80] image").replace("w2> {", "w2, int64[1] first = {0}> {")
    model = read(graph.replace("a = Conv", "x = Unsqueeze(image, first)\n    a = Conv"))
    with Collector(model, ["r"], means={"r": True}) as collector:
        collector.run_all([{"image": X[0]}])
        assert collector.finish()["r"].high == pytest.approx(whole("r", X[:1]).max(), rel=1e-5)
        assert collector.channel_means()["r"].shape == (16,)


def test_the_model_is_not_changed():
    model = read(CONVS)
    before = model.to_bytes()
    collect(model, ["r"], feeds())
    assert model.to_bytes() == before


def test_progress_counts_samples():
    seen = []
    collect(read(CONVS), ["r"], feeds(2, 4), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [2, 4, 6]


def test_a_forward_loop_gets_the_outputs():
    with Collector(read(CONVS), ["r"], histogram=False) as collector:
        (y,) = collector.run({"x": X})
        stats = collector.finish()
    np.testing.assert_allclose(y, run(parse(CONVS), {"x": X})["y"], rtol=1e-4, atol=1e-5)
    assert stats["r"].samples == 6


def test_a_forward_loop_is_checked_as_samples_are():
    with Collector(read(CONVS), ["r"]) as collector:
        with pytest.raises(DataError, match="input 'x' of sample 0 is uint8, expected float32"):
            collector.run({"x": X.astype(np.uint8)})
        with pytest.raises(DataError, match="'x' of sample 0 holds NaN"):
            collector.run({"x": X * np.nan})


def test_threads_end():
    with Collector(read(CONVS), ["r"]) as collector:
        collector.run({"x": X})
    assert not [thread for thread in threading.enumerate() if thread.name == "calibration statistics"]


def test_large_models_go_through_a_file(monkeypatch, tmp_path):
    expected = collect(read(CONVS), ["r"], feeds())["r"]
    monkeypatch.setattr(loading, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr(loading.tempfile, "tempdir", str(tmp_path))
    assert collect(read(CONVS), ["r"], feeds())["r"].high == pytest.approx(expected.high)
    np.testing.assert_allclose(
        open_session(read(CONVS)).run(None, {"x": X})[0], run(parse(CONVS), {"x": X})["y"], rtol=1e-4, atol=1e-5
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("optimize", [True, False])
def test_open_session_takes_every_form(tmp_path, optimize):
    proto = parse(CONVS)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    for source in (proto, proto.SerializeToString(), read(CONVS), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        loaded = open_session(source, threads=1, optimize=optimize)
        assert [value.name for value in loaded.get_inputs()] == ["x"]


def test_what_does_not_load_is_a_model_error(capfd):
    with pytest.raises(ModelError, match="ONNX Runtime cannot load the model"):
        open_session(b"nothing")
    with pytest.raises(ModelError, match="Unknown"):
        open_session(parse("g (float[2] x) => (float[2] y) { y = my.Unknown(x) }", domain="my"))
    assert capfd.readouterr().err == ""


NAN = "g (float[N,4] x) => (float[N,4] y) { l = Log(x) y = Relu(l) }"


@pytest.mark.parametrize(
    ("text", "tensors", "data", "error", "message"),
    [
        (CONVS, ["r"], [], CalibrationError, "'r' saw no data"),
        (CONVS, ["nothing"], feeds(), CalibrationError, "'nothing' is not in the model"),
        (CONVS, ["w1"], feeds(), CalibrationError, "'w1' is a constant"),
        (CONVS, ["r"], [{"image": X}], DataError, r"cannot run sample 0: Required inputs \(\['x'\]\)"),
        (CONVS, ["r"], [{"x": X}, {"x": X[:, :2]}], DataError, "cannot run sample 6"),
        (CONVS, ["r"], [{"x": X.astype(np.float64)}], DataError, "cannot run sample 0"),
        (
            NAN,
            ["l"],
            [{"x": np.ones((2, 4), np.float32)}, {"x": -np.ones((2, 4), np.float32)}],
            CalibrationError,
            "'l' holds NaN or infinity in sample 2",
        ),
    ],
)
def test_refusals(text, tensors, data, error, message):
    with pytest.raises(error, match=message):
        collect(read(text), tensors, data)
    assert not [thread for thread in threading.enumerate() if thread.name == "calibration statistics"]
