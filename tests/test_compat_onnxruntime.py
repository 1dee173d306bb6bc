"""quantize_static by its own signature: every argument and option has its effect in the written file."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import parse
from onnx import numpy_helper
from PIL import Image

from quantonnx.compat import onnxruntime as compat
from quantonnx.compat import ort_options
from quantonnx.compat.onnxruntime import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    StaticQuantConfig,
    quantize,
    quantize_static,
)
from quantonnx.costs import Cost, CostModel
from quantonnx.demo import model_path
from quantonnx.errors import ConfigError, TargetError
from quantonnx.target import get_target

NET = (
    "agraph (float[1,16,24,24] x) => (float[1,16] y) <float[32,16,3,3] w1, float[32] b1, float[32,32,3,3] w2, "
    "float[32] b2, float[32,16] v, float[16] d> { "
    "c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) r1 = Relu(c1) m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r1) "
    "c2 = Conv<pads=[1,1,1,1]>(m, w2, b2) s = Sigmoid(c2) p = GlobalAveragePool(s) f = Flatten(p) y = Gemm(f, v, d) }"
)


class Reader(CalibrationDataReader):
    """Three samples of random numbers."""

    def __init__(self, shape: tuple[int, ...] = (1, 16, 24, 24), count: int = 3) -> None:
        rng = np.random.default_rng(5)
        self.feeds = [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]
        self.position, self.end = 0, count
        self.ranges: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        self.position += 1
        return self.feeds[self.position - 1] if self.position <= self.end else None

    def set_range(self, start_index: int, end_index: int) -> None:
        self.ranges.append((start_index, end_index))
        self.position, self.end = start_index, end_index


class Written:
    """A written model: the numbers of its pairs by the tensor that they are on."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.values = {item.name: item for item in proto.graph.initializer}
        self.nodes = list(proto.graph.node)
        self.given = {output: node for node in self.nodes for output in node.output}

    def array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.values[name])

    def at(self, op: str, index: int = 0, nth: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns scale and zero point of what an operator reads, None where that is float."""
        node = [found for found in self.nodes if found.op_type == op][nth]
        return self._pair(self.given.get(node.input[index]))

    def _pair(self, node: onnx.NodeProto | None) -> tuple[np.ndarray, np.ndarray] | None:
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return self.array(node.input[1]), self.array(node.input[2])

    def codes(self, op: str, nth: int = 0, index: int = 1) -> np.ndarray:
        """Returns the codes of a constant that an operator reads."""
        node = [found for found in self.nodes if found.op_type == op][nth]
        return self.array(self.given[node.input[index]].input[0])

    def quantizes(self, name: str) -> bool:
        """Whether a tensor is read by a QuantizeLinear."""
        return any(node.op_type == "QuantizeLinear" and node.input[0] == name for node in self.nodes)


@pytest.fixture
def write(tmp_path: Path):
    def written(graph: str = NET, reader: object = None, **arguments: object) -> Written:
        arguments.setdefault("op_types_to_quantize", ["Conv", "Gemm", "Sigmoid", "MaxPool", "GlobalAveragePool"])
        quantize_static(parse(graph), tmp_path / "q.onnx", reader or Reader(), **arguments)
        ort.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
        return Written(onnx.load(tmp_path / "q.onnx"))

    return written


def test_the_signature_is_that_of_onnx_runtime() -> None:
    theirs = pytest.importorskip("onnxruntime.quantization")
    for name in ("quantize_static", "quantize", "StaticQuantConfig"):
        own, other = (inspect.signature(getattr(module, name)) for module in (compat, theirs))
        assert list(own.parameters) == list(other.parameters), name
        for parameter in other.parameters.values():
            assert own.parameters[parameter.name].kind == parameter.kind
            assert str(own.parameters[parameter.name].default) == str(parameter.default), parameter.name
    for name in ("QuantType", "QuantFormat", "CalibrationMethod"):
        own, other = getattr(compat, name), getattr(theirs, name)
        assert {member.name: member.value for member in own} == {member.name: member.value for member in other}
        assert [str(member) for member in own] == [str(member) for member in other]


def test_every_option_that_onnx_runtime_reads_is_known() -> None:
    theirs = pytest.importorskip("onnxruntime.quantization")
    folder = Path(theirs.__file__).parent
    texts = [path.read_text() for path in [*folder.glob("*.py"), *(folder / "operators").glob("*.py")]]
    read = {
        key for text in texts for key in re.findall(r'extra_options(?: or \{\}\))?(?:\.get\(|\[)"([A-Z]\w+)"', text)
    }
    read |= {key for text in texts for key in re.findall(r'"([A-Z]\w+)" in self\.extra_options', text)}
    read |= {key for text in texts for key in re.findall(r'\("(Calib\w+)", "\w+"\)', text)}
    read |= set(re.findall(r"^ +([A-Za-z.]+) = (?:True|dict|list|float|Opt)", theirs.quantize_static.__doc__, re.M))
    known = {*ort_options.TRANSLATED, *ort_options.PARTS, *ort_options.HARMLESS, *ort_options.REFUSED}
    assert len(read) > 25
    assert read == known


@pytest.mark.parametrize(
    ("kind", "dtype", "zero_points"),
    [("QInt8", np.int8, range(-128, 128)), ("uint8", np.uint8, range(256)), ("QUInt16", np.uint16, range(65536))],
)
def test_activation_types(write, kind: str, dtype: type, zero_points: range) -> None:
    _, zero_point = write(activation_type=kind).at("Conv")
    assert zero_point.dtype == dtype
    assert int(zero_point) in zero_points
    assert int(zero_point) not in (0, -128), "asymmetric by default"


def test_onnx_runtimes_own_enums(write) -> None:
    theirs = pytest.importorskip("onnxruntime.quantization")
    _, zero_point = write(
        activation_type=theirs.QuantType.QUInt8,
        quant_format=theirs.QuantFormat.QDQ,
        calibrate_method=theirs.CalibrationMethod.Entropy,
    ).at("Conv")
    assert zero_point.dtype == np.uint8


def test_weight_types(write) -> None:
    signed = write(weight_type=QuantType.QInt8)
    assert signed.codes("Conv").dtype == np.int8
    assert np.abs(signed.codes("Conv").astype(int)).max() == 127
    assert int(signed.at("Conv", 1)[1]) == 0
    unsigned = write(activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8)
    assert unsigned.codes("Conv").dtype == np.uint8
    assert int(unsigned.at("Conv", 1)[1]) != 0
    asymmetric = write(extra_options={"WeightSymmetric": False})
    assert int(asymmetric.at("Conv", 1)[1]) != 0


def test_per_channel_and_reduce_range(write) -> None:
    assert write().at("Conv", 1)[0].shape == ()
    found = write(per_channel=True, reduce_range=True)
    assert found.at("Conv", 1)[0].shape == (32,)
    assert found.codes("Conv").min() >= -64
    assert found.codes("Conv").max() == 63


@pytest.mark.parametrize(
    ("method", "options", "share"),
    [
        ("MinMax", {}, 1.0),
        (CalibrationMethod.Percentile, {"CalibPercentile": 90.0}, 0.9),
        ("Percentile", {"CalibPercentile": 99.0}, 0.99),
    ],
)
def test_methods(write, method: object, options: dict[str, object], share: float) -> None:
    values = np.concatenate([feed["x"].ravel() for feed in Reader().feeds])
    low, high = np.quantile(values, [(1 - share) / 2, 1 - (1 - share) / 2])
    scale, _ = write(calibrate_method=method, extra_options=options).at("Conv")
    assert float(scale) * 255 == pytest.approx(high - low, rel=0.02)


def test_the_moving_average_and_its_constant(write) -> None:
    """The newest sample counts half, the ones before a quarter and an eighth; all that over their sum."""
    extremes = np.array([(feed["x"].min(), feed["x"].max()) for feed in Reader().feeds])
    expected = np.array([1, 2, 4]) / 7 @ extremes
    options = {"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.5}
    scale, _ = write(extra_options=options).at("Conv")
    assert float(scale) * 255 == pytest.approx(expected[1] - expected[0], rel=1e-3)


def test_symmetric_activations(write) -> None:
    largest = max(np.abs(feed["x"]).max() for feed in Reader().feeds)
    scale, zero_point = write(extra_options={"ActivationSymmetric": True}).at("Conv")
    assert (int(zero_point), float(scale)) == (0, pytest.approx(largest / 127))
    scale, zero_point = write(extra_options={"CalibTensorRangeSymmetric": True}).at("Conv")
    assert (int(zero_point), float(scale)) == (0, pytest.approx(largest / 127.5))


def test_restricted_asymmetric_activations(write) -> None:
    options = {"ActivationRestrictedAsymmetric": True}
    found = write(activation_type=QuantType.QUInt8, extra_options=options)
    assert int(found.at("Conv")[1]) == 128
    assert int(found.at("MaxPool")[1]) == 0
    with pytest.raises(ConfigError, match="needs QUInt8"):
        write(extra_options=options)


def test_float_weights_and_float_biases(write) -> None:
    assert "w1" not in [name for node in write().nodes for name in node.input]
    assert write(extra_options={"AddQDQPairToWeight": True}).quantizes("w1")
    assert write().codes("Conv", index=2).dtype == np.int32
    assert write(extra_options={"QuantizeBias": False}).at("Conv", 2) is None


def test_outputs_of_a_type_stay_in_float(write) -> None:
    assert write().quantizes("y") is False
    graph = (
        "agraph (float[1,16,24,24] x) => (float[1,16,24,24] y) <float[16,16,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }"
    )
    assert write(graph, op_types_to_quantize=["Conv"]).at("Conv") is not None
    plain = write(graph, op_types_to_quantize=["Conv"])
    without = write(
        graph, op_types_to_quantize=["Conv"], extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]}
    )
    pairs = [sum(node.op_type == "QuantizeLinear" for node in found.nodes) for found in (plain, without)]
    assert pairs == [2, 1]


def test_the_axis_of_a_type(write) -> None:
    options = {"QDQOpTypePerChannelSupportToAxis": {"Conv": 0}}
    found = write(per_channel=True, extra_options=options)
    assert found.at("Conv", 1)[0].shape == (32,)
    assert found.at("Gemm", 1)[0].shape == (16,)
    assert write(extra_options=options).at("Conv", 1)[0].shape == ()


def test_an_axis_that_gives_wrong_results_is_refused(write) -> None:
    with pytest.raises(TargetError, match="scales along axis 1 give wrong results"):
        write(per_channel=True, extra_options={"QDQOpTypePerChannelSupportToAxis": {"Conv": 1}})


def test_blocks(write) -> None:
    with pytest.raises(TargetError, match="8-bit groups beside integer activations fail when run"):
        write(extra_options={"BlockSize": 16})


def test_the_least_range(write) -> None:
    scale, _ = write(extra_options={"MinimumRealRange": 1000.0}).at("Conv")
    assert float(scale) == pytest.approx(1000 / 255)
    assert float(write(extra_options={"MinimumRealRange": None}).at("Conv")[0]) < 1


def test_smooth_quant(write) -> None:
    graph = (
        "agraph (float[1,16,64] x) => (float[1,16,32] y) <float[64] gamma, float[64] beta, float[64,32] w> { "
        "n = LayerNormalization<axis=-1>(x, gamma, beta) y = MatMul(n, w) }"
    )
    options = {"SmoothQuant": True, "SmoothQuantAlpha": 0.9, "SmoothQuantFolding": True}
    arguments = {"op_types_to_quantize": ["MatMul"]}
    smooth = write(graph, Reader((1, 16, 64)), extra_options=options, **arguments)
    plain = write(graph, Reader((1, 16, 64)), **arguments)
    assert float(smooth.at("MatMul")[0]) < 0.8 * float(plain.at("MatMul")[0])
    other = write(graph, Reader((1, 16, 64)), extra_options={**options, "SmoothQuantAlpha": 0.1}, **arguments)
    assert float(other.at("MatMul")[0]) > float(smooth.at("MatMul")[0])


def test_operators_of_onnx_runtimes_domain(write) -> None:
    arguments = {"activation_type": "QUInt16", "extra_options": {"UseQDQContribOps": True}}
    found = write(**arguments)
    assert {node.domain for node in found.nodes if node.op_type == "QuantizeLinear"} == {"com.microsoft"}
    assert found.proto.opset_import[0].version == 17


def test_operators_that_move_data_get_pairs(write) -> None:
    graph = (
        "agraph (float[1,16,24,24] x) => (float[1,16,12,12] y) <float[16,16,3,3] w> { "
        "c = Conv<pads=[1,1,1,1]>(x, w) e = Exp(c) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(e) }"
    )
    assert write(graph, op_types_to_quantize=["Conv"]).at("MaxPool") is None
    forced = write(graph, op_types_to_quantize=["Conv"], extra_options={"ForceQuantizeNoInputCheck": True})
    assert forced.at("MaxPool") is not None


def test_products_of_two_activations_stay_in_float(write) -> None:
    graph = (
        "agraph (float[1,4,64,64] x) => (float[1,4,64,64] y) <float[64,64] k, float[64,64] v> { "
        "a = MatMul(x, k) b = MatMul(x, v) t = Transpose<perm=[0,1,3,2]>(a) p = MatMul(b, t) s = Softmax(p) "
        "y = MatMul(s, b) }"
    )
    shape = (1, 4, 64, 64)
    arguments = {"op_types_to_quantize": ["MatMul"]}
    assert write(graph, Reader(shape), **arguments).at("MatMul", nth=3) is not None
    only = write(graph, Reader(shape), extra_options={"MatMulConstBOnly": True}, **arguments)
    assert only.at("MatMul", nth=3) is None
    assert only.at("MatMul", nth=0) is not None


def test_the_sigmoid_of_nnapi(write) -> None:
    found = write(activation_type="uint8", extra_options={"extra.Sigmoid.nnapi": True})
    scale, zero_point = found.at("GlobalAveragePool")
    assert (float(scale), int(zero_point)) == (1 / 256, 0)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"scale": np.array(0.25, np.float32), "zero_point": np.array(3, np.int8)}, (0.25, 3)),
        ({"rmin": -1.0, "rmax": 4.1}, (0.02, -78)),
        ({"rmin": -1.0, "rmax": 5.11, "symmetric": True}, (5.11 / 127, 0)),
        ({"rmin": 0.0, "rmax": 65.535, "quant_type": QuantType.QUInt16}, (0.001, 0)),
    ],
)
def test_overrides_of_activations(write, entry: dict[str, object], expected: tuple[float, int]) -> None:
    found = write(extra_options={"TensorQuantOverrides": {"x": [entry]}})
    scale, zero_point = found.at("Conv")
    assert (float(scale), int(zero_point)) == (pytest.approx(expected[0], rel=1e-6), expected[1])


def test_overrides_of_weights(write) -> None:
    options = {"TensorQuantOverrides": {"w1": [{"axis": 0, "reduce_range": True}], "w2": [{"quant_type": "QInt4"}]}}
    found = write(extra_options=options)
    assert found.at("Conv", 1)[0].shape == (32,)
    assert found.codes("Conv").max() <= 63
    assert np.abs(found.codes("Conv", 1).astype(int)).max() <= 8
    assert found.at("Conv", 1, nth=1)[0].shape == ()
    scales = [{"axis": 0, "scale": 0.01 * (1 + i), "zero_point": 0} for i in range(32)]
    found = write(extra_options={"TensorQuantOverrides": {"w1": scales}, "QuantizeBias": False})
    np.testing.assert_allclose(found.at("Conv", 1)[0], 0.01 * (1 + np.arange(32)), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "quantized"),
    [
        ({"nodes_to_quantize": ["node_c2"]}, [False, True, False]),
        ({"nodes_to_quantize": ["node_r1"]}, [True, False, False]),
        ({"nodes_to_quantize": ["node_c1", "node_y"], "op_types_to_quantize": ["Gemm"]}, [False, False, True]),
        ({"op_types_to_quantize": ["Conv", "LSTM"]}, [True, True, False]),
        ({"op_types_to_quantize": ["Conv", "Gemm"], "nodes_to_exclude": ["node_c1"]}, [False, True, True]),
    ],
)
def test_chosen_operators(tmp_path: Path, arguments: dict[str, list[str]], quantized: list[bool]) -> None:
    model = parse(NET)
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    quantize_static(model, tmp_path / "q.onnx", Reader(), **arguments)
    found = Written(onnx.load(tmp_path / "q.onnx"))
    assert [place is not None for place in (found.at("Conv"), found.at("Conv", nth=1), found.at("Gemm"))] == quantized


def test_a_reader_that_wants_ranges(write) -> None:
    reader = Reader(count=4)
    write(reader=reader, extra_options={"CalibStridedMinMax": 2, "CalibMaxIntermediateOutputs": 1})
    assert reader.ranges == [(0, 2), (2, 4)]


def test_statistics_are_kept_and_used_again(tmp_path: Path) -> None:
    cache, first, second = (tmp_path / name for name in ("cache.npz", "a.onnx", "b.onnx"))
    arguments = {"op_types_to_quantize": ["Conv"], "calibration_cache_path": cache}
    quantize_static(parse(NET), first, Reader(), **arguments)
    quantize_static(parse(NET), second, None, **arguments)
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(ConfigError, match="no calibration_data_reader"):
        quantize_static(parse(NET), second)


def test_ranges_are_kept_as_onnx_runtime_keeps_them(tmp_path: Path) -> None:
    theirs = pytest.importorskip("onnxruntime.quantization")
    cache, first, second = (tmp_path / name for name in ("cache.json", "a.onnx", "b.onnx"))
    arguments = {"op_types_to_quantize": ["Conv"], "calibration_cache_path": cache}
    quantize_static(parse(NET), first, Reader(), **arguments)
    kept = theirs.load_tensors_data(cache)
    assert float(kept["x"].lowest) == pytest.approx(min(feed["x"].min() for feed in Reader().feeds))
    quantize_static(parse(NET), second, None, **arguments)
    scales = [Written(onnx.load(path)).at("Conv", nth=1)[0] for path in (first, second)]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6)


def test_ranges_that_onnx_runtime_kept(tmp_path: Path) -> None:
    theirs = pytest.importorskip("onnxruntime.quantization")
    ranges = {"x": (np.array(-2.0, np.float32), np.array(3.1, np.float32))}
    cache = tmp_path / "cache.json"
    theirs.save_tensors_data(theirs.TensorsData(theirs.calibrate.CalibrationMethod.MinMax, ranges), cache)
    conv = "agraph (float[1,16,24,24] x) => (float[1,16,24,24] y) <float[16,16,1,1] w> { y = Conv(x, w) }"
    arguments = {"op_types_to_quantize": ["Conv"], "extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv"]}}
    quantize_static(parse(conv), tmp_path / "q.onnx", None, calibration_cache_path=cache, **arguments)
    scale, zero_point = Written(onnx.load(tmp_path / "q.onnx")).at("Conv")
    assert (float(scale), int(zero_point)) == (pytest.approx(5.1 / 255), -28)


def test_the_output_is_overwritten_and_weights_go_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    path.write_text("old")
    quantize_static(
        parse(NET), path, Reader(), op_types_to_quantize=["Conv"], use_external_data_format=True,
        calibration_providers=["CPUExecutionProvider"],
    )  # fmt: skip
    assert (tmp_path / "q.onnx.data").exists()
    ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_a_configuration_as_one_value(tmp_path: Path) -> None:
    theirs = pytest.importorskip("onnxruntime.quantization")
    quantized = []
    for kind in (StaticQuantConfig, theirs.StaticQuantConfig):
        config = kind(Reader(), per_channel=True, op_types_to_quantize=["Conv"])
        quantize(parse(NET), tmp_path / "q.onnx", config)
        quantized.append((tmp_path / "q.onnx").read_bytes())
    assert quantized[0] == quantized[1]
    with pytest.raises(ConfigError, match="quant_config is DynamicQuantConfig; did you mean StaticQuantConfig"):
        quantize(parse(NET), tmp_path / "q.onnx", theirs.DynamicQuantConfig())


def test_a_model_that_stays_in_float_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap, dear = Cost(1e5, 0, 0), Cost(2e5, 0, 0)
    costs = CostModel({"Conv": cheap, "QuantizeLinear": cheap, "DequantizeLinear": cheap}, {"Conv": dear})
    monkeypatch.setattr(compat, "TARGET", replace(get_target("onnxruntime"), costs=costs))
    graph = "agraph (float[1,16,24,24] x) => (float[1,16,24,24] y) <float[16,16,1,1] w> { y = Conv(x, w) }"
    with pytest.warns(UserWarning, match="stays in float"):
        quantize_static(parse(graph), tmp_path / "q.onnx", Reader())
    assert {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node} == {"Conv"}
    quantize_static(parse(graph), tmp_path / "q.onnx", Reader(), op_types_to_quantize=["Conv"])
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quant_format": QuantFormat.QOperator}, "only QuantFormat.QDQ"),
        ({"quant_format": "QD"}, "quant_format is 'QD'; did you mean QDQ"),
        ({"activation_type": "QInt9"}, "activation_type is 'QInt9'; did you mean QInt8"),
        ({"calibrate_method": "Distribution"}, "use MinMax"),
        ({"weight_type": "float8e4m3fn", "reduce_range": True}, "reduce_range is set for float8e4m3fn"),
        ({"nodes_to_exclude": ["Conv_x"]}, "no operator of the model is called 'Conv_x'"),
        ({"nodes_to_quantize": ["nope"]}, "nodes_to_quantize: no operator of the model is called 'nope'"),
        ({"op_types_to_quantize": ["Conf"]}, "'Conf' is no operator; did you mean Conv"),
        ({"op_types_to_quantize": ["LSTM"]}, "the model has no LSTM; it has Conv"),
        ({"extra_options": {"ActivationSymetric": True}}, "unknown key 'ActivationSymetric'; did you mean ActivationS"),
        ({"extra_options": {"DedicatedQDQPair": True}}, "DedicatedQDQPair is True; one pair"),
        ({"extra_options": {"EnableSubgraph": True}}, "EnableSubgraph is True; bodies"),
        ({"extra_options": {"SmoothQuantFolding": False}}, "SmoothQuantFolding is False"),
        ({"extra_options": {"QDQDisableWeightAdjustForInt32Bias": True}}, "QuantizeBias=False"),
        ({"extra_options": {"TensorQuantOverrides": {"w1": {"scale": 1}}}}, "expected a list of mappings"),
        ({"extra_options": {"TensorQuantOverrides": {"w1": [{"scales": 1}]}}}, "did you mean scale"),
        ({"extra_options": {"TensorQuantOverrides": {"x": [{"scale": 1.0}]}}}, "only one of scale and zero_point"),
        ({"extra_options": {"TensorQuantOverrides": {"x": [{"convert": {"quant_type": "QInt8"}}]}}}, "has one format"),
        ({"extra_options": {"TensorQuantOverrides": {"x1": [{"symmetric": True}]}}}, "nothing in the model is called"),
        ({"extra_options": {"TensorQuantOverrides": {"w1": [{"symmetric": True}] * 2}}}, "2 channels and no axis"),
    ],
)
def test_what_has_no_equivalent_is_refused(write, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"DedicatedQDQPair": False}, {"SmoothQuantFolding": True}, {"SmoothQuant": False}, {"BlockSize": 0}]
)
def test_options_that_say_what_is_so_anyway(write, options: dict[str, object]) -> None:
    assert write(extra_options=options).proto == write().proto


def samples_of(folder: Path) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for index in range(4):
        pixels = rng.integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        yield pixels


FOLDER_SCRIPT = """
import os
import numpy as np
import onnxruntime
from PIL import Image
from {module} import CalibrationDataReader, QuantFormat, QuantType, quantize_static


def preprocess(folder, height, width, limit=0):
    names = sorted(os.listdir(folder))
    names = names[:limit] if limit > 0 and len(names) >= limit else names
    batch = []
    for name in names:
        image = Image.new("L", (width, height))
        image.paste(Image.open(os.path.join(folder, name)))
        batch.append(np.float32(image)[np.newaxis, np.newaxis] / 255)
    return np.stack(batch)


class ImageFolderReader(CalibrationDataReader):
    def __init__(self, folder, model_path):
        self.enum_data = None
        session = onnxruntime.InferenceSession(model_path, None, providers=["CPUExecutionProvider"])
        (_, _, height, width) = session.get_inputs()[0].shape
        self.images = preprocess(folder, height, width)
        self.input_name = session.get_inputs()[0].name
        self.datasize = len(self.images)

    def get_next(self):
        if self.enum_data is None:
            self.enum_data = iter([{{self.input_name: image}} for image in self.images])
        return next(self.enum_data, None)

    def rewind(self):
        self.enum_data = None


reader = ImageFolderReader("images", "float.onnx")
quantize_static(
    "float.onnx", "quantized.onnx", reader, quant_format=QuantFormat.QDQ, per_channel=False,
    weight_type=QuantType.QInt8,
)
print("Calibrated and quantized model saved.")
"""

GENERATOR_SCRIPT = """
import numpy
from {module} import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, StaticQuantConfig, quantize


class RandomReader(CalibrationDataReader):
    def __init__(self):
        self.samples = self.generate()

    def generate(self):
        generator = numpy.random.default_rng(7)
        for _ in range(8):
            yield dict(image=generator.random((1, 1, 28, 28), dtype=numpy.float32))

    def get_next(self):
        return next(self.samples, None)


config = StaticQuantConfig(
    calibration_data_reader=RandomReader(),
    calibrate_method=CalibrationMethod.Percentile,
    quant_format=QuantFormat.QDQ,
    activation_type=QuantType.QUInt8,
    weight_type=QuantType.QInt8,
    nodes_to_exclude=[],
    per_channel=True,
    reduce_range=True,
    extra_options=dict(WeightSymmetric=True, ActivationSymmetric=False, CalibPercentile=99.9),
)
quantize("float.onnx", "quantized.onnx", config)
"""


@pytest.mark.parametrize("script", [FOLDER_SCRIPT, GENERATOR_SCRIPT], ids=["images", "generator"])
def test_scripts_run_after_changing_the_import_only(tmp_path: Path, script: str) -> None:
    (tmp_path / "images").mkdir()
    assert len(list(samples_of(tmp_path / "images"))) == 4
    (tmp_path / "float.onnx").write_bytes(model_path().read_bytes())
    integers = []
    for module in ("onnxruntime.quantization", "quantonnx.compat.onnxruntime"):
        ran = subprocess.run(
            [sys.executable, "-c", script.format(module=module)],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        session = ort.InferenceSession(tmp_path / "quantized.onnx", providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"image": np.zeros((1, 1, 28, 28), np.float32)})
        assert logits.shape == (1, 10)
        codes = onnx.load(tmp_path / "quantized.onnx").graph
        integers.append(sum(node.op_type == "DequantizeLinear" for node in codes.node) > 8)
        (tmp_path / "quantized.onnx").unlink()
    assert integers == [True, True]
