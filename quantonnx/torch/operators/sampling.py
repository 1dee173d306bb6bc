"""Values between pixels, at places that are computed: grids, and convolutions whose taps move."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation, Unsupported, integers
from quantonnx.torch.operators.windows import Windows

_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def grid_sample(x: Tensor, grid: Tensor, mode: str, padding: str, align_corners: bool) -> Tensor:
    """Returns the values of x [N, C, …] at the places of a grid [N, …, axes], which count from −1 to 1."""
    return functional.grid_sample(x, grid, mode, padding, align_corners)


def affine_grid(theta: Tensor, size: Any, align_corners: bool) -> Tensor:
    """Returns the grid of places to which affine maps move those of an image of this size."""
    return functional.affine_grid(theta, list(integers(size)), align_corners)


def deform_convolve(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    windows: Windows,
    groups: int,
    offset_groups: int,
) -> Tensor:
    """Returns the convolution of an image whose taps move by offsets [N, offset_groups · taps · 2, H, W], y before x,
    and count as much as the mask says (Zhu et al., "Deformable ConvNets v2", CVPR 2019)."""
    kernel = (weight.shape[2], weight.shape[3])
    count, (high, wide) = x.shape[0], offset.shape[2:]
    moved = offset.reshape(count * offset_groups, -1, 2, high, wide)
    places = [_taps(windows, kernel, axis, size, x.device) for axis, size in enumerate((high, wide))]
    y = moved[:, :, 0] + places[0].repeat_interleave(kernel[1], 0)[:, :, None]
    across = moved[:, :, 1] + places[1].repeat(kernel[0], 1)[:, None, :]
    sizes = x.shape[2:]
    scaled = [2 * place / max(size - 1, 1) - 1 for place, size in ((across, sizes[1]), (y, sizes[0]))]
    found = _sampled(x.reshape(count * offset_groups, -1, *sizes), torch.stack(scaled, -1).to(x.dtype))
    if mask is not None:
        found = found * mask.reshape(count * offset_groups, 1, -1, high, wide)
    columns = found.reshape(count, groups, x.shape[1] // groups, -1, high * wide).flatten(2, 3)
    result = torch.matmul(weight.reshape(groups, weight.shape[0] // groups, -1), columns)
    result = result.reshape(count, -1, high, wide)
    return result if bias is None else result + bias.reshape(-1, 1, 1)


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    """Returns the values of images [N, C, H, W] at the places [N, taps, rows, columns, 2], 0 outside."""
    if 1 in x.shape[2:]:
        x = functional.pad(x, (0, int(x.shape[3] == 1), 0, int(x.shape[2] == 1)))
    flat = grid.flatten(1, 2)
    found = functional.grid_sample(x, flat, "bilinear", "zeros", align_corners=True)
    return found.reshape(*x.shape[:2], *grid.shape[1:4])


def _taps(windows: Windows, kernel: tuple[int, int], axis: int, count: int, device: torch.device) -> Tensor:
    """Returns where the taps [kernel, count] of one axis lie before they move."""
    start = windows.pads[axis] if windows.pads else 0
    taps = torch.arange(kernel[axis], device=device) * windows.spacings(2)[axis]
    return taps[:, None] + torch.arange(count, device=device) * windows.steps(2)[axis] - start


def _grid_sample(node: Node) -> Call:
    mode = node.get("mode", "linear")
    settings = {"mode": _MODES.get(mode, mode), "padding": node.get("padding_mode", "zeros")}
    return Call(grid_sample, (0, 1), settings | {"align_corners": bool(node.get("align_corners", 0))})


def _affine_grid(node: Node) -> Call:
    return Call(affine_grid, (0, 1), {"align_corners": bool(node.get("align_corners", 0))}, frozenset({1}))


def _deform_convolve(node: Node) -> Call:
    if len(node.get("kernel_shape", (0, 0))) != 2:
        raise Unsupported("other than two spatial axes")
    settings = {"windows": Windows.of(node), "groups": node.get("group", 1)}
    return Call(deform_convolve, tuple(range(5)), settings | {"offset_groups": node.get("offset_group", 1)})


OPERATORS: dict[str, Translation] = {
    "GridSample": _grid_sample,
    "AffineGrid": _affine_grid,
    "DeformConv": _deform_convolve,
}
