"""What both exporters leave undone, done alike: needless shape arithmetic goes, norms are folded once, weights get the
names of the module's parameters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from torch import Tensor, nn

from quantonnx.formats import TensorFormat
from quantonnx.model import Model
from quantonnx.patterns.conversions import conversions
from quantonnx.patterns.convolution import ConvBN
from quantonnx.patterns.equivalents import RemoveZeroBias
from quantonnx.rewriting import transform
from quantonnx.scopes import scopes_of
from quantonnx.target import BiasKind, Target
from quantonnx.torch.dtypes import to_numpy
from quantonnx.torch.examples import Example

Array = NDArray[Any]
Key = tuple[str, tuple[int, ...], str]

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def tidied(model: Model, example: Example, *, keep_batch_norm: bool) -> Model:
    """Returns the exported model with the same results in its plainest form, and outputs of the shapes that were seen.

    A bias of zeros stays: training may change it.
    """
    kept = tuple(conversion for conversion in conversions if conversion is not RemoveZeroBias)
    folds = () if keep_batch_norm else (ConvBN,)
    eight_bits = TensorFormat(n_bits=8, signed=True, symmetric=True)
    target = Target("export", "no compiler", kept, folds, eight_bits, eight_bits, BiasKind.FLOAT)
    done = transform(model, target=target).model
    _name_weights(done, example.module)
    shapes = example.output_shapes()
    for output in done.graph.outputs:
        if output.name in shapes and isinstance(output, gs.Variable):
            output.shape = list(shapes[output.name])
    return done


def _name_weights(model: Model, module: nn.Module) -> None:
    """Names constants after the parameters that they hold: as they are, transposed, or with a norm folded in."""
    names = _Names(model, module)
    for node in model.graph.nodes:
        scope = next(reversed(scopes_of(model, node)), "")
        for index, value in enumerate(node.inputs):
            if isinstance(value, gs.Constant) and names.needs_name(value):
                names.give(
                    value, names.bias(node, index) or names.equal(value, scope) or names.weight(node, index, scope)
                )


class _Names:
    """The parameters of a module whose names no value of a model has."""

    def __init__(self, model: Model, module: nn.Module) -> None:
        self._model = model
        self._parameters = dict(_parameters(module))
        self._taken = set(model.tensors())
        self._public = {output.name for output in model.graph.outputs} | model.captured
        self._sizes = {value.numel() for name, value in self._parameters.items() if name not in self._taken}
        self._by_content = self._contents()

    def needs_name(self, value: gs.Constant) -> bool:
        """True for weights that are called nothing that the module knows."""
        return value.name not in self._parameters and value.name not in self._public and np.prod(value.shape) > 1

    def equal(self, value: gs.Constant, scope: str) -> str | None:
        """Returns the free parameter with these values; of several, that of the scope, else the first."""
        if int(np.prod(value.shape)) not in self._sizes:
            return None
        found = [name for name in self._by_content.get(_key(self._model.array(value)), ()) if name not in self._taken]
        return next((name for name in found if name.startswith(f"{scope}.")), next(iter(found), None))

    def bias(self, node: gs.Node, index: int) -> str | None:
        """Returns what the bias of a layer is called, after its weight."""
        if node.op not in _LAYERS or index != 2 or not re.fullmatch(r"(.+\.)?weight", node.inputs[1].name):
            return None
        return f"{node.inputs[1].name.removesuffix('weight')}bias"

    def weight(self, node: gs.Node, index: int, scope: str) -> str | None:
        """Returns what the weight of a layer is called, whatever its values are now."""
        if node.op not in _LAYERS or index != 1:
            return None
        name = f"{scope}.weight" if scope else "weight"
        known = self._parameters.get(name)
        return name if known is not None and tuple(known.shape) == tuple(node.inputs[1].shape) else None

    def give(self, value: gs.Constant, name: str | None) -> None:
        """Renames a constant, unless the name is taken."""
        if name is not None and name not in self._taken:
            value.name = name
            self._taken.add(name)

    def _contents(self) -> Mapping[Key, list[str]]:
        found: dict[Key, list[str]] = {}
        for name, value in self._parameters.items():
            if name in self._taken or not value.is_floating_point():
                continue
            array = to_numpy(value)
            for form in (array, array.T) if array.ndim == 2 else (array,):
                found.setdefault(_key(form), []).append(name)
        return found


def _parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _key(array: Array) -> Key:
    return array.dtype.name, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
