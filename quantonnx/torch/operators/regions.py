"""What detectors do with boxes: pool the regions of an image, and leave out boxes that others cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantonnx.torch.node import Call, Node, Translation, Unsupported, integers


@dataclass(frozen=True)
class Pooling:
    """How regions are pooled: into how many cells, how large the image is beside them, samples along a cell (0: as
    many as it has pixels), whether pixels are counted by their middle, and the largest is wanted."""

    size: tuple[int, int]
    scale: float
    samples: int
    centered: bool
    largest: bool


def roi_align(x: Tensor, regions: Tensor, images: Tensor, settings: Pooling) -> Tensor:
    """Returns the mean or the largest of the values sampled in each cell of each region [x1, y1, x2, y2] of its image
    (He et al., "Mask R-CNN", ICCV 2017)."""
    corners = regions * settings.scale - (0.5 if settings.centered else 0.0)
    start, lengths = corners[:, :2].flip(1), (corners[:, 2:] - corners[:, :2]).flip(1)
    lengths = lengths if settings.centered else lengths.clamp(min=1)
    rows, columns = (
        _samples(start[:, i], lengths[:, i], settings.size[i], settings.samples, x.shape[2 + i]) for i in (0, 1)
    )
    corners_of = [
        x[images.long()[:, None, None], :, row[:, :, None], column[:, None, :]]
        * (of_row[:, :, None] * of_column[:, None, :])[..., None]
        for row, of_row in rows.neighbours
        for column, of_column in columns.neighbours
    ]
    shares = (rows.shares[:, :, None] * columns.shares[:, None, :])[..., None]
    high, wide = settings.size
    shape = (len(regions), high, rows.shares.shape[1] // high, wide, columns.shares.shape[1] // wide, x.shape[1])
    if settings.largest:
        most = torch.stack(corners_of).amax(0).masked_fill(shares == 0, -torch.inf)
        return most.reshape(shape).amax((2, 4)).permute(0, 3, 1, 2)
    return (sum(corners_of[1:], corners_of[0]) * shares).reshape(shape).sum((2, 4)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Samples:
    """Samples along an axis [regions, cells · samples]: their two neighbours with weights, and what part of a cell
    each is."""

    neighbours: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    shares: Tensor


def _samples(start: Tensor, length: Tensor, cells: int, samples: int, size: int) -> _Samples:
    step = length / cells
    counts = torch.full_like(step, samples) if samples else step.detach().ceil().clamp(min=1)
    most = samples or (int(counts.max()) if len(step) else 1)
    numbers = torch.arange(most, device=start.device) + 0.5
    within = step[:, None] * numbers / counts[:, None]
    firsts = start[:, None] + step[:, None] * torch.arange(cells, device=start.device)
    places = (firsts[:, :, None] + within[:, None, :]).flatten(1)
    counted = (numbers < counts[:, None])[:, None, :].expand(-1, cells, -1).flatten(1)
    inside = (places >= -1) & (places <= size)
    places = places.clamp(0, size - 1)
    low = places.detach().floor()
    above, below = (places - low) * inside, (1 - (places - low)) * inside
    high = (low + 1).clamp(max=size - 1).long()
    return _Samples(((low.long(), below), (high, above)), counted / counts[:, None])


def suppress(
    boxes: Tensor,
    scores: Tensor,
    most: Any = None,
    overlap: Tensor | None = None,
    lowest: Tensor | None = None,
    *,
    centers: bool,
) -> Tensor:
    """Returns [image, class, box] of the boxes [images, boxes, 4] that score best, at most so many of each class, less
    those that a better one overlaps by more (intersection over union), or that score too low."""
    limit = 0 if most is None else integers(most)[0]
    threshold = 0.0 if overlap is None else float(overlap)
    corners, found = _corners(boxes, centers=centers), []
    for image in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            kept = _best(corners[image], scores[image, kind], limit, threshold, lowest)
            found += [(image, kind, box) for box in kept]
    return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _corners(boxes: Tensor, *, centers: bool) -> Tensor:
    if centers:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat((middle - half, middle + half), -1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), -1)


def _best(corners: Tensor, scores: Tensor, limit: int, threshold: float, lowest: Tensor | None) -> list[int]:
    order = scores.argsort(descending=True, stable=True)
    if lowest is not None:
        order = order[scores[order] > lowest]
    kept: list[int] = []
    areas = (corners[:, 2:] - corners[:, :2]).prod(-1)
    while len(kept) < limit and len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        first = torch.maximum(corners[order, :2], corners[best, :2])
        last = torch.minimum(corners[order, 2:], corners[best, 2:])
        common = (last - first).clamp(min=0).prod(-1)
        order = order[common <= threshold * (areas[order] + areas[best] - common)]
    return kept


def max_roi_pool(x: Tensor, regions: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """Returns the largest value in each cell of each region [image, x1, y1, x2, y2], in whole pixels (Girshick, "Fast
    R-CNN", ICCV 2015)."""
    found = []
    for image, x1, y1, x2, y2 in (regions.detach().double().cpu() * torch.tensor([1.0, *[scale] * 4])).tolist():
        rows = _cells(y1, y2, size[0], x.shape[2])
        columns = _cells(x1, x2, size[1], x.shape[3])
        cells = [_largest(x[int(image), :, top:bottom, left:right]) for top, bottom in rows for left, right in columns]
        found.append(torch.stack(cells, -1).reshape(-1, *size))
    return torch.stack(found) if found else x.new_zeros((0, x.shape[1], *size))


def _largest(values: Tensor) -> Tensor:
    return values.amax((1, 2)) if values.numel() else values.new_zeros(values.shape[0])


def _cells(first: float, last: float, count: int, size: int) -> list[tuple[int, int]]:
    start = int(first + 0.5)
    step = max(int(last + 0.5) - start + 1, 1) / count
    ends = ((int(i * step) + start, -int(-(i + 1) * step // 1) + start) for i in range(count))
    return [(min(max(low, 0), size), min(max(high, 0), size)) for low, high in ends]


def _roi_align(node: Node) -> Call:
    centered = node.opset >= 16 and node.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    size = node.get("output_height", 1), node.get("output_width", 1)
    largest = node.get("mode", "avg") == "max"
    settings = Pooling(size, node.get("spatial_scale", 1.0), node.get("sampling_ratio", 0), centered, largest)
    return Call(roi_align, (0, 1, 2), {"settings": settings})


def _max_roi_pool(node: Node) -> Call:
    if len(node.get("pooled_shape")) != 2:
        raise Unsupported("other than two spatial axes")
    settings = {"size": tuple(node.get("pooled_shape")), "scale": node.get("spatial_scale", 1.0)}
    return Call(max_roi_pool, (0, 1), settings)


def _suppress(node: Node) -> Call:
    settings = {"centers": bool(node.get("center_point_box", 0))}
    return Call(suppress, tuple(range(5)), settings, numbers=frozenset({2}))


OPERATORS: dict[str, Translation] = {
    "RoiAlign": _roi_align,
    "MaxRoiPool": _max_roi_pool,
    "NonMaxSuppression": _suppress,
}
