"""Sample inputs for the zoo's networks: random, the same on every call, with the statistics of real ones."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np

Feed = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator], Feed]


def smooth(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return 1/f noise (the spectrum of photographs) over the last two axes, mean 0 and deviation 1, float32."""
    height, width = shape[-2:]
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    field = np.fft.irfft2(spectrum, s=(height, width))
    field -= field.mean((-2, -1), keepdims=True)
    return (field / field.std((-2, -1), keepdims=True)).astype(np.float32)


def image(size: int) -> Draw:
    """Return what draws one normalised image, 1×3×size×size, mean 0 and deviation 1."""
    return lambda rng: {"input": smooth(rng, 1, 3, size, size)}


def photograph(size: int) -> Draw:
    """Return what draws one RGB image in 0..1, 1×3×size×size, as detectors take it."""
    return lambda rng: {"images": np.clip(0.45 + 0.25 * smooth(rng, 1, 3, size, size), 0, 1)}


def text(height: int, width: int, lines: int) -> Draw:
    """Return what draws dark lines of random 5×7 glyphs on light paper, 1×3×H×W in −1..1, as PP-OCR takes it."""
    pitch = height // lines
    dot = max(1, 2 * pitch // 3 // 7)

    def draw(rng: np.random.Generator) -> Feed:
        page = 0.7 + 0.05 * smooth(rng, 1, 3, height, width)
        for top in range((pitch - 7 * dot) // 2, height - 7 * dot, pitch):
            for left in range(2 * dot, width - 5 * dot, 6 * dot):
                glyph = np.kron(rng.random((7, 5)) < 0.5 * (rng.random() < 0.85), np.ones((dot, dot)))
                page[..., top : top + 7 * dot, left : left + 5 * dot] -= 1.4 * glyph
        return {"x": np.clip(page, -1, 1).astype(np.float32)}

    return draw


def sentence(length: int, vocabulary: int) -> Draw:
    """Return what draws a padded sentence of random length: ids (by Zipf's law) and mask, int64 1×length each."""
    first = vocabulary // 30  # the ids below are reserved in real vocabularies

    def draw(rng: np.random.Generator) -> Feed:
        mask = (np.arange(length) < rng.integers(length // 4, length + 1)).astype(np.int64)[None]
        words = first + rng.zipf(1.2, (1, length)) % (vocabulary - first)
        return {"input_ids": words.astype(np.int64) * mask, "attention_mask": mask}

    return draw


def spectrogram(bands: int, frames: int) -> Draw:
    """Return what draws a log-mel spectrogram as Whisper scales it, 1×bands×frames, about −1..1.5."""
    return lambda rng: {"input_features": np.clip(0.5 * smooth(rng, 1, bands, frames), -1.0, 1.5)}


def feeds(name: str, draw: Draw, count: int) -> Iterator[Feed]:
    """Yield `count` feeds of batch 1 for the network `name`: the first ones are the same for every count."""
    for index in range(count):
        yield draw(np.random.default_rng((zlib.crc32(name.encode()), index)))


def batch(samples: list[Feed]) -> Feed:
    """Return feeds of batch 1 as one feed."""
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
