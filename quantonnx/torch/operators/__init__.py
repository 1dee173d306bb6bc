"""What each operator of ONNX is in torch: a table of translations, a module for each family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from quantonnx.torch.node import Translation
from quantonnx.torch.operators import (
    activation,
    attention,
    convolution,
    elementwise,
    fused,
    fused_attention,
    linear,
    losses,
    normalization,
    padding,
    pooling,
    quantization,
    quantized_products,
    recurrent,
    regions,
    resizing,
    sampling,
    shaping,
    spectral,
)

OPERATORS: Mapping[str, Translation] = MappingProxyType(
    {
        **elementwise.OPERATORS,
        **shaping.OPERATORS,
        **activation.OPERATORS,
        **convolution.OPERATORS,
        **linear.OPERATORS,
        **normalization.OPERATORS,
        **padding.OPERATORS,
        **losses.OPERATORS,
        **pooling.OPERATORS,
        **spectral.OPERATORS,
        **regions.OPERATORS,
        **sampling.OPERATORS,
        **attention.OPERATORS,
        **fused.OPERATORS,
        **fused_attention.OPERATORS,
        **quantization.OPERATORS,
        **quantized_products.OPERATORS,
        **recurrent.OPERATORS,
        **resizing.OPERATORS,
    }
)
"""Translations by operator; one of another domain is called `domain.Operator`."""
