"""Configuration files: YAML, TOML or JSON, in which a key that stands twice is an error too."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from quantonnx.errors import ConfigError


def load_settings(path: str | Path) -> dict[str, Any]:
    """Returns the settings in a file, by its ending: .toml, .json, otherwise YAML; ConfigError where it holds none."""
    path = Path(path)
    read = _READERS.get(path.suffix.lower(), _read_yaml)
    try:
        content = read(path.read_text(encoding="utf-8"))
    except Exception as error:  # the parsers raise many types
        expected = f"expected a {path.suffix[1:].upper() if path.suffix.lower() in _READERS else 'YAML'} file"
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}", expected) from error
    if not isinstance(content or {}, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}", "expected a mapping of settings")
    strange = next((key for key in content or {} if not isinstance(key, str)), None)
    if strange is not None:
        raise ConfigError(f"{path} has the key {strange!r}", "expected names of settings")
    return dict(content or {})


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice, of which YAML would keep the last in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    pairs = [(loader.construct_object(key, deep=True), key, value) for key, value in node.value]
    seen: set[Any] = set()
    for key, where, _ in pairs:
        if isinstance(key, (list, dict)):
            raise yaml.constructor.ConstructorError(None, None, "a key is no plain name", where.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", where.start_mark)
        seen.add(key)
    return {key: loader.construct_object(value, deep=True) for key, _, value in pairs}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _read_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: Iterable[tuple[str, Any]]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = value
    return found


_READERS: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": _read_json}
