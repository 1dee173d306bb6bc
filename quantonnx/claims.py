"""What a match asks for: a site for each value at a declared point, in the format that target and user agree on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from quantonnx.calibration.methods import Method
from quantonnx.config import OpsToSkip
from quantonnx.decisions import Decider, Decision
from quantonnx.errors import ConfigError, TargetError
from quantonnx.format_rules import activation_format, weight_format
from quantonnx.formats import Storage, TensorFormat
from quantonnx.pattern import Edge, Pattern, Point, Role
from quantonnx.plan import Step
from quantonnx.ranging import MINMAX, Ranging, ranging_of
from quantonnx.resolution import Outcome, Resolver, Side, Slot
from quantonnx.sites import Derivation, Site
from quantonnx.slots import axis_of, names_in, names_of, one_for_each_channel, only, rules_of, slot_at, slots_of
from quantonnx.target import BiasKind, Target


@dataclass(frozen=True)
class Asked:
    """What one match asks for. `whole` where every activation that it reads is to be quantized: an integer operator."""

    step: Step
    match: Pattern
    claims: tuple[Site, ...]
    whole: bool


class Asker:
    """Asks matches what they want, the user what of it shall be, and remembers what was refused."""

    def __init__(self, target: Target, resolver: Resolver, skip: OpsToSkip, decisions: list[Decision]) -> None:
        self.target = target
        self.resolver = resolver
        self.decisions = decisions
        self.stub = rules_of(skip.stub, "skip.stub")
        self.weight = rules_of(skip.weight, "skip.weight")
        self.excluded = rules_of(resolver.config.exclude, "exclude")
        self.known_ranges = {**target.known_ranges, **resolver.config.known_ranges}

    def ask(self, step: Step, match: Pattern) -> Asked:
        """Returns the claims of a match."""
        skipped = self._skipped(step, match)
        claims: list[Site] = []
        slots = slots_of(match, step)
        for slot, point in slots:
            outcome = self.resolver.resolve(slot, declared=True)
            if point.role in skipped or not outcome.on:
                self._note_off(step, point, slot, outcome, skipped)
            elif outcome.said.get("dynamic") and not outcome.demanded and not _computes_on(slot, match):
                reason = f"{point.role.name} {slot.tensor.name!r} is dynamic, and no weight meets it"
                self.decisions.append(Decision(step.output, reason, Decider.OFF))
            elif slot.kind == "weight" and not outcome.demanded and not _has_groups(slot, point, outcome):
                reason = f"{slot.tensor.name!r} has no known axis to sum over, so it cannot be in groups"
                self.decisions.append(Decision(step.output, reason, Decider.OFF))
            else:
                base = point.format or (self.target.weight if point.role is Role.WEIGHT else self.target.activation)
                claims.append(self._claim(slot, point, step.pattern, step.output, base, outcome))
        read = [slot for slot, _ in slots if slot.side is Side.INPUTS]
        on = {edge for claim in claims for edge in claim.edges}
        whole = all(Edge(slot.node.name, slot.index) in on for slot in read)
        claims += self._biases(step, match, claims, skipped)
        return Asked(step, match, tuple(claims), whole)

    def claim(self, slot: Slot, role: Role, pattern: str, owner: str, outcome: Outcome) -> Site:
        """Returns the site that a rule demands where no pattern declares one."""
        base = self.target.weight if role is Role.WEIGHT else self.target.activation
        site = self._claim(slot, Point(role, None), pattern, owner, base, outcome)
        return replace(site, reason=f"{role.name} of {pattern}, as {outcome.rules[-1]} asks")

    def leaves_alone(self, nodes: Iterable[gs.Node], folded: Iterable[str]) -> bool:
        """True where the user excluded operators, or skips their activations."""
        names = [*folded, *(name for node in nodes for name in names_of(node))]
        return bool(self.stub.first(names) or self.excluded.first(names))

    def _skipped(self, step: Step, match: Pattern) -> Mapping[Role, str]:
        names = names_in(match)
        stub, weight = self.stub.first(names), self.weight.first(names)
        found = {role: stub if role.on_activation or role is Role.BIAS else weight for role in Role}
        return {role: rule for role, rule in found.items() if rule}

    def _note_off(self, step: Step, point: Point, slot: Slot, outcome: Outcome, skipped: Mapping[Role, str]) -> None:
        if point.role in skipped:
            reason, decider = f"{point.role.value} skipped by {skipped[point.role]!r}", Decider.SKIP
        else:
            reason, decider = f"{point.role.name} {slot.tensor.name!r} is off by {outcome.rules[-1]}", Decider.OFF
        decision = Decision(step.output, reason, decider)
        if decision not in self.decisions[-8:]:  # two values of one role are one decision
            self.decisions.append(decision)

    def _claim(self, slot: Slot, point: Point, pattern: str, owner: str, base: TensorFormat, outcome: Outcome) -> Site:
        given, constant = slot.side is Side.OUTPUTS, slot.kind != "activation"
        axis = axis_of(point, slot.match) if constant and slot.match is not None else None
        fmt = self._format(slot, axis, base, outcome)
        return Site(
            tensor=slot.tensor.name,
            roles=(point.role,),
            format=fmt,
            edges=() if given else (Edge(slot.node.name, slot.index),),
            pattern=pattern,
            owner=owner,
            source=slot.tensor.name,
            whole=given,
            reason=f"{point.role.name} of {pattern}",
            ranging=self._ranging(slot, fmt, outcome),
            rules=outcome.rules,
            demanded=outcome.demanded,
            channel_axis=axis,
        )

    def _format(self, slot: Slot, axis: int | None, base: TensorFormat, outcome: Outcome) -> TensorFormat:
        try:
            if slot.kind == "activation":
                return activation_format(base, outcome.said)
            return weight_format(base, outcome.said, axis, len(slot.tensor.shape))
        except ConfigError as error:
            rules = " over ".join(reversed(outcome.rules))
            raise ConfigError(f"{rules}: {error.message} for {slot.tensor.name!r}", error.hint) from None

    def _ranging(self, slot: Slot, fmt: TensorFormat, outcome: Outcome) -> Ranging:
        found = ranging_of(outcome.said, self.target.method if slot.kind == "activation" else Method.MINMAX.value)
        chosen = "calibration_method" in outcome.said
        if fmt.float8 and found.method.needs_even_steps:
            if chosen:
                rules = " over ".join(reversed(outcome.rules))
                raise ConfigError(f"{rules}: {found.method} is for integers, not float8", "use minmax or percentile")
            found = replace(found, method=MINMAX)
        producer = slot.tensor.inputs[0].op if slot.kind == "activation" and slot.tensor.inputs else ""
        known = self.known_ranges.get(producer)
        return found if known is None or chosen or not found.needs_samples else replace(found, range=known)

    def _biases(
        self, step: Step, match: Pattern, claims: Iterable[Site], skipped: Mapping[Role, str]
    ) -> Iterator[Site]:
        for point in match.qdq_points:
            for value in match.values(point.declaration) if point.role is Role.BIAS else ():
                slot = slot_at(value, point, match, step)
                outcome = self.resolver.resolve(slot, declared=True)
                if outcome.on and Role.BIAS not in skipped:
                    yield from self._bias(point, slot, step, match, list(claims), outcome)

    def _bias(
        self, point: Point, slot: Slot, step: Step, match: Pattern, claims: list[Site], outcome: Outcome
    ) -> Iterator[Site]:
        if outcome.said.get("n_bits") is not None:
            fmt = replace(self.target.weight, axis=None)
            site = self._claim(slot, point, step.pattern, step.output, fmt, outcome)
            yield replace(site, edges=match.edges(point.declaration))
            return
        _check_derived(slot.tensor.name, outcome)
        if outcome.said.get("int32") and self.target.bias is BiasKind.FLOAT:
            raise TargetError(f"{outcome.rules[-1]}: {self.target.name} takes float biases only", "say `bias: null`")
        derived = _derivation(match, claims)
        if self.target.bias is BiasKind.INT32 and derived is not None and one_for_each_channel(slot.tensor, match):
            yield Site(
                tensor=slot.tensor.name,
                roles=(Role.BIAS,),
                format=TensorFormat(n_bits=8, axis=0),
                edges=match.edges(point.declaration),
                pattern=step.pattern,
                owner=step.output,
                derived_from=derived,
                reason=f"BIAS of {step.pattern}: int32, its scale is the product of the input's and the weight's",
                rules=outcome.rules,
            )


def _has_groups(slot: Slot, point: Point, outcome: Outcome) -> bool:
    """False for a weight that is to be in groups along an axis that nobody knows: a stack of matrices."""
    if outcome.said.get("group_size") is None or outcome.said.get("axis") is not None:
        return True
    return slot.match is None or axis_of(point, slot.match) is not None


def _check_derived(bias: str, outcome: Outcome) -> None:
    """Raises ConfigError for settings of a bias that has no integers of its own: it stays in float, or is int32."""
    said = [name for name, value in outcome.said.items() if value is not None and name not in ("int32", "float8")]
    if said:
        rules = " over ".join(reversed(outcome.rules))
        raise ConfigError(
            f"{rules}: {said[0]} is said of the bias {bias!r}, whose scale is that of input and weight",
            "say `dtype: int8` (or int16) beside it, or leave it out",
        )


def _computes_on(slot: Slot, match: Pattern) -> bool:
    """True where an activation enters an operator with a weight, which can compute with scales found at run time."""
    return slot.side is not Side.OUTPUTS and any(point.role is Role.WEIGHT for point in match.qdq_points)


def _derivation(match: Pattern, claims: Iterable[Site]) -> Derivation | None:
    """The pairs whose scales make that of an int32 bias: integers of at most 8 bits with one scale for a channel."""
    only(Role.INPUT, match)
    point, _ = only(Role.WEIGHT, match)
    found = {role: claim for claim in claims for role in claim.roles}
    activation, weight = found.get(Role.INPUT), found.get(Role.WEIGHT)
    if activation is None or weight is None or activation.ranging.dynamic or weight.format.group_size:
        return None
    plain = not activation.format.float8 and not weight.format.float8 and weight.format.n_bits <= 8
    if not plain or weight.format.storage is Storage.NATIVE or weight.format.axis not in (None, axis_of(point, match)):
        return None
    return Derivation(activation.tensor, activation.format, weight.tensor, weight.format)


def with_numbers_of_origins(claims: Iterable[Site]) -> Iterator[Site]:
    """A derived bias follows what its match's input and weight have been told since they were claimed."""
    claims = list(claims)
    found = {(claim.owner, claim.tensor): claim for claim in claims if not claim.whole and claim.derived_from is None}
    for claim in claims:
        if claim.derived_from is None:
            yield claim
            continue
        activation = found[claim.owner, claim.derived_from.activation]
        weight = found[claim.owner, claim.derived_from.weight]
        derived = claim.derived_from._replace(
            activation_format=activation.format,
            activation_ranging=activation.ranging,
            weight_ranging=weight.ranging,
        )
        yield replace(claim, derived_from=derived)


def without_narrow_biases(sites: Iterable[Site], decisions: list[Decision]) -> Iterator[Site]:
    """The scale of an int32 bias is a product of two scales, which float16 rounds to a few digits or to zero."""
    for site in sites:
        if site.derived_from is not None and site.derived_from.activation_format.float8:
            decisions.append(Decision(site.tensor, "it stays in float: its input is float8", Decider.BIAS))
        elif site.derived_from is not None and site.float_type != "float32":
            reason = f"it stays in float: {site.float_type} cannot hold the scale of an int32 bias"
            decisions.append(Decision(site.tensor, reason, Decider.BIAS))
        else:
            yield site
