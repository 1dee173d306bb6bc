"""Attention as ONNX Runtime's own domain has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation, Unsupported
from quantonnx.torch.operators.attention import rotate, split_heads


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    padding: Tensor | None = None,
    added: Tensor | None = None,
    *,
    heads: int,
    scale: float | None,
    causal: bool,
    masked: float,
) -> Tensor:
    """Returns the attention of [batch, sequence, heads · size]; `padding` [batch, keys] is 0 where no one looks, which
    adds `masked` to the scores."""
    if bias is not None:
        sizes = [query.shape[-1], query.shape[-1], bias.shape[0] - 2 * query.shape[-1]]
        of_query, of_key, of_value = torch.split(bias, sizes)
        query, value = query + of_query, value if value.ndim == 4 else value + of_value
        key = key if key.ndim == 4 else key + of_key
    q, k, v = (split_heads(x, heads) for x in (query, key, value))
    mask = _score_mask(added, padding, q, k.shape[2], causal=causal, masked=masked)
    found = functional.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    return found.transpose(1, 2).flatten(2)


def _score_mask(
    added: Tensor | None, padding: Tensor | None, q: Tensor, keys: int, *, causal: bool, masked: float
) -> Tensor | None:
    """Returns what is added to the scores."""
    found = added
    if padding is not None:
        if padding.ndim == 1:
            padding = torch.arange(keys, device=q.device) < padding[:, None]
        wide = padding.reshape(padding.shape[0], 1, -1, keys)
        hidden = torch.where(wide == 0, masked, 0.0).to(q.dtype)
        found = hidden if found is None else found + hidden
    if causal:
        ones = torch.ones(q.shape[2], keys, dtype=torch.bool, device=q.device)
        later = torch.where(ones.tril(keys - q.shape[2]), 0.0, masked).to(q.dtype)
        found = later if found is None else found + later
    return found


def attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: Tensor | None = None,
    added: Tensor | None = None,
    *,
    sizes: Sequence[int],
    **settings: Any,
) -> Tensor:
    """Returns the attention of x [batch, sequence, inputs] to itself; one matrix gives queries, keys and values."""
    found = torch.matmul(x, weight)
    found = found if bias is None else found + bias
    query, key, value = torch.split(found, list(sizes), -1) if sizes else found.chunk(3, -1)
    return multi_head_attention(query, key, value, None, padding, added, **settings)


def rotate_by_places(x: Tensor, places: Tensor, cosines: Tensor, sines: Tensor, **settings: Any) -> Tensor:
    """Returns x with pairs of features turned; the places are [batch, sequence], or one that the first token has."""
    if places.numel() == 1:
        places = places.reshape(1, 1) + torch.arange(x.shape[-2], device=x.device)
    if x.ndim == 3 and not settings["heads"]:
        size = settings["size"] or 2 * cosines.shape[-1]
        settings["heads"] = x.shape[-1] // size
    return rotate(x, cosines, sines, places.expand(x.shape[0], -1), **settings)


def _settings(node: Node) -> dict[str, Any]:
    return {
        "heads": node.get("num_heads"),
        "scale": node.get("scale") or None,
        "causal": bool(node.get("unidirectional", 0)),
        "masked": node.get("mask_filter_value", -10000.0),
    }


def _multi_head_attention(node: Node) -> Call:
    if any(node.has(place) for place in range(6, 10)) or len(node.wanted) > 1 or not (node.has(1) and node.has(2)):
        raise Unsupported("past keys and values, or packed inputs")
    return Call(multi_head_attention, tuple(range(6)), _settings(node))


def _attention(node: Node) -> Call:
    if node.has(4) or node.has(6) or len(node.wanted) > 1 or node.get("do_rotary", 0):
        raise Unsupported("past keys and values, or rotary embedding")
    sizes = {"sizes": tuple(node.get("qkv_hidden_sizes") or ())}
    return Call(attention, (0, 1, 2, 3, 5), _settings(node) | sizes)


def _rotate(node: Node) -> Call:
    settings = {"heads": node.get("num_heads", 0), "size": node.get("rotary_embedding_dim", 0)}
    return Call(rotate_by_places, (0, 1, 2, 3), settings | {"interleaved": bool(node.get("interleaved", 0))})


OPERATORS: dict[str, Translation] = {
    "com.microsoft.Attention": _attention,
    "com.microsoft.MultiHeadAttention": _multi_head_attention,
    "com.microsoft.RotaryEmbedding": _rotate,
}
