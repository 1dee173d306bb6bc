"""Rules of the configuration, proved on the written graph: where pairs stand then, and in which format."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from models import feeds_of, parse
from written import Written

import quantonnx as qx
from quantonnx.quantized import QuantizedModel

TARGETS = ("tensorrt", "onnxruntime", "openvino")
NET = (
    "agraph (float[1,16,8,8] x) => (float[1,16,8,8] y) <float[16,16,3,3] w1, float[16,16,3,3] w2, float[16] b1, "
    "float[16] b2> { [first] c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) [act] r1 = Relu(c1) "
    "[second] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2) [join] s = Add(c2, x) [last] y = Softmax(s) }"
)
PUBLIC = (
    "agraph (float[1,16,8,8] x) => (float[1,16,8,8] r, float[1,16,8,8] y) <float[16,16,3,3] w1, float[16,16,1,1] w2> "
    "{ [first] c = Conv<pads=[1,1,1,1]>(x, w1) [act] r = Relu(c) [second] y = Conv(r, w2) }"
)
EIGHT, SIXTEEN, FLOAT8 = {"n_bits": 8}, {"n_bits": 16}, {"dtype": "float8e4m3fn"}
FREE = replace(qx.get_target("openvino"), name="free", refuses=lambda request: None)
"""A target that takes every format, so that rules alone decide."""
PLAIN = {"tensorrt": "int8", "onnxruntime": "uint8", "openvino": "uint8"}


@cache
def _samples(graph: str) -> tuple[dict[str, np.ndarray], ...]:
    return tuple(feeds_of(parse(graph), seed=seed) for seed in range(2))


def quantized(graph: str | onnx.ModelProto, target: str | qx.Target, **config: Any) -> QuantizedModel:
    proto = parse(graph) if isinstance(graph, str) else graph
    samples = _samples(graph) if isinstance(graph, str) else [feeds_of(proto)]
    return qx.quantize(proto, samples, target=target, config=qx.QuantConfig(keep_slow=True, **config))


def written(graph: str | onnx.ModelProto, target: str | qx.Target, **config: Any) -> Written:
    proto = quantized(graph, target, **config).to_onnx()
    onnx.checker.check_model(proto)
    return Written(proto)


def reasons(found: QuantizedModel) -> list[str]:
    return [decision.reason for decision in found.decisions]


FIRST, SECOND, JOIN, LAST = ("first", 0), ("second", 0), ("join", 1), ("last", 0)

# --------------------------------------------------------------------------------- off, level by level

OFF = [
    ({"activation": None}, {FIRST, SECOND, JOIN}),
    ({"activation": "off"}, {FIRST, SECOND, JOIN}),
    ({"weight": None}, {("first", 1), ("second", 1)}),
    ({"preset": "w8"}, {FIRST, SECOND, JOIN}),
    ({"op_types": {"Conv": {"inputs": None}}}, {FIRST, SECOND}),
    ({"op_types": {"Conv": {"inputs": {0: None}}}}, {FIRST, SECOND}),
    ({"op_types": {"Conv": {"inputs": {"X": None}}}}, {FIRST, SECOND}),
    ({"op_types": {"Conv": {"inputs": {"*": None}}}}, {FIRST, SECOND}),
    ({"op_types": {"Conv": {"states": None}}}, {("first", 1), ("second", 1)}),
    ({"op_types": {"Conv": {"states": {0: None}}}}, {("first", 1), ("second", 1)}),
    ({"op_types": {"Conv": {"states": {"W": None}}}}, {("first", 1), ("second", 1)}),
    ({"op_types": {"Conv": {"states": {"weight": None}}}}, {("first", 1), ("second", 1)}),
    ({"op_types": {"Relu": None}}, {FIRST, ("first", 1)}),
    ({"patterns": {"ConvBNRelu": {"inputs": {"x": None}}}}, {FIRST}),
    ({"patterns": {"ConvBNRelu": {"states": {"weight": None}}}}, {("first", 1)}),
    ({"patterns": {"ConvBNRelu": None}}, {FIRST, ("first", 1)}),
    ({"op_names": {"second": {"inputs": {0: None}}}}, {SECOND}),
    ({"op_names": {"re:^sec": {"inputs": {"*": None}}}}, {SECOND}),
    ({"op_names": {"first": None}}, {FIRST, ("first", 1)}),
    ({"op_names": {"act": None}}, {FIRST, ("first", 1)}),
    ({"tensors": {"r1": None}}, {SECOND}),
    ({"tensors": {"x": None}}, {FIRST, JOIN}),
    ({"tensors": {"re:^w": None}}, {("first", 1), ("second", 1)}),
    ({"skip": {"stub": ["second"]}}, {SECOND, JOIN}),
    ({"skip": {"weight": ["Conv"]}}, {("first", 1), ("second", 1)}),
    ({"exclude": ["first"]}, {FIRST, ("first", 1)}),
]


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
@pytest.mark.parametrize(
    ("config", "lost"), OFF, ids=lambda value: json.dumps(value) if isinstance(value, dict) else ""
)
def test_null_is_off_at_every_level(config: dict[str, Any], lost: set[tuple[str, int]], target: str) -> None:
    before, after = written(NET, target), written(NET, target, **config)
    had = {place for place, pair in before.places.items() if pair is not None}
    assert had == {FIRST, SECOND, JOIN, ("first", 1), ("second", 1)}
    assert {place for place, pair in after.places.items() if pair is not None} == had - lost


def test_an_output_and_a_bias_are_off_on_a_target_that_wants_them() -> None:
    before = written(NET, "onnxruntime")
    assert before.codes_of("first", 2) == "int32"
    off = written(NET, "onnxruntime", bias=None)
    assert off.places["first", 2] is off.places["second", 2] is None
    assert written(NET, "onnxruntime", op_types={"Conv": {"states": {"bias": None}}}).places["first", 2] is None
    assert before.codes_of("last", 0) == "uint8"
    without = written(NET, "onnxruntime", op_names={"join": {"outputs": {"C": None}}})
    assert without.codes_of("last", 0) is None


# --------------------------------------------------------------------------------- on again, level by level

ON_AGAIN = [
    ({"preset": "w8", "activation": EIGHT}, {FIRST, SECOND, JOIN}),
    ({"activation": None, "op_types": {"Conv": {"inputs": {0: EIGHT}}}}, {FIRST, SECOND}),
    ({"activation": None, "op_types": {"Conv": {"inputs": {0: {}}}}}, {FIRST, SECOND}),
    ({"op_types": {"Conv": None}, "patterns": {"ConvBNRelu": {"inputs": {"*": {}}}}}, {FIRST}),
    ({"op_types": {"Conv": None}, "op_names": {"first": {"inputs": {"*": {}}}}}, {FIRST}),
    ({"patterns": {"ConvBNRelu": None}, "op_names": {"first": {"inputs": {"*": {}}}}}, {FIRST, SECOND, JOIN}),
    ({"op_names": {"re:.": None, "second": {"inputs": {"X": {}}}}}, {SECOND}),
    ({"op_names": {"second": None}, "tensors": {"r1": {}}}, {FIRST, SECOND}),
    ({"activation": None, "fixed": {"x": {"scale": 0.1}}}, {FIRST, JOIN}),
    ({"tensors": {"re:.": None, "x": {}}}, {FIRST, JOIN}),
]


@pytest.mark.parametrize(
    ("config", "stand"), ON_AGAIN, ids=lambda value: json.dumps(value) if isinstance(value, dict) else ""
)
def test_a_more_specific_level_turns_on_again(config: dict[str, Any], stand: set[tuple[str, int]]) -> None:
    found = written(NET, "openvino", **config)
    assert {place for place in (FIRST, SECOND, JOIN, LAST) if found.places[place] is not None} == stand


# --------------------------------------------------------------------------------- formats fall through

SYMMETRIC = {"symmetric": True}
FORMATS = [
    ({"activation": SYMMETRIC}, {FIRST: "int8", SECOND: "int8"}),
    ({"activation": SYMMETRIC, "op_types": {"Conv": {"inputs": {0: SIXTEEN}}}}, {FIRST: "int16", SECOND: "int16"}),
    ({"activation": SYMMETRIC, "op_names": {"first": {"inputs": {0: SIXTEEN}}}}, {FIRST: "int16", SECOND: "int8"}),
    ({"op_names": {"first": {"inputs": {0: SIXTEEN}}}, "tensors": {"x": SYMMETRIC}}, {FIRST: "int16", JOIN: "int8"}),
    ({"op_types": {"Conv": {"inputs": {0: SIXTEEN}}}, "tensors": {"r1": EIGHT}}, {FIRST: "uint16", SECOND: "uint8"}),
    ({"preset": "qnn-u16", "activation": EIGHT}, {FIRST: "uint8", ("first", 1): "uint8"}),
    ({"preset": "w8a16"}, {FIRST: "uint16", ("first", 1): "int8"}),
    ({"activation": {"dtype": "int16"}, "op_names": {"re:.": {"inputs": {0: EIGHT}}}}, {FIRST: "int8", JOIN: "int16"}),
    (
        {"op_names": {"re:.": {"inputs": {0: SIXTEEN}}, "first": {"inputs": {0: EIGHT}}}},
        {FIRST: "uint8", SECOND: "uint16"},
    ),
]


@pytest.mark.parametrize(("config", "codes"), FORMATS, ids=lambda value: "")
def test_what_is_unsaid_falls_through(config: dict[str, Any], codes: dict[tuple[str, int], str]) -> None:
    found = written(NET, FREE, **config)
    assert {place: found.codes_of(*place) for place in codes} == codes


def test_to_say_one_way_to_numbers_takes_back_the_other() -> None:
    found = quantized(
        NET, FREE, activation={"calibration_method": "percentile:99"}, op_names={"first": {"inputs": {0: {"scale": 0.5}}}},
        tensors={"x": {"range": [-1, 1]}},
    )  # fmt: skip
    (site,) = [site for site in found.activation_sites if site.tensor == "x" and ("first", 0) in _edges(site)]
    assert site.ranging.range == (-1, 1)
    assert site.ranging.scale is None
    (other,) = [site for site in found.activation_sites if site.tensor == "r1"]
    assert other.ranging.method.kind == "percentile"


def _edges(site: Any) -> list[tuple[str, int]]:
    return [(edge.node, edge.index) for edge in site.edges]


def test_dynamic_is_taken_back_alone() -> None:
    config = {"activation": {"calibration_method": "minmax"}, "tensors": {"x": {"dynamic": False}}}
    found = quantized(NET, FREE, **config)
    assert {site.ranging.method.kind for site in found.activation_sites} == {"minmax"}
    qx.TensorQuantConfig(scale=0.5, dynamic=False)


# --------------------------------------------------------------------------------- pairs where no pattern has one


def test_an_explicit_output_places_a_pair_on_tensorrt() -> None:
    before = written(PUBLIC, "tensorrt")
    assert before.places["", "r"] is before.places["", "y"] is None
    found = written(PUBLIC, "tensorrt", op_names={"second": {"outputs": {0: EIGHT}}, "act": {"outputs": {"*": EIGHT}}})
    assert found.places["", "r"].dtype == found.places["", "y"].dtype == "int8"
    assert found.places["", "r"].scale == found.places["second", 0].scale


def test_a_pattern_rule_places_a_pair_on_the_result() -> None:
    for key in (0, "output", "*"):
        found = written(PUBLIC, "tensorrt", patterns={"ConvBNRelu": {"outputs": {key: {}}}})
        assert found.codes_of("", "r") == "int8", key
        assert found.codes_of("", "y") is None


@pytest.mark.parametrize("target", TARGETS)
def test_a_rule_at_an_operator_that_no_pattern_knows(target: str) -> None:
    found = written(NET, target, op_types={"Softmax": {"inputs": {0: EIGHT}, "outputs": {"output": EIGHT}}})
    assert found.codes_of("last", 0) == found.codes_of("", "y") == PLAIN[target]
    found = written(NET, target, op_types={"Softmax": {"inputs": {0: EIGHT}}}, op_names={"last": None})
    assert found.codes_of("", "y") is None


@pytest.mark.parametrize("target", TARGETS)
def test_a_rule_at_a_layer_norm(target: str) -> None:
    norm = (
        "agraph (float[2,4,32] x) => (float[2,4,32] y) <float[32] g, float[32] b, float[32,32] w> "
        "{ [fc] a = MatMul(x, w) [norm] y = LayerNormalization(a, g, b) }"
    )
    found = written(norm, target, op_types={"LayerNormalization": {"inputs": {"X": EIGHT}, "outputs": {0: EIGHT}}})
    assert found.codes_of("norm", 0) == found.codes_of("", "y") == PLAIN[target]


def test_a_pair_inside_a_fused_group_is_refused_with_a_decision() -> None:
    found = quantized(NET, "tensorrt", op_names={"act": {"inputs": {"*": EIGHT}}})
    assert any("'c1' is inside ConvBNRelu" in reason and "op_names.act.inputs.*" in reason for reason in reasons(found))
    assert Written(found.to_onnx()).places["act", 0] is None


def test_what_an_inner_output_asks_for_holds_for_the_result() -> None:
    found = quantized(NET, "tensorrt", op_names={"first": {"outputs": {0: EIGHT}}})
    assert any("holds for the result, 'r1'" in reason for reason in reasons(found))
    assert [site.whole for site in found.activation_sites if site.tensor == "r1"] == [True]
    own = quantized(NET, "tensorrt", op_names={"act": {"outputs": {0: EIGHT}}})
    assert not any("inside" in reason for reason in reasons(own))


def test_skip_and_exclude_have_the_last_word() -> None:
    loud = {"op_names": {"second": {"inputs": {0: EIGHT}}, "last": {"inputs": {0: EIGHT}}}}
    assert written(NET, FREE, **loud).codes_of("second", 0) == "uint8"
    skipped = written(NET, FREE, **loud, skip={"stub": ["second", "Softmax"]})
    assert skipped.codes_of("second", 0) is skipped.codes_of("last", 0) is None
    excluded = written(NET, FREE, **loud, exclude=["second", {"name": "last"}, {"name": "none", "optional": True}])
    assert excluded.codes_of("second", 0) is excluded.codes_of("last", 0) is None


def test_a_rule_about_a_tensor_says_how_and_not_where() -> None:
    with pytest.raises(qx.ConfigError, match="no pair stands on 's'"):
        quantized(NET, FREE, tensors={"s": EIGHT})
    with pytest.raises(qx.ConfigError, match="no pair stands on 's'"):
        quantized(NET, FREE, tensors={"s": EIGHT}, op_types={"Conv": {"inputs": {0: EIGHT}}})
    found = written(NET, FREE, tensors={"s": SIXTEEN}, op_types={"Softmax": {"inputs": {0: EIGHT}}})
    assert found.codes_of("last", 0) == "uint16"


# --------------------------------------------------------------------------------- two readers, two formats


def test_two_readers_of_one_tensor_have_their_own_pairs() -> None:
    found = written(NET, FREE, op_names={"first": {"inputs": {0: SIXTEEN}}})
    assert found.places["first", 0].tensor == found.places["join", 1].tensor == "x"
    assert (found.codes_of("first", 0), found.codes_of("join", 1)) == ("uint16", "uint8")
    assert found.places["first", 0].scale * 200 < found.places["join", 1].scale


def test_a_reader_has_its_own_pair_beside_that_of_a_public_giver() -> None:
    found = written(PUBLIC, "onnxruntime", op_names={"second": {"inputs": {0: SIXTEEN}}})
    assert (found.codes_of("", "r"), found.codes_of("second", 0)) == ("uint8", "uint16")
    assert found.places["second", 0].tensor == found.places["", "r"].tensor == "r"  # both from the float value


def test_a_reader_that_no_pattern_knows_has_its_own_pair_beside_the_givers() -> None:
    found = written(NET, "onnxruntime", op_types={"Softmax": {"inputs": {0: SIXTEEN}}})
    assert found.codes_of("last", 0) == "uint16"


# --------------------------------------------------------------------------------- modules

SCOPED = {"first": "stem", "act": "stem", "second": "body.0.conv", "join": "body.0", "last": "head"}


def scoped(style: str) -> onnx.ModelProto:
    """NET with scopes, as one of the two exporters of PyTorch leaves them."""
    proto = parse(NET)
    for node in proto.graph.node:
        path = SCOPED[node.name].split(".")
        if style == "dynamo":
            scopes = [".".join(path[:end]) for end in range(1, len(path) + 1)]
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(["", *scopes, node.name]))
        else:
            node.name = f"/{'/'.join(path)}/{node.name}"
    return proto


def _at(found: Written, name: str, index: int) -> str | None:
    return next(
        (p.dtype if p else None) for (node, i), p in found.places.items() if node.split("/")[-1] == name and i == index
    )


@pytest.mark.parametrize("style", ["dynamo", "torchscript"])
def test_the_boundary_of_a_module(style: str) -> None:
    model = scoped(style)
    both = {"inputs": {"*": SIXTEEN}, "outputs": {0: SIXTEEN}}
    found = written(model, FREE, op_types={"Conv": {"inputs": {0: SYMMETRIC}}}, modules={"body": both})
    assert _at(found, "first", 0) == "int8"
    assert _at(found, "second", 0) == _at(found, "join", 1) == "int16" or _at(found, "join", 1) == "uint16"
    assert _at(found, "last", 0) == "uint16"  # what the module gives, whether or not a pattern knows who reads it


@pytest.mark.parametrize("style", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", ["body", "body.0", "re:^body$"])
def test_a_module_is_off(style: str, name: str) -> None:
    found = written(scoped(style), FREE, modules={name: None})
    assert _at(found, "first", 0) == "uint8"
    assert {_at(found, "second", 0), _at(found, "second", 1), _at(found, "join", 1)} == {None}


def test_an_inner_module_has_the_last_word_and_states_count_anywhere_inside() -> None:
    four = {"states": {"weight": {"n_bits": 4, "storage": "native"}}}
    found = written(
        scoped("dynamo"), FREE, modules={"body": four, "body.0.conv": {"states": {"weight": {"n_bits": 2}}}}
    )
    assert (_at(found, "first", 1), _at(found, "second", 1)) == ("int8", "int2")
    found = written(scoped("dynamo"), FREE, modules={"body": four})
    assert _at(found, "second", 1) == "int4"


def test_an_exact_module_is_over_an_expression() -> None:
    rules = {"body/0": {"inputs": {"*": SIXTEEN}}, "re:body.0$": {"inputs": {"*": EIGHT}}}
    assert _at(written(scoped("dynamo"), FREE, modules=rules), "second", 0) == "uint16"


# --------------------------------------------------------------------------------- qdq_points


@pytest.mark.parametrize("points", [["INPUT", "WEIGHT", "OUTPUT"], ["INPUT(x)", "weight", " OUTPUT(output) "]])
def test_points_of_a_pattern_are_changed(points: list[str]) -> None:
    found = written(PUBLIC, "tensorrt", patterns={"ConvBNRelu": {"qdq_points": points}})
    assert [found.codes_of(*place) for place in (("first", 0), ("first", 1), ("", "r"), ("", "y"))] == [
        *["int8"] * 3,
        None,
    ]


def test_a_point_left_out_and_no_points_at_all() -> None:
    found = written(NET, "tensorrt", patterns={"ConvBNRelu": {"qdq_points": ["WEIGHT"]}})
    assert (found.codes_of("first", 0), found.codes_of("first", 1)) == (None, "int8")
    found = written(NET, "tensorrt", patterns={"ConvBNRelu": {"qdq_points": []}})
    assert found.codes_of("first", 0) is found.codes_of("first", 1) is None


def test_a_bare_role_means_all_points_of_it() -> None:
    found = written(NET, "onnxruntime", patterns={"Add": {"qdq_points": ["INPUT", "OUTPUT"]}})
    assert {found.codes_of("join", index) for index in (0, 1)} == {"uint8"}


# --------------------------------------------------------------------------------- optional rules


@pytest.mark.parametrize(
    "config",
    [
        {"op_types": {"Gemm": {"inputs": {3: EIGHT}, "optional": True}}},
        {"op_names": {"none": {"optional": True}, "re:none": {"optional": True}}},
        {"tensors": {"none": {"n_bits": 4, "optional": True}}},
        {"modules": {"none": {"inputs": {0: EIGHT}, "optional": True}}},
        {"patterns": {"ConvBNAddRelu": {"optional": True}}},
        {"exclude": [{"name": "none", "optional": True}], "skip": {"weight": [{"name": "re:none", "optional": True}]}},
    ],
    ids=lambda config: "-".join(config),
)
def test_an_optional_rule_may_match_nothing(config: dict[str, Any]) -> None:
    assert written(NET, "tensorrt", **config).places.keys() == written(NET, "tensorrt").places.keys()


# --------------------------------------------------------------------------------- numbers


def test_numbers_that_are_given() -> None:
    scales = [0.01 * (i + 1) for i in range(16)]
    found = written(
        NET,
        FREE,
        tensors={"w1": {"scale": scales}, "x": {"range": [-2, 3]}, "r1": {"scale": 0.5, "zero_point": 3}},
    )
    np.testing.assert_allclose(found.places["first", 1].scale, scales, rtol=1e-6)
    np.testing.assert_allclose(found.places["first", 0].scale, 5 / 255, rtol=1e-6)
    assert found.places["first", 0].zero_point == 102
    assert (found.places["second", 0].scale, found.places["second", 0].zero_point) == (0.5, 3)


def test_a_least_range_and_a_known_one() -> None:
    found = written(NET, FREE, activation={"min_range": 100.0}, known_ranges={"Relu": [0, 510]})
    np.testing.assert_allclose(found.places["first", 0].scale, 100 / 255, rtol=1e-6)
    np.testing.assert_allclose(found.places["second", 0].scale, 2.0, rtol=1e-6)
    assert found.places["second", 0].zero_point == 0


def test_numbers_are_shared() -> None:
    found = written(NET, FREE, tensors={"r1": {"share_with": "x"}})
    assert found.places["second", 0].tensor == "r1"
    assert found.places["second", 0].scale == found.places["first", 0].scale
    assert found.places["second", 0].zero_point == found.places["first", 0].zero_point
    for chain in ({"r1": {"share_with": "x"}, "x": {"share_with": "r1"}}, {"r1": {"share_with": "s"}}):
        with pytest.raises(qx.ConfigError, match="shares with"):
            quantized(NET, FREE, tensors=chain)


WEIGHTS = [
    ({"per_channel": False}, None, (), 0),
    ({"per_channel": True}, 0, (16,), 0),
    ({"axis": 1}, 1, (16,), 0),
    ({"per_channel": True, "axis": -3}, 1, (16,), 0),
    ({"group_size": 8}, 1, (16, 2, 3, 3), 8),
    ({"group_size": 8, "axis": 0}, 0, (2, 16, 3, 3), 8),
    ({"group_size": 8, "axis": -3}, 1, (16, 2, 3, 3), 8),
]


@pytest.mark.parametrize(("spec", "axis", "shape", "block"), WEIGHTS)
def test_how_weights_are_divided(spec: dict[str, Any], axis: int | None, shape: tuple[int, ...], block: int) -> None:
    pair = written(NET, FREE, preset="w8", weight=spec).places["first", 1]
    assert (pair.axis, pair.scale.shape, pair.block_size) == (axis, shape, block)


def test_a_channel_is_said_over_a_group_and_a_group_over_a_channel() -> None:
    found = written(
        NET,
        FREE,
        preset="w4",
        weight={"group_size": 8},
        op_names={"second": {"states": {"weight": {"per_channel": True}}}},
    )
    assert (found.places["first", 1].block_size, found.places["second", 1].block_size) == (8, 0)
    assert found.places["second", 1].scale.shape == (16,)
    assert {found.codes_of("first", 1), found.codes_of("second", 1)} == {"int4"}


def test_an_axis_is_that_of_the_channels_or_that_of_the_groups() -> None:
    def said_over(weight: dict[str, Any], over: dict[str, Any]) -> tuple[int | None, int]:
        rule = {"op_names": {"second": {"states": {"weight": over}}}}
        pair = written(NET, FREE, preset="w8", weight=weight, **rule).places["second", 1]
        return pair.axis, pair.block_size

    assert said_over({"group_size": 8, "axis": 1}, {"per_channel": True}) == (0, 0)
    assert said_over({"axis": 0}, {"group_size": 8}) == (1, 8)
    assert said_over({"group_size": 8}, {"axis": 0}) == (0, 8)
    assert said_over({"axis": 1}, {"per_channel": True}) == (1, 0)


def test_a_preset_is_beneath_all_that_is_said() -> None:
    found = quantized(NET, FREE, preset="qnn-u16", known_ranges={"Relu": [0, 6]}, weight={"dtype": "int8"})
    assert found.config.known_ranges.keys() == {"Sigmoid", "Tanh", "Relu"}
    assert Written(found.to_onnx()).codes_of("first", 1) == "int8"
    assert Written(found.to_onnx()).codes_of("first", 0) == "uint16"
