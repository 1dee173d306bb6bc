"""Statistics are collected once, saved, loaded and merged; then any configuration gets its numbers from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from models import NETWORK, parse, read

import quantonnx as qx
from quantonnx.calibration import archive
from quantonnx.calibration.collected import Statistics
from quantonnx.calibration.session import Collector
from quantonnx.errors import CalibrationError, OutputError, PlanError
from quantonnx.surveying import float_activations, survey

X = np.random.default_rng(0).normal(size=(9, 3, 8, 8)).astype(np.float32)
TARGETS = ("onnxruntime", "tensorrt", "openvino")
CONFIGS = (
    {},
    {"activation": {"calibration_method": "mse"}},
    {"activation": {"calibration_method": "moving_average:0.3"}},
    {"activation": {"calibration_method": "percentile:99"}},
    {"bias_correction": True},
    {"exclude": ["Gemm"]},
)


def placed(target="onnxruntime", **config):
    fused = qx.transform(parse(NETWORK), target=target)
    return qx.insert_qdq(fused.model, fused.matches, qx.QuantConfig(keep_slow=True, **config))


def collected(x=X, **options):
    samples = None if x is None else {"image": x}
    return qx.collect_statistics(parse(NETWORK), samples, target="onnxruntime", **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "seen.npz"


def scales(quantized):
    return {site.tensor: float(p.scale.max()) for site, p in quantized.parameters.items() if site.on_activation}


def test_every_float_activation_is_watched():
    model = read("""
        g (float[2,4] x, int64[2] n) => (float[2,4] y, int64[2] shape) {
            half = Constant <value_float = 0.5> ()
            shape = Shape (x)
            small = Cast <to = 10> (x)
            wide = Cast <to = 11> (x)
            a, b = Split <axis = 1> (x)
            joined = Concat <axis = 1> (a, b)
            y = Mul (joined, half)
        }
    """)
    assert float_activations(model) == ["x", "small", "a", "b", "joined", "y"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_any_configuration_gets_the_numbers_of_a_calibration_of_its_own(target, config):
    statistics = qx.collect_statistics(parse(NETWORK), {"image": X}, target=target)
    found = qx.calibrate(placed(target, **config), statistics=statistics)
    expected = qx.calibrate(placed(target, **config), {"image": X})
    assert scales(found) == pytest.approx(scales(expected), rel=1e-4)
    bias = {"image": X[:2]}
    for one, other in zip(run(found, bias), run(expected, bias), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02 * np.abs(other).max())


def run(quantized, feed):
    from quantonnx.calibration.loading import open_session

    return open_session(quantized.to_model(), optimize=False).run(None, feed)


def test_a_file_holds_all_of_it(path):
    seen = collected()
    seen.save(path)
    loaded = Statistics.load(path)
    assert (loaded.model, loaded.data, loaded.refused) == (seen.model, seen.data, {})
    assert list(loaded.tensors) == list(seen.tensors)
    assert {"image", "positive", "total", "pooled", "flat", "scores"} <= set(seen.tensors)
    for name, stats in seen.tensors.items():
        other = loaded.tensors[name]
        assert (other.low, other.high, other.samples, other.count) == (stats.low, stats.high, 9, stats.count)
        np.testing.assert_array_equal(other.counts, stats.counts)
        np.testing.assert_array_equal(other.edges, stats.edges)
        assert other.average(0.3) == stats.average(0.3)
    for name, mean in seen.channel_means().items():
        np.testing.assert_array_equal(loaded.channel_means()[name], mean)
    assert set(seen.means) == {"image", "flat"}


def test_the_bytes_are_the_same_each_time(tmp_path):
    for name in "ab":
        collected().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    Statistics.load(tmp_path / "a").save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


def test_files_merge_as_if_their_data_were_one(tmp_path):
    for name, part in zip("abc", np.split(X, [2, 3]), strict=True):
        collected(part).save(tmp_path / name)
    merged = Statistics.load(*(tmp_path / name for name in "abc"))
    whole = collected()
    assert [source.samples for source in merged.data] == [2, 1, 6]
    assert merged.samples == 9
    for name, stats in whole.tensors.items():
        assert (merged.tensors[name].low, merged.tensors[name].high) == pytest.approx((stats.low, stats.high), rel=1e-5)
        assert merged.tensors[name].average(0.2) == pytest.approx(stats.average(0.2), rel=1e-5)
        np.testing.assert_allclose(merged.channel_means().get(name, 0), whole.channel_means().get(name, 0), atol=1e-5)
    again = Statistics.load(tmp_path / "a")
    again.merged(again)
    assert again.samples == 2
    assert again.tensors["image"].samples == 2


def test_a_file_is_not_replaced_unasked(path):
    collected().save(path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        collected(X[:2]).save(path)
    assert path.read_bytes() == before
    collected(X[:2]).save(path, force=True)
    assert Statistics.load(path).samples == 2


def test_no_file_is_left_when_the_disk_refuses(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.np, "savez_compressed", refuse)
    with pytest.raises(OutputError, match="No space left"):
        collected().save(path)
    assert not list(path.parent.iterdir())


def test_the_name_of_the_data_has_no_folder(tmp_path):
    np.savez(tmp_path / "photos.npz", image=X)
    (source,) = qx.collect_statistics(parse(NETWORK), tmp_path / "photos.npz").data
    assert (source.name, source.samples) == ("photos.npz", 9)


@pytest.mark.parametrize("cuts", [(), (3,), (1, 2, 5)])
def test_the_digest_of_data_does_not_depend_on_batches(cuts):
    feeds = [{"image": part} for part in np.split(X, cuts)]
    assert survey(read(NETWORK), feeds).data == survey(read(NETWORK), {"image": X}).data


def test_a_forward_loop_gives_the_samples():
    seen = collected(None, forward_loop=lambda run: [run({"image": X[i : i + 3]}) for i in range(0, 9, 3)])
    assert seen.data == collected().data
    assert set(seen.tensors) == set(collected().tensors)
    with pytest.raises(PlanError, match="samples or a forward loop"):
        qx.collect_statistics(parse(NETWORK))


def test_other_data_has_another_digest():
    changed = X.copy()
    changed[4, 0, 0, 0] += 1
    digests = {survey(read(NETWORK), {"image": x}).data[0].digest for x in (X, changed, X[::-1], X[:8])}
    assert len(digests) == 4


def test_what_cannot_be_quantized_matters_only_where_it_is_asked_for(path):
    text = "g (float[N,4] x) => (float[N,4] y) { l = Log(x) r = Relu(x) y = Add(r, x) }"
    seen = survey(read(text), {"x": -np.ones((2, 4), np.float32)})
    seen.save(path)
    loaded = Statistics.load(path)
    assert set(loaded.tensors) == {"x", "r", "y"}
    loaded.require(loaded.model, ["x", "y"])
    with pytest.raises(CalibrationError, match="'l' has no statistics: .* holds NaN or infinity in sample 0.*in float"):
        loaded.require(loaded.model, ["l"])


def test_a_missing_tensor_is_named():
    seen = collected()
    with pytest.raises(CalibrationError, match="have no tensor 'nothing'; collect statistics of this model again"):
        seen.require(seen.model, ["image", "nothing"])
    del seen.tensors["image"]
    with pytest.raises(CalibrationError, match="have no tensor 'image'"):
        qx.calibrate(placed(), statistics=seen)


def test_statistics_of_another_model_are_refused(tmp_path):
    other = parse(NETWORK, seed=1)
    qx.collect_statistics(other, {"image": X}).save(tmp_path / "other")
    collected().save(tmp_path / "mine")
    with pytest.raises(CalibrationError, match="of another model: SHA-256"):
        qx.calibrate(placed(), statistics=tmp_path / "other")
    with pytest.raises(CalibrationError, match="two models do not merge"):
        Statistics.load(tmp_path / "mine", tmp_path / "other")


def test_tensors_that_only_some_files_have_are_refused():
    one, other = collected(X[:3]), collected(X[3:])
    del other.tensors["image"]
    merged = one.merged(other)
    assert merged.refused == {"image": "only some of the merged statistics have it"}
    assert "image" not in merged.tensors


def bad_files(good):
    """Names of damages, and the bytes of files that have them."""
    header = json.dumps({"kind": "quantonnx statistics", "format": 99}).encode()

    def saved(**arrays):
        from io import BytesIO

        file = BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    with_objects = np.array([{"a": 1}], dtype=object)
    told = json.dumps({"kind": "quantonnx statistics", "format": 1, "model": "m", "data": [], "tensors": ["t"]})
    return [
        ("empty", b"", "is no .npz file"),
        ("text", b"hello", "is no .npz file"),
        ("pickle", b"\x80\x04\x95", "is no .npz file"),
        ("truncated", good[: len(good) // 2], "is damaged"),
        ("flipped", good[:5000] + bytes(50) + good[5050:], "is damaged"),
        ("other arrays", saved(image=X), "holds something else"),
        ("another format", saved(header=np.frombuffer(header, np.uint8)), "has format 99, this version.* reads 1"),
        ("pickled header", saved(header=with_objects), "is damaged"),
        ("no arrays", saved(header=np.frombuffer(told.encode(), np.uint8)), "is damaged"),
    ]


def test_bad_files_are_refused_in_one_line(path):
    collected().save(path)
    for name, content, message in bad_files(path.read_bytes()):
        bad = path.with_name(f"{name}.npz")
        bad.write_bytes(content)
        with pytest.raises(CalibrationError, match=f"{name}.npz' {message}") as found:
            Statistics.load(bad)
        assert "\n" not in str(found.value)
    with pytest.raises(CalibrationError, match="cannot be read: No such file"):
        Statistics.load(path.parent / "none.npz")
    with pytest.raises(CalibrationError, match="cannot be read: Is a directory"):
        Statistics.load(path.parent)
    with pytest.raises(CalibrationError, match="name at least one"):
        Statistics.load()


NORM = """
network (float[N,6,8] x) => (float[N,6,4] y)
<float[8] gamma, float[8] beta, float[8,4] matrix> {
    norm = LayerNormalization <axis = -1> (x, gamma, beta)
    y = MatMul (norm, matrix)
}
"""


def test_the_maxima_that_smoothing_needs_are_in_it(tmp_path):
    from quantonnx.algorithms.smooth_quant import smooth, smooth_by

    x = np.random.default_rng(0).normal(size=(7, 6, 8)).astype(np.float32)
    model = qx.transform(parse(NORM), target="openvino").model
    for name, part in zip("ab", np.split(x, [3]), strict=True):
        survey(model, {"x": part}).save(tmp_path / name)
    merged = Statistics.load(tmp_path / "a", tmp_path / "b")
    assert list(merged.channels) == ["norm"]
    assert merged.channels["norm"].samples == 7
    found, expected = smooth_by(model, merged.channel_maxima()), smooth(model, {"x": x})
    np.testing.assert_allclose(found.smoothed[0].scale, expected.smoothed[0].scale, rtol=1e-5)


def test_channels_that_hold_nan_are_refused_only_where_it_matters():
    x = np.full((1, 6, 8), np.float32(3e38))
    text = NORM.replace("norm = ", "wide = Mul(x, x) norm = ").replace("(x, gamma", "(wide, gamma")
    seen = survey(read(text), {"x": x})
    assert {"wide", "norm"} <= set(seen.refused)
    assert seen.channels == {}


@pytest.mark.parametrize(
    "key",
    [
        "extremes",
        "histograms",
        "recent",
        "older",
        "samples",
        "mean_sums",
        "mean_channels",
        "channel_extremes",
        "channel_count",
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(path, key):
    with_channels = key.startswith("channel")
    seen = survey(read(NORM), {"x": np.ones((2, 6, 8), np.float32)}) if with_channels else collected()
    seen.save(path)
    header, arrays = archive.read(path)
    for damage in (arrays[key][:-1], arrays[key].astype(np.float16), None):
        changed = {name: value for name, value in arrays.items() if name != key}
        archive.write(path, header, changed | ({} if damage is None else {key: damage}), force=True)
        with pytest.raises(CalibrationError, match="is damaged"):
            Statistics.load(path)


def test_a_strict_collector_still_refuses():
    text = "g (float[N,4] x) => (float[N,4] y) { l = Log(x) y = Relu(l) }"
    with pytest.raises(CalibrationError, match="NaN or infinity"), Collector(read(text), ["l"]) as collector:
        collector.run({"x": -np.ones((1, 4), np.float32)})
