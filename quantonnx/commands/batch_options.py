"""Settings of a batch as the options of `quantize`: what a batch does is what `quantize` does, model by model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantonnx.commands.libraries import LibraryOptions
from quantonnx.commands.options import NumberOptions, SampleOptions, TargetOptions


@dataclass(frozen=True)
class _Written(NumberOptions):
    """Numbers whose settings are written in the batch itself, not in a file."""

    values: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Returns what the batch says."""
        return dict(self.values)


class GivenOptions:
    """The options of `quantize` as they follow from the settings of a model in a batch."""

    def __init__(self, model: str, settings: Mapping[str, Any]) -> None:
        said = {name: value for name, value in settings.items() if value is not None}
        self.model = Path(model)
        self.patterns = _path(said.get("patterns"))
        self.evaluation = _path(said.get("eval_data"))
        self.libraries = LibraryOptions([Path(each) for each in said.get("ort_extension", ())] or None)
        self.external_data = bool(said.get("external_data", False))
        images = {name: _text(value) for name, value in (said.get("images") or {}).items()}
        self.samples = SampleOptions(
            _path(said.get("data")), said.get("random_data"), said.get("samples"), said.get("batch_size", 1), **images
        )
        names = ("preset", "method", "exclude", "keep_slow")
        numbers, config = {name: said[name] for name in names if name in said}, said.get("config")
        if isinstance(config, Mapping):
            self.numbers: NumberOptions = _Written(**numbers, values=config)
        else:
            self.numbers = NumberOptions(_path(config), **numbers)

    def target(self, name: str) -> TargetOptions:
        """Returns the options of a target."""
        return TargetOptions(name, self.patterns)


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def _text(value: Any) -> Any:
    """Settings of images as the command line writes them."""
    if isinstance(value, (list, tuple)):
        return ",".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, float) and value.is_integer() else value
