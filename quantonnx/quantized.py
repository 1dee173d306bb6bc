"""The model between placement and file: where the pairs stand, first without and then with their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from quantonnx.algorithms.layerwise import LayerChange
from quantonnx.assembly import assembled, opset_for
from quantonnx.bodies import Body, names_of, open_bodies, own_names, put_back
from quantonnx.calibration.collected import DataSource
from quantonnx.calibration.methods import RangeMethod
from quantonnx.collecting import uncollected
from quantonnx.config import QuantConfig
from quantonnx.decisions import Decider, Decision
from quantonnx.errors import CalibrationError, ModelError, PlanError
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

    `bodies` are the bodies of If, Loop and Scan in the model, by their names, each quantized as a model of its own.
    `reference` is the model with the float results, where `model` has weights or biases that make up for rounding;
    `weight_changes` tell what algorithms did to weights; `method` is the one that `auto` came to; it is `trained` where
    training changed weights or numbers after calibration.
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
    trained: bool = False
    bodies: Mapping[str, QuantizedModel] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[QuantizedModel, ...]:
        """The graph itself, then all bodies in it, however deep."""
        return (self, *(part for body in self.bodies.values() for part in body.parts))

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
        sites = (site for part in self.parts for site in part.sites)
        return any(site.on_activation and site.ranging.needs_samples for site in sites)

    @property
    def faster_in_float(self) -> bool:
        """True where no pair stands because the target's cost model expects every operator to be slower in integers."""
        placed = any(part.sites for part in self.parts)
        return not placed and any(
            decision.decider is Decider.COST for part in self.parts for decision in part.decisions
        )

    def refuse_nothing(self, name: str) -> None:
        """Raises PlanError where no pair stands, unless that is what makes the model fast."""
        if any(part.sites for part in self.parts) or self.faster_in_float:
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
        contrib = self.config.contrib_ops
        opsets = (opset_for(part.sites, contrib=contrib) for part in self.parts if part.calibrated)
        model = self._assembled(self.model, max(opsets), frozenset())
        model.metadata |= describe(
            self.model.digest,
            target=self.matches.target.name,
            config=self.config,
            sites=self.sites,
            data=self.data,
            automatic=self.method,
            trained=self.trained,
        )
        return model

    def _assembled(self, model: Model, opset: int, taken: frozenset[str]) -> Model:
        """Returns the quantized graph, and in it its bodies; `taken` are the names of the graphs around it."""
        float_weights, contrib = self.config.weight_storage == "float", self.config.contrib_ops
        sites, numbers = (self.sites, self.parameters) if self.parameters is not None else ((), {})
        made = assembled(model, sites, numbers, float_weights=float_weights, contrib=contrib, opset=opset)
        put_back(made, self._assembled_bodies(made, opset, taken), taken)
        return made

    def _assembled_bodies(self, made: Model, opset: int, taken: frozenset[str]) -> Iterator[tuple[str, Model]]:
        known, around = set(taken | names_of(made)), taken | own_names(made)
        for name, body in self.bodies.items():
            inner = body.model.copy()
            inner.reserved |= known
            done = body._assembled(inner, opset, around)
            yield name, done
            known |= names_of(done)

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
    opened = list(open_bodies(model))
    matches = replace(matches, elsewhere=matches.elsewhere | _called(opened, matches))
    placement: Placement = place(model, matches, config)
    decisions = list(placement.decisions)
    bodies: dict[str, QuantizedModel] = {}
    around = _around(model, matches) if opened else frozenset()
    for body in opened:
        if body.model is None:
            decisions.append(Decision(body.name, body.reason, Decider.BODY))
            continue
        inner = replace(matches.bodies.get(body.name, Matches([], matches.target)), elsewhere=around)
        try:
            bodies[body.name] = insert_qdq(body.model, inner, config)
        except ModelError as error:
            decisions.append(Decision(body.name, error.message, Decider.BODY))
    return QuantizedModel(model, placement.sites, tuple(decisions), matches, config, bodies=bodies)


def _called(bodies: Iterable[Body], matches: Matches) -> frozenset[str]:
    """What rules of the configuration may call in bodies: operators and their types, values, patterns."""
    models = [body.model for body in bodies if body.model is not None]
    named = {name for model in models for name in names_of(model)}
    types = {node.op for model in models for node in model.graph.nodes}
    steps = [step for inner in matches.bodies.values() for step in inner]
    return frozenset(named | types | {name for step in steps for name in (step.pattern, *step.nodes)})


def _around(model: Model, matches: Matches) -> frozenset[str]:
    """What rules of the configuration may call outside of the bodies of `model`, or in one of these."""
    steps = {word for step in matches for word in (step.pattern, *step.nodes)}
    return matches.elsewhere | names_of(model) | {node.op for node in model.graph.nodes} | steps
