"""Python numbers that may be symbols of a compiler: conversions and extremes that do not ask for their values."""

from __future__ import annotations

from typing import Any

import torch


def sym_float(value: Any) -> Any:
    """Returns a number as a float."""
    return torch.sym_float(value)


def sym_int(value: Any) -> Any:
    """Returns a number as an integer, towards zero."""
    return torch.sym_int(value)


def least(*values: Any) -> Any:
    """Returns the smallest of several numbers."""
    found = values[0]
    for value in values[1:]:
        found = torch.sym_min(found, value)
    return found


def most(*values: Any) -> Any:
    """Returns the largest of several numbers."""
    found = values[0]
    for value in values[1:]:
        found = torch.sym_max(found, value)
    return found
