"""PP-OCR v4's text recogniser as published, and drawn lines of text to calibrate and to measure it on.

Fonts come out of Debian packages; every line has its own words, font, colours, slant, blur and noise.
"""

from __future__ import annotations

import os
import shutil
import string
from pathlib import Path

import numpy as np
import numpy.typing as npt
from package_download import debian, member, wheel
from photos import save
from PIL import Image, ImageDraw, ImageFilter, ImageFont

RECOGNISER = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
FONTS = {
    "fonts-dejavu-core": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf"),
    "fonts-freefont-ttf": ("FreeSans.ttf", "FreeSansBoldOblique.ttf", "FreeSerif.ttf", "FreeSerifItalic.ttf"),
    "fonts-cabin": ("Cabin-Regular.otf", "Cabin-BoldItalic.otf"),
    "fonts-courier-prime": ("Courier Prime.otf",),
}
VOCABULARY = (
    "account airport arrival balance battery bicycle boarding bottle breakfast bridge building camera candle carton "
    "central charge chapter checkout closed coffee company contents copyright corner counter country customer date "
    "delivery departure deposit discount district doctor double emergency engine entrance evening exit express family "
    "ferry flight floor garden gate general ground harbour height hotel hour house identity invoice island journey "
    "kitchen laundry length library licence luggage market medical member message minute mobile monday museum number "
    "office open order parcel parking passenger payment pepper pharmacy phone platform police price printed product "
    "quality quantity quarter railway receipt reduced refund region rental reserved return river safety saturday "
    "school season second service shipping signal single square station storage street sugar sunday supplier surname "
    "tax ticket total tower traffic transfer tuesday valid vehicle version village voltage warning water weekend "
    "weight window winter yellow zone"
)
WORDS = VOCABULARY.split()
HEIGHT, WIDTH = 48, 320
LARGEST_SLANT, LARGEST_BLUR, LARGEST_NOISE = 3.0, 1.4, 35.0  # degrees, pixels, deviation of 0..255
CALIBRATION_LINES, EVALUATION_LINES = 64, 400
GREY = 127.5  # becomes zero, with which the recogniser was trained to be padded
Line = tuple[npt.NDArray[np.float32], str]


def fonts(cache: Path) -> list[Path]:
    """Return the font files, always in the same order."""
    return [next(debian(package, cache).rglob(name)) for package, names in FONTS.items() for name in names]


def text(rng: np.random.Generator) -> str:
    """Return what a label, a receipt or a sign may say, 4 to 20 characters."""
    word, other = (rng.choice((word, word.title(), word.upper())) for word in rng.choice(WORDS, 2))
    digits = "".join(rng.choice(list(string.digits), 8))
    letters = "".join(rng.choice(list(string.ascii_uppercase), 4))
    return str(
        rng.choice(
            (
                word,
                f"{word} {other}",
                f"{word}{digits[:3]}",
                f"{word}: {digits[:2]}.{digits[2:4]}",
                f"{letters[:2]}-{digits[:5]}{letters[2]}",
                f"{digits[:2]}/{digits[2:4]}/20{digits[4:6]}",
                f"{letters}{digits[:4]}",
                f"${digits[:3]}.{digits[3:5]} {word}",
            )
        )
    )


def colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return paper and ink, RGB: light and dark or the other way round."""
    paper, ink = rng.integers(165, 256, 3), rng.integers(0, 110, 3)
    chosen = (paper, ink) if rng.random() < 0.75 else (ink, paper)
    return tuple(map(int, chosen[0])), tuple(map(int, chosen[1]))


def draw(words: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> Image.Image:
    """Return the line on its paper, as tightly cropped as a detector does it, slanted and blurred."""
    left, top, right, bottom = map(round, font.getbbox(words))
    around = rng.integers(2, 8, 4)
    paper, ink = colours(rng)
    size = (right - left + int(around[:2].sum()), bottom - top + int(around[2:].sum()))
    image = Image.new("RGB", size, paper)
    ImageDraw.Draw(image).text((around[0] - left, around[2] - top), words, ink, font)
    slant = rng.uniform(-LARGEST_SLANT, LARGEST_SLANT)
    image = image.rotate(slant, Image.Resampling.BICUBIC, fillcolor=paper)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, LARGEST_BLUR)))


def line(paths: list[Path], rng: np.random.Generator) -> Line:
    """Return one line of text, float32 48×320×3 in 0..255 with grey behind its end, and what it says."""
    font = ImageFont.truetype(rng.choice([str(path) for path in paths]), int(rng.integers(16, 44)))
    words = text(rng)
    image = draw(words, font, rng)
    width = min(WIDTH, max(1, round(image.width * HEIGHT / image.height)))
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float64)
    pixels = pixels + rng.normal(0, rng.uniform(0, LARGEST_NOISE), pixels.shape)
    padded = np.full((HEIGHT, WIDTH, 3), GREY, np.float32)
    padded[:, :width] = pixels.round().clip(0, 255)
    return padded, words


def lines(paths: list[Path], count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
    """Return `count` lines as the recogniser takes them, float32 N×3×48×320 in −1..1, and their text."""
    rng = np.random.default_rng(seed)
    images, said = zip(*(line(paths, rng) for _ in range(count)), strict=True)
    return np.stack(images).transpose(0, 3, 1, 2) / np.float32(GREY) - np.float32(1), np.array(said)


def build(cache: Path) -> None:
    """Write ppocr_rec.onnx, and ppocr_rec_{calib,eval}.npz: array `x`, and `text` to evaluate."""
    paths = fonts(cache)
    inputs, said = lines(paths, EVALUATION_LINES, seed=1)
    save(cache / "ppocr_rec_eval.npz", x=inputs, text=said)
    save(cache / "ppocr_rec_calib.npz", x=lines(paths, CALIBRATION_LINES, seed=2)[0])
    source = member(wheel("rapidocr-onnxruntime==1.4.4", cache), RECOGNISER, sha256="48fc40f2")
    partial = cache / ".ppocr_rec.onnx.partial"
    shutil.copyfile(source, partial)
    os.replace(partial, cache / "ppocr_rec.onnx")
