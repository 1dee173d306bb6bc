"""The recipe: algorithms that change weights before or while they are quantized, in the order in which they run."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from quantonnx.config.rules import Names
from quantonnx.config.strict import Strict


def _share(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value == "auto" or (number and 0 <= value <= 1):
        return value
    raise ValueError("expected auto, or a number from 0 to 1")


class SmoothQuantConfig(Strict):
    """How much of the difficulty of activations goes into weights: `alpha` from 0 (none) to 1 (all), or `auto`.

    `auto` takes for each norm the alpha of which the least error is expected. `scale_clamp_min` is the least factor by
    which a channel is divided.
    """

    alpha: Annotated[float | Literal["auto"], BeforeValidator(_share)] = 0.5
    scale_clamp_min: float = Field(default=1e-3, gt=0, allow_inf_nan=False)


class EqualizeConfig(Strict):
    """Cross-layer equalization. `skip` has operators, by name, type or `re:` pattern, that stay as they are."""

    skip: Names = ()


class AbsorbBiasesConfig(Strict):
    """High-bias absorption. `skip` has operators, by name, type or `re:` pattern, that stay as they are."""

    skip: Names = ()


class LayerChoice(Strict):
    """The integers and the layers of an algorithm that chooses the codes of weights.

    `bits`, `symmetric` and `group_size` are said over what `weight` says. `layers` has the operators to change, by
    name, type or `re:` pattern, all where it is empty; `skip` those of them to leave.
    """

    bits: int | None = Field(default=None, ge=2, le=8)
    symmetric: bool | None = None
    group_size: int | None = Field(default=None, ge=2)
    layers: Names = ()
    skip: Names = ()

    @property
    def weight(self) -> dict[str, Any]:
        """What is said about the format of weights, in the words of TensorQuantConfig."""
        said = {"n_bits": self.bits, "symmetric": self.symmetric, "group_size": self.group_size}
        return {name: value for name, value in said.items() if value is not None}


class GptqConfig(LayerChoice):
    """How GPTQ goes about it.

    `damp_percent` of the mean of H's diagonal is added to the diagonal. With `desc_act`, inputs are rounded in the
    order of falling E[x²], else as they stand. With `static_groups`, the scales of groups are those of the float
    weight, else each is found when its group is reached. With `true_sequential`, the inputs of a layer are those that
    the layers before give once they are rounded; with `asymmetric`, it then aims at the outputs of the float network,
    as far as samples bear that out. With `search_scales`, scales may clip a few weights.
    """

    damp_percent: float = Field(default=0.01, ge=0, le=1)
    desc_act: bool = False
    static_groups: bool = False
    true_sequential: bool = True
    search_scales: bool = False
    asymmetric: bool = True


class Search(Enum):
    """How AdaRound finds codes: as in the paper, by gradients, or one weight after the other."""

    GRADIENT = "gradient"
    DESCENT = "descent"


class AdaRoundConfig(LayerChoice):
    """How AdaRound goes about it.

    `iterations` of Adam with `learning_rate`, of which the share `warm_start` goes without regularization;
    `regularization` is λ, for errors in units of a step of the weight and of the mean square of the inputs. For
    `descent`, `sweeps` is how often every weight is looked at, at most. `damp_percent` is that of GPTQ. With
    `asymmetric`, a layer aims at the outputs of the float network, as far as samples bear that out; with
    `search_scales`, scales may clip a few weights.
    """

    search: Search = Search.DESCENT
    iterations: int = Field(default=1000, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0, allow_inf_nan=False)
    regularization: float = Field(default=1e-2, gt=0, allow_inf_nan=False)
    warm_start: float = Field(default=0.2, ge=0, le=1)
    sweeps: int = Field(default=20, ge=1)
    damp_percent: float = Field(default=0.01, ge=0, le=1)
    asymmetric: bool = True
    true_sequential: bool = True
    search_scales: bool = True


class AwqConfig(LayerChoice):
    """How AWQ goes about it.

    `grid` is the number of exponents α that are tried, from 0 on in equal steps below 1. With `clip`, the scales of
    weights are searched too, and may clip a few of them. With `insert`, a Mul divides activations that no constant can
    divide, such as a norm that a residual connection reads too. With `true_sequential`, the inputs of a layer are those
    that the layers before give once they are rounded.
    """

    grid: int = Field(default=20, ge=1)
    clip: bool = True
    insert: bool = False
    true_sequential: bool = True


class ScaleInputsConfig(Strict):
    """Outlier channels in front of linear layers, divided where `least_gain` dB less error is expected of these.

    `skip` has layers, by name, type or `re:` pattern, that stay as they are.
    """

    least_gain: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    skip: Names = ()


class RecipeStep(Strict):
    """One algorithm with its settings; written as its name, or as `{name: settings}`."""

    equalize: EqualizeConfig | None = None
    absorb_biases: AbsorbBiasesConfig | None = None
    smooth_quant: SmoothQuantConfig | None = None
    awq: AwqConfig | None = None
    gptq: GptqConfig | None = None
    adaround: AdaRoundConfig | None = None
    scale_inputs: ScaleInputsConfig | None = None

    @model_validator(mode="after")
    def _one(self) -> RecipeStep:
        if len(self.model_fields_set) != 1:
            raise ValueError("a step of a recipe is one algorithm: `- equalize`, or `- smooth_quant: {alpha: 0.5}`")
        return self

    @property
    def name(self) -> str:
        """The algorithm."""
        return next(iter(self.model_fields_set))

    @property
    def settings(self) -> Any:
        """The settings of the algorithm."""
        return getattr(self, self.name)

    @property
    def names(self) -> dict[str, Names]:
        """The lists of names of operators among the settings, by their key."""
        return {key: getattr(self.settings, key) for key in ("layers", "skip") if hasattr(self.settings, key)}

    @property
    def needs_samples(self) -> bool:
        """True where the algorithm goes by what samples show."""
        return self.name != "equalize"

    @property
    def chooses_codes(self) -> bool:
        """True where the algorithm rounds weights, once the numbers of all sites are known."""
        return isinstance(self.settings, LayerChoice)

    @property
    def weight(self) -> dict[str, Any]:
        """What the step says about the format of every weight."""
        return self.settings.weight if self.chooses_codes else {}


def _spelled_out(value: Any) -> Any:
    """Reads `equalize` and `{equalize: null}` as `{equalize: {}}`."""
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, dict):
        return {name: {} if settings is None else settings for name, settings in value.items()}
    raise ValueError("expected a step such as `equalize`, or `smooth_quant: {alpha: 0.5}`")


def _codes_chosen_once(steps: tuple[RecipeStep, ...]) -> tuple[RecipeStep, ...]:
    """Refuses a step that would undo all that one before it did: codes of every layer, chosen anew."""
    rounding = {"gptq", "adaround"}
    for place, step in enumerate(steps):
        kind = rounding if step.name in rounding else {step.name}
        before = next((other.name for other in steps[:place] if other.name in kind), None)
        if step.chooses_codes and before is not None and not step.settings.layers:
            twice = f"{step.name} stands twice" if before == step.name else f"{before} and {step.name} choose all codes"
            raise ValueError(f"{twice}: take one away, or give the second one its `layers`")
    return steps


_Step = Annotated[RecipeStep, BeforeValidator(_spelled_out, json_schema_input_type=str | RecipeStep)]
Recipe = Annotated[tuple[_Step, ...], AfterValidator(_codes_chosen_once)]
