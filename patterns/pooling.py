"""Average pooling; MaxPool needs no pattern, it passes codes through."""

from __future__ import annotations

from quantonnx.pattern import INPUT, OUTPUT, Mismatch, Pattern, op, tensor


class AveragePool(Pattern):
    """Global or windowed average pooling: pairs on both sides, for the compiler's fusion."""

    x = tensor()
    output = (op.GlobalAveragePool | op.AveragePool)(x)
    qdq_points = (INPUT(x), OUTPUT(output))

    def check(self) -> None:
        """Refuses dilated windows, which integer kernels do not know: ONNX Runtime's ignores or rejects them."""
        if any(step != 1 for step in self.output.attrs.get("dilations", ())):
            raise Mismatch(f"{self.output.name!r} is dilated")


poolings = (AveragePool,)
