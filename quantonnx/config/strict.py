"""Settings that refuse what they do not know; an error has the path, what was found, what is allowed, a near name."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from quantonnx.errors import ConfigError
from quantonnx.plan import near

T = TypeVar("T")


def _none_where_off(value: Any) -> Any:
    return None if value is False or value == "off" else value


Off = Annotated[T | None, BeforeValidator(_none_where_off, json_schema_input_type=T | None | Literal["off", False])]
"""A setting, or `null`: switched off. TOML has no null, and YAML reads `off` as false, so both words will do."""


class Strict(BaseModel):
    """Settings without unknown keys, changed only with a check; problems are ConfigError in one line."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(*explained(error, type(self))) from None

    # as pydantic's own RootModel does: settings in settings are validated as one, so that errors have the whole path
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ConfigError(*explained(error, type(self))) from None


def explained(error: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    """Returns what is wrong, and what to do, of the first problem that was found, unknown keys before all."""
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    place = _settings_in(model, [part for part in first["loc"] if part != "[key]"])
    path = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        known = _keys(model, place[:-1])
        return f"unknown setting {path!r}", near(str(place[-1]), known) or f"known are {', '.join(known)}"
    found = first.get("input")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return (f"{path} is missing", "") if place[-1:] == first["loc"][-1:] else (f"{path} is {found!r}", "too short")
    if first["type"] == "value_error" and isinstance(found, (Mapping, BaseModel)):
        return f"{path or model.__name__}: {message}", ""
    shown = "a mapping" if isinstance(found, Mapping) else repr(found)
    expected = _choices(first)
    asked = message if first["type"] == "value_error" else _asked(message, first.get("ctx", {}))
    return f"{path} is {shown}", "; ".join(filter(None, (asked, near(str(found), expected) if expected else "")))


def _asked(message: str, bounds: Mapping[str, Any]) -> str:
    """What would have been right, in place of what pydantic says."""
    for bound, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if bound in bounds:
            return f"expected {words} {bounds[bound]:g}"
    plain = message.partition(", ")[0] if "valid" in message else message
    return _FOR_PEOPLE.sub(lambda found: _WORDS[found[0]], plain).partition(" or instance")[0]


_WORDS = {
    "Input should be": "expected",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid dictionary": "a mapping",
    "a valid tuple": "a list",
    "a valid list": "a list",
}
_FOR_PEOPLE = re.compile("|".join(_WORDS))


def _settings_in(model: type[BaseModel], place: Sequence[int | str]) -> tuple[int | str, ...]:
    """Returns the part of a place that names settings: behind it, pydantic names the alternatives that it tried."""
    kind: Any = model
    for length, part in enumerate(place):
        below = _below(kind, str(part))
        if below is None and _model_in(kind) is None:
            return tuple(place[:length])
        kind = below
    return tuple(place)


def _choices(error: Any) -> list[str]:
    """The words that one of a few would have been."""
    text = str(error.get("ctx", {}).get("expected", ""))
    return text.replace("'", "").replace(" or ", ", ").split(", ") if text else []


def _keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Returns the settings that exist at a path."""
    kind: Any = model
    for part in path:
        kind = _below(kind, str(part))
    found = _model_in(kind)
    return [field.alias or name for name, field in found.model_fields.items()] if found else []


def _below(kind: Any, part: str) -> Any:
    found = _model_in(kind)
    if found is not None:
        return found.model_fields[part].annotation if part in found.model_fields else None
    for option in _options(kind):
        inner = get_args(option)
        if get_origin(option) in (dict, Mapping):
            return inner[1]
        if get_origin(option) is tuple and part.isdigit() and Ellipsis in inner:
            return inner[0]
    return None


def _model_in(kind: Any) -> type[BaseModel] | None:
    return next((o for o in _options(kind) if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _options(kind: Any) -> list[Any]:
    """The alternatives of an annotation, wrappers taken off."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _options(get_args(kind)[0])
    if origin in (Union, types.UnionType):
        return [option for part in get_args(kind) for option in _options(part)]
    return [kind]
