"""Exports the networks of the zoo by quantonnx.torch.export, and compares with what torch's exporters write by default.

    python benchmarks/torch_exports.py [NAME...] [--exporter dynamo|torchscript] [--cache DIR]

A line for each network and exporter: processor seconds with verification, how far ONNX Runtime is from the module (of
the largest value, the worst of several batch sizes), operators, and matched groups of operators for each target; after
the strokes those of the file that benchmarks/zoo.py writes. Transformers have the attention that is their default.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import zoo
from fetch_models import DEFAULT_CACHE
from package_download import Unavailable

from quantonnx.errors import QuantonnxError
from quantonnx.model import Model
from quantonnx.rewriting import transform

EXPORTERS = {"dynamo": "dynamo", "torchscript": "ts"}
TARGETS = ("tensorrt", "onnxruntime")
MODULES = [name for name, entry in zoo.ENTRIES.items() if isinstance(entry, zoo.Network)]


def groups(model: Model, target: str) -> Counter[str]:
    """Returns how many groups of each pattern the target fuses in a model."""
    return Counter(step.pattern for step in transform(model, target=target).matches if step.apply)


def exported(name: str, exporter: str) -> tuple[Model, float, float]:
    """Returns the model of a network, the seconds that it took, and how far it is from the module."""
    import torch
    import zoo_models

    from quantonnx.torch.agreement import require_agreement
    from quantonnx.torch.calls import call_of
    from quantonnx.torch.examples import evaluating
    from quantonnx.torch.exporting import ExportSettings, exported

    entry = zoo.ENTRIES[name]
    make = functools.partial(getattr(zoo_models, entry.make), *entry.arguments, *(("sdpa",) if entry.attention else ()))
    module = zoo_models.prepare(make, name, entry.draw)
    feed = next(iter(zoo.feeds(name, 1)))
    settings = ExportSettings(exporter=exporter, input_names=tuple(feed))
    start = time.process_time()
    model, example = exported(module, call_of(zoo_models.tensors(feed)), settings, force=False)
    seconds = time.process_time() - start
    with torch.no_grad(), evaluating(module):
        return model, seconds, require_agreement(model, example)


def row(name: str, exporter: str, cache: Path) -> bool:
    """Prints a line; False where the export fails or matches less than the zoo's file."""
    label = f"{name:20} {exporter:12}"
    try:
        model, seconds, apart = exported(name, exporter)
    except QuantonnxError as error:
        print(f"{label} {error}", flush=True)
        return False
    zoos = Model.read(zoo.build(name, EXPORTERS[exporter], cache))
    matched = [(groups(model, target), groups(zoos, target)) for target in TARGETS]
    operators = f"{len(model.graph.nodes):5} / {len(zoos.graph.nodes):5}"
    counts = "  ".join(f"{mine.total():4} / {theirs.total():4}" for mine, theirs in matched)
    print(f"{label} {seconds:6.1f} s {apart:8.1e}  {operators}  {counts}", flush=True)
    for mine, theirs in matched:
        for pattern in sorted(mine | theirs):
            if mine[pattern] != theirs[pattern]:
                print(f"    {pattern}: {mine[pattern]} / {theirs[pattern]}", flush=True)
    return all(mine.total() >= theirs.total() for mine, theirs in matched)


def main() -> int:
    """Print the table; 1 if any export fails or matches less, 2 if a network cannot be had."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODULES))
    parser.add_argument("--exporter", choices=EXPORTERS, help="default: both")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="default: %(default)s")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    columns = "  ".join(f"{target:>11}" for target in TARGETS)
    print(f"{'network':20} {'exporter':12} {'time':>8} {'apart':>8}  {'operators':>13}  {columns}")
    good = True
    try:
        for name in arguments.names or MODULES:
            for exporter in (arguments.exporter,) if arguments.exporter else EXPORTERS:
                good &= row(name, exporter, arguments.cache)
    except Unavailable as reason:
        print(f"not available: {reason}", file=sys.stderr)
        return 2
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
