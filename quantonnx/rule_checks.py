"""Rules against the model and the target: one that matches nothing, or asks for what there is not, is an error."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import onnx
import onnx_graphsurgeon as gs

from quantonnx.config import NameRules, OperatorRule, QuantConfig, TensorQuantConfig
from quantonnx.config.rules import OTHERS
from quantonnx.errors import ConfigError, TargetError
from quantonnx.formal_names import formal_name
from quantonnx.model import Model
from quantonnx.pattern import Pattern, Role, ValueDeclaration
from quantonnx.plan import near
from quantonnx.resolution import STATES, Side
from quantonnx.rewriting import Matches
from quantonnx.scopes import Scopes, dotted, scopes_in
from quantonnx.sites import Site
from quantonnx.slots import names_of, rules_of
from quantonnx.target import FormatRequest, Target


def check_rules(model: Model, matches: Matches, config: QuantConfig) -> None:
    """Raises ConfigError for a rule that matches nothing in the model and is not optional; TargetError for a bias."""
    known = [name for node in model.graph.nodes for name in names_of(node)]
    folded = [name for step in matches for name in step.nodes]  # a folded node can still be called by its name
    folded += matches.elsewhere
    for where, listed in (
        ("exclude", config.exclude),
        ("skip.stub", config.skip.stub),
        ("skip.weight", config.skip.weight),
        ("skip.smooth", config.skip.smooth),
        *(
            (f"recipe.{place}.{step.name}.{key}", names)
            for place, step in enumerate(config.recipe)
            for key, names in step.names.items()
        ),
    ):
        rules_of(listed, where).check([*known, *folded])
    opset = model.opset
    types = _found(config.op_types, "op_types", model.graph.nodes, lambda node: [node.op], [*matches.elsewhere])
    names = _found(
        config.op_names, "op_names", model.graph.nodes, lambda node: [n for n in names_of(node) if n != node.op], folded
    )
    for section, rules, found in (("op_types", config.op_types, types), ("op_names", config.op_names, names)):
        for name, rule in rules.items():
            if rule is not None and found[name]:
                _check_slots(f"{section}.{name}", rule, found[name], opset)
    _check_known_ranges(model, config)
    _check_tensor_names(model, config, matches.elsewhere)
    _check_modules(model, config, matches.elsewhere)
    _check_patterns(matches, config)
    _check_biases(matches, config)


def _found(
    rules: Mapping[str, OperatorRule | None],
    where: str,
    nodes: Sequence[gs.Node],
    names_of: Callable[[gs.Node], Sequence[str]],
    more: Sequence[str],
) -> dict[str, list[gs.Node]]:
    """The operators that each rule is about; the error for a rule that is about none."""
    optional = [name for name, rule in rules.items() if rule is not None and rule.optional]
    matcher = NameRules(rules, where, optional)
    if not rules:
        return {}
    matcher.check([*(name for node in nodes for name in names_of(node)), *more])
    found: dict[str, list[gs.Node]] = {name: [] for name in rules}
    for node in nodes:
        for name in matcher.all(names_of(node)):
            found[name].append(node)
    return found


def _check_slots(where: str, rule: OperatorRule, nodes: Sequence[gs.Node], opset: int) -> None:
    sides = (("inputs", rule.inputs, True), ("outputs", rule.outputs, False))
    for side, slots, inputs in sides:
        for key in slots or ():
            values = [(node, i, v) for node in nodes for i, v in enumerate(node.inputs if inputs else node.outputs)]
            computed = [(node, i) for node, i, value in values if not isinstance(value, gs.Constant)]
            known = {index for _, index in computed}
            names = {name for node, i in computed for name in formal_name(node, i, inputs=inputs, opset=opset)}
            held = {key for node, i, _ in values for key in (i, *formal_name(node, i, inputs=inputs, opset=opset))}
            if key in held - known - names:
                raise ConfigError(f"{where}.{side}.{key} is a constant", "say it in `states`, of `weight` or `bias`")
            _check_key(f"{where}.{side}", key, known, names)
    for key in rule.states or ():
        formal = {n for node in nodes for i in (1, 2) for n in formal_name(node, i, inputs=True, opset=opset)}
        _check_key(f"{where}.states", key, {0, 1}, {*STATES, *formal})


def _check_key(where: str, key: int | str, indices: Collection[int], names: Collection[str]) -> None:
    if key == OTHERS or key in indices or key in names:
        return
    shown = ", ".join(map(str, [*sorted(indices), *sorted(names)]))
    raise ConfigError(f"{where} has no {key!r}", near(str(key), names) or f"there are {shown}")


def _check_known_ranges(model: Model, config: QuantConfig) -> None:
    """An operator may be absent, as presets name what is common; but there must be such a one."""
    strange = config.known_ranges.keys() - {node.op for node in model.graph.nodes}
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain} if strange else set()
    for name in sorted(strange - known):
        raise ConfigError(f"known_ranges: there is no operator {name!r}", near(name, known))


def _check_tensor_names(model: Model, config: QuantConfig, elsewhere: Collection[str]) -> None:
    optional = [name for name, rule in config.tensors.items() if rule is not None and rule.optional]
    known = [*model.tensors(), *elsewhere]
    NameRules(config.tensors, "tensors", optional).check(known)
    NameRules(config.fixed, "fixed").check(known)


def _check_modules(model: Model, config: QuantConfig, elsewhere: Collection[str]) -> None:
    if not config.modules:
        return
    scopes = Scopes(model)
    for name, rule in config.modules.items():
        wanted = name if name.startswith("re:") else dotted(name)
        matcher = NameRules([wanted], "modules", [wanted] if rule is not None and rule.optional else [])
        found = [scope for scope in scopes.names if matcher.first((scope,))]
        inside = not found and any(matcher.first(scopes_in(other)) for other in elsewhere)
        if not found and not inside and wanted not in matcher.optional:
            hint = near(wanted, scopes.names) or "the file names no modules" * (not scopes.names)
            raise ConfigError(f"modules: no scope of the model is called {name!r}", hint)
        for side in ("inputs", "outputs"):
            for key in getattr(rule, side, None) or {} if found else {}:
                crossing = [getattr(scopes.boundary(scope), side) for scope in found]
                known = {value for boundary in crossing for value in boundary}
                _check_key(f"modules.{name}.{side}", key, range(max(map(len, crossing))), known)


def _check_patterns(matches: Matches, config: QuantConfig) -> None:
    used = {step.pattern for step in matches} | matches.elsewhere
    known = {pattern.__name__: pattern for pattern in matches.target.patterns}
    for name, rule in config.patterns.items():
        if name not in known:
            target = matches.target.name
            raise ConfigError(
                f"patterns: {target} has no pattern {name!r}", near(name, known) or "see `quantonnx targets`"
            )
        if name not in used and not (rule is not None and rule.optional):
            hint = near(name, used) or f"those that do are {', '.join(sorted(used)) or 'none'}"
            raise ConfigError(f"patterns: {name} matches nothing in the model", hint)
        for side in ("inputs", "outputs", "states"):
            for key in getattr(rule, side, None) or ():
                _check_key(f"patterns.{name}.{side}", key, *_keys_of(known[name], Side(side)))


def _check_biases(matches: Matches, config: QuantConfig) -> None:
    """Raises TargetError for a format of biases where every bias stays in float."""
    used = {step.pattern for step in matches} | matches.elsewhere
    if any(point.role is Role.BIAS for p in matches.target.patterns if p.__name__ in used for point in p.qdq_points):
        return
    for where, spec in _said_of_biases(config):
        if spec is not None and spec.said():
            raise TargetError(f"{where}: {matches.target.name} takes float biases here", "say `bias: null`")


def _said_of_biases(config: QuantConfig) -> Iterator[tuple[str, TensorQuantConfig | None]]:
    yield "bias", config.bias
    for section in ("op_types", "patterns", "op_names", "modules"):
        for name, rule in getattr(config, section).items():
            states = getattr(rule, "states", None) or {}
            yield from ((f"{section}.{name}.states.{key}", states[key]) for key in ("bias", 1) if key in states)


def _keys_of(pattern: type[Pattern], side: Side) -> tuple[range, set[str]]:
    """The indices and the names by which a rule can call what a pattern reads, gives or holds."""
    if side is Side.STATES:
        points = [point for point in pattern.qdq_points if not point.role.on_activation]
        names = {name for name, value in pattern.declarations.items() if any(p.declaration is value for p in points)}
        return range(len(STATES)), {*names, *STATES}
    if side is Side.OUTPUTS:
        return range(1), {name for name, value in pattern.declarations.items() if value is pattern.root}
    points = [p for p in pattern.qdq_points if p.role.on_activation and p.role is not Role.OUTPUT]
    pointed = {id(point.declaration) for point in points}
    declared = pattern.declarations.items()
    return range(len(points)), {name for name, value in declared if id(value) in pointed or _is_computed(value)}


def _is_computed(declaration: object) -> bool:
    return isinstance(declaration, ValueDeclaration) and not declaration.constant


def check_tensors(config: QuantConfig, sites: Sequence[Site], elsewhere: Collection[str] = ()) -> None:
    """Raises ConfigError for a rule about numbers of a tensor on which no pair of its own stands."""
    sources = {site.tensor: site.source for site in sites if site.on_activation}
    known = {site.tensor: "" for site in sites} | sources
    for where, name, optional in _numbered(config):
        if name not in known and not optional and name not in elsewhere:
            raise ConfigError(f"{where}: no pair stands on {name!r}", near(name, known))
        if sources.get(name, name) != name and not optional and not _shares(config, name):
            raise ConfigError(f"{where}: {name!r} takes its scale from {sources[name]!r}", "say it about that one")


def _numbered(config: QuantConfig) -> list[tuple[str, str, bool]]:
    rules = [(name, rule) for name, rule in config.tensors.items() if rule is not None and not name.startswith("re:")]
    return [("fixed", name, False) for name in config.fixed] + [
        ("tensors", name, rule.optional) for name, rule in rules if rule.said()
    ]


def _shares(config: QuantConfig, name: str) -> bool:
    rule = config.tensors.get(name)
    return rule is not None and rule.share_with is not None


def check_formats(model: Model, target: Target, claims: Sequence[Site]) -> None:
    """Raises TargetError for a format that a rule asks for and the target refuses."""
    operators = {node.name: node.op for node in model.graph.nodes}
    activations = {edge.node: claim for claim in claims if Role.INPUT in claim.roles for edge in claim.edges}
    asked: dict[FormatRequest, Site] = {}
    for claim in claims:
        if claim.derived_from is None:
            asked.setdefault(_request(claim, operators, activations), claim)
    for request, claim in asked.items():
        beside = activations.get(claim.edges[0].node) if claim.edges else None
        rules = claim.rules or (beside.rules if beside is not None else ())
        reason = target.refuses(request) if rules else None
        if reason:
            raise TargetError(
                f"{target.name} refuses the format of {claim.roles[0].name} {claim.tensor!r} of {claim.pattern} that "
                f"`{rules[-1]}` asks for: {reason}"
            )


def _request(claim: Site, operators: Mapping[str, str], activations: Mapping[str, Site]) -> FormatRequest:
    node = claim.edges[0].node if claim.edges else ""
    beside = None if claim.on_activation else activations.get(node)
    return FormatRequest(
        format=claim.format,
        role=claim.roles[0],
        operator=operators.get(node, claim.pattern),
        activation=None if beside is None else beside.format,
        dynamic=(beside or claim).ranging.dynamic,
        channel_axis=claim.channel_axis,
    )
