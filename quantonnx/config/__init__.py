"""What the user asked for, hierarchical and strict: an unknown key or a value that makes no sense never passes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from quantonnx.config.files import load_settings
from quantonnx.config.kinds import check_activation, check_weight
from quantonnx.config.names import NameRules
from quantonnx.config.presets import PRESETS, with_preset
from quantonnx.config.recipe import EqualizeConfig, Recipe, RecipeStep, SmoothQuantConfig
from quantonnx.config.rules import Exclusion, Names, OperatorRule, PatternRule, Slots, TensorRule
from quantonnx.config.specs import KnownRange, Scale, TensorQuantConfig
from quantonnx.config.strict import Off, Strict
from quantonnx.errors import ConfigError

__all__ = [
    "PRESETS",
    "EqualizeConfig",
    "Exclusion",
    "FixedRange",
    "NameRules",
    "OperatorRule",
    "OpsToSkip",
    "PatternRule",
    "QuantConfig",
    "RecipeStep",
    "Slots",
    "SmoothQuantConfig",
    "TensorQuantConfig",
    "TensorRule",
    "load_settings",
]


class FixedRange(Strict):
    """A scale, a normal float32 number, and a zero point that calibration does not change."""

    scale: Scale
    zero_point: int = 0


class OpsToSkip(Strict):
    """Operators left alone, by type, node name, tensor name or `re:` pattern: `stub` for activations, `weight` for
    weights, `smooth` for SmoothQuant."""

    stub: Names = ()
    weight: Names = ()
    smooth: Names = ()


class QuantConfig(Strict):
    """Everything a user can say; the rest comes from the target.

    Levels, each over the one before: the target; `activation`, `weight` and `bias`; `op_types`; `patterns`;
    `op_names`; `modules` (scopes of operators as one thing, whose boundary is meant); `tensors`. What a level leaves
    unsaid falls through, and null is off. Names are exact or `re:REGEX`.

    `preset` is a named set of values beneath all that is said. `exclude` leaves whole operators in float; `skip` leaves
    only their activations, their weights or their smoothing. `fixed` is short for `tensors` with a scale and a zero
    point. `known_ranges` are ranges of the results of operators, which need no calibration.
    `recipe` lists the algorithms that change weights, in the order in which they run; `smooth_quant` is short for a
    first step of that name. `bias_correction` takes the mean error of rounded weights out of biases. `shift_limits`
    keeps power-of-two scales within what the shifts of an XINT8 processor reach. `weight_storage` is `integer` (codes
    with a DequantizeLinear) or `float` (float weights with a Q/DQ pair); `contrib_ops` writes pairs of 16 bits with
    com.microsoft's operators, for opsets below 21. `keep_slow` keeps operators in integers where float is estimated
    faster.
    """

    preset: Literal["w8a8", "w8a16", "w4a8", "w4a16", "w8", "w4", "fp8", "xint8", "qnn-u16"] | None = None
    activation: Off[TensorQuantConfig] = Field(default_factory=TensorQuantConfig)
    weight: Off[TensorQuantConfig] = Field(default_factory=TensorQuantConfig)
    bias: Off[TensorQuantConfig] = Field(default_factory=TensorQuantConfig)
    op_types: dict[str, Off[OperatorRule]] = Field(default_factory=dict)
    patterns: dict[str, Off[PatternRule]] = Field(default_factory=dict)
    op_names: dict[str, Off[OperatorRule]] = Field(default_factory=dict)
    modules: dict[str, Off[OperatorRule]] = Field(default_factory=dict)
    tensors: dict[str, Off[TensorRule]] = Field(default_factory=dict)
    fixed: dict[str, FixedRange] = Field(default_factory=dict)
    exclude: Names = ()
    skip: OpsToSkip = Field(default_factory=OpsToSkip)
    smooth_quant: Off[SmoothQuantConfig] = None
    recipe: Recipe = ()
    known_ranges: dict[str, KnownRange] = Field(default_factory=dict)
    bias_correction: bool = True
    shift_limits: bool = False
    keep_slow: bool = False
    weight_storage: Literal["integer", "float"] = "integer"
    contrib_ops: bool = False

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, values: Any) -> Any:
        return with_preset(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _fits_what_it_is_about(self) -> QuantConfig:
        check_activation(self.activation, "activation")
        for kind in ("weight", "bias"):
            check_weight(getattr(self, kind), kind)
        for section in ("op_types", "patterns", "op_names", "modules"):
            for name, rule in getattr(self, section).items():
                _check_rule(rule, f"{section}.{name}")
        if self.smooth_quant is not None and any(step.name == "smooth_quant" for step in self.recipe):
            raise ConfigError("smooth_quant is set, and the recipe has it too", "say it in the recipe alone")
        return self

    @property
    def steps(self) -> Recipe:
        """The steps of the recipe, with what is said in short."""
        short = () if self.smooth_quant is None else (RecipeStep(smooth_quant=self.smooth_quant),)
        return (*short, *self.recipe)

    def globally(self, kind: str) -> list[tuple[str, TensorQuantConfig | None]]:
        """Returns what is said about every `activation`, `weight` or `bias`: by the preset, the user, the recipe."""
        preset = PRESETS[self.preset] if self.preset else {}
        beneath = [(f"preset {self.preset}", _preset_spec(preset[kind]))] if kind in preset else []
        above = [
            (f"recipe.{place}.{step.name}", TensorQuantConfig(**step.weight))
            for place, step in enumerate(self.recipe)
            if kind == "weight" and step.weight
        ]
        return [*beneath, (kind, getattr(self, kind)), *above]

    @property
    def only_weights(self) -> bool:
        """True where activations are off, whatever rules say of some."""
        said = [spec for _, spec in self.globally("activation") if spec is None or spec.said()]
        return bool(said) and said[-1] is None

    @classmethod
    def load(cls, path: str | Path) -> QuantConfig:
        """Reads a YAML, TOML or JSON file; ConfigError names the key that is wrong."""
        return cls(**load_settings(path))


def _check_rule(rule: OperatorRule | None, where: str) -> None:
    for side, check in (("inputs", check_activation), ("outputs", check_activation), ("states", check_weight)):
        for key, spec in (getattr(rule, side, None) or {}).items():
            check(spec, f"{where}.{side}.{key}")


def _preset_spec(values: Mapping[str, Any] | None) -> TensorQuantConfig | None:
    return None if values is None else TensorQuantConfig(**values)
