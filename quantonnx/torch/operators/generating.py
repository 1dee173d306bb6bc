"""Operators whose values come from no tensor: constants of a shape, ranges, triangles, chance."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantonnx.torch.dtypes import torch_dtype, torch_dtype_of
from quantonnx.torch.node import Call, Node, Translation, integers

_FLOAT = 1


def constant_of_shape(shape: Any, value: Any, dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """Returns one value in that shape."""
    return torch.full(integers(shape), value, dtype=dtype, device=device)


def number_range(start: Any, limit: Any, delta: Any, dtype: torch.dtype | None, device: torch.device | None) -> Tensor:
    """Returns the numbers from `start` to before `limit` in steps of `delta`, in the type of the first tensor."""
    given = next((value for value in (start, limit, delta) if isinstance(value, Tensor)), None)
    numbers = [value.item() if isinstance(value, Tensor) else value for value in (start, limit, delta)]
    kind = dtype if given is None else given.dtype
    return torch.arange(*numbers, dtype=kind, device=device if given is None else given.device)


def eye_like(x: Tensor, diagonal: int, dtype: torch.dtype | None) -> Tensor:
    """Returns a matrix of the shape of `x` with ones on a diagonal."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    return (columns[None] - rows[:, None] == diagonal).to(dtype or x.dtype)


def triangle(x: Tensor, diagonal: Any = None, *, upper: bool) -> Tensor:
    """Returns the upper or lower triangles of matrices, from a diagonal on."""
    offset = 0 if diagonal is None else integers(diagonal)[0]
    return torch.triu(x, offset) if upper else torch.tril(x, offset)


def normal(shape: Any, mean: float, scale: float, dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """Returns normally distributed numbers."""
    return torch.randn(shape, dtype=dtype, device=device) * scale + mean


def normal_like(x: Tensor, mean: float, scale: float, dtype: torch.dtype | None) -> Tensor:
    """Returns normally distributed numbers in the shape of `x`."""
    return torch.randn_like(x, dtype=dtype or x.dtype) * scale + mean


def uniform(shape: Any, low: float, high: float, dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """Returns evenly distributed numbers."""
    return torch.rand(shape, dtype=dtype, device=device) * (high - low) + low


def uniform_like(x: Tensor, low: float, high: float, dtype: torch.dtype | None) -> Tensor:
    """Returns evenly distributed numbers in the shape of `x`."""
    return torch.rand_like(x, dtype=dtype or x.dtype) * (high - low) + low


def bernoulli(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Returns ones with the probabilities in `x`, else zeros."""
    return torch.bernoulli(x).to(dtype or x.dtype)


def multinomial(x: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Returns for each row of logarithms of weights that many places by chance."""
    return torch.multinomial(torch.softmax(x, -1), count, replacement=True).to(dtype)


def _constant_of_shape(node: Node) -> Call:
    value = node.get("value")
    value = np.zeros(1, np.float32) if value is None else np.asarray(value)
    settings = {"value": value.reshape(-1)[0].item(), "dtype": torch_dtype(value.dtype)}
    return Call(constant_of_shape, (0,), settings, numbers=frozenset({0}), on_device=True)


def _range(node: Node) -> Call:
    kind = node.type_of(0)
    settings = {"dtype": None if kind is None else torch_dtype(kind)}
    return Call(number_range, (0, 1, 2), settings, scalars=frozenset({0, 1, 2}), on_device=True)


def _eye_like(node: Node) -> Call:
    return Call(eye_like, (0,), {"diagonal": node.get("k", 0), "dtype": _dtype(node)})


def _dtype(node: Node, default: int | None = None) -> torch.dtype | None:
    asked = node.get("dtype", default)
    return None if asked is None else torch_dtype_of(asked)


def _chance(names: tuple[str, str], node: Node) -> Call:
    defaults = {"mean": 0.0, "scale": 1.0, "low": 0.0, "high": 1.0}
    numbers = {name: node.get(name, defaults[name]) for name in names}
    functions = {"RandomNormal": normal, "RandomUniform": uniform}
    if node.op in functions:
        settings = {**numbers, "shape": tuple(node.get("shape")), "dtype": _dtype(node, _FLOAT)}
        return Call(functions[node.op], (), settings, on_device=True)
    like = {"RandomNormalLike": normal_like, "RandomUniformLike": uniform_like}
    return Call(like[node.op], (0,), {**numbers, "dtype": _dtype(node)})


def _multinomial(node: Node) -> Call:
    return Call(multinomial, (0,), {"count": node.get("sample_size", 1), "dtype": torch_dtype_of(node.get("dtype", 6))})


_NORMAL, _UNIFORM = partial(_chance, ("mean", "scale")), partial(_chance, ("low", "high"))

OPERATORS: dict[str, Translation] = {
    "Bernoulli": lambda node: Call(bernoulli, (0,), {"dtype": _dtype(node)}),
    "ConstantOfShape": _constant_of_shape,
    "EyeLike": _eye_like,
    "Multinomial": _multinomial,
    "RandomNormal": _NORMAL,
    "RandomNormalLike": _NORMAL,
    "RandomUniform": _UNIFORM,
    "RandomUniformLike": _UNIFORM,
    "Range": _range,
    "Trilu": lambda node: Call(triangle, (0, 1), {"upper": bool(node.get("upper", 1))}, numbers=frozenset({1})),
}
