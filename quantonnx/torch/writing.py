"""Back to ONNX: trained tensors go into the graph that they came from, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from quantonnx.errors import ModelError
from quantonnx.model import Model, constant
from quantonnx.torch.node import Array
from quantonnx.weights import load_array


def written(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """Returns the model with these values in its initializers and Constant nodes; the rest stays as it is, bit for bit.

    Raises ModelError where the model has no constant for a parameter, or one of another shape.
    """
    made = model.copy()
    known = dict(_constants(made.graph.nodes))
    missing = [name for name, tensor in tensors.items() if name not in known and isinstance(tensor, nn.Parameter)]
    if missing:
        raise ModelError(f"the model has no initializer {missing[0]!r}", "give the file that the module was made from")
    for name in tensors.keys() & known.keys():
        _write(known[name], name, tensors[name])
    return made


def _write(known: gs.Constant, name: str, tensor: Tensor) -> None:
    if tuple(tensor.shape) != tuple(known.shape):
        found = f"{list(tensor.shape)}, expected {list(known.shape)}"
        raise ModelError(f"{name!r} has shape {found}", "give the file that the module was made from")
    before = load_array(known)
    values = as_array(tensor, before.dtype)
    if values is not None and not np.array_equal(values, before, equal_nan=before.dtype.kind == "f"):
        known._values = constant(name, values)._values


def as_array(tensor: Tensor, dtype: np.dtype[np.generic]) -> Array | None:
    """Returns the values of a tensor in a float type of numpy or ml_dtypes; None where the type is no such."""
    if not tensor.is_floating_point():
        return None
    values = tensor.detach().to("cpu", torch.float64 if dtype == np.float64 else torch.float32).numpy()
    return np.asarray(values.astype(dtype))


def _constants(nodes: Iterable[gs.Node]) -> Iterable[tuple[str, gs.Constant]]:
    for node in nodes:
        for value in node.inputs:
            if isinstance(value, gs.Constant):
                yield value.name, value
        if node.op == "Constant" and isinstance(node.attrs.get("value"), gs.Constant):
            yield node.outputs[0].name, node.attrs["value"]
