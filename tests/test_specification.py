"""What users of three other systems can say, they can say here: each row of docs/configuration.md has its effect on the
graph that is written, with numbers that agree with formulas stated here in numpy."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from models import parse
from onnx import numpy_helper
from scoped import net
from written import Pair, Written

import quantonnx as qx
from quantonnx import cli
from quantonnx.config import PRESETS
from quantonnx.errors import CalibrationError, ConfigError

PAGE = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| ([ABC]\d+[^|]*?) \| (.+?) \| (.+?) \| `(test_\w+)` \|$", PAGE, re.MULTILINE)
ROWS = {row: yaml.safe_load(said) for row, _, cell, _ in TABLE for said in re.findall(r"`(\{.*\})`", cell)}
CONV1, CONV2, ADD = "/block/conv1/Conv", "/block/conv2/Conv", "/block/Add"
FC1, SOFTMAX, FC2 = "/head/fc1/MatMul", "/head/softmax/Softmax", "/head/fc2/Gemm"
RNG = np.random.default_rng(5)
IMAGES = [{"x": (RNG.normal(size=(1, 16, 16, 16)) * (1 + step) + 0.5).astype(np.float32)} for step in (0, 2, 1)]
X = np.concatenate([feeds["x"] for feeds in IMAGES])

NORM = (
    "agraph (float[2,6,32] x) => (float[12,32] y, float[12,16] z) <float[32] g, float[32] b, float[32,32] w1, "
    "float[32,16] w2, int64[2] rows = {-1,32}> { [norm] n = LayerNormalization<axis=-1>(x, g, b) "
    "[flat] r = Reshape(n, rows) [first] y = MatMul(r, w1) [second] z = MatMul(r, w2) }"
)
TOKENS = [{"x": RNG.normal(size=(2, 6, 32)).astype(np.float32)} for _ in range(2)]

LINEAR = "agraph (float[N,256] x) => (float[N,24] y) <float[256,24] w> { [linear] y = MatMul(x, w) }"
VECTORS = [{"x": RNG.normal(size=(8, 256)).astype(np.float32)}]


def written(
    said: dict[str, Any], target: str = "onnxruntime", model: onnx.ModelProto | str | None = None, samples: Any = IMAGES
) -> Written:
    """Returns the Q/DQ file of a configuration; nothing stays in float for being slow, and no channels are scaled."""
    source = net() if model is None else parse(model) if isinstance(model, str) else model
    config = qx.QuantConfig(**{"bias_correction": False, "recipe": [], **said, "keep_slow": True})
    return Written(qx.quantize(source, samples, target=target, config=config).to_onnx())


def weight_of(name: str, model: onnx.ModelProto | None = None) -> np.ndarray:
    return next(numpy_helper.to_array(item) for item in (model or net()).graph.initializer if item.name == name)


def linear(said: dict[str, Any], target: str = "onnxruntime", samples: Any = VECTORS) -> Written:
    return written(said, target, LINEAR, samples)


def on(pair: Pair | None) -> Pair:
    assert pair is not None
    return pair


def symmetric(x: np.ndarray, low: int, high: int, axis: int | None = None) -> np.ndarray:
    """max│x│ / ((high − low) / 2), at least 1e-8 for max│x│."""
    others = tuple(i for i in range(x.ndim) if i != axis) if axis is not None else None
    return np.maximum(np.abs(x).max(axis=others), 1e-8) / ((high - low) / 2)


def asymmetric(low: float, high: float, levels: int) -> tuple[float, int]:
    """Scale and zero point of codes 0 … levels for a range that is widened to contain 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / levels
    return scale, int(np.clip(np.rint(-low / scale), 0, levels))


def assert_symmetric(pair: Pair | None, x: np.ndarray, n_bits: int = 8, *, narrow: bool = False) -> None:
    low, high = -(2 ** (n_bits - 1)) + narrow, 2 ** (n_bits - 1) - 1
    assert not on(pair).zero_point.any()
    np.testing.assert_allclose(on(pair).scale, symmetric(x, low, high), rtol=1e-5)


def assert_asymmetric(pair: Pair | None, x: np.ndarray, n_bits: int = 8) -> None:
    scale, zero_point = asymmetric(float(x.min()), float(x.max()), 2**n_bits - 1)
    np.testing.assert_allclose(on(pair).scale, scale, rtol=1e-5)
    assert abs(int(on(pair).zero_point) - zero_point) <= 1


# ---------------------------------------------------------------------------------------------------------- the page


def test_the_page_has_every_row_once_and_names_tests_that_exist() -> None:
    rows = [row for row, *_ in TABLE]
    wanted = {f"A{n}" for n in range(6, 14)} | {f"B{n}" for n in range(1, 7)} | {"C1", "C2", "C3"}
    assert {row.split()[0] for row in rows} == wanted
    assert len(rows) == len(set(rows))
    assert set(rows) - ROWS.keys() <= {"A13"}
    assert {test for *_, test in TABLE} <= globals().keys()


BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_every_configuration_of_the_page_is_one() -> None:
    assert len(BLOCKS) > 5
    for said in (*map(yaml.safe_load, BLOCKS), *ROWS.values()):
        qx.QuantConfig(**said)


@pytest.mark.parametrize("said", BLOCKS)
def test_every_block_of_the_page_fits_the_network_that_it_is_about(said: str) -> None:
    found = written(yaml.safe_load(said))
    onnx.checker.check_model(found.proto, full_check=True)
    assert "QuantizeLinear" in found.operators()


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(net(), "model.onnx")
    np.savez("calibration.npz", x=X)
    lines = re.findall(r"^quantonnx .*$", PAGE, re.MULTILINE)
    assert len(lines) == 9
    for line in lines:
        words = [*shlex.split(line, comments=True)[1:], "-q"]
        assert cli.run([*words, "--no-speed"] if words[0] == "quantize" else words) == 0, line
    assert {path.name for path in tmp_path.iterdir()} >= {"quant.schema.json", "model.int8.onnx", "c.onnx", "seen.npz"}


def test_the_page_has_the_values_of_every_preset() -> None:
    found = re.findall(r"^\| `([\w-]+)` \| `(.*?)` \| `(.*?)` \|(?: `(.*?)`)? \| .* \|$", PAGE, re.MULTILINE)
    told = {
        name: {"activation": yaml.safe_load(a), "weight": yaml.safe_load(w), **(yaml.safe_load(more) or {})}
        for name, a, w, more in found
    }
    assert told == PRESETS


def test_levels_stand_over_each_other_as_the_page_says() -> None:
    found = written(yaml.safe_load(next(block for block in BLOCKS if "# over everything" in block)))
    assert on(found.reads(CONV1, 1)).scale.ndim == 0
    assert on(found.reads(CONV2, 1)).scale.ndim == 1
    assert np.abs(on(found.reads(FC2, 1)).codes).max() == 31  # type: ignore[arg-type]
    assert on(found.reads(FC2)).dtype == "uint16"
    assert found.reads(CONV1, 2) is None
    np.testing.assert_allclose(on(found.reads(CONV1)).scale, 8 / 255, rtol=1e-5)


def test_an_exact_name_is_over_an_expression_and_a_later_one_over_an_earlier() -> None:
    weights = [{"states": {"weight": {"n_bits": bits}}} for bits in (6, 5, 4)]
    rules = dict(zip((CONV1, "re:conv", "re:block"), weights, strict=True))
    found = written({"op_names": rules})
    assert [np.abs(on(found.reads(name, 1)).codes).max() for name in (CONV1, CONV2)] == [31, 7]  # type: ignore[arg-type]


def test_a_later_level_switches_on_again() -> None:
    on_again = {CONV1: {"inputs": {"*": {}}, "outputs": {"*": {}}, "states": {"*": {}}}}
    for off in (None, "off", False):
        found = written({"op_types": {"Conv": off}, "op_names": on_again})
        assert (on(found.reads(CONV1)).dtype, on(found.reads(CONV1, 1)).dtype) == ("uint8", "int8")
        assert found.reads(CONV2, 1) is None


def test_a_pair_behind_an_operator_is_switched_off_at_its_outputs() -> None:
    said = {"inputs": {"*": None}}
    assert written({"op_types": {"Add": said}}).reads(ADD) is not None
    assert written({"op_types": {"Add": said}, "op_names": {"c2": {"outputs": None}}}).reads(ADD) is None


def test_an_inner_module_is_over_an_outer_one() -> None:
    rules = {
        "head": {"states": {"weight": {"n_bits": 4}}},
        "/head/fc2": {"states": {"weight": {"n_bits": 6}}},
    }
    found = written({"modules": rules})
    assert [np.abs(on(found.reads(name, 1)).codes).max() for name in (FC1, FC2)] == [7, 31]  # type: ignore[arg-type]


def test_numbers_that_are_given_need_no_samples() -> None:
    scales = [0.01 * (1 + step) for step in range(24)]
    said = {"fixed": {"x": {"scale": 0.05, "zero_point": 3}}, "tensors": {"w": {"scale": scales}}}
    found = linear(said, samples=None)
    assert on(found.reads("linear")).scale == np.float32(0.05)
    np.testing.assert_allclose(on(found.reads("linear", 1)).scale, scales, rtol=1e-6)


def test_contrib_operators_keep_the_opset() -> None:
    found, plain = (linear({"preset": "w8a16", "contrib_ops": kept}) for kept in (True, False))
    assert (found.opset, plain.opset) == (17, 21)
    assert {node.domain for node in found.graph.node if node.op_type == "QuantizeLinear"} == {"com.microsoft"}


@pytest.mark.parametrize(
    "said",
    [
        {"bias": {"n_bits": 8}},
        {"op_types": {"Conv": {"states": {"bias": {"dtype": "int32"}}}}},
        {"modules": {"block": {"states": {1: {"n_bits": 16}}}}},
    ],
)
@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_a_format_for_biases_that_stay_in_float_is_refused(target: str, said: dict[str, Any]) -> None:
    with pytest.raises(qx.TargetError, match=f"{target} takes float biases here; say `bias: null`"):
        written(said, target)


REFUSED = {
    "tensorrt": [
        {"preset": "w8a16"},
        {"activation": {"symmetric": False}},
        {"weight": {"dtype": "uint8"}},
        {"weight": {"n_bits": 16}},
        {"activation": None, "weight": {"n_bits": 4, "group_size": 16, "storage": "native"}},
        {"weight": {"n_bits": 4, "group_size": 64, "storage": "native"}},
        {"activation": {"dtype": "float8e4m3fn"}},
        {"activation": {"dynamic": True}},
    ],
    "onnxruntime": [
        {"preset": "fp8"},
        {"weight": {"dtype": "float8e4m3fn"}},
        {"weight": {"n_bits": 2, "storage": "native"}},
        {"activation": {"n_bits": 16}, "weight": {"n_bits": 16}},
        {"weight": {"group_size": 16}},
        {"op_types": {"MatMul": {"states": {"weight": {"axis": 0}}}}},
        {"activation": {"dynamic": True, "n_bits": 16}},
        {"activation": {"dynamic": True}, "weight": {"n_bits": 4, "storage": "native"}},
    ],
    "openvino": [
        {"preset": "w8a16"},
        {"preset": "fp8"},
        {"activation": None, "weight": {"n_bits": 2, "storage": "native"}},
        {"activation": None, "weight": {"n_bits": 4, "storage": "native", "axis": 0}},
        {"activation": {"dynamic": True}},
    ],
}


@pytest.mark.parametrize(("target", "said"), [(target, said) for target, every in REFUSED.items() for said in every])
def test_what_the_page_says_that_targets_refuse(target: str, said: dict[str, Any]) -> None:
    with pytest.raises(qx.TargetError, match=target):
        written(said, target)


def test_presets_are_for_the_targets_that_the_page_names() -> None:
    for name in PRESETS:
        written({"preset": name}, "tensorrt" if name == "fp8" else "onnxruntime")


# ------------------------------------------------------------------------------------------------------------- A


@pytest.mark.parametrize("n_bits", [8, 16, 2, 5])
def test_a6_symmetric(n_bits: int) -> None:
    said, target = ROWS["A6 symmetric"], "onnxruntime" if n_bits != 8 else "tensorrt"
    activation, state = ({**said[kind], "n_bits": n_bits} for kind in ("activation", "weight"))
    pair = on(written({"activation": activation}, target).reads(CONV1))
    weight = on(written({"activation": None, "weight": state}, target).reads(CONV1, 1))
    assert pair.dtype == weight.dtype == ("int8" if n_bits <= 8 else "int16")
    assert_symmetric(pair, X, n_bits)
    assert_symmetric(weight, weight_of("w1"), n_bits)
    assert weight.codes is not None
    low, high = weight.codes.min(), weight.codes.max()
    assert -(2 ** (n_bits - 1)) <= low < high == 2 ** (n_bits - 1) - 1 or low == -(2 ** (n_bits - 1))


@pytest.mark.parametrize("n_bits", [8, 16, 3])
def test_a6_asymmetric(n_bits: int) -> None:
    said = ROWS["A6 asymmetric"]
    found = written({"activation": {**said["activation"], "n_bits": n_bits}})
    assert on(found.reads(CONV1)).dtype == ("uint8" if n_bits <= 8 else "uint16")
    assert_asymmetric(found.reads(CONV1), X, n_bits)


@pytest.mark.parametrize("n_bits", [1, 17, 0, -8])
def test_a6_other_bits_are_refused(n_bits: int) -> None:
    with pytest.raises(ConfigError, match=f"n_bits is {n_bits}"):
        qx.TensorQuantConfig(n_bits=n_bits)


def test_a7_minmax() -> None:
    assert qx.TensorQuantConfig(calibration_method=qx.CalibrationMethod.MINMAX).said() == {
        "calibration_method": "minmax"
    }
    assert_asymmetric(written(ROWS["A7 MINMAX"]).reads(CONV1), X)


def test_a7_moving_average() -> None:
    by_enum = {"activation": {"calibration_method": qx.CalibrationMethod.MOVING_AVERAGE_MINMAX}}
    weights = 0.99 ** np.arange(len(IMAGES))[::-1]
    low, high = (
        float(np.average([ends(feeds["x"]) for feeds in IMAGES], weights=weights)) for ends in (np.min, np.max)
    )
    for said in (ROWS["A7 MOVING_AVERAGE_MINMAX"], by_enum):
        pair = on(written(said).reads(CONV1))
        scale, zero_point = asymmetric(low, high, 255)
        np.testing.assert_allclose(pair.scale, scale, rtol=1e-5)
        assert abs(int(pair.zero_point) - zero_point) <= 1
        assert scale < (X.max() - X.min()) / 255


def test_a7_histogram_loses_least() -> None:
    """An outlier makes the whole range wider than is good: the chosen one loses less than any other tenth of it."""
    x = RNG.normal(size=(64, 256)).astype(np.float32)
    x[0, 0] = 40
    by_enum = {"activation": {"n_bits": 4, "calibration_method": qx.CalibrationMethod.HISTOGRAM}}
    for said in ({"activation": {"n_bits": 4, **ROWS["A7 HISTOGRAM"]["activation"]}}, by_enum):
        pair = on(linear(said, samples=[{"x": x}]).reads("linear"))
        errors = [_error(x, *asymmetric(x.min() * share, 40 * share, 15), 15) for share in np.arange(0.1, 1.01, 0.1)]
        assert _error(x, float(pair.scale), int(pair.zero_point), 15) <= min(errors)
        assert pair.scale < (40 - x.min()) / 15


def _error(x: np.ndarray, scale: float, zero_point: int, levels: int) -> float:
    codes = np.clip(np.rint(x.astype(np.float64) / scale) + zero_point, 0, levels)
    return float(np.mean(((codes - zero_point) * scale - x) ** 2))


def test_a8_all_parts_of_a_configuration() -> None:
    found = written(ROWS["A8"], "tensorrt", NORM, TOKENS)
    plain = written({}, "tensorrt", NORM, TOKENS)
    assert on(found.reads("first")).dtype == "int8"
    assert not np.allclose(found.array("g"), plain.array("g"))
    assert set(np.unique(on(found.reads("first", 1)).codes)) <= set(range(-8, 8))
    assert found.reads("second", 1) is None
    assert plain.reads("second", 1) is not None
    config = qx.QuantConfig(
        activation=qx.TensorQuantConfig(n_bits=8, symmetric=True),
        weight=qx.TensorQuantConfig(n_bits=4),
        smooth_quant=qx.SmoothQuantConfig(alpha=0.5),
        skip=qx.OpsToSkip(weight=("second",)),
    )
    assert config == qx.QuantConfig(**ROWS["A8"])


def _smoothing(alpha: float, weights: tuple[str, ...] = ("w1", "w2")) -> np.ndarray:
    model = parse(NORM)
    g, b = (weight_of(name, model).astype(np.float64) for name in ("g", "b"))
    x = np.concatenate([feeds["x"] for feeds in TOKENS]).astype(np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * g + b
    largest = np.abs(x).reshape(-1, 32).max(axis=0)
    rows = np.max([np.abs(weight_of(name, model)).max(axis=1) for name in weights], axis=0)
    return np.maximum(largest**alpha / rows ** (1 - alpha), 1e-3)


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_a9_smooth_quant_through_a_reshape(alpha: float) -> None:
    said = {**ROWS["A9"], "smooth_quant": {**ROWS["A9"]["smooth_quant"], "alpha": alpha}}
    found, scale = written(said, "tensorrt", NORM, TOKENS), _smoothing(alpha)
    np.testing.assert_allclose(found.array("g"), weight_of("g", parse(NORM)) / scale, rtol=1e-4)
    np.testing.assert_allclose(found.array("b"), weight_of("b", parse(NORM)) / scale, rtol=1e-4)
    smoothed = weight_of("w1", parse(NORM)) * scale[:, None]
    pair = on(found.reads("first", 1))
    np.testing.assert_allclose(pair.scale, symmetric(smoothed, -128, 127, axis=1), rtol=1e-4)
    assert np.abs(pair.values - smoothed).max() <= pair.scale.max()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_a9_other_alphas_are_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        qx.QuantConfig(smooth_quant={"alpha": alpha})


@pytest.mark.parametrize(
    "off",
    [
        {"skip": {"smooth": ["norm"]}},
        {"skip": {"smooth": ["first"]}},
        {"skip": {"smooth": ["LayerNormalization"]}},
        {"exclude": ["MatMul"]},
        {"skip": {"stub": ["MatMul"]}},
        {"op_types": {"MatMul": None}},
        {"op_names": {"re:": {"inputs": None}}},
        {"activation": None},
    ],
)
def test_a9_what_is_skipped_or_off_is_not_smoothed(off: dict[str, Any]) -> None:
    said = {"smooth_quant": {"alpha": 0.5}, **off}
    if off in ({"exclude": ["MatMul"]}, {"op_types": {"MatMul": None}}):
        with pytest.raises(qx.PlanError, match="no pair was placed"):
            written(said, "tensorrt", NORM, TOKENS)
        return
    found = written(said, "tensorrt", NORM, TOKENS)
    np.testing.assert_array_equal(found.array("g"), weight_of("g", parse(NORM)))


def test_a10_skip_sets() -> None:
    found = written(ROWS["A10"])
    assert found.reads(CONV1) is None
    assert found.reads(CONV2) is None
    assert found.reads(CONV1, 1) is not None
    assert found.reads(FC2, 1) is None
    assert found.reads(FC2) is not None


@pytest.mark.parametrize(
    ("kind", "rule"),
    [(kind, rule) for kind in ("stub", "weight") for rule in ("Conv", CONV1, "re:conv1/")],
)
def test_a10_by_type_name_or_expression(kind: str, rule: str) -> None:
    found = written({"skip": {kind: [rule]}}, "tensorrt")
    read = found.reads(CONV1, 0 if kind == "stub" else 1)
    other = found.reads(CONV1, 1 if kind == "stub" else 0)
    assert (read, other is None) == (None, False)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
def test_a11_symmetric_weights(per_channel: bool, narrow: bool) -> None:
    pair = on(written({"weight": {"per_channel": per_channel, "narrow_range": narrow}}, "tensorrt").reads(CONV1, 1))
    weight, low = weight_of("w1"), -128 + narrow
    scale = symmetric(weight, low, 127, axis=0 if per_channel else None)
    np.testing.assert_allclose(pair.scale, scale, rtol=1e-5)
    codes = np.clip(np.rint(weight / np.reshape(scale, (-1, 1, 1, 1))), low, 127)
    assert pair.codes is not None
    assert np.abs(pair.codes - codes).max() <= 1
    assert np.mean(pair.codes != codes) < 0.001
    assert pair.axis == (0 if per_channel else None)


def test_a11_said_on_the_page() -> None:
    pair = on(written(ROWS["A11"], "tensorrt").reads(CONV1, 1))
    np.testing.assert_allclose(pair.scale, symmetric(weight_of("w1"), -127, 127, axis=0), rtol=1e-5)


def test_a11_asymmetric_weights_contain_zero() -> None:
    model = parse(LINEAR)
    weight = np.abs(weight_of("w", model)) + 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    pair = on(
        written({"weight": {"symmetric": False, "per_channel": False}}, "onnxruntime", model, VECTORS).reads(
            "linear", 1
        )
    )
    np.testing.assert_allclose(pair.scale, weight.max() / 255, rtol=1e-5)
    assert (pair.dtype, int(pair.zero_point)) == ("uint8", 0)


def test_a11_a_weight_of_zeros_has_a_scale() -> None:
    model = parse(LINEAR)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((256, 24), np.float32), "w"))
    pair = on(written({"weight": {"per_channel": False}}, "tensorrt", model, VECTORS).reads("linear", 1))
    np.testing.assert_allclose(pair.scale, 1e-8 / 127.5, rtol=1e-5)


def test_a12_fixed_numbers_stay() -> None:
    pair = on(written(ROWS["A12"]).reads(CONV1))
    assert (pair.scale, pair.zero_point) == (np.float32(0.05), 100)
    assert pair.tensor == "x"


def test_a13_a_site_without_data_is_an_error_that_names_it() -> None:
    for samples in ([], iter(())):
        with pytest.raises(qx.QuantonnxError, match="no samples|saw no data"):
            written({}, samples=samples)
    fused = qx.transform(net(), target="tensorrt")
    placed = qx.insert_qdq(fused.model, fused.matches, qx.QuantConfig())
    with pytest.raises(CalibrationError, match="'a' saw no data"):
        qx.calibrate(placed, forward_loop=lambda run: None)
    other = qx.collect_statistics(net(), IMAGES, target="tensorrt")
    del other.tensors["r1"]
    with pytest.raises(CalibrationError, match="'r1'"):
        qx.calibrate(placed, statistics=other)


# ------------------------------------------------------------------------------------------------------------- B


def test_b1_inputs_by_index() -> None:
    found = written(ROWS["B1 by index"])
    assert on(found.reads(ADD, 0)).dtype == "uint16"
    assert found.reads(ADD, 1) is None


def test_b1_inputs_by_name() -> None:
    found = written(ROWS["B1 by name"])
    assert (on(found.reads(ADD, 0)).dtype, found.reads(ADD, 1)) == ("uint16", None)


def test_b1_outputs() -> None:
    assert on(written({}).gives(SOFTMAX)).dtype == "uint8"
    found = written(ROWS["B1 outputs"])
    assert on(found.gives(SOFTMAX)).dtype == on(found.reads(FC2)).dtype == "uint16"


def test_b1_outputs_where_no_pair_would_stand() -> None:
    added = "/head/fc1/Add"
    assert written({}).gives(added) is None
    assert on(written({"op_names": {added: {"outputs": {"C": {"n_bits": 16}}}}}).gives(added)).dtype == "uint16"


def test_b1_all_others() -> None:
    found = written({"op_types": {"Add": {"inputs": {1: None, "*": {"n_bits": 16}}}}})
    assert (on(found.reads(ADD, 0)).dtype, found.reads(ADD, 1)) == ("uint16", None)


def test_b1_indices_and_names_do_not_mix() -> None:
    with pytest.raises(ConfigError, match="indices and names are mixed"):
        qx.QuantConfig(op_types={"Add": {"inputs": {0: None, "B": None}}})


def test_b1_the_default_is_int8_on_every_input_of_an_operator_with_a_weight() -> None:
    found = written({}, "tensorrt")
    assert [on(found.reads(name)).dtype for name in (CONV1, CONV2, "/Flatten")] == ["int8"] * 3


def test_b2_states() -> None:
    found, default = written(ROWS["B2"]), written({})
    assert set(np.unique(on(found.reads(CONV1, 1)).codes)) <= set(range(-7, 8))
    assert (found.reads(CONV1, 2), on(default.reads(CONV1, 2)).dtype) == (None, "int32")
    assert on(default.reads(CONV1, 1)).dtype == "int8"
    assert on(found.reads(FC1, 1)).codes.max() > 7  # type: ignore[union-attr]
    assert written({"op_types": {"Conv": {"states": {"*": None}}}}).reads(CONV1, 1) is None


def test_b3_an_operator_type_that_is_off() -> None:
    found = written(ROWS["B3"])
    assert [found.reads(name, i) for name in (CONV1, CONV2) for i in (0, 1, 2)] == [None] * 6
    assert found.reads(FC2) is not None


def test_b4_operators_by_expression() -> None:
    found = written(ROWS["B4"])
    assert [found.reads(name, i) for name in (FC1, FC2) for i in (0, 1)] == [None] * 4
    assert found.reads(CONV1) is not None


def test_b5_the_more_specific_wins() -> None:
    found = written(ROWS["B5"])
    levels = [int(np.abs(on(found.reads(name, 1)).codes).max()) for name in (FC1, CONV1, CONV2)]  # type: ignore[arg-type]
    assert levels == [31, 7, 127]


def test_b6_the_boundary_of_a_module() -> None:
    found, default = written(ROWS["B6"]), written({})
    assert default.reads(SOFTMAX) is None
    assert on(found.reads(SOFTMAX)).dtype == "uint16"
    assert on(found.gives(SOFTMAX)).dtype == "uint16"
    assert on(found.reads(CONV1)).dtype == "uint8"
    assert set(np.unique(on(found.reads(FC2, 1)).codes)) <= set(range(-7, 8))


def test_b6_is_over_every_rule_for_operators() -> None:
    rules = {"op_types": {"Softmax": None}, "op_names": {SOFTMAX: {"inputs": {0: {"n_bits": 8}}}}}
    found = written({**ROWS["B6"], **rules})
    assert on(found.reads(SOFTMAX)).dtype == "uint16"
    assert on(found.gives(SOFTMAX)).dtype == "uint16"


# ------------------------------------------------------------------------------------------------------------- C


def test_c1_what_a_level_leaves_out_falls_through() -> None:
    pairs = written(ROWS["C1"])
    first, second = on(pairs.reads(CONV1, 1)), on(pairs.reads(CONV2, 1))
    assert np.abs(first.codes).max() == 7  # type: ignore[arg-type]
    assert first.scale.ndim == 0
    assert second.scale.shape == (16,)
    np.testing.assert_allclose(second.scale, symmetric(weight_of("w2"), -7, 7, axis=0), rtol=1e-5)
    assert on(pairs.reads(FC1, 1)).codes.max() > 7  # type: ignore[union-attr]
    assert (pairs.reads(FC2), pairs.reads(FC2, 1)) == (None, None)


def test_c2_every_tensor_of_a_layer() -> None:
    found = written(ROWS["C2"])
    assert on(found.reads(CONV1)).dtype == "int16"
    assert on(found.gives("/block/relu/Relu")).dtype == "uint16"
    assert np.abs(on(found.reads(CONV1, 1)).codes).max() == 7  # type: ignore[arg-type]
    assert on(found.reads(CONV1, 2)).dtype == "int16"
    assert on(found.reads(CONV2, 2)).dtype == "int32"


def test_c2_the_target_device() -> None:
    zero_points = {target: on(written({}, target).reads(CONV1)).dtype for target in qx.known_targets()}
    assert zero_points == {"tensorrt": "int8", "onnxruntime": "uint8", "openvino": "uint8"}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4", "int2", "uint2", "int16", "uint16"])
@pytest.mark.parametrize("native", [True, False])
def test_c3_dtype(dtype: str, native: bool) -> None:
    weight = {**ROWS["C3 dtype"]["weight"], "dtype": dtype, "symmetric": not dtype.startswith("u")}
    weight |= {"storage": "native" if native else "narrowed"}
    pair = on(linear({"activation": None, "weight": weight}, samples=None).reads("linear", 1))
    bits, unsigned = int(dtype.lstrip("uint")), dtype.startswith("u")
    stored = dtype if native or bits >= 8 else f"{'u' * unsigned}int8"
    assert (pair.dtype, pair.codes.dtype.name) == (stored, stored)  # type: ignore[union-attr]
    codes = pair.codes.astype(np.int64)  # type: ignore[union-attr]
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (low <= codes.min(), codes.max() <= high) == (True, True)
    assert codes.max() - codes.min() >= (high - low) // 2


def test_c3_dtype_of_the_page_and_float8() -> None:
    assert on(linear(ROWS["C3 dtype"], samples=None).reads("linear", 1)).dtype == "int4"
    found = linear(ROWS["C3 dtype float8"], "tensorrt")
    assert [on(found.reads("linear", i)).dtype for i in (0, 1)] == ["float8e4m3fn"] * 2
    np.testing.assert_allclose(on(found.reads("linear")).scale, np.abs(VECTORS[0]["x"]).max() / 448, rtol=1e-5)


def test_c3_is_dynamic() -> None:
    found = linear(ROWS["C3 is_dynamic"], samples=None)
    assert [op for op in found.operators() if "Integer" in op or "Dynamic" in op] == [
        "DynamicQuantizeLinear",
        "MatMulInteger",
    ]


def test_c3_observer() -> None:
    x = VECTORS[0]["x"].astype(np.float64).ravel()
    pair = on(linear(ROWS["C3 observer_cls"]).reads("linear"))
    scale, zero_point = asymmetric(*np.quantile(x, (0.005, 0.995)), 255)
    np.testing.assert_allclose(pair.scale, scale, rtol=0.02)
    assert abs(int(pair.zero_point) - zero_point) <= 2
    assert pair.scale < (x.max() - x.min()) / 255 * 0.9


def test_c3_qscheme() -> None:
    weight = weight_of("w", parse(LINEAR))
    tensor, channel, group = (
        on(linear(ROWS[f"C3 qscheme {name}"], samples=None).reads("linear", 1))
        for name in ("per_tensor", "per_channel", "per_group")
    )
    np.testing.assert_allclose(tensor.scale, symmetric(weight, -127, 127), rtol=1e-5)
    np.testing.assert_allclose(channel.scale, symmetric(weight, -127, 127, axis=1), rtol=1e-5)
    assert (channel.axis, group.axis, group.block_size) == (1, 0, 64)
    largest = np.abs(weight.reshape(4, 64, 24)).max(axis=1)
    np.testing.assert_allclose(group.scale, largest / 127, rtol=1e-5)
    assert group.scale.shape == (4, 24)
    assert np.abs(group.values - weight).max() <= group.scale.max() / 2 * 1.001


def test_c3_ch_axis() -> None:
    pair = on(linear(ROWS["C3 ch_axis"], samples=None).reads("linear", 1))
    assert (pair.axis, pair.scale.shape) == (0, (256,))
    np.testing.assert_allclose(pair.scale, symmetric(weight_of("w", parse(LINEAR)), -127, 127, axis=0), rtol=1e-5)


def test_c3_symmetric() -> None:
    found = linear(ROWS["C3 symmetric"])
    assert (on(found.reads("linear")).dtype, int(on(found.reads("linear")).zero_point)) == ("int8", 0)
    weight = on(found.reads("linear", 1))
    scale, zero_point = asymmetric(*(float(f(weight_of("w", parse(LINEAR)))) for f in (np.min, np.max)), 255)
    np.testing.assert_allclose(weight.scale, scale, rtol=1e-5)
    assert abs(int(weight.zero_point) - zero_point) <= 1


ROUNDINGS = {
    "half_even": np.rint,
    "half_away": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "floor": np.floor,
}


@pytest.mark.parametrize("name", ROUNDINGS)
def test_c3_round_method(name: str) -> None:
    model = parse(LINEAR)
    weight = (np.random.default_rng(1).integers(-14, 15, (256, 24)) / 2).astype(np.float32)
    weight[0, 0] = 7
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    said = ROWS["C3 round_method"]
    said = {**said, "weight": {**said["weight"], "rounding": name}}
    pair = on(written(said, "onnxruntime", model, None).reads("linear", 1))
    assert pair.scale == 1
    np.testing.assert_array_equal(pair.codes, ROUNDINGS[name](weight))


def test_c3_stochastic_rounding_has_a_seed() -> None:
    first, same, other = (
        on(
            linear({"activation": None, "weight": {"rounding": "stochastic", "seed": seed}}, samples=None).reads(
                "linear", 1
            )
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.codes, same.codes)
    assert np.mean(first.codes != other.codes) > 0.1
    ideal = weight_of("w", parse(LINEAR)) / first.scale
    assert np.abs(first.codes - ideal).max() < 1.001
    assert abs(np.mean(first.codes - ideal)) < 0.02


def test_c3_scale_type() -> None:
    weight = weight_of("w", parse(LINEAR))
    found = linear(ROWS["C3 scale_type"])
    activation, powers = on(found.reads("linear")), on(found.reads("linear", 1))
    expected = symmetric(weight, -127, 127, axis=1)
    np.testing.assert_array_equal(powers.scale, np.exp2(np.rint(np.log2(expected))))
    np.testing.assert_array_equal(np.log2(activation.scale) % 1, 0)
    halves = on(
        linear({"activation": None, "weight": {"scale_type": "float16"}}, samples=None).reads("linear", 1)
    ).scale
    np.testing.assert_array_equal(halves, expected.astype(np.float16).astype(np.float32))


# ----------------------------------------------------------------------------------------- biases follow their inputs


TWO_READERS = (
    "agraph (float[1,32] x) => (float[1,8] y, float[1,8] z) <float[32,8] v, float[8] b, float[32,8] w, float[8] c> "
    "{ [one] y = Gemm(x, v, b) [two] z = Gemm(x, w, c) }"
)


@pytest.mark.parametrize(
    "inputs",
    [{"range": [-9, 9]}, {"calibration_method": "percentile:90"}, {"scale": 0.25, "zero_point": 7}, {"n_bits": 16}],
)
def test_a_bias_has_the_scale_of_its_own_input_and_weight(inputs: dict[str, Any]) -> None:
    samples = [{"x": RNG.normal(size=(1, 32)).astype(np.float32)} for _ in range(8)]
    for said in (
        {"op_names": {"two": {"inputs": {0: inputs}}}},
        {"op_names": {"one": {"inputs": {0: inputs}}}},
        {"op_names": {"two": {"states": {"weight": {"n_bits": 4}}}}},
    ):
        found = written(said, "onnxruntime", TWO_READERS, samples)
        for name in ("one", "two"):
            x, w, b = (on(found.reads(name, index)).scale for index in range(3))
            np.testing.assert_allclose(b, x * w, rtol=1e-6)


def test_a_bias_follows_what_is_said_of_the_output_that_its_operator_reads() -> None:
    found = written({"op_names": {"/block/relu/Relu": {"outputs": {0: {"n_bits": 16}}}}})
    x, w, b = (on(found.reads(CONV2, index)) for index in range(3))
    assert x.dtype == "uint16"
    np.testing.assert_allclose(b.scale, x.scale * w.scale, rtol=1e-6)
