"""What each operator of ONNX is in torch: a table of translations, a module for each family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from quantonnx.torch.node import Translation
from quantonnx.torch.operators import (
    activation,
    attention,
    conversion,
    convolution,
    elementwise,
    fused,
    fused_attention,
    generating,
    indexing,
    linear,
    losses,
    normalization,
    padding,
    pooling,
    quantization,
    quantized_layers,
    quantized_products,
    recurrent,
    reductions,
    regions,
    resizing,
    sampling,
    shaping,
    spectral,
)

_FAMILIES = (
    activation,
    attention,
    conversion,
    convolution,
    elementwise,
    fused,
    fused_attention,
    generating,
    indexing,
    linear,
    losses,
    normalization,
    padding,
    pooling,
    quantization,
    quantized_layers,
    quantized_products,
    recurrent,
    reductions,
    regions,
    resizing,
    sampling,
    shaping,
    spectral,
)

OPERATORS: Mapping[str, Translation] = MappingProxyType(
    {operator: translation for family in _FAMILIES for operator, translation in family.OPERATORS.items()}
)
"""Translations by operator; one of another domain is called `domain.Operator`."""
