"""Resizing by torch's own kernels where they compute exactly what ONNX says, and axis by axis elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation, Unsupported, integers
from quantonnx.torch.operators.interpolating import Axis, Interpolation, interpolate

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_CENTERED = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")


@dataclass(frozen=True)
class Resizing:
    """What a Resize node says besides how values come from their neighbours."""

    interpolation: Interpolation
    axes: tuple[int, ...] | None = None
    policy: str = "stretch"
    roi: tuple[float, ...] = ()

    def axes_of(self, x: Tensor, scales: Sequence[float] | None, sizes: Sequence[int] | None) -> list[Axis]:
        """Returns the axes that change."""
        axes = tuple(axis % x.ndim for axis in self.axes) if self.axes is not None else tuple(range(x.ndim))
        if self.interpolation.coordinates == "tf_crop_and_resize":
            spans = list(zip(self.roi[: len(axes)], self.roi[len(axes) :], strict=True))
        else:
            spans = [(0.0, 1.0)] * len(axes)
        given = [x.shape[axis] for axis in axes]
        counts, ratios = self._sizes(given, scales, sizes)
        found = [Axis(*each) for each in zip(axes, given, counts, ratios, spans, strict=True)]
        return [axis for axis in found if axis.count != axis.size or axis.scale != 1 or axis.span != (0.0, 1.0)]

    def _sizes(
        self, given: Sequence[int], scales: Sequence[float] | None, sizes: Sequence[int] | None
    ) -> tuple[list[int], list[float]]:
        """Returns new sizes and the scales; a crop scales its size before it is cut, as ONNX Runtime has it."""
        if sizes is None:
            ratios = list(scales or ())
            return [math.floor(size * ratio) for size, ratio in zip(given, ratios, strict=True)], ratios
        ratios = [count / size for count, size in zip(sizes, given, strict=True)]
        if self.policy == "stretch":
            return list(sizes), ratios
        ratio = min(ratios) if self.policy == "not_larger" else max(ratios)
        return [math.floor(size * ratio + 0.5) for size in given], [ratio] * len(given)


def resize_by(x: Tensor, scales: Any, settings: Resizing) -> Tensor:
    """Returns x resized by these scales."""
    return _resized(x, settings.axes_of(x, scales.tolist() if isinstance(scales, Tensor) else scales, None), settings)


def resize_to(x: Tensor, sizes: Any, settings: Resizing) -> Tensor:
    """Returns x resized to these sizes."""
    return _resized(x, settings.axes_of(x, None, integers(sizes)), settings)


def resize_a_crop(x: Tensor, roi: Tensor, scales: Any, sizes: Any, settings: Resizing) -> Tensor:
    """Returns a part of x, in shares of its lengths, resized."""
    settings = replace(settings, roi=tuple(roi.tolist()))
    return resize_by(x, scales, settings) if sizes is None else resize_to(x, sizes, settings)


def _resized(x: Tensor, axes: Sequence[Axis], settings: Resizing) -> Tensor:
    if not axes:
        return x
    found = _by_torch(x, axes, settings.interpolation)
    return interpolate(x, axes, settings.interpolation) if found is None else found


def _by_torch(x: Tensor, axes: Sequence[Axis], how: Interpolation) -> Tensor | None:
    """Returns what torch's own kernel gives, or None where it is not exactly what ONNX says."""
    if x.ndim not in (3, 4, 5) or axes[0].axis < 2 or not x.is_floating_point() or how.antialias:
        return None
    counts = list(x.shape[2:])
    for axis in axes:
        counts[axis.axis - 2] = axis.count
    if how.mode == "nearest":
        return functional.interpolate(x, counts, mode="nearest-exact") if _repeats(axes, how) else None
    mode = "bicubic" if how.mode == "cubic" else _LINEAR[x.ndim - 2]
    if how.mode == "cubic" and (x.ndim != 4 or how.cubic_a != -0.75 or how.exclude_outside):
        return None
    whole = all(axis.scale == axis.count / axis.size for axis in axes)
    if how.coordinates == "align_corners":
        return functional.interpolate(x, counts, mode=mode, align_corners=True)
    single = how.coordinates == "pytorch_half_pixel" and any(axis.count == 1 for axis in axes)
    if how.coordinates not in _CENTERED or single or (how.coordinates == "half_pixel_symmetric" and not whole):
        return None
    if whole:
        return functional.interpolate(x, counts, mode=mode, align_corners=False)
    if any(math.floor(axis.size * axis.scale) != axis.count for axis in axes):
        return None
    scales = [1.0] * (x.ndim - 2)
    for axis in axes:
        scales[axis.axis - 2] = axis.scale
    return functional.interpolate(x, scale_factor=scales, mode=mode, align_corners=False)


def _repeats(axes: Sequence[Axis], how: Interpolation) -> bool:
    """True where each value is simply repeated, the same number of times along an axis."""
    if any(axis.count % axis.size or axis.scale != axis.count // axis.size for axis in axes):
        return False
    if how.coordinates in _CENTERED:
        return how.nearest.startswith("round")
    return how.coordinates in ("asymmetric", "tf_half_pixel_for_nn") and how.nearest in ("floor", "simple")


def _resize(node: Node) -> Call:
    settings = Resizing(
        Interpolation(
            mode=node.get("mode", "nearest"),
            coordinates=node.get("coordinate_transformation_mode", "half_pixel"),
            nearest=node.get("nearest_mode", "round_prefer_floor"),
            cubic_a=node.get("cubic_coeff_a", -0.75),
            exclude_outside=bool(node.get("exclude_outside", 0)),
            antialias=bool(node.get("antialias", 0)),
            outside=node.get("extrapolation_value", 0.0),
        ),
        None if node.get("axes") is None else tuple(node.get("axes")),
        node.get("keep_aspect_ratio_policy", "stretch"),
    )
    if settings.interpolation.coordinates == "tf_crop_and_resize":
        if 1 not in node.constants:
            return Call(resize_a_crop, (0, 1, 2, 3), {"settings": settings}, frozenset({3}))
        settings = replace(settings, roi=tuple(node.constants[1].tolist()))
    if node.has(2):
        return _scaled(node, 2, settings)
    return Call(resize_to, (0, 3), {"settings": settings}, frozenset({3}))


def _scaled(node: Node, place: int, settings: Resizing) -> Call:
    """Returns a call with scales that are numbers where they never change."""
    if place not in node.constants:
        return Call(resize_by, (0, place), {"settings": settings})
    scales = tuple(node.constants[place].tolist())
    if not scales and node.has(3):
        return Call(resize_to, (0, 3), {"settings": settings}, frozenset({3}))
    return Call(resize_by, (0,), {"scales": scales, "settings": settings})


def _upsample(node: Node) -> Call:
    """Returns the call of Upsample, and of Resize as it was in opset 10."""
    mode = node.get("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        raise Unsupported(f"mode {mode!r}")
    settings = Resizing(Interpolation(mode.removeprefix("bi"), "asymmetric", "simple"))
    if node.get("scales") is not None:
        return Call(resize_by, (0,), {"scales": tuple(node.get("scales")), "settings": settings})
    return _scaled(node, 1, settings)


OPERATORS: dict[str, Translation] = {
    "Resize": lambda node: _upsample(node) if node.opset < 11 else _resize(node),
    "Upsample": _upsample,
}
