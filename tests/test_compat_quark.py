"""Quark's configurations as ours: each field has its effect where the pairs stand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from scoped import calibrated, on, placed, stands

from quantonnx.compat.quark import from_quark
from quantonnx.errors import ConfigError, QuantonnxError

Spec = dict[str, Any]
INT8: Spec = {
    "dtype": "int8",
    "is_dynamic": False,
    "qscheme": "per_tensor",
    "ch_axis": None,
    "group_size": None,
    "symmetric": True,
    "round_method": "half_even",
    "scale_type": "float",
    "observer_cls": "PerTensorMinMaxObserver",
}
WEIGHT: Spec = {**INT8, "qscheme": "per_channel", "ch_axis": 0, "observer_cls": "PerChannelMinMaxObserver"}
INT16: Spec = {**INT8, "dtype": "int16"}


def layer(**specs: Any) -> dict[str, Any]:
    return {"input_tensors": None, "output_tensors": None, "weight": None, "bias": None, "target_device": None, **specs}


def config(**sections: Any) -> dict[str, Any]:
    return {"global_quant_config": layer(input_tensors=INT8, weight=WEIGHT), **sections}


def quantized(**sections: Any):
    return placed(from_quark(config(**sections)))


# ------------------------------------------------------------------------------------ the global level


def test_inputs_and_weights_everywhere_biases_in_float() -> None:
    found = quantized()
    assert {"x", "w1", "w2", "v1", "v2", "s"} <= stands(found)
    assert not {"b1", "b2", "d1", "d2"} & stands(found)
    assert (on(found, "x").format.signed, on(found, "x").format.symmetric) == (True, True)
    assert on(found, "w1").format.axis == 0
    assert on(found, "v1").format.axis == 1, "the output channels of a MatMul are its columns"


def test_weight_only() -> None:
    found = quantized(global_quant_config=layer(weight=WEIGHT))
    assert stands(found) == {"w1", "w2", "v1", "v2"}


def test_nothing_said_globally_is_off() -> None:
    found = quantized(global_quant_config=layer(), layer_type_quant_config={"Conv2d": layer(weight=WEIGHT)})
    assert stands(found) == {"w1", "w2"}


def test_biases() -> None:
    found = quantized(
        global_quant_config=layer(input_tensors=INT8, weight=WEIGHT, bias={**INT8, "dtype": "int32"}),
        layer_quant_config={"head.fc2": layer(bias=INT8)},
    )
    assert on(found, "b1").derived_from is not None
    assert on(found, "d2").format.n_bits == 8
    assert on(found, "d2").derived_from is None


def test_outputs_of_weighted_layers() -> None:
    found = quantized(global_quant_config=layer(input_tensors=INT8, weight=WEIGHT, output_tensors=INT16))
    assert on(found, "y").format.n_bits == 16
    assert "y" not in stands(quantized())
    assert on(found, "p").format.n_bits == 8


# ------------------------------------------------------------------------------------ specs


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dtype": "uint8", "symmetric": False}, {"n_bits": 8, "signed": False, "symmetric": False}),
        ({"dtype": "int16"}, {"n_bits": 16, "signed": True, "narrow_range": False}),
        ({"dtype": "uint16", "symmetric": False}, {"n_bits": 16, "signed": False}),
        ({"scale_type": "pof2"}, {"scale_type": "power_of_two"}),
        ({"scale_type": "float16"}, {"scale_type": "float16"}),
    ],
)
def test_formats_of_activations(changes: Spec, expected: Spec) -> None:
    found = quantized(global_quant_config=layer(input_tensors={**INT8, **changes}, weight=WEIGHT))
    assert {name: getattr(on(found, "x").format, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dtype": "int4"}, {"n_bits": 4, "signed": True, "axis": 0}),
        ({"dtype": "uint4", "symmetric": False}, {"n_bits": 4, "signed": False, "symmetric": False}),
        ({"dtype": "int3"}, {"n_bits": 3}),
        ({"qscheme": "per_tensor", "observer_cls": "PerTensorMinMaxObserver"}, {"axis": None}),
        ({"qscheme": "per_group", "group_size": 8, "ch_axis": 1}, {"group_size": 8, "axis": 1}),
        ({"qscheme": "per_group", "group_size": -1, "ch_axis": 1}, {"group_size": None, "axis": 0}),
        ({"round_method": "floor"}, {"rounding": "floor"}),
        ({"round_method": "round"}, {"rounding": "half_away"}),
        ({"scale_type": "pof2"}, {"scale_type": "power_of_two"}),
    ],
)
def test_formats_of_weights(changes: Spec, expected: Spec) -> None:
    found = quantized(global_quant_config=layer(weight={**WEIGHT, **changes}))
    assert {name: getattr(on(found, "w1").format, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("observer", "method"),
    [
        ("PerTensorMinMaxObserver", "minmax"),
        ("PerTensorHistogramObserver", "mse"),
        ("PerTensorMSEObserver", "mse"),
        ("PerTensorPercentileObserver", "percentile"),
        ("PlaceholderObserver", "auto"),
    ],
)
def test_observers_are_methods(observer: str, method: str) -> None:
    found = quantized(global_quant_config=layer(input_tensors={**INT8, "observer_cls": observer}, weight=WEIGHT))
    assert on(found, "x").ranging.method.kind == method


def test_dynamic_activations() -> None:
    spec = {**INT8, "dtype": "uint8", "symmetric": False, "is_dynamic": True, "observer_cls": "PlaceholderObserver"}
    found = from_quark(config(layer_quant_config={"head.fc1": layer(input_tensors=spec)}))
    assert found.modules["head.fc1"].inputs["*"].dynamic
    assert found.activation.dynamic is None


def test_what_is_written() -> None:
    """Symmetric codes of Quark use the whole range, so that a scale is max / 127.5."""
    model = calibrated(quantized())
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    (pair,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x"]
    rng = np.random.default_rng(3)
    largest = max(np.abs(rng.normal(size=(1, 16, 16, 16)).astype(np.float32)).max() for _ in range(2))
    assert float(values[pair.input[1]]) == pytest.approx(largest / 127.5)
    assert values[pair.input[2]].dtype == np.int8


# ------------------------------------------------------------------------------------ types and layers


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("Conv2d", {"w1", "w2"}),
        ("Linear", {"v1", "v2"}),
        ("Gemm", {"v2"}),
        ("torch.nn.modules.conv.Conv2d", {"w1", "w2"}),
    ],
)
def test_types_of_layers(kind: str, tensors: set[str]) -> None:
    found = quantized(layer_type_quant_config={kind: layer(weight={**WEIGHT, "dtype": "int4"})})
    assert {site.tensor for site in found.weight_sites if site.format.n_bits == 4} == tensors
    assert on(found, "x").format.n_bits == 8, "what a level leaves None falls through"


def test_inputs_and_outputs_of_a_type() -> None:
    found = quantized(layer_type_quant_config={"Gemm": layer(input_tensors=INT16, output_tensors=INT16)})
    assert {site.tensor for site in found.activation_sites if site.format.n_bits == 16} == {"s", "y"}


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(
    ("name", "tensors"),
    [("block.conv1", {"w1"}), ("*.conv?", {"w1", "w2"}), ("head.*", {"v1", "v2"}), ("block", {"w1", "w2"})],
)
def test_layers_by_name(name: str, tensors: set[str], dynamo: bool) -> None:
    settings = from_quark(config(layer_quant_config={name: layer(weight={**WEIGHT, "dtype": "int4"})}))
    found = placed(settings, dynamo=dynamo)
    assert {site.tensor for site in found.weight_sites if site.format.n_bits == 4} == tensors


def test_inputs_of_a_layer() -> None:
    found = quantized(layer_quant_config={"head.fc2": layer(input_tensors=INT16, output_tensors=INT16)})
    assert {site.tensor for site in found.activation_sites if site.format.n_bits == 16} == {"s", "y"}


def test_a_layer_is_over_its_type() -> None:
    found = quantized(
        layer_type_quant_config={"Conv2d": layer(weight={**WEIGHT, "dtype": "int4"})},
        layer_quant_config={"block.conv2": layer(weight={**WEIGHT, "dtype": "int2"})},
    )
    assert [site.format.n_bits for site in found.weight_sites] == [4, 2, 8, 8]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["head.fc2"], {"w1", "w2", "v1"}),
        (["head"], {"w1", "w2"}),
        (["*.fc1.*", "*.fc1"], {"w1", "w2", "v2"}),
        (["block.conv*"], {"v1", "v2"}),
    ],
)
def test_excluded_layers(exclude: list[str], left: set[str]) -> None:
    assert {site.tensor for site in quantized(exclude=exclude).weight_sites} == left


def test_what_is_excluded_is_so_whatever_is_said_of_it() -> None:
    found = quantized(exclude=["head"], layer_quant_config={"head.fc2": layer(weight=WEIGHT)})
    assert not {"v1", "v2"} & stands(found)


def test_a_name_that_no_layer_has() -> None:
    with pytest.raises(QuantonnxError, match=r"no scope of the model is called 'head.fc3'; did you mean head.fc"):
        quantized(exclude=["head.fc3"])


def test_results_of_softmax() -> None:
    assert on(quantized(softmax_quant_spec=INT16), "s").format.n_bits == 16


def test_smooth_quant() -> None:
    step = {"name": "smooth", "alpha": 0.8, "scale_clamp_min": 0.01, "model_decoder_layers": "model.layers"}
    step["scaling_layers"] = [{"prev_op": "input_layernorm", "layers": ["q_proj"], "inp": "q_proj"}]
    for name in ("algo_config", "pre_quant_opt_config"):
        for value in (step, [step]):
            found = from_quark(config(**{name: value})).smooth_quant
            assert (found.alpha, found.scale_clamp_min) == (0.8, 0.01)
    assert from_quark(config(algo_config=[{"name": "smooth"}])).smooth_quant.alpha == 1.0
    assert from_quark(config()).smooth_quant is None


# ------------------------------------------------------------------------------------ files and objects


def test_a_file(tmp_path: Path) -> None:
    exported = config(
        exclude=["head.fc2"], algo_config=None, softmax_quant_spec=None, quant_method="quark", quant_mode="eager_mode",
        layer_type_quant_config={}, layer_quant_config={}, kv_cache_quant_config={}, kv_cache_post_rope=False,
        version="1.0", export={"kv_cache_group": []},
    )  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(exported))
    assert from_quark(path) == from_quark(exported)
    path.write_text("{")
    with pytest.raises(ConfigError, match="expected a JSON file"):
        from_quark(path)


class Dtype(Enum):
    int8 = "int8"


class Scheme(Enum):
    per_tensor = 1


class PerTensorMinMaxObserver: ...


@dataclass
class QTensorConfig:
    dtype: Dtype = Dtype.int8
    observer_cls: type = PerTensorMinMaxObserver
    qscheme: Scheme = Scheme.per_tensor
    symmetric: bool = True
    is_scale_quant: bool = False


@dataclass
class QLayerConfig:
    input_tensors: Any = None
    output_tensors: Any = None
    weight: Any = None
    bias: Any = None
    target_device: Any = None


class Conv2d: ...


@dataclass
class QConfig:
    global_quant_config: QLayerConfig
    exclude: list[str] = field(default_factory=list)
    layer_type_quant_config: dict[type, QLayerConfig] = field(default_factory=dict)
    min_kv_scale: float = 0.0


def test_objects() -> None:
    given = QConfig(
        QLayerConfig(QTensorConfig(), weight=[QTensorConfig()]),
        layer_type_quant_config={Conv2d: QLayerConfig(weight=QTensorConfig())},
    )
    found = placed(from_quark(given))
    assert on(found, "w1").format.axis is None
    assert on(found, "x").format.symmetric


def test_the_onnx_side() -> None:
    spec = {
        "symmetric": True,
        "scale_type": "ScaleType.PowerOf2",
        "calibration_method": "CalibMethod.MinMSE",
        "quant_granularity": "QuantGranularity.Tensor",
        "data_type": "Int8",
    }
    wide = {**spec, "data_type": "Int16", "scale_type": "ScaleType.Float32", "calibration_method": "CalibMethod.MinMax"}
    given = {
        "global_config": {"activation": spec, "weight": spec},
        "specific_layer_config": [[{"input_tensors": wide}, ["/head/fc2/Gemm"]]],
        "layer_type_config": [[None, ["Add"]]],
        "exclude": ["/head/fc1/MatMul"],
        "algo_config": [],
        "use_external_data_format": False,
        "extra_options": {},
    }
    found = placed(from_quark(given))
    assert on(found, "x").format.scale_type == "power_of_two"
    assert on(found, "x").ranging.method.kind == "mse"
    assert on(found, "s").format.n_bits == 16
    assert "a" not in {site.tensor for site in found.activation_sites if site.pattern == "Add"}
    assert "v1" not in stands(found)


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_quant_confg": {}}, "unknown setting 'global_quant_confg'; did you mean global_quant_config"),
        ({"global_quant_config": layer(wieght=WEIGHT)}, "'global_quant_config.wieght'; did you mean weight"),
        (
            {"global_quant_config": layer(weight={**WEIGHT, "dtype": "int7"})},
            "global_quant_config.weight.dtype is 'int7'",
        ),
        ({"global_quant_config": layer(weight={**WEIGHT, "dtype": "fp4"})}, "ONNX does not have it"),
        ({"global_quant_config": layer(weight={**WEIGHT, "dtype": "int32"})}, "weight.dtype is 'int32'"),
        ({"global_quant_config": layer(weight={**WEIGHT, "ch_axs": 0})}, "weight.ch_axs'; did you mean ch_axis"),
        (
            {"global_quant_config": layer(weight={**WEIGHT, "ch_axis": 1})},
            "ch_axis is 1; channels are those of the output",
        ),
        (
            {"global_quant_config": layer(weight={**WEIGHT, "qscheme": "per_block"})},
            "qscheme is 'per_block'; did you mean",
        ),
        ({"global_quant_config": layer(weight={**WEIGHT, "observer_cls": "PerTensorMSEObserver"})}, "from its values"),
        ({"global_quant_config": layer(weight={**WEIGHT, "is_scale_quant": True})}, "scales are not quantized"),
        ({"global_quant_config": layer(weight=[WEIGHT, WEIGHT])}, "a list of 2 specs; quantizing in stages"),
        (
            {"global_quant_config": layer(input_tensors=WEIGHT)},
            "input_tensors.qscheme is 'per_channel'; an activation has",
        ),
        (
            {"global_quant_config": layer(input_tensors={**INT8, "round_method": "floor"})},
            "rounds activations half to even",
        ),
        ({"global_quant_config": layer(input_tensors="int8")}, "global_quant_config.input_tensors is 'int8'"),
        ({"global_quant_config": layer(target_device="ipu")}, "preset xint8"),
        ({"layer_type_quant_config": {"Linaer": layer()}}, "did you mean Linear"),
        ({"algo_config": [{"name": "awq"}]}, "algo_config[0].name is 'awq'; awq is not built"),
        ({"algo_config": {"name": "gptq", "desc_act": True}}, "gptq is not built"),
        ({"algo_config": [{"name": "smoth"}]}, "did you mean smooth"),
        ({"algo_config": [{"name": "smooth", "alfa": 1}]}, "algo_config[0].alfa'; did you mean alpha"),
        ({"algo_config": [{"name": "smooth", "alpha": 2}]}, "smooth_quant.alpha is 2"),
        ({"algo_config": [{"name": "smooth", "scaling_layers": [{"prev_op": "v_proj"}]}]}, "only normalizations"),
        ({"kv_cache_quant_config": {"*k_proj": layer()}}, "name its tensors"),
        ({"shared_scale_groups": [["q_proj"]]}, "share_with"),
        ({"exclude": [(["a"], ["b"])]}, "expected names"),
    ],
)
def test_what_cannot_be_said_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_quark(config(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
