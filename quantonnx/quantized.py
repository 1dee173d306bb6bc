"""The model between placement and file: where the pairs stand, first without and then with their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from quantonnx.algorithms.layerwise import LayerChange
from quantonnx.assembly import assembled
from quantonnx.calibration.collected import DataSource
from quantonnx.calibration.methods import RangeMethod
from quantonnx.collecting import uncollected
from quantonnx.config import QuantConfig
from quantonnx.decisions import Decider, Decision
from quantonnx.errors import CalibrationError, PlanError
from quantonnx.formats import Parameters
from quantonnx.insertion import refuse_quantized
from quantonnx.model import Model
from quantonnx.placement import Placement, place
from quantonnx.provenance import describe
from quantonnx.rewriting import Matches
from quantonnx.sites import Site


@dataclass(frozen=True)
class QuantizedModel:
    """A fused float model, its sites, and (once calibrated) scale and zero point at every site.

    `reference` is the model with the float results, where `model` has weights or biases that make up for rounding;
    `weight_changes` tell what algorithms did to weights; `method` is the one that `auto` came to.
    """

    model: Model
    sites: tuple[Site, ...]
    decisions: tuple[Decision, ...]
    matches: Matches
    config: QuantConfig
    parameters: Mapping[Site, Parameters] | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    data: tuple[DataSource, ...] = ()
    reference: Model | None = None
    weight_changes: tuple[LayerChange, ...] = ()
    method: RangeMethod | None = None

    @property
    def calibrated(self) -> bool:
        """True once every site has its numbers."""
        return self.parameters is not None

    @property
    def activation_sites(self) -> tuple[Site, ...]:
        """The sites whose numbers come from calibration: one pair each."""
        return tuple(site for site in self.sites if site.on_activation)

    @property
    def weight_sites(self) -> tuple[Site, ...]:
        """The sites on weights."""
        return tuple(site for site in self.sites if site.is_weight)

    @property
    def needs_samples(self) -> bool:
        """True where samples have to show the range of an activation, or what a step of the recipe goes by."""
        if any(step.needs_samples for step in self.config.steps):
            return True
        return any(site.on_activation and site.ranging.needs_samples for site in self.sites)

    @property
    def faster_in_float(self) -> bool:
        """True where no pair stands because the target's cost model expects every operator to be slower in integers."""
        return not self.sites and any(decision.decider is Decider.COST for decision in self.decisions)

    def refuse_nothing(self, name: str) -> None:
        """Raises PlanError where no pair stands, unless that is what makes the model fast."""
        if self.sites or self.faster_in_float:
            return
        first = next((f" ({decision.name}: {decision.reason})" for decision in self.decisions), "")
        raise PlanError(
            f"no pair was placed: nothing in {name} can be quantized for {self.matches.target.name}{first}",
            "see `quantonnx explain`, or try another target",
        )

    def to_model(self) -> Model:
        """Returns the Q/DQ model. Raises CalibrationError before calibration."""
        if self.parameters is None:
            raise CalibrationError("the model is not calibrated", "call quantonnx.calibrate(quantized, samples) first")
        float_weights, contrib = self.config.weight_storage == "float", self.config.contrib_ops
        model = assembled(self.model, self.sites, self.parameters, float_weights=float_weights, contrib=contrib)
        model.metadata |= describe(
            self.model.digest,
            target=self.matches.target.name,
            config=self.config,
            sites=self.sites,
            data=self.data,
        )
        return model

    def to_onnx(self) -> onnx.ModelProto:
        """Returns the Q/DQ model as a ModelProto."""
        return self.to_model().to_proto()

    def save(self, path: str | Path, *, force: bool = False, external_data: bool = False) -> None:
        """Writes the Q/DQ model atomically; weights over 2 GB go to `path`.data."""
        self.to_model().save(path, force=force, external_data=external_data)


@uncollected()
def insert_qdq(model: Model, matches: Matches, config: QuantConfig | None = None) -> QuantizedModel:
    """Returns where Q/DQ pairs will stand in a fused model: exactly at the points that the applied matches declare."""
    config = config or QuantConfig()
    refuse_quantized(model, "the model")
    placement: Placement = place(model, matches, config)
    return QuantizedModel(model, placement.sites, placement.decisions, matches, config)
