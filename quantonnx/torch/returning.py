"""From a trained module back to ONNX: the graph that it came from, with the numbers of today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, overload

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor

from quantonnx.batch_norm_folds import BatchNormFold
from quantonnx.errors import ModelError
from quantonnx.formats import Parameters
from quantonnx.model import Model, constant
from quantonnx.quantized import QuantizedModel
from quantonnx.reading import Source
from quantonnx.site_numbers import SiteNumbers
from quantonnx.sites import Site
from quantonnx.torch.living_folds import LivingFold, refolded
from quantonnx.torch.module import OnnxModule
from quantonnx.torch.modules import unwrapped
from quantonnx.torch.preparing import QatModule, QatOrigin
from quantonnx.torch.states import tensors_at
from quantonnx.torch.writing import as_array, written
from quantonnx.weights import load_array


@overload
def to_onnx(  # type: ignore[overload-overlap]  # a QatModule is an OnnxModule too, and gives the former
    module: QatModule, original: Source | Model | None = None
) -> QuantizedModel: ...


@overload
def to_onnx(module: OnnxModule, original: Source | Model | None = None) -> Model: ...


def to_onnx(module: OnnxModule, original: Source | Model | None = None) -> Model | QuantizedModel:
    """Returns a trained module as the graph that it came from: same nodes, names and metadata, new numbers.

    Of `from_onnx` it is a Model, the file `original` (by default the one that the module was made from) with the
    weights and statistics of the module. Of `prepare_qat` it is a QuantizedModel, calibrated with the module's scales
    and zero points; `original`, where given, must be the float model that was quantized. Both have `save(path)`.
    Raises ModelError where names or shapes do not fit.
    """
    trained = unwrapped(module)
    if not isinstance(trained, OnnxModule):
        found = type(trained).__name__
        raise ModelError(f"the module is a {found}, which came from no ONNX file", "use quantonnx.torch.export")
    tensors = dict(tensors_at(trained, trained._paths))
    origin = trained.origin
    if not isinstance(origin, QatOrigin):
        return written(origin.model if original is None else Model.read(original), tensors)
    if original is not None and Model.read(original).digest != origin.model.digest:
        raise ModelError("the original is not the model that was quantized", "give that file, or leave it out")
    model = written(origin.model, _as_in_fused(origin, tensors))
    model.folds |= {living.name: _as_trained(living, tensors) for living in origin.folds}
    parameters = _parameters(trained, origin, model)
    changed = _changed(origin.quantized, parameters) or model.fingerprint() != origin.model.fingerprint()
    return replace(origin.quantized, model=model, parameters=parameters, trained=origin.quantized.trained or changed)


def _changed(before: QuantizedModel, after: Mapping[Site, Parameters]) -> bool:
    known = before.parameters or {}
    return any(
        not np.array_equal(known[site].scale, numbers.scale)
        or not np.array_equal(known[site].zero_point, numbers.zero_point)
        for site, numbers in after.items()
    )


def _as_in_fused(origin: QatOrigin, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the fused model: those of folds in their folded form, where training has moved them."""
    found = dict(tensors)
    for living in origin.folds:
        started = {value.name: load_array(value) for value in living.values if value is not None}
        arrays: dict[str, Any] = {n: as_array(found.pop(n), before.dtype) for n, before in started.items()}
        if any(not np.array_equal(arrays[name], before) for name, before in started.items()):
            found |= {name: torch.from_numpy(array) for name, array in refolded(living, arrays).items()}
    return found


def _as_trained(living: LivingFold, tensors: dict[str, Tensor]) -> BatchNormFold:
    """The fold with the constants of today, from which further training starts."""
    values = [None if value is None else _constant(value, tensors[value.name]) for value in living.values]
    weight, bias, gamma, beta, mean, variance = values
    return replace(living.fold, weight=weight, bias=bias, gamma=gamma, beta=beta, mean=mean, variance=variance)


def _constant(known: gs.Constant, tensor: Tensor) -> gs.Constant:
    values = as_array(tensor, load_array(known).dtype)
    return known if values is None else constant(known.name, values)


def _parameters(module: OnnxModule, origin: QatOrigin, model: Model) -> dict[Site, Parameters]:
    """The numbers of all sites: those of the layers, and of biases what follows from them."""
    values = model.tensors()
    known: dict[Site, Parameters] = {}
    for site, path in origin.sites.items():
        layer: Any = module.get_submodule(path)
        if not site.ranging.dynamic:
            weight = None if site.on_activation else torch.from_numpy(load_array(values[site.tensor]).copy())
            known[site] = layer.parameters_of(weight)
    numbers = SiteNumbers.of(model, known)
    derived = [site for site in origin.quantized.sites if site.derived_from is not None]
    for site in derived:
        numbers.widen_for_bias(site)
    for site in derived:
        numbers.bias(site)
    return numbers.parameters
