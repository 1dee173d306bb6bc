"""Back to ONNX: trained tensors go into the graph that they came from, by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from quantonnx.bodies import open_bodies, put_back
from quantonnx.errors import ModelError
from quantonnx.model import Model, constant
from quantonnx.torch.node import Array
from quantonnx.weights import load_array


def written(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """Returns the model with these values in its initializers and Constant nodes; the rest stays as it is, bit for bit.

    Raises ModelError where the model has no constant for a parameter, or one of another shape.
    """
    made = model.copy()
    known = {name: value for name, value in made.tensors().items() if isinstance(value, gs.Constant)}
    known |= {node.outputs[0].name: node for node in made.graph.nodes if node.op == "Constant" and not node.domain}
    inner = {body.name: (body.model, _inside(body.name, tensors)) for body in open_bodies(made)}
    reached = {f"{body}/{name}" for body, (_, own) in inner.items() for name in own}
    missing = [n for n, value in tensors.items() if n not in known.keys() | reached and isinstance(value, nn.Parameter)]
    if missing:
        raise ModelError(f"the model has no initializer {missing[0]!r}", "give the file that the module was made from")
    for name in tensors.keys() & known.keys():
        _write(known[name], name, tensors[name])
    bodies = ((name, written(body, own)) for name, (body, own) in inner.items() if body is not None and own)
    put_back(made, list(bodies))
    return made


def _inside(body: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a body, by their names in it."""
    prefix = f"{body}/"
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write(known: gs.Constant | gs.Node, name: str, tensor: Tensor) -> None:
    if isinstance(known, gs.Node):
        stored = known.attrs.get("value")
        if "value_floats" in known.attrs:
            known.attrs["value_floats"] = tensor.detach().cpu().tolist()
        elif isinstance(stored, gs.Constant):
            _write(stored, name, tensor)
        return
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
