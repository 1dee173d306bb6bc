"""A network run stage by stage: each stage a model of its own, for all samples, from values that wait on disk.

Neither is the whole network in memory, nor are the activations of all samples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, ValueInfoProto, helper

from quantonnx.calibration.cutting import Stage, reads_of
from quantonnx.calibration.loading import first_line, load_session
from quantonnx.calibration.spilling import Spill, on_disk
from quantonnx.errors import DataError, ModelError
from quantonnx.exporting import Document
from quantonnx.model import Model
from quantonnx.weights import constant, to_onnx_dtype
from quantonnx.writing import write_external

Array = NDArray[Any]
Watch = Callable[[int, dict[str, Array]], None]

_OLDEST_IR = 4  # from here on initializers need not be inputs too


class StageModels:
    """A model whose stages become sessions: its graph without the data of weights, and where these are.

    `change` may add nodes and outputs to the graph before it is cut. `blocked` are values that the whole model has in
    the blocked layout of convolutions: stages get them into it again.
    """

    def __init__(self, model: Model, change: Callable[[onnx.ModelProto], None] = lambda proto: None) -> None:
        self._light, self.large = model.light()
        _declare(self._light.graph, self.large)
        change(self._light)
        self._small = {item.name: item for item in self._light.graph.initializer if item.name not in self.large}
        self._types = {info.name: info.type for info in self._light.graph.input}
        self.blocked: frozenset[str] = frozenset()
        self.inputs = tuple(value.name for value in model.graph.inputs if isinstance(value, gs.Variable))

    @property
    def proto(self) -> onnx.ModelProto:
        """The model; large weights are initializers without data."""
        return self._light

    @property
    def constants(self) -> set[str]:
        """The names of all constants."""
        return self._small.keys() | self.large.keys()

    def open(
        self,
        stage: Stage,
        examples: Mapping[str, Array],
        changed: Mapping[str, Array],
        load: Callable[[Path], ort.InferenceSession],
    ) -> ort.InferenceSession:
        """Returns a session of a stage, after those before it were opened; `examples` has values that it reads, where
        there are any, and `changed` other values of constants."""
        with tempfile.TemporaryDirectory(prefix="quantonnx-") as folder:
            path = Path(folder) / "stage.onnx"
            with on_disk(path):
                self._write(stage, path, examples, changed)
            session = load(path)
        self._types |= {given.name: _type_of(given) for given in session.get_outputs()}
        return session

    def _write(self, stage: Stage, path: Path, examples: Mapping[str, Array], changed: Mapping[str, Array]) -> None:
        names = {name for node in stage.nodes for name in reads_of(node)} & self.constants
        graph = onnx.GraphProto(name="stage", node=stage.nodes)
        graph.input.extend(self._input(name, examples.get(name)) for name in stage.reads)
        _block(graph, self.blocked)
        graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys((*stage.gives, *stage.shows)))
        graph.initializer.extend(self._small[name] for name in sorted(names - self.large.keys() - changed.keys()))
        written = [
            constant(name, np.asarray(changed[name])) if name in changed else self.large[name]
            for name in sorted(names & (self.large.keys() | changed.keys()))
        ]
        light = self._light
        head = onnx.ModelProto(ir_version=max(light.ir_version, _OLDEST_IR), opset_import=light.opset_import)
        data = path.with_name(path.name + ".data")
        with path.open("wb") as file, data.open("wb") as raw:
            write_external(Document(head, graph, tuple(written)), file, raw, data.name)

    def _input(self, name: str, example: Array | None) -> ValueInfoProto:
        kind = TypeProto()
        kind.CopyFrom(self._types.get(name, TypeProto()))
        if example is not None and not kind.tensor_type.HasField("shape"):
            kind.tensor_type.elem_type = to_onnx_dtype(example.dtype)
            kind.tensor_type.shape.SetInParent()
            for axis in range(example.ndim):
                kind.tensor_type.shape.dim.add(dim_param=f"{name}_{axis}")
        return ValueInfoProto(name=name, type=kind)


class Stages:
    """The stages of a model, in order, and what makes sessions of them."""

    def __init__(self, models: StageModels, stages: Iterable[Stage]) -> None:
        self.models = models
        self._stages = tuple(stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    def __len__(self) -> int:
        return len(self._stages)


class Stream:
    """All samples at one place of the network, on disk; `advance` takes them through a stage.

    `bounded` and `disabled` are those of `load_session`.
    """

    def __init__(
        self,
        stages: Stages,
        folder: Path,
        feeds: Iterable[Mapping[str, Array]],
        threads: int | None,
        *,
        bounded: bool = False,
        disabled: Sequence[str] = (),
    ) -> None:
        self._models = stages.models
        self._load_session = partial(load_session, threads=threads, bounded=bounded, disabled=disabled)
        self._spill = Spill(folder)
        self.samples = 0
        for feed in feeds:
            self._spill.keep(self.samples, {name: feed[name] for name in self._models.inputs})
            self.samples += 1
        if not self.samples:
            raise DataError("the data holds no samples, expected at least one")

    def feeds(self) -> Iterator[dict[str, Array]]:
        """Yields the samples themselves; before the first stage only."""
        for sample in range(self.samples):
            yield {name: self._spill.load(sample, name) for name in self._models.inputs}

    def value(self, sample: int, name: str) -> Array:
        """Returns a value of one sample."""
        return self._spill.load(sample, name)

    def values(self, name: str) -> Iterator[Array]:
        """Yields a value for one sample after the other."""
        for sample in range(self.samples):
            yield self._spill.load(sample, name)

    def advance(self, stage: Stage, changed: Mapping[str, Array], watch: Watch | None = None) -> None:
        """Runs a stage for every sample; `changed` are weights that are no longer those of the model, `watch` gets the
        number of each sample and the values that the stage shows."""
        if stage.gives or stage.shows:
            example = {name: self._spill.load(0, name) for name in stage.reads}
            session = self._models.open(stage, example, changed, self._load_session)
            for sample in range(self.samples):
                found = self._run(session, stage, sample)
                self._spill.keep(sample, {name: found[name] for name in stage.gives})
                if watch is not None:
                    watch(sample, {name: found[name] for name in stage.shows})
        for name in stage.dropped:
            for sample in range(self.samples):
                self._spill.drop(sample, name)

    def _run(self, session: ort.InferenceSession, stage: Stage, sample: int) -> dict[str, Any]:
        names = list(dict.fromkeys((*stage.gives, *stage.shows)))
        feed = {name: self._spill.load(sample, name) for name in stage.reads}
        try:
            return dict(zip(names, session.run(names, feed), strict=True))
        except Exception as error:
            raise DataError(f"ONNX Runtime cannot run sample {sample}: {first_line(error)}") from error


def _declare(graph: onnx.GraphProto, large: Mapping[str, gs.Constant]) -> None:
    """Makes initializers without data of the inputs that stand for large constants."""
    inputs = [info for info in graph.input if info.name not in large]
    del graph.input[:]
    graph.input.extend(inputs)
    for name, item in large.items():
        kind = to_onnx_dtype(item.dtype)
        graph.initializer.add(name=name, dims=item.shape, data_type=kind, data_location=TensorProto.EXTERNAL)


def _block(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Puts a pooling of single values behind inputs that are images: ONNX Runtime then reads them in blocks."""
    images = {info.name: f"{info.name}/blocked" for info in graph.input if info.name in names and _is_image(info)}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = images.get(name, name)
    nodes = [
        helper.make_node("MaxPool", [name], [blocked], name=blocked, kernel_shape=[1, 1])
        for name, blocked in images.items()
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _is_image(info: ValueInfoProto) -> bool:
    kind = info.type.tensor_type
    return bool(kind.elem_type == TensorProto.FLOAT and len(kind.shape.dim) == 4)


def _type_of(value: ort.NodeArg) -> TypeProto:
    """What ONNX Runtime knows of a value; nothing of its shape where it may have any rank."""
    kind = str(value.type).removeprefix("tensor(").removesuffix(")").upper()
    if kind not in set(TensorProto.DataType.keys()):
        raise ModelError(f"the value {value.name!r} is a {value.type}, expected a tensor between stages")
    shape = [size if isinstance(size, (int, str)) else None for size in value.shape]
    return helper.make_tensor_type_proto(TensorProto.DataType.Value(kind), shape or None)
