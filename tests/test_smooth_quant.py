from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import assert_same_results, parse, read

import quantonnx as qx
from quantonnx.algorithms.smooth_quant import Smoothing, maxima_needed, smooth, smooth_by
from quantonnx.calibration.session import Collector
from quantonnx.calibration.statistics import ChannelExtremes
from quantonnx.config import NameRules
from quantonnx.errors import CalibrationError, ConfigError
from quantonnx.model import Model

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from fetch_models import DEFAULT_CACHE, fetch
from package_download import Unavailable

SHAPES = ", int64[2] rows = {-1,8}, int64[3] other = {0,-1,4}, int64[1] second = {1}"
WEIGHTS = "float[8] g, float[8] b, float[8,6] w1, float[8,5] w2, float[5] c"
NORM = "n = LayerNormalization<axis=-1>(x, g, b)"
RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 3, 8)).astype(np.float32)
MANY = RNG.normal(size=(4, 250, 8)).astype(np.float32)


def graph(body: str, *, weights: str = WEIGHTS, out: str = "float[N,T,6] y") -> str:
    return f"g (float[N,T,8] x) => ({out}) <{weights}> {{ {body} }}"


TWO = graph(f"{NORM} y = MatMul(n, w1) z = MatMul(n, w2)", out="float[N,T,6] y, float[N,T,5] z")


def values(model: Model, name: str) -> np.ndarray:
    return model.array(model.find(name))


def smoothed(text: str, **options: object) -> tuple[Model, Smoothing]:
    model = read(text, opset=17)
    found = smooth(model, [{"x": X}], **options)  # type: ignore[arg-type]
    assert_same_results(model, found.model)
    return model, found


def norm_maxima(model: Model, name: str = "n") -> np.ndarray:
    proto = model.to_proto()
    proto.graph.output.append(onnx.ValueInfoProto(name=name))
    session = ort.InferenceSession(proto.SerializeToString())
    return np.abs(session.run([name], {"x": X})[0]).reshape(-1, 8).max(axis=0)


@pytest.mark.parametrize("alpha", [0, 0.5, 0.8, 1])
def test_the_formula_of_the_paper(alpha: float) -> None:
    before, found = smoothed(TWO, alpha=alpha)
    weight = np.maximum(*(np.abs(values(before, name)).max(axis=1) for name in ("w1", "w2")))
    expected = np.maximum(norm_maxima(before) ** alpha / weight ** (1 - alpha), 1e-3)
    (group,) = found.smoothed
    assert (group.activation, len(group.linears)) == ("n", 2)
    np.testing.assert_allclose(group.scale, expected, rtol=1e-5)
    for name in ("g", "b"):
        np.testing.assert_allclose(values(found.model, name), values(before, name) / expected, rtol=1e-5)
    for name in ("w1", "w2"):
        np.testing.assert_allclose(values(found.model, name), values(before, name) * expected[:, None], rtol=1e-5)


def test_at_a_half_activations_and_weights_are_equally_large() -> None:
    _, found = smoothed(graph(f"{NORM} y = MatMul(n, w1)"), alpha=0.5)
    weights = np.abs(values(found.model, "w1")).max(axis=1)
    np.testing.assert_allclose(norm_maxima(found.model), weights, rtol=1e-4)


def test_the_callers_model_is_not_changed() -> None:
    model = read(TWO)
    before = model.to_bytes()
    smooth(model, [{"x": X}])
    assert model.to_bytes() == before


def test_no_factor_is_below_the_least() -> None:
    _, found = smoothed(TWO, scale_clamp_min=50.0)
    assert set(found.smoothed[0].scale.tolist()) == {50.0}


def test_channels_without_values_or_weights_stay_finite() -> None:
    proto = parse(graph(f"{NORM} y = MatMul(n, w1)"))
    for item in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(item).copy()
        array[2] = 0
        item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))
    found = smooth(Model.read(proto), [{"x": X}])
    assert np.isfinite(found.smoothed[0].scale).all()
    assert_same_results(proto, found.model)


CROSSED = {
    "Reshape": ("r = Reshape(n, rows) y = MatMul(r, w1)", "float[M,6] y"),
    "Transpose": ("r = Transpose<perm=[1,0,2]>(n) y = MatMul(r, w1)", "float[T,N,6] y"),
    "Unsqueeze": ("r = Unsqueeze(n, second) y = MatMul(r, w1)", "float[N,1,T,6] y"),
    "Unsqueeze, Squeeze": ("u = Unsqueeze(n, second) r = Squeeze(u, second) y = MatMul(r, w1)", "float[N,T,6] y"),
    "Flatten": ("r = Flatten<axis=2>(n) y = Gemm(r, w1)", "float[M,6] y"),
    "Identity": ("r = Identity(n) y = MatMul(r, w1)", "float[N,T,6] y"),
    "Shape": ("y = MatMul(n, w1) s = Shape(n)", "float[N,T,6] y, int64[3] s"),
}


@pytest.mark.parametrize("name", CROSSED)
def test_crosses_what_only_changes_the_shape(name: str) -> None:
    body, out = CROSSED[name]
    _, found = smoothed(graph(f"{NORM} {body}", weights=WEIGHTS + SHAPES, out=out))
    assert [group.activation for group in found.smoothed] == ["n"]


NORMS = {
    "no beta": ("n = LayerNormalization<axis=-1>(x, g)", ""),
    "parts": (
        "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) "
        "r = Sqrt(e) h = Div(d, r) k = Mul(h, g) n = Add(k, b)",
        ", float eps = {0.00001}",
    ),
    "folded parts": (
        "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) "
        "r = Sqrt(e) i = Reciprocal(r) f = Mul(i, g) h = Mul(x, f) k = Mul(m, f) l = Sub(b, k) n = Add(h, l)",
        ", float eps = {0.00001}",
    ),
    "RMS in parts": (
        "q = Mul(x, x) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) r = Sqrt(e) h = Div(x, r) n = Mul(h, g)",
        ", float eps = {0.00001}",
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_every_form_of_norm(name: str) -> None:
    body, more = NORMS[name]
    before, found = smoothed(graph(f"{body} y = MatMul(n, w1)", weights=WEIGHTS + more))
    (group,) = found.smoothed
    np.testing.assert_allclose(values(found.model, "g"), values(before, "g") / group.scale, rtol=1e-5)
    assert not found.refused


def test_a_norm_of_opset_23() -> None:
    text = graph("n = RMSNormalization(x, g) y = MatMul(n, w1)")
    found = smooth_by(read(text, opset=23), {"n": np.full(8, 4.0)})
    assert [group.activation for group in found.smoothed] == ["n"]


def test_a_transposed_gemm() -> None:
    weights = "float[8] g, float[8] b, float[6,8] w, float[6] c"
    before, found = smoothed(
        graph(f"{NORM} r = Flatten<axis=2>(n) y = Gemm<transB=1>(r, w, c)", weights=weights, out="float[M,6] y")
    )
    np.testing.assert_allclose(values(found.model, "w"), values(before, "w") * found.smoothed[0].scale, rtol=1e-5)


LEAKS = {
    "Add 'residual'": "y = MatMul(n, w1) [residual] z = Add(n, x)",
    "no linear layer": "z = Relu(n) y = MatMul(x, w1)",
    "an output of the graph": "y = MatMul(n, w1) z = MatMul(x, w2) ",
    "the last axis through Transpose": "t = Transpose<perm=[0,2,1]>(n) z = MatMul(t, w3) y = MatMul(x, w1)",
    "the last axis through Reshape": ("t = Reshape(n, other) z = MatMul(t, w4) y = MatMul(x, w1)"),
    "MatMul 'product'": "y = MatMul(n, w1) [product] z = MatMul(x, n)",
}


@pytest.mark.parametrize("reason", LEAKS)
def test_other_readers_are_refused_with_the_reason(reason: str) -> None:
    body = LEAKS[reason]
    out = "float[N,T,6] y, float[N,T,8] n" if reason.startswith("an output") else "float[N,T,6] y, float[A,B,C] z"
    weights = WEIGHTS + ", float[3,3] w3, float[4,4] w4" + SHAPES
    model = read(graph(f"{NORM} {body}", weights=weights, out=out), opset=17)
    found = smooth_by(model, {"n": np.ones(8)})
    assert not found.smoothed
    (refused,) = found.refused
    assert refused.activation == "n"
    assert reason in refused.reason
    assert found.model.to_bytes() == model.to_bytes()
    assert maxima_needed(model) == ()


@pytest.mark.parametrize("rule", ["n", "second", "re:^y$", "LayerNormalization"])
def test_what_is_skipped_is_left_alone(rule: str) -> None:
    text = graph(f"{NORM} y = MatMul(n, w1) [second] z = MatMul(n, w2)", out="float[N,T,6] y, float[N,T,5] z")
    model, found = smoothed(text, skip=NameRules((rule,), "skip.smooth").first)
    assert not found.smoothed
    assert repr(rule) in found.refused[0].reason
    np.testing.assert_array_equal(values(found.model, "w1"), values(model, "w1"))


def test_shared_constants_are_copied_under_the_name_of_what_they_feed() -> None:
    body = (
        "n = LayerNormalization<axis=-1>(x, g, b) a = MatMul(n, w) "
        "n2 = LayerNormalization<axis=-1>(a, g, b) c = MatMul(n2, w) y = Add(c, x)"
    )
    before, found = smoothed(
        graph(body, weights="float[8] g, float[8] b, float[8,8] w", out="float[N,T,8] y"), alpha=0.6
    )
    first, second = found.smoothed
    for group, linear in ((first, "a"), (second, "c")):
        new = values(found.model, f"{group.activation}_gamma")
        np.testing.assert_allclose(new, values(before, "g") / group.scale, rtol=1e-5)
        weight = values(found.model, f"{linear}_weight")
        np.testing.assert_allclose(weight, values(before, "w") * group.scale[:, None], rtol=1e-5)
    assert not np.allclose(first.scale, second.scale)


def test_a_weight_that_another_layer_reads_too_keeps_its_values_there() -> None:
    before, found = smoothed(graph(f"{NORM} y = MatMul(n, w1) z = MatMul(x, w1)", out="float[N,T,6] y, float[N,T,6] z"))
    assert [group.activation for group in found.smoothed] == ["n"]
    np.testing.assert_array_equal(values(found.model, "w1"), values(before, "w1"))


def test_one_constant_for_both_factors() -> None:
    _, found = smoothed(graph("n = LayerNormalization<axis=-1>(x, g, g) y = MatMul(n, w1)"))
    assert len(found.smoothed) == 1


def test_what_does_not_fit_into_half_precision_is_refused() -> None:
    text = graph(f"{NORM} y = MatMul(n, w1)").replace("float[", "float16[")
    found = smooth_by(read(text), {"n": np.full(8, 1e9)}, alpha=1.0)
    assert "would not fit into float16" in found.refused[0].reason


@pytest.mark.parametrize("wrong", [{"alpha": -0.1}, {"alpha": 1.5}, {"alpha": float("nan")}, {"scale_clamp_min": 0.0}])
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        smooth_by(read(TWO), {}, **wrong)


WIDE = """g (float[N,T,32] x) => (float[N,T,32] y, float[N,T,64] z)
<float[32] g, float[32] b, float[32,32] w1, float[32,64] w2>
{ n = LayerNormalization<axis=-1>(x, g, b) y = MatMul(n, w1) z = MatMul(n, w2) }"""
WIDE_X = RNG.normal(size=(4, 8, 32)).astype(np.float32)
LOUD = np.arange(32) == 5


def test_the_same_patterns_match_and_pairs_stand_at_the_same_places() -> None:
    fused = qx.transform(parse(WIDE), target="tensorrt")
    found = smooth(fused.model, [{"x": WIDE_X}])
    config = qx.QuantConfig(keep_slow=True)
    before, after = (qx.insert_qdq(model, fused.matches, config).sites for model in (fused.model, found.model))
    assert (len(before), before) == (3, after)
    again = qx.transform(found.model.to_proto(), target="tensorrt")
    assert [step.output for step in again.matches] == [step.output for step in fused.matches]


@pytest.mark.parametrize("alpha", [0.5, "auto"])
def test_quiet_channels_beside_a_loud_one_keep_their_codes(alpha: float | str) -> None:
    """One channel 160 times as large as the others, as large language models have them, and small weights behind it."""
    proto = parse(WIDE)
    for item in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(item)
        factor = np.where(LOUD, 80, 0.5) if array.ndim == 1 else np.where(LOUD, 0.01, 1)[:, None]
        item.CopyFrom(onnx.numpy_helper.from_array((array * factor).astype(np.float32), item.name))
    fused = qx.transform(proto, target="tensorrt")
    data, sqnr = [{"x": WIDE_X}], []
    for model in (fused.model, smooth(fused.model, data, alpha=alpha).model):  # type: ignore
        quantized = qx.calibrate(qx.insert_qdq(model, fused.matches, qx.QuantConfig(keep_slow=True)), data)
        sqnr.append(qx.compare(proto, quantized.to_onnx(), data).sqnr_db)
    assert sqnr[1] > sqnr[0] + 20


def test_the_searched_alpha_is_about_as_good_as_the_best() -> None:
    """A norm with large channels, and one without any: one alpha does not fit both."""
    for loud in (1.0, 30.0):
        before = read(TWO, opset=17)
        factors = np.where(np.arange(8) < 2, loud, 1).astype(np.float32)
        planted = smooth_by(before, {"n": 1 / factors}, alpha=1, scale_clamp_min=1e-6).model
        found = {alpha: smooth(planted, [{"x": MANY}], alpha=alpha) for alpha in (0, 0.25, 0.5, 0.75, 1, "auto")}
        errors = {alpha: _output_error(each.model) for alpha, each in found.items()}
        assert errors["auto"] < 1.5 * min(errors.values())


def _output_error(model: Model) -> float:
    """The mean square error of both products with an activation and weights of 8 bits, written down in numpy."""
    proto = model.to_proto()
    proto.graph.output.append(onnx.ValueInfoProto(name="n"))
    norm = ort.InferenceSession(proto.SerializeToString()).run(["n"], {"x": MANY})[0]
    rounded = _rounded(norm, np.abs(norm).max() / 127)
    error = 0.0
    for name in ("w1", "w2"):
        weight = values(model, name)
        error += np.sum((rounded @ _rounded(weight, np.abs(weight).max(axis=0) / 127) - norm @ weight) ** 2)
    return float(error)


def _rounded(array: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray(np.round(array / scale) * scale)


# ---------------------------------------------------------------------------------------------- channel extremes


def collected(cuts: list[int]) -> ChannelExtremes:
    with Collector(read(TWO), (), channels=["n"], threads=1) as collector:
        collector.run_all([{"x": part} for part in np.split(X, cuts)])
        collector.finish()
        return collector.channel_extremes()["n"]


def test_channel_extremes_are_those_of_all_samples() -> None:
    one, other = collected([]), collected([1])
    np.testing.assert_allclose(one.maxima, norm_maxima(read(TWO)), rtol=1e-5)
    assert one.samples == other.samples == 2
    np.testing.assert_allclose((one.low, one.high), (other.low, other.high), rtol=1e-5)


def test_channel_extremes_beside_other_statistics_and_of_an_input() -> None:
    with Collector(read(TWO), ["n", "x", "y"], channels=["x", "n", "y"], threads=1) as collector:
        collector.run_all([{"x": X}])
        whole, channels = collector.finish(), collector.channel_extremes()
    np.testing.assert_array_equal(channels["x"].maxima, np.abs(X).max(axis=(0, 1)))
    for name, stats in whole.items():
        assert (stats.low, stats.high) == pytest.approx((channels[name].low.min(), channels[name].high.max()))


def test_channel_extremes_merge() -> None:
    whole, left, right, empty = (ChannelExtremes("t") for _ in range(4))
    whole.update(X, 2)
    left.update(X[:1])
    right.update(X[1:])
    for other in (empty, right, empty):
        left.merge(other)
    empty.merge(whole)
    for merged in (left, empty):
        np.testing.assert_array_equal((merged.low, merged.high), (X.min(axis=(0, 1)), X.max(axis=(0, 1))))
        assert merged.samples == 2


def test_channels_that_hold_nan_or_saw_nothing_are_named() -> None:
    with pytest.raises(CalibrationError, match="'t' holds NaN"):
        ChannelExtremes("t").update(np.array([[1, np.nan]], np.float32))
    with Collector(read(TWO), (), channels=["n"]) as collector, pytest.raises(CalibrationError, match="'n' saw no"):
        collector.finish()


# ---------------------------------------------------------------------------------------------- trained networks


def trained(name: str) -> tuple[Path, Path]:
    cache = Path(os.environ.get("QUANTONNX_CACHE", DEFAULT_CACHE))
    try:
        path = fetch(name, cache)
    except Unavailable as reason:
        pytest.skip(f"{name}: {reason}")
    return path, path.with_name(f"{name}_calib.npz")


@pytest.mark.real
def test_a_trained_vision_transformer_is_smoothed_and_stays_the_same_in_float() -> None:
    path, data = trained("fashion_vit")
    fused = qx.transform(path, target="tensorrt")
    found = smooth(fused.model, data, limit=32)
    assert (len(found.smoothed), [refused.reason for refused in found.refused]) == (
        8,
        ["Gather '/Gather_1' reads it, which is no linear layer"],
    )
    feeds = [{"image": batch} for batch in np.split(np.load(data)["image"][:32], 4)]
    assert qx.compare(path, found.model.to_proto(), feeds).sqnr_db > 100


@pytest.mark.real
def test_outliers_planted_in_a_trained_vision_transformer_are_taken_out() -> None:
    """Three channels of every norm 60 times as large, and the same network in float: 10 dB come back at least."""
    path, data = trained("fashion_vit")
    fused = qx.transform(path, target="tensorrt")
    loud = np.where(np.isin(np.arange(64), (3, 20, 41)), np.float32(1 / 60), 1)
    maxima = dict.fromkeys(maxima_needed(fused.model), loud)
    planted = smooth_by(fused.model, maxima, alpha=1, scale_clamp_min=1e-6).model
    images = np.load(data)["image"]
    calibration, feeds = [{"image": images[:64]}], [{"image": images[64:]}]
    assert qx.compare(path, planted.to_proto(), feeds).sqnr_db > 100
    sqnr = {}
    for alpha in (None, 0.5, "auto"):
        config = qx.QuantConfig(smooth_quant=None if alpha is None else {"alpha": alpha})
        quantized = qx.calibrate(qx.insert_qdq(planted, fused.matches, config), calibration)
        sqnr[alpha] = qx.compare(path, quantized.to_onnx(), feeds).sqnr_db
    assert min(sqnr[0.5], sqnr["auto"]) > sqnr[None] + 10


@pytest.mark.real
def test_a_trained_text_encoder_adds_its_norms_to_residuals_and_is_left_alone() -> None:
    path, data = trained("minilm_r8")
    fused = qx.transform(path, target="tensorrt")
    found = smooth(fused.model, data, limit=32)
    assert (len(found.smoothed), len(found.refused)) == (0, 13)
    assert sum(refused.reason.startswith("Add ") for refused in found.refused) == 12
    assert found.model.to_bytes() == fused.model.to_bytes()
