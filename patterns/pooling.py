"""Average pooling; MaxPool needs no pattern, it passes codes through."""

from __future__ import annotations

from quantonnx.pattern import INPUT, OUTPUT, Pattern, op, tensor


class AveragePool(Pattern):
    """Global or windowed average pooling: pairs on both sides, for the compiler's fusion."""

    x = tensor()
    output = (op.GlobalAveragePool | op.AveragePool)(x)
    qdq_points = (INPUT(x), OUTPUT(output))


poolings = (AveragePool,)
