"""What a batch is to do, as a person writes it: defaults, and models with what is different for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field

from quantonnx.config import load_settings
from quantonnx.config.strict import Strict
from quantonnx.errors import ConfigError
from quantonnx.memory import memory_limit_of

_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)


DATA = ("data", "eval_data")
"""Settings that name samples: a path, or a URL."""

FILES = (*DATA, "config", "patterns")
"""Settings that name files."""


def parse_seconds(value: Any) -> float:
    """Returns a number of seconds: 90, "90s", "10min" or "2h". Raises ValueError."""
    found = None if isinstance(value, bool) else _DURATION.fullmatch(str(value))
    number, unit = (float(found[1]), found[2].lower()) if found else (0.0, "")
    if unit not in _SECONDS or number <= 0:
        raise ValueError("expected a time, such as 90s, 10min or 2h")
    return number * _SECONDS[unit]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Bytes = Annotated[int, BeforeValidator(memory_limit_of)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
Numbers = float | str | tuple[float, ...]


class ImageSettings(Strict):
    """How images become arrays, as the options of `quantize` say it; lists may stand for what is written there with
    commas."""

    resize: Numbers | None = None
    crop: Numbers | None = None
    scale: float | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    layout: str | None = None
    rgb: bool = True


class EntrySettings(Strict):
    """What holds for one model, or by default for all: the options of `quantize` by their names.

    `targets` is one or a list; `config` a file or the settings themselves. In `data` and `eval_data` {folder} stands
    for the model's folder and {stem} for its name without `.onnx`. `memory_limit` is the most that the process may
    hold, `timeout` the longest that one target may take.
    """

    targets: Listed | None = Field(default=None, validation_alias=AliasChoices("targets", "target"))
    data: str | None = None
    random_data: int | None = Field(default=None, ge=1)
    eval_data: str | None = None
    samples: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    images: ImageSettings | None = None
    config: str | dict[str, Any] | None = None
    preset: str | None = None
    method: str | None = None
    exclude: Listed | None = None
    keep_slow: bool | None = None
    patterns: str | None = None
    external_data: bool | None = None
    ort_extension: Listed | None = None
    memory_limit: Bytes | None = None
    timeout: Seconds | None = None

    def over(self, defaults: EntrySettings) -> EntrySettings:
        """Returns these settings, and those of `defaults` where nothing is said; data of either sort replaces data."""
        mine = {name: getattr(self, name) for name in EntrySettings.model_fields}
        said = {name: value for name, value in mine.items() if value is not None}
        beneath = {name: getattr(defaults, name) for name in EntrySettings.model_fields}
        if said.keys() & {"data", "random_data"}:
            beneath["data"] = beneath["random_data"] = None
        return EntrySettings.model_construct(**{**beneath, **said})


class ModelSettings(EntrySettings):
    """One model of the list, or all that a glob finds; `name` is what its folder of results is called."""

    model: str
    name: str | None = None


class BatchSettings(Strict):
    """A batch as a file says it."""

    defaults: EntrySettings = Field(default_factory=EntrySettings)
    models: tuple[ModelSettings, ...]


def load_batch(path: Path) -> BatchSettings:
    """Returns what a YAML, TOML or JSON file says. Raises ConfigError for what is unknown or makes no sense."""
    content = load_settings(path)
    models = content.get("models")
    if isinstance(models, list):
        content["models"] = [{"model": item} if isinstance(item, str) else item for item in models]
    if not models or not all(isinstance(item, Mapping) for item in content["models"]):
        raise ConfigError(f"{path} has no models", "expected `models:` with a list of files, globs or mappings")
    try:
        return BatchSettings(**content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", error.hint) from None
