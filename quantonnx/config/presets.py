"""Settings that have a name, as plain values: what a user says besides is said over them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from quantonnx.errors import ConfigError
from quantonnx.plan import near

_INT4 = {"n_bits": 4, "signed": True, "symmetric": True}
_SHIFTS = {
    "n_bits": 8,
    "signed": True,
    "symmetric": True,
    "narrow_range": False,
    "per_channel": False,
    "scale_type": "power_of_two",
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "w8a8": {"activation": {"n_bits": 8}, "weight": {"n_bits": 8}},
    "w8a16": {"activation": {"n_bits": 16}, "weight": {"n_bits": 8}},
    "w4a8": {"activation": {"n_bits": 8}, "weight": {"n_bits": 4, "calibration_method": "mse"}},
    "w4a16": {"activation": None, "weight": {**_INT4, "group_size": 128, "storage": "native"}},
    "w8": {"activation": None, "weight": {"n_bits": 8, "per_channel": True}},
    "w4": {
        "activation": None,
        "weight": {**_INT4, "per_channel": True, "storage": "native", "calibration_method": "mse"},
    },
    "fp8": {"activation": {"dtype": "float8e4m3fn"}, "weight": {"dtype": "float8e4m3fn"}},
    "xint8": {
        "activation": {**_SHIFTS, "calibration_method": "mse"},
        "weight": _SHIFTS,
        "bias": _SHIFTS,
        "shift_limits": True,
    },
    "qnn-u16": {
        "activation": {"dtype": "uint16", "symmetric": False, "min_range": 1e-4},
        "weight": {"dtype": "uint8", "symmetric": False, "per_channel": False},
        "known_ranges": {"Sigmoid": [0.0, 65535 / 65536], "Tanh": [-1.0, 32767 / 32768]},
    },
}


SPECS = ("activation", "weight", "bias")
"""What a preset says as a level of its own, beneath what the user says of the same kind."""


def with_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with those of their preset for which there are no levels; ConfigError for an unknown name."""
    name = settings.get("preset")
    if name is None:
        return dict(settings)
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"preset is {name!r}", near(str(name), PRESETS) or f"known are {', '.join(PRESETS)}")
    beneath = {key: deepcopy(value) for key, value in PRESETS[name].items() if key not in SPECS}
    for key, value in settings.items():
        both = isinstance(value, Mapping) and isinstance(beneath.get(key), Mapping)
        beneath[key] = {**beneath[key], **value} if both else value
    return beneath
