"""Another tool's configuration, taken apart: mappings, JSON files, or the tool's own objects, with strict fields."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from quantonnx.errors import ConfigError
from quantonnx.plan import near


class Section:
    """One mapping or object: each field is taken once, `close` refuses what is left. `where` is the path to it.

    Objects are read by their attributes, so that the other tool need not be installed.
    """

    def __init__(self, content: Any, where: str = "") -> None:
        self.where = where
        self._content = _plain(content, where)
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._content

    def path(self, name: Any) -> str:
        """Returns where a field stands."""
        return f"{self.where}.{name}" if self.where else str(name)

    def take(self, name: str, default: Any = None) -> Any:
        """Returns the value of a field, `default` where it is absent."""
        self._asked.add(name)
        return self._content.get(name, default)

    def word(self, name: str, known: Mapping[str, Any], *, default: Any = None) -> Any:
        """Returns what a word stands for in `known`, `default` for None. Raises ConfigError for another word."""
        value = self.take(name)
        if value is None:
            return default
        text = word_of(value)
        if text not in known:
            raise self.error(name, near(text, known) or f"known are {', '.join(known)}")
        return known[text]

    def section(self, name: str) -> Section | None:
        """Returns a field that is a mapping or object, None where it is absent or None."""
        value = self.take(name)
        return None if value is None else Section(value, self.path(name))

    def items(self, name: str) -> list[tuple[Any, Any]]:
        """Returns the entries of a field that is a mapping; none where it is absent or None."""
        value = self.take(name)
        if value is None:
            return []
        if not isinstance(value, Mapping):
            raise self.error(name, "expected a mapping")
        return list(value.items())

    def listed(self, name: str) -> list[Any]:
        """Returns a field that is a list; one value is a list of one."""
        value: Any = self.take(name)
        if value is None:
            return []
        return list(value) if isinstance(value, (list, tuple)) else [value]

    def only(self, reasons: Mapping[str, tuple[Collection[Any], str]]) -> None:
        """Refuses values of fields other than the accepted ones, with the reason; None is always accepted."""
        for name, (accepted, reason) in reasons.items():
            value = self.take(name)
            if value is not None and word_of(value) not in {word_of(other) for other in accepted}:
                raise self.error(name, reason)

    def error(self, name: str, hint: str) -> ConfigError:
        """Returns the error for the value of a field."""
        return ConfigError(f"{self.path(name)} is {_shown(self._content.get(name))}", hint)

    def close(self, known: Collection[str] = ()) -> None:
        """Raises ConfigError for a field that nobody asked for, with the nearest that exists."""
        self._asked |= set(known)
        for name in self._content:
            if name not in self._asked:
                hint = near(str(name), self._asked) or f"known are {', '.join(sorted(self._asked))}"
                raise ConfigError(f"unknown setting {self.path(name)!r}", hint)


def load(config: Any) -> Any:
    """Returns what a JSON file holds where `config` is its path, else `config` itself."""
    if not isinstance(config, (str, Path)):
        return config
    try:
        return json.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{config} cannot be read: {' '.join(str(error).split())}", "expected a JSON file") from error


def word_of(value: Any) -> str:
    """Returns a value as a word: the name of an enum's member or of a class, the type of torch without its module."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, type):
        return value.__name__
    return str(value).removeprefix("torch.")


def _plain(content: Any, where: str) -> dict[str, Any]:
    if isinstance(content, Mapping):
        return dict(content)
    fields = getattr(content, "__dataclass_fields__", None) or getattr(type(content), "model_fields", None)
    names = list(fields if fields is not None else getattr(content, "__dict__", ()))
    if (not names and fields is None) or isinstance(content, type):
        raise ConfigError(f"{where or 'the configuration'} is {_shown(content)}", "expected a mapping")
    return {name: getattr(content, name) for name in names if not name.startswith("_")}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return repr(value) if isinstance(value, (str, int, float, list, tuple)) or value is None else word_of(value)
