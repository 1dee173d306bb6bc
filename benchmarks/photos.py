"""Real photographs that anybody can get: 20 of ILSVRC with labels, and a dozen without to calibrate on.

Five views of each (the centre and the corners of the photograph scaled to 256), since 20 are few.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from package_download import wheel
from PIL import Image

LABELLED = "foolbox==3.3.4"
UNLABELLED = {
    "scikit-image>=0.22": (
        "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
        "gravel.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg",
    ),
    "scikit-learn>=1.3": ("china.jpg", "flower.jpg"),
}  # fmt: skip
CALIBRATION_VIEWS = 64
SCALED, SIDE = 256, 224
Array = npt.NDArray[np.generic]

# network -> mean and standard deviation of pixels in 0..1
NORMALIZATION = {
    "mobilenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet": ((127 / 255,) * 3, (128 / 255,) * 3),
}


def five_views(image: Image.Image) -> Iterator[Array]:
    """Yield uint8 224×224×3 views: centre, then the four corners."""
    scale = SCALED / min(image.size)
    width, height = (max(SCALED, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    right, bottom = width - SIDE, height - SIDE
    for x, y in ((right // 2, bottom // 2), (0, 0), (right, 0), (0, bottom), (right, bottom)):
        yield pixels[y : y + SIDE, x : x + SIDE]


def open_image(archive: zipfile.ZipFile, name: str) -> Image.Image:
    """Return the decoded image `name` of an archive."""
    return Image.open(io.BytesIO(archive.read(name)))


def labelled_views(cache: Path) -> tuple[Array, Array]:
    """Return uint8 100×224×224×3 views and their ImageNet class, int64."""
    views, labels = [], []
    with zipfile.ZipFile(wheel(LABELLED, cache)) as archive:
        for name in sorted(archive.namelist()):
            if found := re.search(r"/imagenet_\d+_(\d+)\.jpg$", name):
                views += list(five_views(open_image(archive, name)))
                labels += [int(found[1])] * 5
    return np.stack(views), np.array(labels, np.int64)


def unlabelled_photos(cache: Path) -> Iterator[Image.Image]:
    """Yield the photographs to calibrate on."""
    for requirement, names in UNLABELLED.items():
        with zipfile.ZipFile(wheel(requirement, cache)) as archive:
            members = {Path(name).name: name for name in archive.namelist()}
            yield from (open_image(archive, members[name]) for name in names)


def unlabelled_views(cache: Path) -> Array:
    """Return uint8 64×224×224×3 views of other photographs; every photograph's centre comes first."""
    photos = [list(five_views(image)) for image in unlabelled_photos(cache)]
    return np.stack([photo[view] for view in range(5) for photo in photos])[:CALIBRATION_VIEWS]


def normalize(views: Array, network: str) -> npt.NDArray[np.float32]:
    """Return float32 N×3×224×224, as `network` was trained."""
    mean, deviation = (np.array(values, np.float32)[:, None, None] for values in NORMALIZATION[network])
    pixels = views.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return ((pixels - mean) / deviation).astype(np.float32)


def save(path: Path, **arrays: Array) -> None:
    """Write an npz under a temporary name and move it into place."""
    partial = path.with_name(f".{path.stem}.partial.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    os.replace(partial, path)


def build(cache: Path) -> None:
    """Write photos_NETWORK_{calib,eval}.npz: array `input`, and `labels` where known."""
    views, labels = labelled_views(cache)
    calibration = unlabelled_views(cache)
    for network in NORMALIZATION:
        save(cache / f"photos_{network}_calib.npz", input=normalize(calibration, network))
        save(cache / f"photos_{network}_eval.npz", input=normalize(views, network), labels=labels)
