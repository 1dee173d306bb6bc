"""Builds the architectures that people deploy, by both of torch's exporters, in a cache folder.

    python benchmarks/zoo.py [NAME...] [--exporter ts|dynamo] [--cache DIR] [--force]

Weights are random with a fixed seed (PP-OCR's are trained); every file is proved by ONNX Runtime against torch.
NAME is any of those that --help lists; without one, all of them. Needs `pip install -e .[zoo]`; with a build of torch
for CPUs only, torchvision and timm come without what they ask for, which is another build of torch:

    pip install --no-deps torchvision==0.28.0 timm==1.0.31
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import zoo_feeds
from fetch_models import DEFAULT_CACHE, require_torch
from package_download import Unavailable, member, wheel
from zoo_feeds import Draw, Feed

if TYPE_CHECKING:
    from torch import nn

EXPORTERS = ("ts", "dynamo")
RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
OCR = "rapidocr_onnxruntime/models/ch_PP-OCRv4"


@dataclass(frozen=True)
class Network:
    """A torch network: the function of zoo_models.py that makes it, its arguments, and what draws its inputs.

    `attention`: it takes the attention implementation, which depends on the exporter.
    """

    make: str
    arguments: tuple[str, ...]
    draw: Draw
    attention: bool = False


@dataclass(frozen=True)
class Published:
    """An ONNX file inside a wheel, used as it is."""

    file: str
    sha256: str
    draw: Draw


IMAGE = zoo_feeds.image(224)

ENTRIES: dict[str, Network | Published] = {
    "minilm": Network("minilm", (), zoo_feeds.sentence(64, 30522), attention=True),
    "resnet50": Network("own", ("ResNet50",), IMAGE),
    "mobilenet_v3_large": Network("vision", ("mobilenet_v3_large",), IMAGE),
    "vit": Network("timm_model", ("vit_small_patch16_224",), IMAGE),
    "yolo": Network("yolo", (), zoo_feeds.photograph(320)),
    "swin_t": Network("vision", ("swin_t",), IMAGE),
    "convnext_tiny": Network("vision", ("convnext_tiny",), IMAGE),
    "whisper": Network("whisper", (), zoo_feeds.spectrogram(80, 3000), attention=True),
    "gpt2": Network("gpt2", (), zoo_feeds.sentence(64, 16384), attention=True),
    "mobilenet_v2": Network("own", ("MobileNetV2",), IMAGE),
    "efficientnet_b0": Network("vision", ("efficientnet_b0",), IMAGE),
    "densenet121": Network("vision", ("densenet121",), IMAGE),
    "shufflenet_v2_x1_0": Network("vision", ("shufflenet_v2_x1_0",), IMAGE),
    "mobilevit_s": Network("timm_model", ("mobilevit_s",), zoo_feeds.image(256)),
    "deeplabv3": Network("deeplab", (), IMAGE),
    "vit_packed": Network("packed_vit", (), IMAGE),
    "ppocr_det": Published(f"{OCR}_det_infer.onnx", "d2a7720d", zoo_feeds.text(320, 320, 8)),
    "ppocr_rec": Published(f"{OCR}_rec_infer.onnx", "48fc40f2", zoo_feeds.text(48, 320, 1)),
}

# How a transformers model computes attention: its own default is sdpa, which export guides replaced by eager.
ATTENTION = {"ts": "eager", "dynamo": "sdpa"}


def names() -> tuple[str, ...]:
    """Return the names of all entries."""
    return tuple(ENTRIES)


def exporters(name: str) -> tuple[str, ...]:
    """Return the exporters by which `name` can be built; only the first for a file that is used as published."""
    return EXPORTERS[:1] if isinstance(ENTRIES[name], Published) else EXPORTERS


def feeds(name: str, count: int) -> Iterator[Feed]:
    """Yield `count` feeds of batch 1 for the entry `name`, the same on every call."""
    return zoo_feeds.feeds(name, ENTRIES[name].draw, count)


def build(name: str, exporter: str = "ts", cache: Path = DEFAULT_CACHE, *, force: bool = False) -> Path:
    """Return the file of `name` in `cache`, made if it is not there; Unavailable says why it cannot be had."""
    entry = ENTRIES[name]
    published = isinstance(entry, Published)
    path = cache.expanduser().resolve() / (f"{name}.onnx" if published else f"{name}_{exporter}.onnx")
    if force or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        if published:
            unpack(entry, path)
        else:
            export(name, entry, exporter, path)
    return path


def unpack(entry: Published, path: Path) -> None:
    """Copy a published file to `path`."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.copyfile(member(wheel(RAPIDOCR, path.parent), entry.file, sha256=entry.sha256), partial)
    os.replace(partial, path)


def export(name: str, entry: Network, exporter: str, path: Path) -> None:
    """Export a network to `path`; what the exporter refuses is Unavailable, with its innermost reason."""
    network = module(name, entry, exporter)
    import zoo_export

    try:
        zoo_export.export(network, exporter, list(feeds(name, 3)), path)
    except Exception as error:  # the exporters raise nearly everything
        raise Unavailable(f"{exporter} cannot export {name}: {first_reason(error)}") from error


def first_reason(error: BaseException) -> str:
    """Return the first line of the exception that started it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def module(name: str, entry: Network, exporter: str) -> nn.Module:
    """Return the torch module of an entry, in evaluation mode, the same weights on every call."""
    require_torch()
    import zoo_models

    attention = (ATTENTION[exporter],) if entry.attention else ()
    make = functools.partial(getattr(zoo_models, entry.make), *entry.arguments, *attention)
    return zoo_models.prepare(make, name, entry.draw)


def show(name: str, exporter: str, cache: Path, *, force: bool) -> bool:
    """Build one file and print where it is; False, with the reason, if it cannot be had."""
    start = time.perf_counter()
    try:
        path = build(name, exporter, cache, force=force)
    except Unavailable as reason:
        print(f"{name} ({exporter}): not available: {reason}", file=sys.stderr, flush=True)
        return False
    seconds, size = time.perf_counter() - start, path.stat().st_size / 1e6
    print(f"{name}: {path} ({size:.0f} MB, {seconds:.0f} s)", flush=True)
    return True


def main() -> int:
    """Build what the command line names; 2 if anything cannot be had."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ENTRIES))
    parser.add_argument("--exporter", choices=EXPORTERS, help="default: both")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="build again what is there already")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in ENTRIES]:
        parser.error(f"unknown name {unknown[0]!r}; one of {', '.join(ENTRIES)}")
    chosen = (arguments.exporter,) if arguments.exporter else EXPORTERS
    wanted = [
        (name, exporter)
        for name in arguments.names or ENTRIES
        for exporter in exporters(name)
        if exporter in chosen or isinstance(ENTRIES[name], Published)
    ]
    done = [show(name, exporter, arguments.cache, force=arguments.force) for name, exporter in wanted]
    return 0 if all(done) else 2


if __name__ == "__main__":
    sys.exit(main())
