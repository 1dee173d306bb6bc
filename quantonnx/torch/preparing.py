"""Fake quantization where placement put the pairs: the module that is trained is the network that will be deployed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs
from torch import nn

from quantonnx.errors import CalibrationError, PlanError
from quantonnx.quantized import QuantizedModel
from quantonnx.sites import Site
from quantonnx.torch.bias_rounding import BiasRounding
from quantonnx.torch.fake_quantization import FakeQuantize, fake_quantizers
from quantonnx.torch.folding import FoldedConvolution
from quantonnx.torch.graph_values import Layers
from quantonnx.torch.living_folds import LivingFold, living_folds
from quantonnx.torch.module import OnnxModule, Origin, build
from quantonnx.torch.node import Call, Node
from quantonnx.torch.operators import OPERATORS
from quantonnx.torch.states import States

QUANTIZERS, BIASES, CONVOLUTIONS = "quantizers", "biases", "convolutions"
"""Places of layers in the tree of names."""


_ANY_OPSET = 13
"""Convolutions are the same in all."""


class QatOrigin(Origin):
    """A calibrated model, with the path of the layer of each of its sites, and its folds that are undone."""

    def __init__(self, quantized: QuantizedModel) -> None:
        super().__init__(quantized.model)
        self.quantized = quantized
        self.sites: dict[Site, str] = {}
        self.folds: list[LivingFold] = []


class QatModule(OnnxModule):
    """A fused model with fake quantization at its sites."""

    origin: QatOrigin


def prepare_qat(quantized: QuantizedModel, *, learn_scales: bool = True, averaging: float | None = 0.01) -> QatModule:
    """Returns the fused model as a module with fake quantization at exactly the sites of a calibrated model.

    In training mode batch normalizations that were folded are alive again: the weight that is quantized is the folded
    one, statistics come from the float path, and running ones move until `freeze_bn_stats`. With `learn_scales` steps
    are parameters (LSQ); else those of activations are tracked while an observer is on, with `averaging` as the weight
    of the newest range, and those of weights follow their values. Bodies of control flow stay in float. Raises
    CalibrationError before calibration, PlanError where no pair stands.
    """
    if not isinstance(quantized, QuantizedModel):
        found = f"prepare_qat takes what quantonnx.quantize returns, found a {type(quantized).__name__}"
        raise PlanError(found, "quantize the model first")
    if quantized.parameters is None:
        raise CalibrationError("the model is not calibrated", "call quantonnx.calibrate(quantized, samples) first")
    if not quantized.sites:
        hint = "set keep_slow" if quantized.faster_in_float else "see `quantonnx explain`"
        raise PlanError("no pair stands in the model's own graph, so there is nothing to train for", hint)
    origin = QatOrigin(quantized)
    module = QatModule(origin)
    states = States(module)
    layers = fake_quantizers(
        quantized.sites,
        quantized.parameters,
        _weights(quantized),
        learn_scales=learn_scales,
        averaging=averaging,
    )
    build(module, states, _Places(origin, states).layers(layers))
    return module


def _weights(quantized: QuantizedModel) -> dict[str, Any]:
    tensors = quantized.model.tensors()
    names = {site.tensor for site in quantized.sites if not site.on_activation}
    return {name: quantized.model.array(tensors[name]).copy() for name in names}


@dataclass
class _Places:
    """Layers as they find their places in a module."""

    origin: QatOrigin
    states: States
    reads: dict[tuple[str, int], str] = field(default_factory=dict)
    gives: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    besides: dict[str, tuple[str, ...]] = field(default_factory=dict)
    constants: dict[str, tuple[gs.Constant, bool]] = field(default_factory=dict)

    def layers(self, made: Mapping[Site, FakeQuantize]) -> Layers:
        """Registers the layers and returns where they stand."""
        on_weights = {site.tensor: site for site in made if site.is_weight}
        biases = dict(self._biases(made))
        folds = living_folds(self.origin.quantized)
        for site, layer in made.items():
            if site.tensor not in folds:
                self.origin.sites[site] = self._pair(site, QUANTIZERS, layer)
        for name, living in folds.items():
            weighted = on_weights.get(name)
            rounding = next((biases.pop(site) for site in [*biases] if site.tensor == living.fold.folded_bias), None)
            self._folded(living, None if weighted is None else (weighted, made[weighted]), rounding)
        for site, bias in biases.items():
            assert site.derived_from is not None
            self.besides[self._pair(site, BIASES, bias)] = (site.derived_from.weight,)
        return Layers(self.reads, self.gives, self.nodes, self.besides, self.constants)

    def _biases(self, made: Mapping[Site, FakeQuantize]) -> Iterator[tuple[Site, BiasRounding]]:
        """Yields the layers of biases that take the product of two scales."""
        known = {(site.tensor, site.format, site.ranging): layer for site, layer in made.items()}
        for site in self.origin.quantized.sites:
            origin = site.derived_from
            if origin is not None:
                activation = known[origin.activation, origin.activation_format, origin.activation_ranging]
                yield site, BiasRounding(activation, known[origin.weight, origin.weight_format, origin.weight_ranging])

    def _pair(self, site: Site, place: str, layer: nn.Module) -> str:
        path = self._add(place, site.tensor, layer)
        if site.whole:
            self.gives[site.tensor] = path
        else:
            self.reads.update(((edge.node, edge.index), path) for edge in site.edges)
        return path

    def _folded(
        self, living: LivingFold, quantizer: tuple[Site, FakeQuantize] | None, rounding: BiasRounding | None
    ) -> None:
        layer = FoldedConvolution(
            _call(living.node), living.fold, None if quantizer is None else quantizer[1], rounding
        )
        path = self._add(CONVOLUTIONS, living.node.name, layer)
        self.origin.folds.append(living)
        if quantizer is not None:
            self.origin.sites[quantizer[0]] = f"{path}.fake_quantize"
        self.nodes[living.node.name] = path, living.names
        self.constants |= living.constants

    def _add(self, place: str, name: str, layer: Any) -> str:
        return self.states.add_layer(f"{place}.{name.replace('.', '/')}", layer)


def _call(node: gs.Node) -> Call:
    """What a convolution is in torch."""
    given = tuple(bool(value.name) for value in node.inputs)
    return OPERATORS[node.op](Node(node.op, node.name, _ANY_OPSET, node.attrs, given))
