"""Pictures into inputs of a model: resize, crop, scale, normalize, lay out; shape and channels come from the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.feeds import InputSpec
from quantonnx.errors import ConfigError, DataError, said

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]

BILINEAR = 2
"""Pillow's number of the filter."""

LARGEST_IMAGE = 100 << 20
"""Pixels beyond which a picture is refused: decoded, it takes near 1 GB."""

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # of others, Pillow hands some to other programs

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


@dataclass(frozen=True)
class ImageOptions:
    """How a picture becomes numbers: (pixel · scale − mean) / std, per channel in the order that the model sees.

    `resize` is the length of the shorter side before cropping, or (height, width); `crop` the size of the centre
    cut, or (height, width). None of both: the model's own size, the picture stretched to it. `layout` is "nchw",
    "nhwc", or None for the one whose channel axis is 1, 3 or 4 wide. `scale` is 1/255 for float inputs unless
    given; integer inputs get pixels as they are. `rgb=False` feeds blue first.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str | None = None
    scale: float | None = None
    rgb: bool = True

    def __post_init__(self) -> None:
        if self.layout not in (None, "nchw", "nhwc"):
            raise ConfigError(f"the layout is {self.layout!r}, expected 'nchw' or 'nhwc'")
        if 0 in self.std:
            raise ConfigError(f"std is {self.std}, expected no zero")


def read_image(path: Path, inputs: Sequence[InputSpec], options: ImageOptions) -> Array:
    """Return a picture as a batch of one for the only input; DataError when the file or the input is not an image."""
    spec, layout = _image_input(inputs, options)
    assert spec.shape is not None
    channels, size = (spec.shape[1], spec.shape[2:]) if layout == "nchw" else (spec.shape[3], spec.shape[1:3])
    picture = _decoded(path, "L" if channels == 1 else "RGBA" if channels == 4 else "RGB")
    pixels = np.asarray(_framed(picture, size, options, path))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if not options.rgb:
        pixels = pixels[..., ::-1]
    values = _normalized(pixels, spec.dtype, options)
    return np.ascontiguousarray(values.transpose(2, 0, 1) if layout == "nchw" else values)[None]


def _decoded(path: Path, mode: str) -> Image:
    from PIL import Image, ImageOps  # only for images: commands without them start faster

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_FORMATS) as file:
            if file.width * file.height > LARGEST_IMAGE:
                raise DataError(
                    f"{str(path)!r} is {file.width}x{file.height}", "leave out or shrink so large a picture"
                )
            return ImageOps.exif_transpose(file).convert(mode)
    except DataError:
        raise
    except Exception as error:  # Pillow raises many types on damaged files
        reason = said(error)
        raise DataError(f"{str(path)!r} cannot be read as an image: {reason}") from error


def _image_input(inputs: Sequence[InputSpec], options: ImageOptions) -> tuple[InputSpec, str]:
    if len(inputs) != 1 or inputs[0].shape is None or len(inputs[0].shape) != 4:
        found = ", ".join(f"{spec.name!r}: {spec.text}" for spec in inputs)
        raise DataError(f"images cannot be fed to the inputs {found}, expected one input of four dimensions")
    shape = inputs[0].shape
    channels_last = shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)
    return inputs[0], options.layout or ("nhwc" if channels_last else "nchw")


def _framed(picture: Image, size: tuple[int | str | None, ...], options: ImageOptions, path: Path) -> Image:
    """Resize and crop; the model's fixed size is what comes out unless the options say another."""
    own = (size[0], size[1]) if isinstance(size[0], int) and isinstance(size[1], int) else None
    crop = _pair(options.crop) or (own if options.resize else None)
    if options.resize is not None:
        picture = picture.resize(_resized(picture, options.resize), BILINEAR)
    elif own and not options.crop:
        picture = picture.resize((own[1], own[0]), BILINEAR)
    if crop is None:
        return picture
    if crop[0] > picture.height or crop[1] > picture.width:
        raise DataError(
            f"{str(path)!r} is {picture.height}x{picture.width}, expected at least the crop of {crop[0]}x{crop[1]}",
            "resize to more than the crop, or leave small pictures out",
        )
    left, top = round((picture.width - crop[1]) / 2), round((picture.height - crop[0]) / 2)
    return picture.crop((left, top, left + crop[1], top + crop[0]))


def _resized(picture: Image, resize: int | tuple[int, int]) -> tuple[int, int]:
    """Return the new (width, height)."""
    if not isinstance(resize, int):
        return resize[1], resize[0]
    factor = resize / min(picture.size)
    return max(round(picture.width * factor), resize), max(round(picture.height * factor), resize)


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _normalized(pixels: Array, dtype: np.dtype[Any], options: ImageOptions) -> Array:
    plain = options.mean == (0.0,) and options.std == (1.0,) and options.scale is None
    if plain and dtype.kind != "f":
        return pixels.astype(dtype)
    scale = (1 / 255 if dtype.kind == "f" else 1.0) if options.scale is None else options.scale
    for name, values in (("mean", options.mean), ("std", options.std)):
        if len(values) not in (1, pixels.shape[2]):
            raise ConfigError(f"{name} has {len(values)} values, expected 1 or {pixels.shape[2]}: one a channel")
    scaled = pixels.astype(np.float32) * np.float32(scale) - np.asarray(options.mean, np.float32)
    return (scaled / np.asarray(options.std, np.float32)).astype(dtype)
