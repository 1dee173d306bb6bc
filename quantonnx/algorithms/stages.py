"""A network run stage by stage, so that what stands before a layer may change before the layer sees its inputs.

A stage is a level of layers that do not depend on each other, and what follows them up to the next level. Each runs
once for every sample, as a model of its own, from values that the stage before left on disk: neither is the whole
network run again for every layer, nor are the activations of all samples in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from quantonnx.calibration.loading import first_line, load_session
from quantonnx.errors import DataError, ModelError
from quantonnx.importing import bodies, outer_reads
from quantonnx.model import Model
from quantonnx.weights import load_array

Array = NDArray[Any]


@dataclass(frozen=True)
class Stage:
    """The layers of one level by node name; the nodes to run after they are changed; what these read and must give.

    `dropped` are values that no later stage reads.
    """

    layers: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    dropped: tuple[str, ...]


class Stages:
    """A fused float model cut at the inputs of `layers` (names of nodes); iterate over its stages in order.

    The first stage has no layers: it is what comes before any. What no layer depends on is in no stage.
    """

    def __init__(self, model: Model, layers: Collection[str]) -> None:
        self._light, self._large = model.light()
        self.inputs = tuple(value.name for value in model.graph.inputs if isinstance(value, gs.Variable))
        small = {item.name: item for item in self._light.graph.initializer}
        self._small = small
        self._stages = list(_cut(self._light.graph, set(layers), set(self.inputs), set(small) | set(self._large)))

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    def __len__(self) -> int:
        return len(self._stages)

    def model(self, stage: Stage, types: Mapping[str, Array], changed: Mapping[str, Array]) -> bytes:
        """Returns the model of a stage as bytes; `types` has an example of each value that it reads, `changed` other
        values of constants."""
        names = {name for node in stage.nodes for name in _reads(node)}
        graph = onnx.GraphProto(name="stage", node=stage.nodes)
        graph.input.extend(_value_info(name, types[name]) for name in stage.reads)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in stage.gives)
        for name in sorted(names & (self._small.keys() | self._large.keys())):
            graph.initializer.append(self._initializer(name, changed.get(name)))
        light = self._light
        proto = onnx.ModelProto(ir_version=light.ir_version, opset_import=light.opset_import, graph=graph)
        if proto.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:
            raise ModelError(f"the stage after {stage.layers[:1]} has over 2 GB", "round fewer layers")
        return bytes(proto.SerializeToString())

    def _initializer(self, name: str, values: Array | None) -> onnx.TensorProto:
        if values is None and name in self._small:
            known: onnx.TensorProto = self._small[name]
            return known
        if values is None:
            values = load_array(self._large[name])
        return numpy_helper.from_array(np.ascontiguousarray(values), name)


class Stream:
    """All samples at one place of the network, on disk; `advance` takes them through a stage."""

    def __init__(self, stages: Stages, folder: Path, feeds: Iterable[Mapping[str, Array]], threads: int | None) -> None:
        self._stages = stages
        self._folder = folder
        self._threads = threads
        self._numbers: dict[str, int] = {}
        self._kinds: dict[tuple[int, str], tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self.samples = 0
        folder.mkdir()
        for feed in feeds:
            self._keep(self.samples, {name: feed[name] for name in stages.inputs})
            self.samples += 1
        if not self.samples:
            raise DataError("the data holds no samples, expected at least one")

    def feeds(self) -> Iterator[dict[str, Array]]:
        """Yields the samples themselves; before the first stage only."""
        for sample in range(self.samples):
            yield {name: self._load(sample, name) for name in self._stages.inputs}

    def values(self, name: str) -> Iterator[Array]:
        """Yields a value for one sample after the other."""
        for sample in range(self.samples):
            yield self._load(sample, name)

    def advance(self, stage: Stage, changed: Mapping[str, Array]) -> None:
        """Runs a stage for every sample; `changed` are weights that are no longer those of the model."""
        if stage.gives:
            example = {name: self._load(0, name) for name in stage.reads}
            session = load_session(self._stages.model(stage, example, changed), self._threads)
            for sample in range(self.samples):
                feed = {name: self._load(sample, name) for name in stage.reads}
                try:
                    found = session.run(list(stage.gives), feed)
                except Exception as error:
                    raise DataError(f"ONNX Runtime cannot run sample {sample}: {first_line(error)}") from error
                self._keep(sample, dict(zip(stage.gives, found, strict=True)))
        for name in stage.dropped:
            for sample in range(self.samples):
                self._drop(sample, name)

    def _keep(self, sample: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if not isinstance(value, np.ndarray):
                raise ModelError(f"the value {name!r} is a {type(value).__name__}, expected a tensor between stages")
            self._kinds[sample, name] = value.dtype, value.shape
            np.ascontiguousarray(value).tofile(self._path(sample, name))

    def _load(self, sample: int, name: str) -> Array:
        dtype, shape = self._kinds[sample, name]
        return np.fromfile(self._path(sample, name), dtype).reshape(shape)

    def _drop(self, sample: int, name: str) -> None:
        del self._kinds[sample, name]
        self._path(sample, name).unlink()

    def _path(self, sample: int, name: str) -> Path:
        number = self._numbers.setdefault(name, len(self._numbers))
        return self._folder / f"{number}_{sample}"


def _cut(graph: onnx.GraphProto, layers: set[str], inputs: set[str], constants: set[str]) -> Iterator[Stage]:
    """The stages of a graph whose nodes are in an order that runs."""
    nodes = _needed(graph, layers)
    level = dict.fromkeys(inputs, 0)
    stage_of: dict[str, int] = {}
    for node in nodes:
        own = max((level.get(name, 0) for name in _reads(node)), default=0)
        stage_of[node.name] = own + 1 if node.name in layers else own
        level.update(dict.fromkeys(node.output, own + (node.name in layers)))
    last_read: dict[str, int] = {}
    for node in nodes:
        for name in set(_reads(node)) - constants:
            last_read[name] = max(last_read.get(name, 0), stage_of[node.name])
    made = {name: stage_of[node.name] for node in nodes for name in node.output} | dict.fromkeys(inputs, -1)
    for number in range(max(stage_of.values(), default=-1) + 1):
        yield _stage(number, nodes, stage_of, layers, made, last_read)


def _stage(
    number: int,
    nodes: list[onnx.NodeProto],
    stage_of: Mapping[str, int],
    layers: set[str],
    made: Mapping[str, int],
    last_read: Mapping[str, int],
) -> Stage:
    own = [node for node in nodes if stage_of[node.name] == number]
    gives = [name for node in own for name in node.output if last_read.get(name, -1) > number]
    run = _ancestors(own, set(gives))
    reads = {name for node in run for name in _reads(node) if made.get(name, number) < number}
    return Stage(
        tuple(node.name for node in own if node.name in layers),
        tuple(run),
        tuple(sorted(reads)),
        tuple(gives),
        tuple(sorted(name for name, place in made.items() if place < number and last_read.get(name, -1) == number)),
    )


def _needed(graph: onnx.GraphProto, layers: set[str]) -> list[onnx.NodeProto]:
    """The layers and all that they depend on."""
    wanted = {name for node in graph.node if node.name in layers for name in node.output}
    return _ancestors(list(graph.node), wanted)


def _ancestors(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    found = []
    wanted = set(wanted)
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            found.append(node)
            wanted.update(_reads(node))
    return found[::-1]


def _reads(node: onnx.NodeProto) -> list[str]:
    inner = [name for attribute in node.attribute for body in bodies(attribute) for name in outer_reads(body)]
    return [name for name in (*node.input, *inner) if name]


def _value_info(name: str, example: Array) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(example.dtype)
    return helper.make_tensor_value_info(name, kind, [f"{name}_{axis}" for axis in range(example.ndim)])
