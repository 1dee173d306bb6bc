"""Padding in all of ONNX's modes, and cutting or filling to a size around the middle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation, Unsupported, integers
from quantonnx.torch.operators.windows import Pads, padded

_TORCH_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pad(x: Tensor, pads: Any, value: Any = None, axes: Any = None, mode: str = "constant") -> Tensor:
    """Returns x with values added before and behind its axes; less than none cuts off.

    The modes "reflect", "edge" and "wrap" take them from x itself, the first without its border.
    """
    padding = _by_axis(integers(pads), x.ndim, None if axes is None else integers(axes))
    if mode == "constant":
        return _with_constant(x, padding, value)
    x = padded(x, tuple((min(first, 0), min(last, 0)) for first, last in padding))
    more = tuple((max(first, 0), max(last, 0)) for first, last in padding)
    if _torch_can(x, more, mode):
        amounts = [amount for pads in reversed(more[2:]) for amount in pads]
        return functional.pad(x, amounts, mode=_TORCH_MODES[mode])
    for axis, (first, last) in enumerate(more):
        if first or last:
            x = x.index_select(axis, _places(x, axis, first, last, mode))
    return x


def _by_axis(pads: tuple[int, ...], rank: int, axes: tuple[int, ...] | None) -> Pads:
    axes = tuple(range(rank)) if axes is None else axes
    found = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        found[axis] = pads[place], pads[place + len(axes)]
    return tuple(found)


def _with_constant(x: Tensor, padding: Pads, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        return padded(x, padding, value or 0)
    inside = padded(torch.ones_like(x, dtype=torch.bool), padding)
    return torch.where(inside, padded(x, padding), value.reshape(()))


def _torch_can(x: Tensor, padding: Pads, mode: str) -> bool:
    """True where torch's kernel pads so: images and the like, floats, and no more than there is to take."""
    if x.ndim not in (3, 4, 5) or any(map(any, padding[:2])) or not x.is_floating_point() or not x.numel():
        return False
    most = {"reflect": -1, "wrap": 0}.get(mode)
    sizes = x.shape[2:]
    return most is None or all(max(pads) <= size + most for pads, size in zip(padding[2:], sizes, strict=True))


def _places(x: Tensor, axis: int, first: int, last: int, mode: str) -> Tensor:
    size = x.shape[axis]
    places = torch.arange(-first, size + last, device=x.device)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.where(places >= size, period - places, places)


def center_crop_pad(x: Tensor, sizes: Any, axes: tuple[int, ...] | None = None) -> Tensor:
    """Returns x cut off or filled with zeros to these sizes, as much before as behind."""
    padding = [(0, 0)] * x.ndim
    for axis, size in zip(range(x.ndim) if axes is None else axes, integers(sizes), strict=True):
        more = size - x.shape[axis]
        padding[axis] = (more // 2, more - more // 2) if more > 0 else (-(-more // 2), more + -more // 2)
    return padded(x, tuple(padding))


def _pad(node: Node) -> Call:
    mode = node.get("mode", "constant")
    if mode != "constant" and mode not in _TORCH_MODES:
        raise Unsupported(f"mode {mode!r}")
    if node.opset >= 11:
        return Call(pad, (0, 1, 2, 3), {"mode": mode}, numbers=frozenset({1, 2, 3}))
    pads = node.get("pads") or node.get("paddings")
    return Call(pad, (0,), {"pads": tuple(pads), "value": node.get("value", 0.0), "mode": mode})


def _center_crop_pad(node: Node) -> Call:
    axes = node.get("axes")
    settings = {"axes": None if axes is None else tuple(axes)}
    return Call(center_crop_pad, (0, 1), settings, numbers=frozenset({1}))


OPERATORS: dict[str, Translation] = {"Pad": _pad, "CenterCropPad": _center_crop_pad}
