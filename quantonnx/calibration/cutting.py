"""A graph cut into stages that run one after the other: what each reads, gives to later ones, and lets go."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import onnx

from quantonnx.importing import bodies, outer_reads

_RANDOM = frozenset({"Bernoulli", "Multinomial"})


@dataclass(frozen=True)
class Stage:
    """The layers of a stage by node name, where it has any: those to change before `nodes` run; what these read, give
    to later stages, and show to whoever watches.

    `dropped` are values that no later stage reads.
    """

    layers: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    dropped: tuple[str, ...]
    shows: tuple[str, ...] = ()


def cut(
    nodes: Sequence[onnx.NodeProto],
    places: Sequence[int | None],
    inputs: Collection[str],
    *,
    layers: Collection[str] = (),
    shown: Collection[str] = (),
    kept: Collection[str] = (),
) -> list[Stage]:
    """Returns the stages of nodes that are in an order that runs, each at its place: the number of its stage, from 0.

    Nodes without a place depend on constants alone and run in every stage that needs them. `kept` are values that are
    never dropped.
    """
    made: dict[str, float] = dict.fromkeys(inputs, -1)
    last_read: dict[str, float] = {}
    for node, place in zip(nodes, places, strict=True):
        if place is not None:
            made.update(dict.fromkeys(filter(None, node.output), place))
            last_read.update((name, max(last_read.get(name, -1), place)) for name in reads_of(node))
    last_read |= dict.fromkeys(kept, inf)
    count = max((place for place in places if place is not None), default=-1) + 1
    return [_stage(number, nodes, places, set(layers), set(shown), made, last_read) for number in range(count)]


def _stage(
    number: int,
    nodes: Sequence[onnx.NodeProto],
    places: Sequence[int | None],
    layers: set[str],
    shown: set[str],
    made: Mapping[str, float],
    last_read: Mapping[str, float],
) -> Stage:
    within = [node for node, place in zip(nodes, places, strict=True) if place in (number, None)]
    own = [name for node, place in zip(nodes, places, strict=True) if place == number for name in node.output]
    gives = tuple(name for name in own if last_read.get(name, -1) > number)
    shows = tuple(name for name in own if name in shown)
    run = ancestors(within, {*gives, *shows})
    reads = {name for node in run for name in reads_of(node) if made.get(name, number) < number}
    return Stage(
        tuple(node.name for node, place in zip(nodes, places, strict=True) if place == number and node.name in layers),
        tuple(run),
        tuple(sorted(reads)),
        gives,
        tuple(sorted(name for name, place in made.items() if place < number and last_read.get(name, -1) == number)),
        shows,
    )


def ancestors(nodes: Sequence[onnx.NodeProto], wanted: Collection[str]) -> list[onnx.NodeProto]:
    """Returns those of the nodes, which are in an order that runs, that the wanted values depend on."""
    found, needed = [], set(wanted)
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            found.append(node)
            needed.update(reads_of(node))
    return found[::-1]


def reads_of(node: onnx.NodeProto) -> list[str]:
    """Returns the values that a node reads, those that its bodies read from outside included."""
    inner = [name for attribute in node.attribute for body in bodies(attribute) for name in outer_reads(body)]
    return [name for name in (*node.input, *inner) if name]


def of_constants(nodes: Sequence[onnx.NodeProto], constants: Collection[str]) -> Iterator[bool]:
    """Tells of each node, in an order that runs, whether what it gives follows from constants alone."""
    known = set(constants)
    for node in nodes:
        random = node.op_type in _RANDOM or node.op_type.startswith("Random")
        alone = not random and all(name in known for name in reads_of(node))
        known.update(node.output if alone else ())
        yield alone
