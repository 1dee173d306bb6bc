"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None,
    alpha: float = 1.0,
    beta: float = 1.0,
    trans_a: bool = False,
    trans_b: bool = False,
) -> Tensor:
    """Returns alpha·A·B + beta·C, of matrices; C is spread to the result's shape."""
    rows = a.t() if trans_a else a
    if alpha == 1 and (c is None or (beta == 1 and c.ndim == 1 and c.shape[0] == b.shape[0 if trans_b else 1])):
        return functional.linear(rows, b if trans_b else b.t(), c)
    columns = b.t() if trans_b else b
    if c is None:
        return torch.mm(rows, columns) * alpha
    if not a.is_floating_point():
        return (torch.mm(rows, columns) * alpha + c * beta).to(a.dtype)
    return torch.addmm(c, rows, columns, beta=beta, alpha=alpha)


def einsum(*operands: Tensor, equation: str) -> Tensor:
    """Returns the sum of products that an equation of index letters says."""
    return torch.einsum(equation, *operands)


def gemm_call(node: Node) -> Call:
    """Returns the call of a Gemm node."""
    settings = {
        "alpha": node.get("alpha", 1.0),
        "beta": node.get("beta", 1.0),
        "trans_a": bool(node.get("transA", 0)),
        "trans_b": bool(node.get("transB", 0)),
    }
    return Call(gemm, (0, 1, 2), settings)


def _einsum(node: Node) -> Call:
    return Call(einsum, settings={"equation": node.get("equation").replace(" ", "")})


OPERATORS: dict[str, Translation] = {
    "Gemm": gemm_call,
    "MatMul": lambda node: Call(torch.matmul),
    "Einsum": _einsum,
    "Det": lambda node: Call(torch.linalg.det),
}
