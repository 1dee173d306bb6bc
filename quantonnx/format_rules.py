"""From settings to a format: the target's own, as the user changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantonnx.errors import ConfigError
from quantonnx.formats import TensorFormat

_PLAIN = ("n_bits", "signed", "symmetric", "narrow_range", "float8", "scale_type", "rounding", "seed", "storage")
_OF_WEIGHTS = ("per_channel", "axis", "group_size")


def activation_format(base: TensorFormat, said: Mapping[str, Any]) -> TensorFormat:
    """Returns the format of an activation; ConfigError for what only weights have."""
    for name in _OF_WEIGHTS:
        if said.get(name):
            raise ConfigError(f"{name} is {said[name]}", "an activation has one scale; leave it out")
    return _changed(base, said)


def weight_format(base: TensorFormat, said: Mapping[str, Any], axis: int | None, rank: int) -> TensorFormat:
    """Returns the format of a weight whose output channels are along `axis`, None where it has none."""
    fmt = _changed(base, said)
    told = said.get("axis")
    if told is not None and not -rank <= told < rank:
        raise ConfigError(f"axis is {told}", f"the weight has {rank} axes")
    if said.get("group_size") is not None:
        along = _summed_axis(axis, rank) if told is None else told % rank
        return replace(fmt, axis=along, group_size=said["group_size"])
    axis = axis if told is None else told % rank
    by_channel = said.get("per_channel", base.axis is not None or "axis" in said)
    wanted = axis if by_channel else None
    return fmt if wanted == fmt.axis else replace(fmt, axis=wanted)


def _summed_axis(axis: int | None, rank: int) -> int:
    """The axis along which an operator sums: the second for weights whose channels come first, else the one before."""
    if axis is None or rank < 2:
        raise ConfigError("group_size is given for a weight without an axis to sum over", "give `axis` too")
    return 1 if axis % rank == 0 else axis % rank - 1


def _changed(base: TensorFormat, said: Mapping[str, Any]) -> TensorFormat:
    changes = {name: said[name] for name in _PLAIN if name in said}
    if changes.get("signed") is False or changes.get("float8"):
        changes.setdefault("narrow_range", False)
    return replace(base, **changes) if changes else base
