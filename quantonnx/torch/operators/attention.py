"""Attention and rotary embedding, by torch's fused kernel where nothing but the result is wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.dtypes import torch_dtype_of
from quantonnx.torch.node import Call, Node, Translation

_SCORES, _CAPPED, _MASKED, _WEIGHTS = 0, 1, 2, 3
"""What a node may give as scores, by ONNX's number."""


@dataclass(frozen=True)
class Attending:
    """What an attention node says; heads are those of inputs [batch, sequence, heads · size]. `shown` is which scores
    are an output, None without."""

    query_heads: int = 0
    key_heads: int = 0
    scale: float | None = None
    causal: bool = False
    cap: float = 0.0
    window: tuple[int, int] = (-1, -1)
    softmax_dtype: torch.dtype | None = None
    shown: int | None = None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    settings: Attending,
) -> Tensor:
    """Returns what queries find: softmax(q·kᵀ·scale + mask)·v, of the rank of the queries."""
    inputs = query, key, value, mask, past_key, past_value, lengths
    return attend_and_keep(*inputs, settings=replace(settings, shown=None))[0]


def attend_and_keep(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    settings: Attending,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Returns the result, all keys and values [batch, heads, sequence, size], past ones first, and the scores."""
    q = split_heads(query, settings.query_heads)
    keys, values = (split_heads(x, settings.key_heads) for x in (key, value))
    past = 0 if past_key is None else past_key.shape[2]
    if past_key is not None and past_value is not None:
        keys, values = torch.cat((past_key, keys), 2), torch.cat((past_value, values), 2)
    k, v = (_repeated(x, q.shape[1]) for x in (keys, values))
    scale = settings.scale or 1 / math.sqrt(q.shape[-1])
    scores = None
    plain = not settings.cap and settings.shown is None and settings.softmax_dtype in (None, q.dtype)
    if plain and settings.causal and mask is None and lengths is None and not past and settings.window == (-1, -1):
        found = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    else:
        allowed = _allowed(q.shape[2], k.shape[2], past, lengths, q.device, settings)
        allowed, bias = _composed(allowed, mask, k.shape[2])
        if plain:
            whole = allowed if bias is None else bias if allowed is None else bias.masked_fill(~allowed, -math.inf)
            found = functional.scaled_dot_product_attention(q, k, v, whole, scale=scale)
        else:
            found, scores = _step_by_step(q, k, v, scale, allowed, bias, settings)
    return found.transpose(1, 2).flatten(2) if query.ndim == 3 else found, keys, values, scores


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Returns [batch, heads, sequence, size] of [batch, sequence, heads · size]; what has four axes stays."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


def _repeated(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _allowed(
    queries: int, keys: int, past: int, lengths: Tensor | None, device: torch.device, settings: Attending
) -> Tensor | None:
    """Returns where a query may look, as far as places decide, or None where it may look everywhere."""
    places = torch.arange(keys, device=device)
    first: Any = past if lengths is None else (lengths.reshape(-1, 1, 1, 1) - queries)
    own = torch.arange(queries, device=device)[:, None] + first
    left, right = settings.window
    conditions = [] if lengths is None else [places < lengths.reshape(-1, 1, 1, 1)]
    conditions += [places <= own] if settings.causal else []
    conditions += [own - places <= left] if left >= 0 else []
    conditions += [places - own <= right] if right >= 0 else []
    found = None
    for condition in conditions:
        found = condition if found is None else found & condition
    return found


def _composed(allowed: Tensor | None, mask: Tensor | None, keys: int) -> tuple[Tensor | None, Tensor | None]:
    """Returns where queries may look, and what is added to the scores."""
    if mask is None:
        return allowed, None
    if mask.shape[-1] < keys:
        mask = functional.pad(mask, (0, keys - mask.shape[-1]), value=False if mask.dtype == torch.bool else -math.inf)
    if mask.dtype == torch.bool:
        return mask if allowed is None else allowed & mask, None
    return allowed, mask


def _step_by_step(
    q: Tensor, k: Tensor, v: Tensor, scale: float, allowed: Tensor | None, bias: Tensor | None, settings: Attending
) -> tuple[Tensor, Tensor]:
    shown = [torch.matmul(q * math.sqrt(scale), (k * math.sqrt(scale)).transpose(-1, -2))]
    shown.append(torch.tanh(shown[_SCORES] / settings.cap) * settings.cap if settings.cap else shown[_SCORES])
    masked = shown[_CAPPED] if bias is None else shown[_CAPPED] + bias
    masked = masked if allowed is None else masked.masked_fill(~allowed, -math.inf)
    empty = (masked == -math.inf).all(-1, keepdim=True)
    weights = torch.softmax(masked, -1, dtype=settings.softmax_dtype).to(q.dtype).masked_fill(empty, 0)
    shown += [masked, weights]
    return torch.matmul(weights, v), shown[settings.shown or _SCORES]


def rotate(
    x: Tensor,
    cosines: Tensor,
    sines: Tensor,
    places: Tensor | None = None,
    *,
    interleaved: bool = False,
    heads: int = 0,
    size: int = 0,
) -> Tensor:
    """Returns x [batch, heads, sequence, size], or [batch, sequence, heads · size], with pairs of features turned by
    the angles of their places; the first `size` features of each head, or all."""
    rows = x.reshape(*x.shape[:-1], heads, -1) if x.ndim == 3 else x.transpose(1, 2)
    size = size or rows.shape[-1]
    turned, kept = rows[..., :size], rows[..., size:]
    cosine, sine = ((table if places is None else table[places]).unsqueeze(2) for table in (cosines, sines))
    first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = first * cosine - second * sine, first * sine + second * cosine
    found = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    found = torch.cat((found, kept), -1) if kept.shape[-1] else found
    return found.flatten(2) if x.ndim == 3 else found.transpose(1, 2)


def _attend(node: Node) -> Call:
    dtype = node.get("softmax_precision")
    wants_scores = len(node.wanted) > 3 and node.wanted[3]
    settings = Attending(
        node.get("q_num_heads", 0),
        node.get("kv_num_heads", 0),
        node.get("scale"),
        bool(node.get("is_causal", 0)),
        node.get("softcap", 0.0),
        (node.get("left_window_size", -1), node.get("right_window_size", -1)),
        None if dtype is None else torch_dtype_of(dtype),
        node.get("qk_matmul_output_mode", 0) if wants_scores else None,
    )
    return Call(attend if len(node.wanted) == 1 else attend_and_keep, tuple(range(7)), {"settings": settings})


def _rotate(node: Node) -> Call:
    settings = {"heads": node.get("num_heads", 0), "size": node.get("rotary_embedding_dim", 0)}
    return Call(rotate, (0, 1, 2, 3), settings | {"interleaved": bool(node.get("interleaved", 0))})


OPERATORS: dict[str, Translation] = {"Attention": _attend, "RotaryEmbedding": _rotate}
