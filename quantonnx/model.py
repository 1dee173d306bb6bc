"""A model in memory: a graph of onnx-graphsurgeon to match and edit, and beside it all that such a graph would lose.

Reading, editing and writing keep names, documentation, metadata, bodies of control flow and the encoding of untouched
weights. Big weights stay on disk until they are written, and are streamed then.
"""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto

from quantonnx import exporting, importing, ordering, reading, writing
from quantonnx.batch_norm_folds import BatchNormFold
from quantonnx.collecting import uncollected
from quantonnx.errors import ModelError
from quantonnx.importing import Extras
from quantonnx.placing import into_place
from quantonnx.reading import Source
from quantonnx.weights import constant, deferred, load_array

__all__ = ["Model", "constant", "deferred"]

_BODY_REASON = "a control-flow operator only runs its bodies, each of which is quantized on its own"


class Model:
    """A graph whose nodes and values all have unique names, with what its file says besides.

    `graph` is to be edited by identity, then put in order with `sort`. `captured` are the values that bodies of If,
    Loop and Scan read from outside: they keep their name and stay. `left_in_float` has the reason for each node that
    nothing may quantize. `folder` is where external data is, `digest` the SHA-256 of the model's own file. `reserved`
    are names that other graphs of the file have, `borrowed` the constants that are those of the graph around a body.
    `folds` tell, by the name of a folded weight, what it was made of.
    """

    def __init__(
        self, graph: gs.Graph, extras: Extras, kept: list[gs.Constant], folder: Path | None, digest: str
    ) -> None:
        self.graph = graph
        self.folder = folder
        self.digest = digest
        self.metadata: dict[str, str] = {entry.key: entry.value for entry in extras.model.metadata_props}
        self.left_in_float = {node.name: _BODY_REASON for node in graph.nodes if ordering.has_body(node)}
        self.captured = self._find_captured()
        self.reserved: frozenset[str] = frozenset()
        self.borrowed: frozenset[str] = frozenset()
        self.folds: dict[str, BatchNormFold] = {}
        self._extras = extras
        self._kept = kept

    @classmethod
    @uncollected()
    def read(cls, source: Source | Model) -> Model:
        """Reads a path, bytes or a ModelProto, and copies a Model; ModelError says what is wrong with the source."""
        if isinstance(source, Model):
            return source.copy()
        opened = reading.open_source(source)
        folder = opened.path.absolute().parent if opened.path else None
        return cls._build(reading.inline_functions(opened.proto), opened.path, folder, opened.digest)

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return int(self.graph.opset)

    @property
    def ir_version(self) -> int:
        """The version of the file format that was read; files are written in one that ONNX Runtime reads."""
        return int(self.graph.ir_version)

    @uncollected()
    def copy(self) -> Model:
        """Returns an independent model; the weights themselves are shared, since nothing changes them."""
        graph, kept = ordering.copy_graph(self.graph, self._kept)
        twin = Model(graph, self._extras, kept, self.folder, self.digest)
        twin.metadata = dict(self.metadata)
        twin.left_in_float = dict(self.left_in_float)
        twin.reserved, twin.borrowed, twin.folds = self.reserved, self.borrowed, dict(self.folds)
        return twin

    @classmethod
    def inner(cls, proto: ModelProto, weights: dict[str, gs.Constant], outer: Model, reserved: frozenset[str]) -> Model:
        """Returns the model of a body of `outer`; `weights` are the initializers that are those of the outer graph."""
        model = cls._build(proto, None, outer.folder, outer.digest, weights.keys())
        model._share(weights)
        model.reserved, model.borrowed = reserved, frozenset(weights)
        return model

    def array(self, constant: gs.Constant) -> np.ndarray[Any, Any]:
        """Returns the values of a constant, read-only, in numpy's or ml_dtypes' dtype; nothing keeps them."""
        return load_array(constant)

    def tensors(self) -> dict[str, gs.Tensor]:
        """Returns every value of the graph by name, in the order of the nodes."""
        used = (tensor for node in self.graph.nodes for tensor in (*node.inputs, *node.outputs))
        every = (*self.graph.inputs, *used, *self.graph.outputs, *self._kept)
        return {tensor.name: tensor for tensor in every if tensor.name}

    def node_metadata(self, name: str) -> dict[str, str]:
        """Returns the metadata that the file has for a node, by its name."""
        extra = self._extras.nodes.get(name)
        return {entry.key: entry.value for entry in extra.metadata_props} if extra is not None else {}

    def find(self, name: str) -> gs.Tensor:
        """Returns the value of that name; a name that the model does not have is a ModelError."""
        tensors = self.tensors()
        if name in tensors:
            return tensors[name]
        close = difflib.get_close_matches(name, tensors, 1)
        raise ModelError(f"the model has no value {name!r}", f"did you mean {close[0]!r}?" if close else "")

    def sort(self) -> None:
        """Puts nodes in an order that runs, otherwise as before, and drops nodes and constants that nothing needs."""
        ordering.drop_dead_nodes(self.graph)
        ordering.sort_nodes(self.graph)
        self.refresh_captured()

    def refresh_captured(self) -> None:
        """Finds anew what bodies read from outside, and drops constants that nothing needs any more."""
        self.captured = self._find_captured()
        needed = self.captured | self._annotating()
        self._kept = [item for item in self._kept if item.name in needed]

    def to_proto(self) -> ModelProto:
        """Returns the model as one protobuf, weights and all; ModelError over 2 GB."""
        return writing.whole_proto(self._document())

    def light(self) -> tuple[ModelProto, dict[str, gs.Constant]]:
        """Returns the model as a protobuf whose larger or unusual constants are inputs, and those constants by name."""
        return writing.light_proto(self._document())

    def to_graph(self, *, without: Collection[str]) -> GraphProto:
        """Returns the graph alone, with its weights but for those named; ModelError over 2 GB."""
        document = self._document()
        kept = tuple(constant for constant in document.constants if constant.name not in without)
        return writing.whole_proto(replace(document, constants=kept)).graph

    def to_bytes(self) -> bytes:
        """Returns the bytes of a file of its own, the same each time; ModelError over 2 GB."""
        buffer = io.BytesIO()
        writing.write_embedded(self._document(), buffer)
        return buffer.getvalue()

    def fingerprint(self) -> str:
        """Returns the SHA-256 of all that the model says, weights too; it may be of any size."""
        return writing.digest(self._document())

    def save(self, path: str | os.PathLike[str], *, force: bool = False, external_data: bool = False) -> None:
        """Writes `path`, whole or not at all; weights over 1.8 GB, or when asked, go to `path`.data beside it.

        OutputError where the file exists (unless `force`), holds the input's weights, or the disk refuses.
        """
        document, target = self._document(), Path(path)
        if document.goes_outside(external_data):
            self._save_external(document, target, force)
            return
        files = self._extras.files
        with into_place(target, force=force, sources=files) as (part,), part.open("wb") as file:
            writing.write_embedded(document, file)

    def with_opset(self, version: int) -> Model:
        """Returns the model at that opset, or a copy when it is newer already; ModelError where onnx cannot convert."""
        if version <= self.opset:
            return self.copy()
        light, weights = self.light()
        return self._with_graph(reading.convert(light, version, weights.values()), weights)

    @classmethod
    def _build(
        cls, proto: ModelProto, path: Path | None, folder: Path | None, digest: str, hollow: Collection[str] = ()
    ) -> Model:
        external = reading.ExternalData(path, folder, hollow)
        graph, constants, extras = importing.import_graph(proto, external)
        model = cls(graph, extras, constants, folder, digest)
        needed = model.captured | model._annotating()
        model._kept = [item for item in constants if not item.outputs or item.name in needed]
        return model

    def _with_graph(self, proto: ModelProto, weights: dict[str, gs.Constant]) -> Model:
        """Returns the model of `proto`, with the weights of this one and all that goes with it."""
        model = Model._build(proto, None, None, self.digest, weights.keys())
        model._share(weights)
        known = self.tensors()
        for name, tensor in model.tensors().items():
            if isinstance(known.get(name), gs.Variable) and isinstance(tensor, gs.Variable):
                ordering.restore_type(tensor, known[name])
        for name in ("name", "doc_string", "producer_name", "producer_version"):
            setattr(model.graph, name, getattr(self.graph, name))
        model.folder, model.metadata, model._extras = self.folder, dict(self.metadata), self._extras
        model.left_in_float |= self.left_in_float
        model.reserved, model.borrowed, model.folds = self.reserved, self.borrowed, dict(self.folds)
        model._raise_ir_version()
        return model

    def _share(self, weights: dict[str, gs.Constant]) -> None:
        """Gives constants the values of those of another model that have their name."""
        tensors = self.tensors()
        for name, known in weights.items():
            if name in tensors:
                tensors[name]._values, tensors[name]._export_dtype = known._values, known._export_dtype

    def _raise_ir_version(self) -> None:
        before, needed = self.ir_version, exporting.required_ir_version(self.opset)
        self.graph.ir_version = max(before, needed)
        if before < 4 <= needed:  # from 4 on, an initializer that is an input too counts as variable
            self._extras = replace(self._extras, inputs=())

    def _save_external(self, document: exporting.Document, target: Path, force: bool) -> None:
        data = target.with_name(target.name + ".data")
        with (
            into_place(data, target, force=force, sources=self._extras.files) as (raw_part, part),
            raw_part.open("wb") as raw,
            part.open("wb") as file,
        ):
            writing.write_external(document, file, raw, data.name)

    def _document(self) -> exporting.Document:
        if lost := sorted(self._find_captured() - self.tensors().keys()):
            raise ModelError(f"a control-flow body reads {lost[0]!r}, which nothing gives", "keep captured values")
        return exporting.document(self.graph, self._extras, self.metadata, self._constants())

    def _constants(self) -> list[gs.Constant]:
        place = {name: index for index, name in enumerate(self._extras.initializers)}
        read = (tensor for node in self.graph.nodes for tensor in node.inputs)
        every = {id(item): item for item in (*read, *self.graph.outputs, *self._kept) if isinstance(item, gs.Constant)}
        return sorted(every.values(), key=lambda item: place.get(item.name, len(place)))

    def _find_captured(self) -> frozenset[str]:
        return frozenset(name for node in self.graph.nodes for name in ordering.body_reads(node))

    def _annotating(self) -> set[str]:
        annotations = self._extras.graph.quantization_annotation
        return {entry.value for item in annotations for entry in item.quant_parameter_tensor_names}
