"""Wrong configurations, each with the message that a person would want: where, what was found, what is right."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from models import feeds_of, parse

import quantonnx as qx

NET = (
    "agraph (float[1,16,8,8] x) => (float[1,16,8,8] y) <float[16,16,3,3] w1, float[16,16,3,3] w2, float[16] b1, "
    "float[16] b2> { [first] c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) [act] r1 = Relu(c1) "
    "[second] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2) [join] s = Add(c2, x) [last] y = Softmax(s) }"
)

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"activations": {}}, "unknown setting 'activations'; did you mean activation?"),
    ({"activation": {"nbits": 8}}, "unknown setting 'activation.nbits'; did you mean n_bits?"),
    ({"activation": {"n_bits": 1}}, "activation.n_bits is 1; expected at least 2"),
    ({"activation": {"n_bits": "many"}}, "activation.n_bits is 'many'; expected a whole number"),
    ({"activation": {"n_bits": 8.5}}, "activation.n_bits is 8.5; expected a whole number"),
    (
        {"activation": {"dtype": "int17"}},
        "activation.dtype is 'int17'; expected int2 to int16, uint2 to uint16, or float8e4m3fn (int32 for a bias)",
    ),
    (
        {"activation": {"dtype": "int32"}},
        "activation.dtype is 'int32'; activations have 2 to 16 bits, or are float8e4m3fn",
    ),
    (
        {"weight": {"dtype": "float16"}},
        "weight.dtype is 'float16'; expected int2 to int16, uint2 to uint16, or float8e4m3fn (int32 for a bias)",
    ),
    ({"activation": {"dtype": "int8", "n_bits": 8}}, "activation: dtype and n_bits are both said: give one of them"),
    ({"activation": {"scale": 1, "range": [0, 1]}}, "activation: scale and range are both said: give one of them"),
    ({"weight": {"seed": 1}}, "weight: seed is said without rounding"),
    (
        {"weight": {"rounding": "floor", "seed": 1}},
        "weight: seed is said with rounding 'floor': only stochastic rounding has one",
    ),
    (
        {"weight": {"group_size": 8, "per_channel": True}},
        "weight: group_size and per_channel are both said: a group is finer than a channel",
    ),
    ({"weight": {"group_size": 1}}, "weight.group_size is 1; expected at least 2"),
    (
        {"weight": {"rounding": "up"}},
        "weight.rounding is 'up'; expected 'half_even', 'half_away', 'floor' or 'stochastic'",
    ),
    ({"weight": {"scale_type": "pow2"}}, "weight.scale_type is 'pow2'; expected 'float', 'power_of_two' or 'float16'"),
    ({"weight": {"storage": "packed"}}, "weight.storage is 'packed'; expected 'narrowed' or 'native'"),
    (
        {"activation": {"per_channel": True}},
        "activation.per_channel is True; only weights have a scale per channel; leave it out",
    ),
    ({"activation": {"group_size": 8}}, "activation.group_size is 8; only weights have scales per group; leave it out"),
    (
        {"weight": {"calibration_method": "mse:512"}},
        "weight.calibration_method is 'mse:512'; weights take minmax or mse",
    ),
    ({"weight": {"dynamic": True}}, "weight.dynamic is True; weights are known before the run; leave it out"),
    (
        {"activation": {"calibration_method": "percentil"}},
        "activation.calibration_method is 'percentil'; unknown calibration method 'percentil', expected one of minmax, moving_average, percentile, entropy, mse, auto, histogram, tf_enhanced, max, kl, moving_average_minmax; did you mean 'percentile'?",
    ),
    (
        {"activation": {"calibration_method": {"method": "percentile", "percentile": 200}}},
        "activation.calibration_method: the percentile is 200, expected 50 to 100",
    ),
    (
        {"activation": {"calibration_method": {"method": "minmax", "bins": 8}}},
        "activation.calibration_method: calibration method 'minmax' has no parameter 'bins'; it takes none",
    ),
    ({"activation": {"range": [1, 0]}}, "activation.range is [1, 0]; expected [low, high], low below high"),
    ({"activation": {"range": [1]}}, "activation.range is [1]; too short"),
    ({"activation": {"range": "0..1"}}, "activation.range is '0..1'; expected a list"),
    ({"activation": {"min_range": -1}}, "activation.min_range is -1; expected more than 0"),
    ({"activation": {"scale": 0}}, "activation.scale is 0; expected at least 1.17549e-38"),
    ({"tensors": {"w1": {"scale": []}}}, "tensors.w1: 'w1' has 0 scales; expected 16 numbers"),
    ({"activation": {"symmetric": "maybe"}}, "activation.symmetric is 'maybe'; expected true or false"),
    ({"preset": "w8a9"}, "preset is 'w8a9'; did you mean w8a8, w8a16, w8?"),
    (
        {"op_types": {"Conv": {"input": {0: None}}}},
        "unknown setting 'op_types.Conv.input'; did you mean inputs, outputs?",
    ),
    (
        {"op_types": {"Conv": {"inputs": {0: None, "X": None}}}},
        "op_types.Conv.inputs: indices and names are mixed: use one kind, and * for all the others",
    ),
    ({"op_types": {"Conv": {"inputs": {"Y": None}}}}, "op_types.Conv.inputs has no 'Y'; there are 0, X"),
    ({"op_types": {"Conv": {"inputs": {5: None}}}}, "op_types.Conv.inputs has no 5; there are 0, X"),
    ({"op_types": {"Conv": {"inputs": {-1: None}}}}, "op_types.Conv.inputs has no -1; there are 0, X"),
    (
        {"op_types": {"Conv": {"inputs": {1: {"n_bits": 4}}}}},
        "op_types.Conv.inputs.1 is a constant; say it in `states`, of `weight` or `bias`",
    ),
    (
        {"op_types": {"Conv": {"states": {"kernel": None}}}},
        "op_types.Conv.states has no 'kernel'; there are 0, 1, B, W, bias, weight",
    ),
    (
        {"op_types": {"Conv": {"states": {2: None}}}},
        "op_types.Conv.states has no 2; there are 0, 1, B, W, bias, weight",
    ),
    ({"op_types": {"conv": None}}, "op_types: nothing in the model is called 'conv'; did you mean Conv?"),
    ({"op_types": {"Conv": 8}}, "op_types.Conv is 8; expected a mapping"),
    ({"op_types": ["Conv"]}, "op_types is ['Conv']; expected a mapping"),
    (
        {"op_types": {"Conv": {"inputs": {0: {"per_channel": True}}}}},
        "op_types.Conv.inputs.0.per_channel is True; only weights have a scale per channel; leave it out",
    ),
    (
        {"op_types": {"Conv": {"states": {0: {"dynamic": True}}}}},
        "op_types.Conv.states.0.dynamic is True; weights are known before the run; leave it out",
    ),
    (
        {"op_types": {"Conv": {"inputs": {0: {"nbits": 8}}}}},
        "unknown setting 'op_types.Conv.inputs.0.nbits'; did you mean n_bits?",
    ),
    ({"op_names": {"frist": None}}, "op_names: nothing in the model is called 'frist'; did you mean first?"),
    (
        {"op_names": {"re:[": None}},
        "op_names: 're:[' is no regular expression: unterminated character set at position 0; check it",
    ),
    ({"op_names": {"re:^none$": None}}, "op_names: 're:^none$' matches nothing in the model; check the expression"),
    (
        {"op_types": {"re:[": None}},
        "op_types: 're:[' is no regular expression: unterminated character set at position 0; check it",
    ),
    (
        {"tensors": {"re:(": None}},
        "tensors: 're:(' is no regular expression: missing ), unterminated subpattern at position 0; check it",
    ),
    (
        {"modules": {"re:(": None}},
        "modules: 're:(' is no regular expression: missing ), unterminated subpattern at position 0; check it",
    ),
    (
        {"exclude": ["re:("]},
        "exclude: 're:(' is no regular expression: missing ), unterminated subpattern at position 0; check it",
    ),
    (
        {"patterns": {"ConvBnRelu": None}},
        "patterns: onnxruntime has no pattern 'ConvBnRelu'; did you mean ConvBNRelu, ConvBN?",
    ),
    (
        {"patterns": {"Linear": None}},
        "patterns: Linear matches nothing in the model; those that do are Add, ConvBN, ConvBNRelu",
    ),
    ({"patterns": {"ConvBNRelu": {"inputs": {"y": None}}}}, "patterns.ConvBNRelu.inputs has no 'y'; there are 0, x"),
    (
        {"patterns": {"ConvBNRelu": {"qdq_points": ["INPTU"]}}},
        "patterns.ConvBNRelu.qdq_points has 'INPTU'; did you mean INPUT?",
    ),
    (
        {"patterns": {"ConvBNRelu": {"qdq_points": ["INPUT(z)"]}}},
        "patterns.ConvBNRelu.qdq_points: ConvBNRelu declares no 'z'; it declares x, weight, bias, gamma, beta, mean, variance, conv, bn, output",
    ),
    (
        {"patterns": {"ConvBNRelu": {"qdq_points": "INPUT"}}},
        "patterns.ConvBNRelu.qdq_points is 'INPUT'; expected a list",
    ),
    (
        {"patterns": {"ConvBNRelu": {"qdq_points": ["INPUT(weight)"]}}},
        "patterns.ConvBNRelu.qdq_points: 'weight' of ConvBNRelu can be no INPUT; it stands on what enters the group: x",
    ),
    ({"tensors": {"r2": None}}, "tensors: nothing in the model is called 'r2'; did you mean w2, r1, c2?"),
    ({"tensors": {"x": {"scale": [0.1, 0.2]}}}, "tensors.x: 'x' has 2 scales; expected one number"),
    (
        {"tensors": {"x": {"scale": 0.1, "zero_point": 300}}},
        "tensors.x: 'x' has zero point 300; its codes are 0 to 255",
    ),
    (
        {"tensors": {"w1": {"scale": 0.1, "zero_point": 3}}},
        "tensors.w1: 'w1' has zero point 3, its format is symmetric; use 0",
    ),
    ({"tensors": {"w1": {"axis": 4}}}, "tensors.w1: axis is 4 for 'w1'; the weight has 4 axes"),
    ({"tensors": {"w1": {"scale": [0.1, 0.2]}}}, "tensors.w1: 'w1' has 2 scales; expected 16 numbers"),
    (
        {"tensors": {"w1": {"share_with": "w2"}}},
        "tensors.w1.share_with is 'w2'; weights take their range from their values; leave it out",
    ),
    (
        {"tensors": {"x": {"per_channel": True}}},
        "tensors.x.per_channel is True; only weights have a scale per channel; leave it out",
    ),
    (
        {"tensors": {"w1": {"dynamic": True}}},
        "tensors.w1.dynamic is True; weights are known before the run; leave it out",
    ),
    (
        {"tensors": {"x": {"rounding": "floor"}}},
        "tensors.x.rounding is 'floor'; activations are rounded half to even, as QuantizeLinear does; leave it out",
    ),
    ({"tensors": {"x": {"axis": 1}}}, "tensors.x.axis is 1; only weights have a scale per channel; leave it out"),
    ({"tensors": {"x": {"storage": "native"}}}, "tensors.x.storage is 'native'; only weights are stored; leave it out"),
    (
        {"tensors": {"x": {"group_size": 4}}},
        "tensors.x.group_size is 4; only weights have scales per group; leave it out",
    ),
    (
        {"tensors": {"w1": {"calibration_method": "percentile"}}},
        "tensors.w1.calibration_method is 'percentile:99.99'; weights take minmax or mse",
    ),
    (
        {
            "tensors": {
                "w1": {
                    "scale": [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
                    "zero_point": [0, 0],
                }
            }
        },
        "tensors.w1: 'w1' has 2 zero points; expected one, or 16",
    ),
    (
        {"tensors": {"r1": {"share_with": "xx"}}},
        "tensors.r1: 'r1' shares with 'xx', on which no pair of its own stands; did you mean x?",
    ),
    (
        {"tensors": {"x": {"share_with": "x"}}},
        "tensors.x: 'x' shares with 'x' itself; name another tensor, or leave it out",
    ),
    ({"fixed": {"r2": {"scale": 1}}}, "fixed: nothing in the model is called 'r2'; did you mean w2, r1, c2?"),
    ({"fixed": {"x": {}}}, "fixed.x.scale is missing"),
    ({"fixed": {"x": {"scale": 1, "zeropoint": 3}}}, "unknown setting 'fixed.x.zeropoint'; did you mean zero_point?"),
    ({"exclude": "first"}, "exclude is 'first'; expected a list"),
    ({"exclude": ["frist"]}, "exclude: nothing in the model is called 'frist'; did you mean first?"),
    ({"exclude": [{"nam": "first"}]}, "unknown setting 'exclude.0.nam'; did you mean name?"),
    ({"exclude": [3]}, "exclude.0 is 3; expected a mapping"),
    ({"skip": {"stubs": []}}, "unknown setting 'skip.stubs'; did you mean stub?"),
    ({"skip": {"stub": ["nope"]}}, "skip.stub: nothing in the model is called 'nope'"),
    ({"known_ranges": {"Softmax": [1, 0]}}, "known_ranges.Softmax is [1, 0]; expected [low, high], low below high"),
    (
        {"known_ranges": {"Sotfmax": [0, 1]}},
        "known_ranges: there is no operator 'Sotfmax'; did you mean Softmax, LogSoftmax?",
    ),
    ({"smooth_quant": {"alpha": 2}}, "smooth_quant.alpha is 2; expected auto, or a number from 0 to 1"),
    ({"recipe": "equalize"}, "recipe is 'equalize'; expected a list"),
    ({"recipe": [3]}, "recipe.0 is 3; expected a step such as `equalize`, or `smooth_quant: {alpha: 0.5}`"),
    (
        {"recipe": ["awq", "awq"]},
        "recipe is ['awq', 'awq']; awq stands twice: take one away, or give the second one its `layers`",
    ),
    (
        {"recipe": ["gptq", "adaround"]},
        "recipe is ['gptq', 'adaround']; gptq and adaround choose all codes: "
        "take one away, or give the second one its `layers`",
    ),
    ({"recipe": ["equalise"]}, "unknown setting 'recipe.0.equalise'; did you mean equalize?"),
    (
        {"recipe": ["equalize", {"smooth_quant": {"alfa": 1}}]},
        "unknown setting 'recipe.1.smooth_quant.alfa'; did you mean alpha?",
    ),
    (
        {"recipe": [{"smooth_quant": {"alpha": 3}}]},
        "recipe.0.smooth_quant.alpha is 3; expected auto, or a number from 0 to 1",
    ),
    (
        {"recipe": [{"equalize": {}, "smooth_quant": {}}]},
        "recipe.0: a step of a recipe is one algorithm: `- equalize`, or `- smooth_quant: {alpha: 0.5}`",
    ),
    (
        {"recipe": ["smooth_quant"], "smooth_quant": {}},
        "smooth_quant is set, and the recipe has it too; say it in the recipe alone",
    ),
    ({"recipe": [{"equalize": {"skip": ["nope"]}}]}, "recipe.0.equalize.skip: nothing in the model is called 'nope'"),
    ({"weight_storage": "disk"}, "weight_storage is 'disk'; expected 'integer' or 'float'"),
    ({"bias_correction": "perhaps"}, "bias_correction is 'perhaps'; expected true or false"),
    ({"modules": {"body": None}}, "modules: no scope of the model is called 'body'; the file names no modules"),
    (
        {"weight": {"narrow_range": True, "signed": False}},
        "weight: narrow_range is set for unsigned codes for 'w1'; it needs signed=True",
    ),
    (
        {"weight": {"group_size": 7}},
        "onnxruntime refuses the format of WEIGHT 'w1' of ConvBNRelu that `weight` asks for: 8-bit groups beside integer activations fail when run there; say `activation: null`, or `per_channel`",
    ),
    ({"activation": {"storage": "native"}}, "activation.storage is 'native'; only weights are stored; leave it out"),
    ({"activation": {"n_bits": True}}, "activation.n_bits is True; expected at least 2"),
    (
        {"tensors": {"w1": {"scale": 0.1, "group_size": 8}}},
        "onnxruntime refuses the format of WEIGHT 'w1' of ConvBNRelu that `tensors.w1` asks for: 8-bit groups beside integer activations fail when run there; say `activation: null`, or `per_channel`",
    ),
    (
        {"tensors": {"x": {"scale": 0.1, "dtype": "float8e4m3fn", "zero_point": 1}}},
        "onnxruntime refuses the format of INPUT 'x' of ConvBNRelu that `tensors.x` asks for: files with float8 activations do not load there; use int8 or uint8",
    ),
    (
        {"patterns": {"ConvBNRelu": {"qdq_points": ["BIAS(x)"]}}},
        "patterns.ConvBNRelu.qdq_points: 'x' of ConvBNRelu can be no BIAS; it stands on a constant: weight, bias, gamma, beta, mean, variance",
    ),
    (
        {"tensors": {"x": {"share_with": "r1"}, "r1": {"share_with": "s"}}},
        "tensors.x: 'x' shares with 'r1', which shares with 's' itself; share with 's'",
    ),
]

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "tensorrt",
        {"activation": {"n_bits": 16}},
        "tensorrt refuses the format of INPUT 'x' of ConvBNRelu that `activation` asks for: its integers have at most 8 bits; use 8, or leave the operator in float",
    ),
    (
        "tensorrt",
        {"activation": {"symmetric": False}},
        "tensorrt refuses the format of INPUT 'x' of ConvBNRelu that `activation` asks for: its int8 is signed and symmetric, with zero point 0; say `symmetric: true`",
    ),
    (
        "tensorrt",
        {"op_names": {"first": {"inputs": {0: {"dtype": "uint8"}}}}},
        "tensorrt refuses the format of INPUT 'x' of ConvBNRelu that `op_names.first.inputs.0` asks for: its int8 is signed and symmetric, with zero point 0; say `symmetric: true`",
    ),
    (
        "openvino",
        {"op_types": {"Conv": {"inputs": {0: {"n_bits": 16}}}}},
        "openvino refuses the format of INPUT 'x' of ConvBNRelu that `op_types.Conv.inputs.0` asks for: it runs 16-bit activations as dynamic int8, which is less exact than 8 bits; use 8",
    ),
    ("tensorrt", {"tensors": {"s": {"n_bits": 8}}}, "tensors: no pair stands on 's'"),
]


@cache
def _samples() -> list[dict[str, Any]]:
    return [feeds_of(parse(NET))]


def message(config: dict[str, Any], target: str) -> str:
    """What a person reads who quantizes with a wrong configuration."""
    with pytest.raises(qx.QuantonnxError) as caught:
        qx.quantize(parse(NET), _samples(), target=target, config=qx.QuantConfig(**{"keep_slow": True, **config}))
    return str(caught.value)


@pytest.mark.parametrize(("config", "expected"), WRONG, ids=lambda value: "")
def test_a_wrong_configuration_is_explained(config: dict[str, Any], expected: str) -> None:
    assert message(config, "onnxruntime") == expected


@pytest.mark.parametrize(("target", "config", "expected"), REFUSED, ids=lambda value: "")
def test_a_format_that_the_target_refuses_is_explained(target: str, config: dict[str, Any], expected: str) -> None:
    assert message(config, target) == expected
