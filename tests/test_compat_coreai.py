"""Core AI's configurations as ours: each field has its effect where the pairs stand."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from scoped import calibrated, net, on, placed, stands

from quantonnx.compat.coreai import from_coreai
from quantonnx.errors import ConfigError, QuantonnxError

INT8 = {"dtype": "int8", "qparam_calculator_cls": "global_minmax"}
INT16 = {"dtype": "int16", "qscheme": "asymmetric", "qparam_calculator_cls": "global_minmax"}
WEIGHT = {"dtype": "int8", "granularity": {"type": "per_channel", "axis": 0}}
INT4 = {"dtype": "int4", "granularity": {"type": "per_channel"}}
NOTHING: dict[str, Any] = {"op_input_spec": None, "op_output_spec": None, "op_state_spec": None}


def quantized(config: dict[str, Any] | None = None, *, dynamo: bool = True):
    return placed(from_coreai(config, net(dynamo=dynamo)), dynamo=dynamo)


def everywhere(**parts: Any) -> dict[str, Any]:
    return {"global_config": parts}


def of_16_bits(found) -> set[str]:
    return {site.tensor for site in found.activation_sites if site.format.n_bits == 16}


def of_4_bits(found) -> set[str]:
    return {site.tensor for site in found.weight_sites if site.format.n_bits == 4}


# ------------------------------------------------------------------------------------ everywhere


def test_without_a_configuration_everything_is_int8() -> None:
    found = quantized()
    assert {"x", "r1", "w1", "w2", "v1", "v2"} <= stands(found)
    assert not {"b1", "b2"} & stands(found)
    assert on(found, "x").format.symmetric
    assert on(found, "x").ranging.method.kind == "moving_average"
    assert on(found, "w1").format.axis == 0
    assert calibrated(found)


def test_weights_only_and_nothing() -> None:
    found = quantized(everywhere(op_input_spec=None, op_output_spec=None))
    assert stands(found) == {"w1", "w2", "v1", "v2"}
    assert stands(quantized({"global_config": None})) == set()
    assert stands(quantized(everywhere(**NOTHING))) == set()


def test_activations_only() -> None:
    found = quantized(everywhere(op_state_spec=None))
    assert not found.weight_sites
    assert "x" in stands(found)


def test_outputs_off() -> None:
    inputs = quantized(everywhere(op_input_spec={"*": INT8}, op_output_spec=None))
    assert {edge for edge in stands(inputs) if edge == "p"} == set()
    assert "x" in stands(inputs)


def test_other_specs_for_outputs() -> None:
    found = quantized(everywhere(op_input_spec={"*": INT8}, op_output_spec={"*": INT16}))
    assert "y" in of_16_bits(found)
    assert "x" not in of_16_bits(found)


def test_inputs_by_index() -> None:
    found = quantized(everywhere(op_input_spec={"0": INT16, "*": None}, op_output_spec=None))
    assert {"x", "r1", "c2"} <= of_16_bits(found)
    assert on(found, "x").edges, "the second input of the Add stays in float"
    assert all(edge.index == 0 for edge in on(found, "x").edges)


def test_biases_and_all_states() -> None:
    found = quantized(everywhere(op_state_spec={"*": WEIGHT}))
    assert on(found, "b1").format.axis is None
    assert on(found, "w1").format.axis == 0
    found = quantized(everywhere(op_state_spec={"bias": WEIGHT, "weight": None}))
    assert not {"w1", "v1"} & stands(found)


# ------------------------------------------------------------------------------------ specs


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"dtype": "uint8", "qscheme": "asymmetric"}, {"signed": False, "symmetric": False}),
        ({"qscheme": "symmetric"}, {"symmetric": True, "narrow_range": False}),
        ({"qscheme": "symmetric_with_clipping"}, {"symmetric": True, "narrow_range": True}),
        ({"dtype": "torch.int8", "qscheme": "ASYMMETRIC"}, {"signed": True, "symmetric": False}),
        ({"qformulation": "zp", "granularity": {"type": "per_tensor"}}, {"axis": None}),
        ({"dtype": "int16"}, {"n_bits": 16}),
    ],
)
def test_formats_of_activations(spec: dict[str, Any], expected: dict[str, Any]) -> None:
    found = quantized(everywhere(op_input_spec={"*": spec}, op_output_spec={"*": spec}))
    assert {name: getattr(on(found, "x").format, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (INT4, {"n_bits": 4, "axis": 0}),
        ({"dtype": "int8"}, {"axis": None}),
        ({"dtype": "uint4", "qscheme": "asymmetric"}, {"n_bits": 4, "signed": False, "symmetric": False}),
        ({"dtype": "int4", "granularity": {"type": "per_block", "block_size": 8}}, {"group_size": 8, "axis": 1}),
        ({"dtype": "int4", "granularity": {"type": "per_block", "axis": 1, "block_size": (1, 8)}}, {"group_size": 8}),
        ({**WEIGHT, "qparam_calculator_cls": "static"}, {"n_bits": 8, "narrow_range": False}),
    ],
)
def test_formats_of_weights(spec: dict[str, Any], expected: dict[str, Any]) -> None:
    found = quantized(everywhere(op_input_spec=None, op_output_spec=None, op_state_spec={"weight": spec}))
    assert {name: getattr(on(found, "w1").format, name) for name in expected} == expected


def test_methods_and_known_ranges() -> None:
    found = quantized(everywhere(op_input_spec={"*": INT8}, op_output_spec={"*": INT8}))
    assert on(found, "x").ranging.method.kind == "minmax"
    spec = {"float_range": [-1.0, 2.0]}
    assert on(quantized(everywhere(op_input_spec={"*": spec}, op_output_spec={"*": spec})), "x").ranging.range == (
        -1,
        2,
    )


# ------------------------------------------------------------------------------------ types and names of operators


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [("conv2d", {"w1", "w2"}), ("linear", {"v1", "v2"}), ("Conv", {"w1", "w2"}), ("matmul", {"v1"}), ("Gemm", {"v2"})],
)
def test_types_of_operators(kind: str, tensors: set[str]) -> None:
    found = quantized(everywhere(op_type_config={kind: {**NOTHING, "op_state_spec": {"weight": INT4}}}))
    assert of_4_bits(found) == tensors
    found = quantized(everywhere(op_type_config={kind: None}))
    assert {site.tensor for site in found.weight_sites} == {"w1", "w2", "v1", "v2"} - tensors


def test_names_of_operators_are_over_their_types() -> None:
    by_type = {"linear": {**NOTHING, "op_state_spec": {"weight": INT4}}}
    by_name = {"node_[xyz]": {**NOTHING, "op_input_spec": {0: INT16}}}
    found = quantized(everywhere(op_type_config=by_type, op_name_config=by_name))
    assert of_4_bits(found) == {"v1"}
    assert of_16_bits(found) == {"s"}
    assert "v2" not in stands(found)
    assert "v2" in stands(quantized(everywhere(op_name_config={"y": {}}))), (
        "names of PyTorch's graph are those of values"
    )


def test_a_name_that_no_operator_has() -> None:
    with pytest.raises(QuantonnxError, match="matches nothing in the model"):
        quantized(everywhere(op_name_config={"linear_9": None}))
    with pytest.raises(QuantonnxError, match="op_types: nothing in the model is called 'LSTM'"):
        quantized(everywhere(op_type_config={"lstm": None}))


# ------------------------------------------------------------------------------------ modules


@pytest.mark.parametrize(
    ("name", "tensors"),
    [("block.conv1", {"w1"}), (r"block\..*", {"w1", "w2"}), ("block", {"w1", "w2"}), ("head.fc[12]", {"v1", "v2"})],
)
@pytest.mark.parametrize("dynamo", [True, False])
def test_operators_of_modules_by_name(name: str, tensors: set[str], dynamo: bool) -> None:
    entry = {**NOTHING, "op_state_spec": {"weight": INT4}}
    assert of_4_bits(quantized({"module_name_configs": {name: entry}}, dynamo=dynamo)) == tensors


def test_operators_of_modules_by_type() -> None:
    entry = {**NOTHING, "op_state_spec": {"weight": INT4}}
    conv = "torch.nn.modules.x.Conv2d"
    assert of_4_bits(quantized({"module_type_configs": {conv: entry}})) == {"w1", "w2"}
    found = quantized({"module_type_configs": {conv: entry}, "module_name_configs": {"block.conv2": {}}})
    assert of_4_bits(found) == {"w1"}
    assert on(found, "w2").format.n_bits == 8


def test_only_some_modules() -> None:
    entry = {"op_input_spec": {"*": INT8}, "op_output_spec": None, "op_state_spec": {"weight": WEIGHT}}
    found = quantized({"global_config": None, "module_type_configs": {"torch.nn.modules.x.Linear": entry}})
    assert stands(found) == {"f", "s", "v1", "v2"}


def test_a_later_entry_is_over_an_earlier_one() -> None:
    entry = {**NOTHING, "op_state_spec": {"weight": INT4}}
    found = quantized({"module_name_configs": {"head.*": entry, "head.fc2": None}})
    assert of_4_bits(found) == {"v1"}
    assert "v2" not in stands(found)


def test_types_and_names_within_a_module() -> None:
    entry = {
        **NOTHING,
        "op_type_config": {"linear": {**NOTHING, "op_state_spec": {"weight": INT4}}},
        "op_name_config": {"y": {**NOTHING, "op_input_spec": {0: INT16}}},
    }
    found = quantized({"module_name_configs": {"head": entry}})
    assert (of_4_bits(found), of_16_bits(found)) == ({"v1"}, {"s"})


def test_the_boundary_of_a_module() -> None:
    """Inside everything is float; what enters and leaves is quantized, whoever reads it."""
    entry = {**NOTHING, "module_input_spec": {0: INT16}, "module_output_spec": {"*": INT16}}
    found = quantized({"module_name_configs": {"head": entry}})
    assert of_16_bits(found) == {"f", "y"}
    assert not {"v1", "v2", "s"} & stands(found)
    states = quantized({"module_name_configs": {"head": {"module_state_spec": {"weight": INT4}}}})
    assert of_4_bits(states) == {"v1", "v2"}


def test_modules_without_the_model() -> None:
    found = placed(from_coreai({"module_name_configs": {"head.fc2": None, "block.conv.": NOTHING}}))
    assert {site.tensor for site in found.weight_sites} == {"v1"}
    for level, name in (("module_name_configs", "head"), ("module_type_configs", "a.Linear")):
        with pytest.raises(ConfigError, match=rf"{level}.{name} is about operators within a module; give the model"):
            from_coreai({level: {name: {}}})


# ------------------------------------------------------------------------------------ files and objects


def test_a_file(tmp_path: Path) -> None:
    content = everywhere(op_input_spec={"*": INT8}, op_output_spec={"*": INT8})
    content |= {"preserved_attributes": ["a"], "execution_mode": "eager"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"quantization_spec": {"one": INT8}, "quantization_config": content}))
    assert from_coreai(path) == from_coreai(content)


class Scheme(Enum):
    SYMMETRIC = 1


class PerChannelGranularity(BaseModel):
    axis: int | None = None


class QuantizationSpec(BaseModel):
    dtype: str = "int4"
    qscheme: Scheme = Scheme.SYMMETRIC
    granularity: PerChannelGranularity = PerChannelGranularity()
    float_range: list[float | None] = [None, None]


class OpQuantizerConfig(BaseModel):
    op_input_spec: dict[Any, Any] = {}
    op_output_spec: dict[Any, Any] = {}
    op_state_spec: dict[str, Any] = {"weight": QuantizationSpec()}


class QuantizerConfig(BaseModel):
    global_config: OpQuantizerConfig | None = OpQuantizerConfig()
    module_type_configs: dict[str, Any] = {}
    module_name_configs: dict[str, Any] = {}


def test_objects() -> None:
    found = placed(from_coreai(QuantizerConfig()))
    assert stands(found) == of_4_bits(found) == {"w1", "w2", "v1", "v2"}


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"global_confg": {}}, "unknown setting 'global_confg'; did you mean global_config"),
        (everywhere(op_input_specs={}), "unknown setting 'global_config.op_input_specs'; did you mean op_input_spec"),
        (everywhere(op_input_spec={"*": {"dtyp": "int8"}}), "global_config.op_input_spec.*.dtyp'; did you mean dtype"),
        (
            everywhere(op_input_spec={"*": {"dtype": "int7"}}),
            "global_config.op_input_spec.*.dtype is 'int7'; did you mean",
        ),
        (everywhere(op_input_spec={"*": {"dtype": "float8_e5m2"}}), "did you mean float8_e4m3"),
        (everywhere(op_input_spec={"*": {"qscheme": "symetric"}}), "did you mean symmetric"),
        (everywhere(op_input_spec={"*": {"qformulation": "minval"}}), "use zp"),
        (everywhere(op_input_spec={"*": {"qparam_calculator_cls": "static"}}), "use global_minmax"),
        (everywhere(op_input_spec={"*": {"range_calculator_cls": "mine"}}), "no place in a file"),
        (everywhere(op_input_spec={"*": {"float_range": [0, None]}}), "give both ends"),
        (everywhere(op_input_spec={"*": WEIGHT}), "an activation has one scale"),
        (everywhere(op_input_spec={"*": INT8, 0: INT8, "x": INT8}), "indices and names are mixed"),
        (everywhere(op_input_spec=INT8), "global_config.op_input_spec.dtype is 'int8'"),
        (everywhere(op_state_spec={"wieght": WEIGHT}), "did you mean weight"),
        (everywhere(op_state_spec={"weight": {"granularity": {"type": "per_chanel"}}}), "did you mean per_channel"),
        (
            everywhere(op_state_spec={"weight": {"granularity": {"type": "per_channel", "axis": 1}}}),
            "those of the output",
        ),
        (everywhere(op_state_spec={"weight": {"granularity": {"type": "per_block"}}}), "block_size is None"),
        (
            everywhere(op_type_config={"con2d": None}),
            "global_config.op_type_config has no operator 'con2d'; did you mean conv2d",
        ),
        (everywhere(module_input_spec={0: INT8}), "it is for module_type_configs"),
        (everywhere(qat_schedule={"enable_observer": 0}), "training is not part"),
        ({"module_name_configs": {"head.fc3": {}}}, "no module of the model is meant; did you mean head.fc"),
        ({"module_type_configs": {"torch.nn.modules.x.Linaer": {}}}, "did you mean torch.nn.modules.x.Linear"),
        ({"module_name_configs": {"head": {"op_inputs": {}}}}, "unknown setting 'module_name_configs.head.op_inputs'"),
    ],
)
def test_what_cannot_be_said_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_coreai(config, net(dynamo=True))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_that_the_file_does_not_name() -> None:
    with pytest.raises(ConfigError, match="export it with dynamo=True"):
        from_coreai({"module_type_configs": {"torch.nn.modules.x.Linear": {}}}, net())
