"""Which formats ONNX's operators with dynamic activations take, and what to use in place of others."""

from __future__ import annotations

from quantonnx.formats import Storage, TensorFormat

INTEGER_OPERATORS = {"Conv": "ConvInteger", "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}
"""What computes on codes in place of an operator."""


def activation_refusal(fmt: TensorFormat) -> str | None:
    """Returns why an activation cannot have this format dynamically, and what to use; None where it can."""
    if fmt.float8 or fmt.n_bits != 8 or fmt.signed or fmt.symmetric:
        return "DynamicQuantizeLinear gives asymmetric uint8; use n_bits: 8, signed: false, symmetric: false"
    if fmt.axis is not None or fmt.group_size is not None:
        return "DynamicQuantizeLinear has one scale per tensor; leave out per_channel, axis and group_size"
    return None


def refusal(op: str, weight: TensorFormat) -> str | None:
    """Returns why `op` with a weight of this format cannot take dynamic activations, and what to use; else None."""
    if op not in INTEGER_OPERATORS:
        return f"{op} has no operator with dynamic activations; use static ones, only {_named()} can be dynamic"
    if weight.float8 or weight.n_bits > 8:
        kind = "float8" if weight.float8 else f"{weight.n_bits}-bit"
        return f"{INTEGER_OPERATORS[op]} takes no {kind} weight; use n_bits: 8 or less"
    if weight.n_bits < 8 and weight.storage is Storage.NATIVE:
        return f"{INTEGER_OPERATORS[op]} reads codes of 8 bits only; use storage: narrowed"
    if weight.group_size is not None:
        return f"{INTEGER_OPERATORS[op]} has no groups; leave out group_size"
    if op == "Conv" and weight.axis is not None and not weight.symmetric:
        return "ConvInteger has one zero point per weight; use symmetric: true or per_channel: false"
    return None


def _named() -> str:
    *most, last = INTEGER_OPERATORS
    return f"{', '.join(most)} and {last}"
