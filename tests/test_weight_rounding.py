"""GPTQ, AdaRound and AWQ against references written from the formulas of the papers, and through calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from models import assert_same_results, parse, read, run
from onnx import numpy_helper
from test_weight_layers import layer_of

import quantonnx as qx
from quantonnx.algorithms.adaround import AdaRound, beta_at, descended, learned
from quantonnx.algorithms.aiming import aimed
from quantonnx.algorithms.awq import Awq, Scaling, scale_activations, scaling
from quantonnx.algorithms.gptq import Gptq
from quantonnx.algorithms.grids import Problem, Rounded
from quantonnx.algorithms.layerwise import Pace, change_weights
from quantonnx.algorithms.scale_search import RATIOS, searched
from quantonnx.algorithms.second_moments import Moments, damped, squared_error
from quantonnx.algorithms.weight_steps import WeightStep
from quantonnx.calibrating import calibrate
from quantonnx.config import RecipeStep
from quantonnx.config.recipe import Search
from quantonnx.decisions import Decider
from quantonnx.errors import ConfigError, DataError, PlanError
from quantonnx.formats import Parameters, ScaleType, TensorFormat, dequantize, quantize
from quantonnx.model import Model
from quantonnx.quantized import QuantizedModel

Array = np.ndarray
ROWS, INPUTS, OUTPUTS = 64, 12, 5


def inputs(rows: int = ROWS, channels: int = INPUTS, seed: int = 0) -> Array:
    """Correlated inputs, of very different sizes, float64 [rows, channels]."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, channels)) @ rng.normal(size=(channels, channels))
    return mixed * np.geomspace(0.3, 3, channels)[rng.permutation(channels)]


def problem(fmt: TensorFormat, kind: str = "MatMul", seed: int = 1) -> Problem:
    """The rounding of a weight [inputs, outputs], or [outputs, inputs] for Gemm, on `inputs()`."""
    body, shape = ("y = MatMul(x, w)", "12,5") if kind == "MatMul" else ("y = Gemm<transB=1>(x, w)", "5,12")
    model = read(f"g (float[N,12] x) => (float[N,5] y) <float[{shape}] w> {{ {body} }}", seed=seed)
    layer, x = layer_of(model, fmt), inputs()
    values = model.array(model.find("w"))
    weight = layer.matrix(values.astype(np.float64))
    return Problem(layer, weight, weight, (x.T @ x / len(x))[None], fmt.parameters(*fmt.extremes(values)))


FORMATS = {
    "per tensor": TensorFormat(n_bits=4),
    "per channel": TensorFormat(n_bits=3, axis=1),
    "asymmetric": TensorFormat(n_bits=4, signed=False, symmetric=False, axis=1),
    "groups": TensorFormat(n_bits=4, axis=0, group_size=4),
    "groups that do not divide": TensorFormat(n_bits=4, symmetric=False, signed=False, axis=0, group_size=5),
}


def to_grid(values: Array, scale: Array, zero_point: Array, fmt: TensorFormat) -> Array:
    codes = np.clip(np.round(values / scale) + zero_point, fmt.qmin, fmt.qmax)
    return (codes - zero_point) * scale


def numbers(low: Array, high: Array, fmt: TensorFormat) -> tuple[Array, Array]:
    found = fmt.parameters(np.minimum(low, 0), np.maximum(high, 0))
    return found.scale.astype(np.float64), found.zero_point.astype(np.float64)


def gptq(case: Problem, percent: float, *, by_size: bool, static: bool) -> Array:
    """Frantar et al. 2023, equations 2 and 3: δ = −(w_q − quant(w_q)) / [H⁻¹]_qq · (H⁻¹)_:,q, then row and column q
    leave H⁻¹ by one step of Gaussian elimination; one row of the weight at a time, no Cholesky factor, no blocks."""
    fmt, hessian = case.format, case.second[0].copy()
    hessian += np.eye(INPUTS) * percent * np.diag(hessian).mean()
    order = np.argsort(-np.diag(hessian), kind="stable") if by_size else np.arange(INPUTS)
    scale, zero_point = (each[0].copy() for each in case.steps())
    result = np.empty((OUTPUTS, INPUTS))
    for row in range(OUTPUTS):
        weight, inverse = case.weight[0, row].copy(), np.linalg.inv(hessian)
        for q in order:
            if fmt.group_size and not static and q % fmt.group_size == 0:
                group = slice(q, q + fmt.group_size)
                scale[row, group], zero_point[row, group] = numbers(weight[group].min(), weight[group].max(), fmt)
            result[row, q] = to_grid(weight[q], scale[row, q], zero_point[row, q], fmt)
            weight -= (weight[q] - result[row, q]) / inverse[q, q] * inverse[:, q]
            inverse -= np.outer(inverse[:, q], inverse[q]) / inverse[q, q]
    return result


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("by_size", [False, True])
def test_gptq_is_the_papers(name: str, by_size: bool) -> None:
    case = problem(FORMATS[name])
    settings = Gptq(damp_percent=0.05, desc_act=by_size, static_groups=by_size)
    found = settings.round(case)
    scale, zero_point = case.steps(found.parameters)
    expected = gptq(case, 0.05, by_size=by_size, static=by_size)
    np.testing.assert_allclose(((found.codes - zero_point) * scale)[0], expected, rtol=1e-5, atol=1e-7)


def test_gptq_of_a_transposed_gemm_with_groups() -> None:
    case = problem(TensorFormat(n_bits=4, axis=1, group_size=4), "Gemm")
    found = Gptq(damp_percent=0.05).round(case)
    assert found.parameters.scale.shape == (5, 3)
    scale, zero_point = case.steps(found.parameters)
    expected = gptq(case, 0.05, by_size=False, static=False)
    np.testing.assert_allclose(((found.codes - zero_point) * scale)[0], expected, rtol=1e-5, atol=1e-7)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = problem(FORMATS["per channel"])
    whole = Gptq().round(case).codes
    monkeypatch.setattr("quantonnx.algorithms.gptq._BLOCK", 5)
    np.testing.assert_array_equal(Gptq().round(case).codes, whole)


def adaround(case: Problem, x: Array, settings: AdaRound) -> Array:
    """Nagel et al. 2020: equations 21 (soft rounding), 23 (rectified sigmoid), 24 (regularizer) and 25, on data; the
    loss is taken in steps of the weight and of the mean square of the inputs. Adam as in Kingma and Ba, algorithm 1."""
    scale, zero_point = (each[0] for each in case.steps())
    fmt, weight = case.format, case.weight[0]
    n, p = fmt.qmin - zero_point, fmt.qmax - zero_point
    x = x / np.sqrt((x**2).mean())
    floor = np.floor(weight / scale)
    v = -np.log(1.2 / (weight / scale - floor + 0.1) - 1)
    first, second = np.zeros_like(v), np.zeros_like(v)
    warm = int(settings.warm_start * settings.iterations)
    for step in range(settings.iterations):
        sigmoid = 1 / (1 + np.exp(-v))
        h = np.clip(sigmoid * 1.2 - 0.1, 0, 1)
        soft = np.clip(floor + h, n, p)
        outputs = x @ (soft - weight / scale).T
        by_h = 2 * outputs.T @ x / len(x) * ((floor + h >= n) & (floor + h <= p))
        if step >= warm:
            beta = beta_at(step - warm, settings.iterations - warm)
            by_h += settings.regularization * -beta * np.abs(2 * h - 1) ** (beta - 1) * 2 * np.sign(2 * h - 1)
        gradient = by_h * np.where((h > 0) & (h < 1), 1.2 * sigmoid * (1 - sigmoid), 0)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        v = v - settings.learning_rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    up = np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1) >= 0.5
    return np.clip(floor + up, n, p) + zero_point


@pytest.mark.parametrize("name", ["per tensor", "per channel", "asymmetric", "groups"])
def test_adaround_is_the_papers(name: str) -> None:
    case = problem(FORMATS[name])
    settings = AdaRound(search=Search.GRADIENT, iterations=400, learning_rate=0.03, search_scales=False)
    found = learned(case, case.second, settings)[0]
    expected = adaround(case, inputs(), settings)
    assert (found == expected).mean() >= 0.98, "float32 and float64 may part at a tie"
    assert error_of(case, found[None]) < 0.8 * error_of(case, case.plain())
    assert np.abs(found - case.plain()[0]).max() <= 1


def error_of(case: Problem, codes: Array, parameters: Parameters | None = None) -> float:
    scale, zero_point = case.steps(parameters)
    return squared_error((codes - zero_point) * scale - case.target, case.second)


def test_beta_falls_from_20_to_2() -> None:
    assert beta_at(0, 100) == 20
    assert beta_at(100, 100) == 2
    assert beta_at(50, 100) == pytest.approx(11)


@pytest.mark.parametrize("name", FORMATS)
def test_no_single_code_is_better_after_descent(name: str) -> None:
    """Every other code of every weight is tried."""
    case = problem(FORMATS[name])
    codes = descended(case, case.second, case.plain(), sweeps=100)
    best = error_of(case, codes)
    assert best < error_of(case, case.plain())
    for place in np.ndindex(codes.shape):
        for code in range(case.format.qmin, case.format.qmax + 1):
            other = codes.copy()
            other[place] = code
            assert error_of(case, other) >= best * (1 - 1e-9)


def test_adaround_by_descent_is_better_than_gptq_and_rounding() -> None:
    case = problem(FORMATS["per channel"])
    ours = AdaRound(search_scales=False, damp_percent=0.0).round(case)
    theirs = Gptq(damp_percent=0.0).round(case)
    assert error_of(case, ours.codes) <= error_of(case, theirs.codes) < error_of(case, case.plain())


def outputs_error(weight: Array, rounded: Array, x: Array) -> Array:
    """The mean squared error of each output, by data."""
    return (((rounded - weight) @ x.T) ** 2).mean(axis=1)


@pytest.mark.parametrize("name", ["per tensor", "per channel", "asymmetric", "groups"])
def test_scales_are_those_of_least_error_of_the_outputs(name: str) -> None:
    """Lin et al. 2024: the clipping that changes what a group of inputs gives least, each group for itself."""
    case, fmt, x = problem(FORMATS[name]), FORMATS[name], inputs()
    found, _ = case.steps(searched(case))
    weight, size = case.weight[0], fmt.group_size or INPUTS
    for start in range(0, INPUTS, size):
        part = slice(start, start + size)
        errors, scales = [], []
        for ratio in RATIOS:
            low, high = weight[:, part].min(axis=1) * ratio, weight[:, part].max(axis=1) * ratio
            if fmt.axis is None:
                low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
            scale, zero_point = (each[:, None] for each in numbers(low, high, fmt))
            rounded = to_grid(weight[:, part], scale, zero_point, fmt)
            error = outputs_error(weight[:, part], rounded, x[:, part])
            errors.append(np.full_like(error, error.sum()) if fmt.axis is None else error)
            scales.append(np.broadcast_to(scale, (OUTPUTS, 1))[:, 0])
        expected = np.take_along_axis(np.array(scales), np.argmin(errors, axis=0)[None], 0)[0]
        np.testing.assert_allclose(found[0, :, start], expected, rtol=1e-6)


def test_powers_of_two_stay_where_shifts_reach_them() -> None:
    case = problem(TensorFormat(n_bits=4, axis=1, scale_type=ScaleType.POWER_OF_TWO))
    assert searched(case) is case.parameters


def test_scales_that_a_bias_needs_are_kept() -> None:
    case = replace(problem(FORMATS["per channel"]), least=np.full(OUTPUTS, 10.0))
    np.testing.assert_array_equal(searched(case).scale, np.full(OUTPUTS, 10.0, np.float32))


NORM = "n = LayerNormalization<axis=-1>(x, g, h)"
W4 = qx.QuantConfig(activation=None, weight=qx.TensorQuantConfig(n_bits=4, group_size=4, symmetric=True))


def network(body: str, weights: str = "", out: str = "float[N,5] y") -> onnx.ModelProto:
    text = f"g (float[N,12] x) => ({out}) <float[12] g, float[12] h, float[12,5] w{weights}> {{ {body} }}"
    return parse(text)


def samples(count: int = 40, seed: int = 7, channels: int = INPUTS) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(channels, channels)) * np.geomspace(0.3, 3, channels)
    return [{"x": (rng.normal(size=(4, channels)) @ mixing + 0.5).astype(np.float32)} for _ in range(count)]


def placed(proto: onnx.ModelProto, config: qx.QuantConfig = W4, target: str = "onnxruntime") -> QuantizedModel:
    fused = qx.transform(proto, target=target)
    return qx.insert_qdq(fused.model, fused.matches, config)


def moved_by(quantized: QuantizedModel, data: Any, *steps: WeightStep) -> QuantizedModel:
    recipe = tuple(RecipeStep(**{type(step).__name__.lower(): step}) for step in steps)
    config = quantized.config.model_copy(update={"recipe": recipe})
    return calibrate(replace(quantized, config=config), data)


def awq(proto: onnx.ModelProto, **settings: object) -> tuple[QuantizedModel, Scaling]:
    quantized, told = placed(proto), Awq(**settings)  # type: ignore[arg-type]
    found = scale_activations(quantized.model, quantized.sites, samples(), told)
    assert_same_results(quantized.model, found.model)
    return quantized, found


def read_by(proto: onnx.ModelProto, name: str, feeds: Sequence[dict[str, Array]] | None = None) -> Array:
    """What feeds, or all samples, have at a value, float64 [rows, channels]."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    return np.concatenate([run(model, feed)[name] for feed in feeds or samples()]).astype(np.float64)


def alpha_by_data(x: Array, weights: Sequence[Array], fmt: TensorFormat, grid: int) -> tuple[float, Array]:
    """Lin et al. 2024, equations 4 and 5: argmin over α of ‖Q(W·diag(s))(diag(s)⁻¹·X) − W X‖ with s = (mean |x|)^α."""
    best = None
    for alpha in np.arange(grid) / grid:
        s = np.abs(x).mean(axis=0) ** alpha
        s = s / np.sqrt(s.max() * s.min())
        error = 0.0
        for weight in weights:
            scaled = (weight * s[:, None]).astype(np.float32)
            found = fmt.parameters(*fmt.extremes(scaled))
            rounded = dequantize(quantize(scaled, found, fmt), found, fmt)
            error += (((x / s) @ rounded - x @ weight) ** 2).mean(axis=0).sum()
        if best is None or error < best[0]:
            best = error, alpha, s
    assert best is not None
    return best[1:]


def test_awq_is_the_papers() -> None:
    proto = network(f"{NORM} y = MatMul(n, w) z = MatMul(n, v)", ", float[12,6] v", "float[N,5] y, float[N,6] z")
    quantized, found = awq(proto, grid=10)
    (scaled,) = found.scaled
    weights = [numpy_helper.to_array(item) for item in proto.graph.initializer if item.name in "wv"]
    alpha, s = alpha_by_data(read_by(proto, "n"), weights, quantized.weight_sites[0].format, 10)
    assert (scaled.activation, scaled.alpha) == ("n", pytest.approx(alpha))
    assert alpha > 0
    assert scaled.error < 1
    np.testing.assert_allclose(scaled.scale, s, rtol=1e-4)
    before, after = (each.array(each.find("w")) for each in (quantized.model, found.model))
    np.testing.assert_allclose(after, before * scaled.scale[:, None], rtol=1e-6)


def test_the_linear_layer_before_is_scaled_where_that_is_exact() -> None:
    hidden = "p = MatMul(x, u) q = Add(p, c) r = Relu(q) y = MatMul(r, w)"
    _, found = awq(network(hidden, ", float[12,12] u, float[12] c"))
    assert [group.activation for group in found.scaled] == ["r"]
    _, refused = awq(network(hidden.replace("Relu", "Tanh"), ", float[12,12] u, float[12] c"))
    assert not refused.scaled


def test_a_mul_divides_what_no_constant_can() -> None:
    proto = network(f"{NORM} m = MatMul(n, u) k = Add(m, n) y = MatMul(k, w)", ", float[12,12] u")
    _, plain = awq(proto)
    assert not plain.scaled
    assert any(each.activation == "n" for each in plain.refused)
    _, found = awq(proto, insert=True)
    assert {group.activation for group in found.scaled} == {"n", "k"}
    assert [node.op for node in found.model.graph.nodes].count("Mul") == 2


def test_scaling_is_balanced() -> None:
    scale = scaling(np.array([0.0, 0.5, 8.0]), 0.5)
    assert scale.max() * scale.min() == pytest.approx(1)
    np.testing.assert_array_equal(scaling(np.array([0.0, 0.5, 8.0]), 0.0), np.ones(3))


DEEP = "p = Gemm<transB=1>(x, u, c) q = Relu(p) r = MatMul(q, v) s = Add(r, d) t = LeakyRelu(s) y = MatMul(t, w)"
DEEP_WEIGHTS = ", float[12,12] u, float[12] c, float[12,12] v, float[12] d"
STEPS = {
    "gptq": Gptq(),
    "gptq, float inputs": Gptq(true_sequential=False, static_groups=True, desc_act=True),
    "gptq, asymmetric": Gptq(asymmetric=True, search_scales=True),
    "adaround": AdaRound(),
    "adaround by gradient": AdaRound(search=Search.GRADIENT, iterations=200, learning_rate=0.03),
    "awq": Awq(),
}


def outputs(model: onnx.ModelProto | Model, seed: int) -> Array:
    return np.concatenate([run(model, feed)["y"] for feed in samples(20, seed)])


def sqnr(proto: onnx.ModelProto, quantized: QuantizedModel) -> float:
    expected, found = outputs(proto, 11), outputs(quantized.to_model(), 11)
    return float(10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()))


@pytest.mark.parametrize("name", STEPS)
def test_the_file_holds_the_codes_that_were_chosen(name: str) -> None:
    proto = network(DEEP, DEEP_WEIGHTS)
    quantized = moved_by(placed(proto), samples(), STEPS[name])
    assert quantized.parameters is not None
    stored = {item.name: numpy_helper.to_array(item) for item in quantized.to_onnx().graph.initializer}
    for site in quantized.weight_sites:
        moved = quantized.model.array(quantized.model.find(site.tensor))
        codes = stored[f"{site.tensor}_quantized"]
        np.testing.assert_array_equal(dequantize(codes, quantized.parameters[site], site.format), moved)
    assert len(quantized.weight_changes) == 3
    assert sum(change.after for change in quantized.weight_changes) < sum(c.before for c in quantized.weight_changes)


@pytest.mark.parametrize("name", STEPS)
def test_the_outputs_come_nearer_to_float(name: str) -> None:
    proto = network(DEEP, DEEP_WEIGHTS)
    plain = calibrate(placed(proto), samples())
    assert sqnr(proto, moved_by(placed(proto), samples(), STEPS[name])) > sqnr(proto, plain)


def test_steps_follow_each_other() -> None:
    proto = network(DEEP, DEEP_WEIGHTS)
    config = W4.model_copy(update={"bias_correction": False})
    both = moved_by(placed(proto, config), samples(), Awq(), Gptq(static_groups=True))
    alone = moved_by(placed(proto, config), samples(), Awq())
    assert both.parameters is not None
    assert alone.parameters is not None
    first = both.weight_sites[0]
    np.testing.assert_array_equal(both.parameters[first].scale, alone.parameters[first].scale)
    assert both.weight_changes[0].after < alone.weight_changes[0].after


CONVS = (
    "g (float[N,3,8,8] x) => (float[N,8,4,4] y) <float[24,3,3,3] u, float[24] a, float[24,1,3,3] v, float[24] b, "
    "float[8,24,1,1] w, float[8] c> { p = Conv<pads=[1,1,1,1]>(x, u, a) q = Relu(p) "
    "r = Conv<pads=[1,1,1,1],strides=[2,2],group=24>(q, v, b) s = Relu(r) y = Conv(s, w, c) }"
)


def images(count: int = 12, seed: int = 3) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": np.cumsum(rng.normal(size=(1, 3, 8, 8)), axis=3).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("step", [Gptq(), AdaRound(asymmetric=True), Awq()], ids=str)
def test_convolutions_with_quantized_activations(step: WeightStep) -> None:
    proto = parse(CONVS)
    config = qx.QuantConfig(preset="w4a8", keep_slow=True)
    feeds = images()
    plain = calibrate(placed(proto, config), feeds)
    moved = moved_by(placed(proto, config), feeds, step)
    assert len(moved.weight_changes) == 3
    others = images(8, seed=9)
    expected = np.concatenate([run(proto, feed)["y"] for feed in others])

    def error(quantized: QuantizedModel) -> float:
        model = quantized.to_model()
        return float(((np.concatenate([run(model, feed)["y"] for feed in others]) - expected) ** 2).sum())

    assert error(moved) < error(plain)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_biases_take_up_the_mean_error(asymmetric: bool) -> None:
    """Of the float network with `asymmetric`, else of each layer alone, padding and all."""
    proto = parse(CONVS)
    quantized = calibrate(placed(proto, qx.QuantConfig(preset="w4a8", keep_slow=True)), images())
    assert quantized.parameters is not None
    plain = placed(proto, qx.QuantConfig(preset="w4a8", keep_slow=True))
    change = change_weights(
        plain.model,
        plain.sites,
        quantized.parameters,
        images(),
        Gptq().round,
        pace=Pace(sequential=asymmetric, asymmetric=asymmetric),
    )
    assert len(change.corrected) == 3
    name = "y" if asymmetric else "p"
    before, after = (means(model, name) for model in (plain.model, change.model))
    np.testing.assert_allclose(after, before, atol=1e-4)


def means(model: Model, name: str) -> Array:
    proto = model.to_proto()
    if name not in [value.name for value in proto.graph.output]:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    return np.concatenate([run(proto, feed)[name] for feed in images()]).mean(axis=(0, 2, 3))


def test_without_bias_correction_biases_stay() -> None:
    proto = parse(CONVS)
    config = qx.QuantConfig(preset="w4a8", keep_slow=True, bias_correction=False)
    moved = moved_by(placed(proto, config), images(), Gptq())
    for name in "abc":
        expected = next(numpy_helper.to_array(item) for item in proto.graph.initializer if item.name == name)
        np.testing.assert_array_equal(moved.model.array(moved.model.find(name)), expected)


def with_rounded(quantized: QuantizedModel, names: str) -> onnx.ModelProto:
    """The model with weights of these names rounded plainly."""
    proto = quantized.model.to_proto()
    assert quantized.parameters is not None
    for site in quantized.weight_sites:
        for item in proto.graph.initializer:
            if item.name == site.tensor and item.name in names:
                numbers, values = quantized.parameters[site], numpy_helper.to_array(item)
                rounded = dequantize(quantize(values, numbers, site.format), numbers, site.format)
                item.CopyFrom(numpy_helper.from_array(rounded, item.name))
    return proto


@pytest.mark.parametrize("sequential", [True, False])
def test_inputs_come_from_what_is_rounded_before(sequential: bool) -> None:
    """The layers before the one asked for are rounded plainly, and seen so."""
    quantized = calibrate(placed(network(DEEP, DEEP_WEIGHTS)), samples())
    assert quantized.parameters is not None
    seen: list[Array] = []

    def rounder(case: Problem) -> Rounded:
        seen.append(case.second)
        return Rounded(case.plain(), case.parameters)

    model, sites = quantized.model, quantized.sites
    skipped = {"u": "test", "v": "test"}
    change_weights(
        model, sites, quantized.parameters, samples(), rounder, pace=Pace(sequential=sequential), skipped=skipped
    )
    proto = with_rounded(quantized, "uv") if sequential else model.to_proto()
    x = read_by(proto, "t")
    np.testing.assert_allclose(seen[0][0], x.T @ x / len(x), rtol=1e-3, atol=1e-3)


def test_every_other_sample_bears_out_what_is_aimed_at() -> None:
    """The target of `asymmetric` is that of `aimed` with the even and the odd samples, 4 rows each, as halves."""
    quantized = calibrate(placed(network(DEEP, DEEP_WEIGHTS)), samples(20))
    assert quantized.parameters is not None
    seen: list[Problem] = []

    def rounder(case: Problem) -> Rounded:
        seen.append(case)
        return Rounded(case.plain(), case.parameters)

    pace, skipped = Pace(asymmetric=True, biases=False), {"u": "test", "v": "test"}
    model, sites = quantized.model, quantized.sites
    change_weights(model, sites, quantized.parameters, samples(20), rounder, pace=pace, skipped=skipped)
    halves = []
    for start in (0, 1):
        half = Moments(1, INPUTS, paired=True)
        for feed in samples(20)[start::2]:
            x, y = (read_by(proto, "t", [feed]) for proto in (with_rounded(quantized, "uv"), model.to_proto()))
            half.update(x[None].astype(np.float32), y[None].astype(np.float32))
        halves.append(half)
    expected = aimed(seen[0].weight, halves[0] + halves[1], (halves[0], halves[1]), centred=False)
    assert np.abs(expected - seen[0].weight).max() > 0.01
    np.testing.assert_allclose(seen[0].target, expected, rtol=1e-3, atol=1e-4)


def test_layers_are_chosen_by_name() -> None:
    proto = network(DEEP, DEEP_WEIGHTS)
    chosen = moved_by(placed(proto), samples(), Gptq(layers=("MatMul",), skip=("w",)))
    assert [change.tensor for change in chosen.weight_changes] == ["v"]
    told = {decision.name: decision.reason for decision in chosen.decisions if decision.decider is Decider.CODES}
    assert told == {"u": "it is none of the layers asked for", "w": "it is skipped by 'w'"}
    with pytest.raises(ConfigError, match="nothing in the model is called 'vv'"):
        moved_by(placed(proto), samples(), Gptq(layers=("vv",)))


WRONG = {
    "bits": (lambda: Gptq(bits=9), "at most 8"),
    "group_size": (lambda: Awq(group_size=1), "at least 2"),
    "damp_percent": (lambda: Gptq(damp_percent=2), "at most 1"),
    "iterations": (lambda: AdaRound(iterations=0), "at least 1"),
    "grid": (lambda: Awq(grid=0), "at least 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_make_no_sense(name: str) -> None:
    make, told = WRONG[name]
    with pytest.raises(ConfigError, match=told) as caught:
        make()
    assert name in str(caught.value)


def test_groups_are_neighbours() -> None:
    with pytest.raises(ConfigError, match="static_groups"):
        Gptq(desc_act=True).round(problem(FORMATS["groups"]))


def test_steps_need_samples() -> None:
    with pytest.raises(PlanError, match="needs samples"):
        moved_by(placed(network(DEEP, DEEP_WEIGHTS)), None, Gptq())


def test_what_settings_say_of_the_format() -> None:
    assert Gptq(bits=3, group_size=64).weight == {"n_bits": 3, "group_size": 64}


def test_a_recipe_says_the_format_too() -> None:
    """What a step says of bits stands above what `weight` says; the last step has the last word."""
    proto = network(DEEP, DEEP_WEIGHTS)
    config = qx.QuantConfig(weight={"n_bits": 8}, recipe=[{"gptq": {"bits": 3, "layers": ["MatMul"]}}], keep_slow=True)
    found = qx.quantize(proto, samples(), target="onnxruntime", config=config)
    assert {site.format.n_bits for site in found.weight_sites} == {3}
    assert [change.tensor for change in found.weight_changes] == ["v", "w"]


@pytest.mark.parametrize("mean", [0.0, 1e3])
@pytest.mark.parametrize("step", ["gptq", "adaround"])
def test_moments_without_an_inverse_are_damped_until_they_have_one(step: str, mean: float) -> None:
    proto = network("y = MatMul(x, w)")
    few = [{"x": (mean + 1e-3 * np.random.default_rng(1).normal(size=(4, 12))).astype(np.float32)}]
    config = qx.QuantConfig(preset="w4", recipe=[{step: {"damp_percent": 0.0}}], keep_slow=True)  # type: ignore[list-item]
    made = qx.quantize(proto, few, target="onnxruntime", config=config)
    assert all(change.before >= 0 and change.after >= 0 for change in made.weight_changes)
    assert made.weight_changes


def test_damping_leaves_what_has_an_inverse_as_it_is() -> None:
    second = np.diag([2.0, 0.0, 4.0])[None]
    np.testing.assert_allclose(damped(second, 0.5), np.diag([3.0, 1.0, 5.0])[None])


def test_a_recipe_that_reads_samples_again_refuses_a_stream_that_cannot() -> None:
    """No later step may quietly take what an earlier one left over of it."""
    network = parse("g (float[N,12] x) => (float[N,5] y) <float[12,5] w> { y = MatMul (x, w) }")
    stream = iter([{"x": row[None].astype(np.float32)} for row in inputs()])
    with pytest.raises(DataError, match="only once"):
        qx.quantize(
            network, stream, target="onnxruntime", config=qx.QuantConfig(keep_slow=True, recipe=["gptq"]), limit=8
        )
