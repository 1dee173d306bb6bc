"""The recipe: algorithms that change weights before or while they are quantized, in the order in which they run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

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


class RecipeStep(Strict):
    """One algorithm with its settings; written as its name, or as `{name: settings}`."""

    equalize: EqualizeConfig | None = None
    smooth_quant: SmoothQuantConfig | None = None

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


def _spelled_out(value: Any) -> Any:
    """Reads `equalize` and `{equalize: null}` as `{equalize: {}}`."""
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, dict):
        return {name: {} if settings is None else settings for name, settings in value.items()}
    return value


Recipe = tuple[Annotated[RecipeStep, BeforeValidator(_spelled_out, json_schema_input_type=str | RecipeStep)], ...]
