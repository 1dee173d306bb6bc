"""Layers with a quantized weight, each seen as one product: outputs = weight matrix · inputs.

MatMul, Gemm and Conv all multiply a matrix with columns of numbers (those of Conv are the patches under its kernel),
group by group. Algorithms that round weights by what the inputs look like then need one form only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.formats import Rounding
from quantonnx.model import Model
from quantonnx.sites import Site

Array = NDArray[Any]

_MOST_BITS = 8
_MOST_NUMBERS = 1 << 23
"""Numbers of patches in memory at a time."""

_REPEATABLE = frozenset({Rounding.HALF_EVEN, Rounding.HALF_AWAY})


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A weight site and the node that reads it; `index` is the weight's place among the inputs of the node."""

    site: Site
    node: gs.Node
    index: int
    shape: tuple[int, ...]

    @property
    def activation(self) -> str:
        """The tensor that the weight is multiplied with."""
        return str(self.node.inputs[1 - self.index].name)

    @property
    def bias(self) -> gs.Constant | None:
        """The constant with a number for each output channel that is added to the product and that nothing else reads.

        That of the node itself, or of the only Add behind a MatMul.
        """
        if self.node.op == "MatMul":
            return _added_behind(self.node, self.outputs) if self.index == 1 else None
        bias = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        plain = all(float(self.node.attrs.get(name, 1.0)) == 1.0 for name in ("alpha", "beta"))
        return bias if plain and _is_own(bias, self.outputs) else None

    @property
    def groups(self) -> int:
        """The number of products that stand side by side: those of a grouped Conv, else 1."""
        return int(self.node.attrs.get("group", 1)) if self.node.op == "Conv" else 1

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.shape[self.output_axis]

    @property
    def inputs(self) -> int:
        """The length of the sums: the columns of the matrix of one group."""
        return prod(self.shape) // self.outputs

    @property
    def input_axis(self) -> int | None:
        """The axis of the weight that is summed over, where that is one axis."""
        if self.node.op == "Conv":
            return None
        return 1 if self._inputs_last else 0

    @property
    def output_axis(self) -> int:
        """The axis of the weight along which the output channels lie."""
        return 0 if self.node.op == "Conv" or self._inputs_last else 1

    @property
    def reading(self) -> tuple[Any, ...]:
        """What decides the numbers that the matrix is multiplied with; layers for which it is equal share them."""
        attrs = self.node.attrs
        if self.node.op == "Conv":
            names = ("pads", "strides", "dilations", "auto_pad")
            return (self.activation, self.groups, *self.shape[2:], *(str(attrs.get(name)) for name in names))
        return (self.activation, self.index, bool(self.node.op == "Gemm" and self._transposed(1 - self.index)))

    def matrix(self, values: Array) -> Array:
        """Returns what has the axes of the weight as [groups, outputs of a group, inputs]."""
        if self.node.op == "Conv":
            return values.reshape(self.groups, self.outputs // self.groups, -1)
        return (values if self._inputs_last else values.T)[None]

    def tensor(self, matrix: Array) -> Array:
        """Returns [groups, outputs of a group, inputs] with the axes of the weight; undoes `matrix`."""
        if self.node.op == "Conv":
            return matrix.reshape(self.shape)
        return np.asarray(matrix[0] if self._inputs_last else matrix[0].T)

    def rows(self, activation: Array) -> Iterator[Array]:
        """Yields the columns that the matrix is multiplied with, each as a row: float32 [groups, rows, inputs]."""
        x = activation.astype(np.float32, copy=False)
        if self.node.op == "Conv":
            for image in x:
                yield from _patches(image, self.shape[2:], self.groups, self.node.attrs)
            return
        if self.index == 0 or (self.node.op == "Gemm" and self._transposed(0)):
            x = np.swapaxes(x, -1, -2)
        yield x.reshape(1, -1, self.inputs)

    @property
    def _inputs_last(self) -> bool:
        """True where the rows of the stored weight are the outputs."""
        transposed = self.node.op == "Gemm" and self._transposed(self.index)
        return (self.index == 0) != transposed

    def _transposed(self, index: int) -> bool:
        return bool(self.node.attrs.get("transB" if index else "transA", 0))


def weight_layers(model: Model, sites: Sequence[Site]) -> tuple[list[WeightLayer], dict[str, str]]:
    """Returns the layers whose weights may be moved, in the order of the nodes, and why others may not, by tensor."""
    nodes = {node.name: node for node in model.graph.nodes}
    places = {name: place for place, name in enumerate(nodes)}
    values, public = model.tensors(), {output.name for output in model.graph.outputs} | model.captured
    layers, refused = [], {}
    for site in sites:
        if site.is_weight:
            node, value = nodes[site.edges[0].node], values[site.tensor]
            reason = "it is an output of the graph" if value.name in public else _why_not(site, node, value)
            if reason:
                refused[site.tensor] = reason
            else:
                layers.append(WeightLayer(site, node, site.edges[0].index, tuple(map(int, value.shape))))
    return sorted(layers, key=lambda layer: places[layer.node.name]), refused


def _added_behind(node: gs.Node, outputs: int) -> gs.Constant | None:
    readers = node.outputs[0].outputs
    if len(readers) != 1 or readers[0].op != "Add" or readers[0].domain:
        return None
    return next((value for value in readers[0].inputs if _is_own(value, outputs)), None)


def _is_own(value: gs.Tensor | None, outputs: int) -> bool:
    return isinstance(value, gs.Constant) and len(value.outputs) == 1 and tuple(value.shape) == (outputs,)


def _why_not(site: Site, node: gs.Node, value: gs.Tensor) -> str | None:
    fmt = site.format
    if fmt.float8 or fmt.n_bits > _MOST_BITS:
        return f"its codes are {'float8' if fmt.float8 else f'of {fmt.n_bits} bits'}, expected integers of at most 8"
    if fmt.rounding not in _REPEATABLE:
        return f"its rounding {fmt.rounding.value!r} would not find the codes again"
    if len(value.outputs) != 1 or len(site.edges) != 1:
        return f"{len(value.outputs)} operators read it, expected one"
    if node.domain or node.op not in ("MatMul", "Gemm", "Conv"):
        return f"it is the weight of {node.op}, expected MatMul, Gemm or Conv"
    index = site.edges[0].index
    if index > 1 or (node.op == "Conv" and index != 1) or isinstance(node.inputs[1 - index], gs.Constant):
        return "it is not multiplied with an activation"
    if node.op != "Conv" and len(value.shape) != 2:
        return f"it has {len(value.shape)} axes, expected 2"
    return None


def _patches(image: Array, kernel: Sequence[int], groups: int, attrs: Mapping[str, Any]) -> Iterator[Array]:
    """The patches of one image [channels, *spatial] under a kernel, a band of them at a time."""
    strides = list(attrs.get("strides") or [1] * len(kernel))
    dilations = list(attrs.get("dilations") or [1] * len(kernel))
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    padded = np.pad(image, [(0, 0), *_padding(image.shape[1:], reach, strides, attrs)])
    axes = tuple(range(1, padded.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)
    every = (slice(None), *(slice(None, None, step) for step in (*strides, *dilations)))
    windows = windows[every]
    band = max(_MOST_NUMBERS // max(windows[:, :1].size, 1), 1)
    for start in range(0, windows.shape[1], band):
        yield _as_rows(windows[:, start : start + band], len(kernel), groups)


def _as_rows(windows: Array, spatial: int, groups: int) -> Array:
    """Turns [channels, *places, *kernel] into [groups, places, channels of a group · kernel]."""
    places = prod(windows.shape[1 : 1 + spatial])
    axes = (0, *range(1 + spatial, 1 + 2 * spatial), *range(1, 1 + spatial))
    return np.swapaxes(windows.transpose(axes).reshape(groups, -1, places), 1, 2)


def _padding(
    sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int], attrs: Mapping[str, Any]
) -> list[tuple[int, int]]:
    """What stands before and behind each spatial axis, by `pads` or `auto_pad`."""
    kind = str(attrs.get("auto_pad", "NOTSET"))
    if not kind.startswith("SAME"):
        pads = list(attrs.get("pads") or [0] * (2 * len(sizes))) if kind == "NOTSET" else [0] * (2 * len(sizes))
        return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
    found = []
    for size, length, step in zip(sizes, reach, strides, strict=True):
        total = max((-(-size // step) - 1) * step + length - size, 0)
        less = total // 2
        found.append((less, total - less) if kind == "SAME_UPPER" else (total - less, less))
    return found
