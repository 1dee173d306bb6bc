"""Fourier transforms, their windows, and the filters of a mel spectrogram."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from quantonnx.torch.dtypes import torch_dtype_of
from quantonnx.torch.node import Call, Node, Translation, integers

_FLOAT = 1
_WINDOWS = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}
"""Weights of the cosines of 0, 1 and 2 turns; the second one is subtracted."""


def transform(x: Tensor, length: Any = None, axis: Any = None, *, place: int, inverse: bool, onesided: bool) -> Tensor:
    """Returns the discrete Fourier transform of x along an axis, as [real, imaginary] on the last one; the input has
    real values there, or pairs."""
    axis = place if axis is None else integers(axis)[0]
    axis, count = axis % x.ndim, None if length is None else integers(length)[0]
    if onesided and inverse:
        signal: Tensor = torch.fft.irfft(torch.view_as_complex(x.contiguous()), count, axis)
        return signal[..., None]
    values = x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    if onesided:
        return torch.view_as_real(torch.fft.rfft(values if x.shape[-1] == 1 else values.real, count, axis))
    function = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(function(values, count, axis))


def transform_frames(
    x: Tensor, step: Any, window: Tensor | None = None, length: Any = None, *, onesided: bool
) -> Tensor:
    """Returns the transforms [batch, frames, bins, 2] of frames of a signal [batch, length, 1 or 2]."""
    size = integers(length)[0] if length is not None else window.shape[0] if window is not None else x.shape[1]
    values = (
        x[..., 0] if x.ndim == 3 and x.shape[-1] == 1 else x if x.ndim == 2 else torch.view_as_complex(x.contiguous())
    )
    frames = values.unfold(1, size, integers(step)[0])
    frames = frames if window is None else frames * window
    return torch.view_as_real(torch.fft.rfft(frames) if onesided else torch.fft.fft(frames))


def window(
    size: Any, *, weights: tuple[float, float, float], periodic: bool, dtype: torch.dtype, device: torch.device | None
) -> Tensor:
    """Returns a window of so many values."""
    count = integers(size)[0]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    turns = torch.arange(count, dtype=wide, device=device) * (2 * math.pi / max(count if periodic else count - 1, 1))
    found = weights[0] - weights[1] * torch.cos(turns) + weights[2] * torch.cos(2 * turns)
    return found.to(dtype)


def mel_weights(
    bands: Any, length: Any, rate: Any, lowest: Any, highest: Any, *, dtype: torch.dtype, device: torch.device | None
) -> Tensor:
    """Returns the weights [bins, bands] of triangles that stand side by side on the mel scale."""
    count, size, per_second = (integers(value)[0] for value in (bands, length, rate))
    low, high = (2595 * math.log10(1 + float(value) / 700) for value in (lowest, highest))
    step = (high - low) / (count + 2)
    hertz = [700 * (10 ** ((low + step * i) / 2595) - 1) for i in range(count + 2)]
    edges = [int((size + 1) * value // per_second) for value in hertz]
    bins = torch.arange(size // 2 + 1, device=device)[:, None]
    left, middle, right = (torch.tensor(edges[i : i + count], device=device) for i in range(3))
    rising = (bins - left) / (middle - left).clamp(min=1)
    falling = (right - bins) / (right - middle).clamp(min=1)
    inside = torch.where((bins >= left) & (bins < middle), rising, 0.0)
    found = torch.where((bins >= middle) & (bins < right), falling, inside)
    return torch.where(bins == middle, 1.0, found).to(dtype)


def _transform(node: Node) -> Call:
    place = node.get("axis", 1 if node.opset < 20 else -2)
    settings = {"place": place, "inverse": bool(node.get("inverse", 0)), "onesided": bool(node.get("onesided", 0))}
    return Call(transform, (0, 1, 2), settings, numbers=frozenset({1, 2}))


def _transform_frames(node: Node) -> Call:
    settings = {"onesided": bool(node.get("onesided", 1))}
    return Call(transform_frames, (0, 1, 2, 3), settings, numbers=frozenset({1, 3}))


def _window(node: Node) -> Call:
    settings = {"weights": _WINDOWS[node.op], "periodic": bool(node.get("periodic", 1))}
    settings["dtype"] = torch_dtype_of(node.get("output_datatype", _FLOAT))
    return Call(window, (0,), settings, numbers=frozenset({0}), on_device=True)


def _mel_weights(node: Node) -> Call:
    settings = {"dtype": torch_dtype_of(node.get("output_datatype", _FLOAT))}
    return Call(mel_weights, tuple(range(5)), settings, numbers=frozenset(range(5)), on_device=True)


OPERATORS: dict[str, Translation] = {
    "DFT": _transform,
    "STFT": _transform_frames,
    "MelWeightMatrix": _mel_weights,
    **dict.fromkeys(_WINDOWS, _window),
}
