"""Settings: strict, with the name of what is wrong and the nearest that is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantonnx import CalibrationMethod
from quantonnx.config import FixedRange, NameRules, OpsToSkip, QuantConfig, TensorQuantConfig
from quantonnx.errors import ConfigError


def test_defaults_leave_everything_to_the_target() -> None:
    config = QuantConfig()
    assert config.activation == TensorQuantConfig()
    assert set(TensorQuantConfig().model_dump().values()) == {None}
    assert config.weight_storage == "integer"


def test_the_nested_form_in_python() -> None:
    config = QuantConfig(
        activation=TensorQuantConfig(n_bits=8, symmetric=True, calibration_method="percentile:99.9"),
        weight=TensorQuantConfig(n_bits=4, per_channel=True),
        skip=OpsToSkip(stub=("conv1",)),
        fixed={"x": FixedRange(scale=0.1)},
    )
    assert config.weight.n_bits == 4
    assert config.fixed["x"].zero_point == 0


@pytest.mark.parametrize(
    "text", ["", "{}", "activation: {n_bits: 8}\nexclude: [conv1, 're:^head']", '{"exclude": ["a"]}']
)
def test_yaml_and_json_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    config = QuantConfig.load(path)
    assert [entry.name for entry in config.exclude] in ([], ["conv1", "re:^head"], ["a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("activations: {}", "unknown setting 'activations'; did you mean activation"),
        ("activation: {nbits: 8}", "unknown setting 'activation.nbits'; did you mean n_bits"),
        ("activation: {n_bits: 1}", "activation.n_bits is 1"),
        ("activation: {n_bits: 17}", "activation.n_bits is 17"),
        ("activation: {n_bits: many}", "activation.n_bits is 'many'"),
        ("weight: {calibration_method: magic}", "magic"),
        ("weight: {calibration_method: 'percentile:200'}", "200"),
        ("weight_storage: disk", "weight_storage is 'disk'"),
        ("fixed: {x: {scale: 0}}", "fixed.x.scale is 0"),
        ("fixed: {x: {scale: 1.0e-39}}", "fixed.x.scale is 1e-39"),
        ("fixed: {x: {scale: 1.0e+39}}", "fixed.x.scale is 1e+39"),
        ("weight: {calibration_method: entropy}", "weights take minmax or mse"),
        ("activation: {per_channel: true}", "only weights have a scale per channel"),
        ("fixed: {x: {scale: -1.5}}", "fixed.x.scale is -1.5"),
        ("fixed: {x: {scale: .nan}}", "fixed.x.scale is nan"),
        ("fixed: {x: {scale: .inf}}", "fixed.x.scale is inf"),
        ("fixed: {x: {}}", "fixed.x.scale"),
        ("exclude: conv1", "exclude is 'conv1'"),
        ("skip: {stubs: [a]}", "unknown setting 'skip.stubs'; did you mean stub"),
        ("[1]", "holds list; expected a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        QuantConfig.load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        QuantConfig.load(tmp_path / "none.yaml")


def test_a_wrong_setting_in_python_is_an_error_of_ours() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'bits'"):
        TensorQuantConfig(bits=8)
    with pytest.raises(ConfigError, match="n_bits is 99"):
        TensorQuantConfig(n_bits=99)


def test_a_wrong_assignment_is_an_error_of_ours() -> None:
    config = TensorQuantConfig()
    with pytest.raises(ConfigError, match="n_bits is 99"):
        config.n_bits = 99
    assert config.n_bits is None


@pytest.mark.parametrize("method", [*CalibrationMethod, "percentile:99.99", "histogram", "max"])
def test_every_method_can_be_asked_for(method: str) -> None:
    TensorQuantConfig(calibration_method=method).range_method("minmax")


def test_the_default_method_is_the_callers() -> None:
    assert TensorQuantConfig().range_method("mse") == TensorQuantConfig(calibration_method="mse").range_method("minmax")


# ------------------------------------------------------------------------------------ names


def test_name_rules_are_exact_or_expressions() -> None:
    rules = NameRules(("conv1", "re:^head"), "exclude")
    assert rules.first(["conv10"]) is None
    assert rules.first(["x", "conv1"]) == "conv1"
    assert rules.first(["head.fc"]) == "re:^head"
    assert rules.first(["my.head"]) is None


def test_name_rules_refuse_what_is_not_there() -> None:
    NameRules(("conv1", "re:conv."), "exclude").check(["conv1"])
    with pytest.raises(ConfigError, match="exclude: nothing in the model is called 'cnv1'; did you mean conv1"):
        NameRules(("cnv1",), "exclude").check(["conv1", "relu"])
    with pytest.raises(ConfigError, match="skip.stub: 're:zzz' matches nothing"):
        NameRules(("re:zzz",), "skip.stub").check(["conv1"])


def test_the_first_wrong_name_is_told_each_time_the_same() -> None:
    names = tuple(f"wrong{i}" for i in range(20))
    messages = set()
    for _ in range(3):
        with pytest.raises(ConfigError) as caught:
            NameRules(names, "exclude").check(["conv1"])
        messages.add(caught.value.message)
    assert messages == {"exclude: nothing in the model is called 'wrong0'"}


def test_a_recipe_keeps_its_order_and_the_short_form_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("smooth_quant: {alpha: 0.3}\nrecipe: [equalize, {equalize: {skip: [Conv]}}, equalize: ]")
    config = QuantConfig.load(path)
    assert [step.name for step in config.steps] == ["smooth_quant", "equalize", "equalize", "equalize"]
    assert config.steps[0].settings.alpha == 0.3
    assert [len(step.settings.skip) for step in config.steps[1:]] == [0, 1, 0]
