"""Compares where pairs stand in the two exports of one network: by structure, since every exporter gives other names.

    python benchmarks/zoo_sites.py [NAME...] [--target T] [--cache DIR] [--show]

A table of network × target: pairs on activations and quantized weights in the TorchScript and the dynamo export, and
how many of them the other one does not have. `--show` prints those. Networks are built by benchmarks/zoo.py.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_graphsurgeon as gs
import zoo
from fetch_models import DEFAULT_CACHE
from package_download import Unavailable

from quantonnx.config import QuantConfig
from quantonnx.formats import TensorFormat
from quantonnx.model import Model
from quantonnx.placement import place
from quantonnx.rewriting import transform
from quantonnx.shapes import Shape, infer_shapes
from quantonnx.sites import Site

TARGETS = ("tensorrt", "onnxruntime", "openvino")
Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, order=True)
class Reader:
    """An operator that reads a pair: its kind, at which input, and the shape of its weight if it has one."""

    operator: str
    index: int
    weight: tuple[int, ...]


@dataclass(frozen=True)
class Described:
    """A site without its names."""

    roles: tuple[str, ...]
    format: TensorFormat
    shape: Shape | None
    readers: tuple[Reader, ...]
    whole: bool

    def __str__(self) -> str:
        sign = "s" if self.format.signed else "u"
        axis = "" if self.format.axis is None else f"@{self.format.axis}"
        readers = " ".join(f"{r.operator}[{r.index}]{list(r.weight) if r.weight else ''}" for r in self.readers)
        whole = " whole" if self.whole else ""
        return f"{'+'.join(self.roles)} {sign}{self.format.n_bits}{axis} {list(self.shape or ())}{whole} → {readers}"


@dataclass(frozen=True)
class Found:
    """The sites of one file, described, and how many nodes its graph has left."""

    sites: Counter[Described]
    nodes: int

    def count(self, *, activation: bool) -> int:
        """How many pairs stand on activations, or how many weights are quantized."""
        role = {"weight"} if not activation else {"input", "residual_input", "output"}
        return sum(number for site, number in self.sites.items() if role & set(site.roles))


def find(path: Path | Model, target: str, sizes: Sizes) -> Found:
    """Returns the sites of a file for a target; `sizes` are the shapes of the graph's inputs."""
    done = transform(path, target=target)
    shapes = infer_shapes(done.model, sizes)
    nodes = {node.name: node for node in done.model.graph.nodes}
    placed = place(done.model, done.matches, QuantConfig()).sites
    return Found(Counter(describe(site, nodes, shapes) for site in placed), len(nodes))


def describe(site: Site, nodes: Mapping[str, gs.Node], shapes: Mapping[str, Shape]) -> Described:
    """Returns a site by the operators that read it and the shapes around it."""
    readers = tuple(sorted(reader(nodes[edge.node], edge.index) for edge in site.edges))
    roles = tuple(sorted({role.value for role in site.roles}))
    return Described(roles, site.format, shapes.get(site.tensor), readers, site.whole)


def reader(node: gs.Node, index: int) -> Reader:
    """Returns what reads a value as its input `index`; which operand of a commutative operator it is does not count."""
    weights = [value for value in node.inputs if isinstance(value, gs.Constant) and len(value.shape) > 1]
    place = 0 if node.op in ("Add", "Mul") else index
    return Reader(node.op, place, tuple(weights[0].shape) if weights else ())


def sizes_of(name: str) -> Sizes:
    """Returns the shapes of the inputs of a network."""
    return {key: value.shape for key, value in next(iter(zoo.feeds(name, 1))).items()}


def compare(name: str, target: str, cache: Path) -> tuple[Found, Found]:
    """Returns the sites of the TorchScript and of the dynamo export; Unavailable says why one cannot be had."""
    sizes = sizes_of(name)
    ts, dynamo = (find(zoo.build(name, exporter, cache), target, sizes) for exporter in zoo.EXPORTERS)
    return ts, dynamo


def row(name: str, target: str, ts: Found, dynamo: Found) -> str:
    """Returns a line of the table."""
    counts = [f"{found.count(activation=on):5}" for on in (True, False) for found in (ts, dynamo)]
    extra = [(mine.sites - theirs.sites).total() for mine, theirs in ((ts, dynamo), (dynamo, ts))]
    return f"{name:20} {target:12} {' '.join(counts)} {extra[0]:9} {extra[1]:11} {ts.nodes:6} {dynamo.nodes:6}"


def show_differences(ts: Found, dynamo: Found) -> None:
    """Prints the sites that one export has and the other has not."""
    for label, mine, theirs in (("ts", ts, dynamo), ("dynamo", dynamo, ts)):
        for site, number in sorted((mine.sites - theirs.sites).items(), key=str):
            print(f"    only {label}: {number} × {site}")


def main() -> int:
    """Print the table; 1 if any network gets other sites from its other export, 2 if one cannot be had."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    both = [name for name in zoo.names() if len(zoo.exporters(name)) == 2]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(both))
    parser.add_argument("--target", choices=TARGETS, help="default: all three")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="default: %(default)s")
    parser.add_argument("--show", action="store_true", help="print the sites that only one export has")
    arguments = parser.parse_args()
    print(f"{'':33} activations   weights    only in     only in  nodes  nodes")
    print(f"{'network':20} {'target':12}    ts   dyn    ts   dyn        ts      dynamo     ts dynamo")
    same = True
    for name in arguments.names or both:
        for target in (arguments.target,) if arguments.target else TARGETS:
            try:
                ts, dynamo = compare(name, target, arguments.cache)
            except Unavailable as reason:
                print(f"{name}: not available: {reason}", file=sys.stderr)
                return 2
            print(row(name, target, ts, dynamo), flush=True)
            same &= ts.sites == dynamo.sites
            if arguments.show:
                show_differences(ts, dynamo)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
