"""Rules for some operators: what is said about their inputs, outputs and states, each by index, by name or `*`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from quantonnx.config.specs import TensorQuantConfig
from quantonnx.config.strict import Off, Strict

OTHERS = "*"
"""The key that stands for every input, output or state that no other key names."""


def _numbers_as_numbers(value: Any) -> Any:
    """JSON and TOML have only text as keys."""
    if not isinstance(value, dict):
        return value
    return {int(key) if isinstance(key, str) and key.isdecimal() else key: spec for key, spec in value.items()}


def _one_kind(value: dict[int | str, Any]) -> dict[int | str, Any]:
    kinds = {type(key) for key in value if key != OTHERS}
    if len(kinds) > 1:
        raise ValueError("indices and names are mixed: use one kind, and * for all the others")
    return value


Slots = Annotated[
    dict[int | str, Off[TensorQuantConfig]], BeforeValidator(_numbers_as_numbers), AfterValidator(_one_kind)
]


class OperatorRule(Strict):
    """What is said about the tensors of some operators, by index, by name or `*` for all others; `null` is off.

    Inputs and outputs count as ONNX does, and have the names of its specification (`X`, `A`, …); in a rule for a
    pattern they have the names that the pattern declares. States are `weight` and `bias`. A spec on a tensor where no
    pair would stand puts one there. A rule that matches nothing is an error unless it is `optional`.
    """

    inputs: Off[Slots] = Field(default_factory=dict)
    outputs: Off[Slots] = Field(default_factory=dict)
    states: Off[Slots] = Field(default_factory=dict)
    optional: bool = False


class PatternRule(OperatorRule):
    """What is said about the matches of a pattern; `qdq_points` are other points than the target's: `INPUT`, `WEIGHT`,
    or with the name that the pattern declares, `INPUT(x)`."""

    qdq_points: tuple[str, ...] | None = None


class TensorRule(TensorQuantConfig):
    """What is said about one tensor, whoever reads it. A rule that matches nothing is an error unless `optional`."""

    optional: bool = False


class Exclusion(Strict):
    """A name that may be absent: the long form of an entry of `exclude` or `skip`."""

    name: str
    optional: bool = False


def _as_exclusion(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Name = Annotated[Exclusion, BeforeValidator(_as_exclusion, json_schema_input_type=str | Exclusion)]
Names = tuple[Name, ...]
