"""What each operator of ONNX is in torch: a table of translations, a module for each family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from quantonnx.torch.node import Translation
from quantonnx.torch.operators import (
    conversion,
    convolution,
    elementwise,
    generating,
    indexing,
    reductions,
    shaping,
)

_FAMILIES = (
    elementwise,
    conversion,
    reductions,
    shaping,
    indexing,
    generating,
    convolution,
)

OPERATORS: Mapping[str, Translation] = MappingProxyType(
    {op: translation for family in _FAMILIES for op, translation in family.OPERATORS.items()}
)
"""Translations by operator; one of another domain is called `domain.Operator`."""
