"""The configuration that a search found, as a file that people read: every entry says why it is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from quantonnx.config import QuantConfig

Settings = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One thing that a configuration says in addition: an entry of `exclude`, or (`rules`) rules of `op_names`."""

    name: str
    reason: str
    rules: Mapping[str, Any] | None = None


def settings_of(config: QuantConfig) -> Settings:
    """Returns what a configuration says, as a file would hold it; what is left to defaults is left out."""
    found: Settings = config.model_dump(mode="json", exclude_defaults=True)
    if "recipe" in config.model_fields_set:  # an empty one is in place of the target's
        found.setdefault("recipe", [])
    if "exclude" in found:
        found["exclude"] = [entry["name"] if set(entry) == {"name"} else entry for entry in found["exclude"]]
    return found


def changed(config: QuantConfig, changes: Iterable[Change]) -> QuantConfig:
    """Returns the configuration with changes, exactly as it is read back from the text of `to_yaml`."""
    settings = settings_of(config)
    changes = list(changes)
    excluded = [change.name for change in changes if change.rules is None]
    if excluded:
        settings["exclude"] = [*settings.get("exclude", []), *excluded]
    rules = {name: rule for change in changes if change.rules is not None for name, rule in change.rules.items()}
    if rules:
        settings["op_names"] = {**settings.get("op_names", {}), **rules}
    return QuantConfig(**settings)


def to_yaml(config: QuantConfig, changes: Iterable[Change] = (), remarks: Iterable[str] = ()) -> str:
    """Returns the text of the configuration with changes, `remarks` above it and a reason above each change."""
    settings, changes = settings_of(config), list(changes)
    lines = [f"# {remark}" if remark else "#" for remark in remarks]
    excluded = [change for change in changes if change.rules is None]
    raised = [change for change in changes if change.rules is not None]
    for key, value in settings.items():
        if key not in ("exclude", "op_names"):
            lines.append(_dumped({key: value}))
    if "exclude" in settings or excluded:
        lines.append("exclude:")
        lines += [f"- {_inline(entry)}" for entry in settings.get("exclude", [])]
        lines += [line for change in excluded for line in (f"# {change.reason}", f"- {_inline(change.name)}")]
    if "op_names" in settings or raised:
        lines.append("op_names:")
        lines += [_entry(name, rule) for name, rule in settings.get("op_names", {}).items()]
        for change in raised:
            lines.append(f"  # {change.reason}")
            lines += [_entry(name, rule) for name, rule in (change.rules or {}).items()]
    return "\n".join(lines) + "\n"


def _entry(name: str, rule: Any) -> str:
    return f"  {_inline(name)}: {_inline(rule)}"


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 30, allow_unicode=True, sort_keys=False)
    return str(text).removesuffix("\n").removesuffix("\n...")


def _dumped(value: Settings) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).rstrip("\n")
