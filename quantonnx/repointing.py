"""Other Q/DQ points for a pattern, as a configuration writes them: `INPUT`, `WEIGHT`, `INPUT(residual)`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantonnx.config import PatternRule
from quantonnx.errors import ConfigError
from quantonnx.pattern import Pattern, Point, Role, ValueDeclaration
from quantonnx.plan import near
from quantonnx.target import Target

_POINT = re.compile(r"([A-Za-z_]+)(?:\((\w+)\))?")


def with_points(target: Target, rules: Mapping[str, PatternRule | None]) -> Target:
    """Returns the target with the points that a configuration gives patterns; ConfigError for one that cannot be."""
    changed = {
        name: rule.qdq_points for name, rule in rules.items() if rule is not None and rule.qdq_points is not None
    }
    if not changed:
        return target
    patterns = tuple(
        _repointed(pattern, changed[pattern.__name__]) if pattern.__name__ in changed else pattern
        for pattern in target.patterns
    )
    return replace(target, patterns=patterns)


def _repointed(pattern: type[Pattern], wanted: Sequence[str]) -> type[Pattern]:
    points = tuple(point for text in wanted for point in _points(pattern, text))
    return type(
        pattern.__name__,
        (pattern,),
        {"qdq_points": points, "__doc__": pattern.__doc__, "__module__": pattern.__module__},
    )


def _points(pattern: type[Pattern], text: str) -> Sequence[Point]:
    where = f"patterns.{pattern.__name__}.qdq_points"
    role, name = _parsed(where, text)
    if name is not None and name not in pattern.declarations:
        hint = near(name, pattern.declarations) or f"it declares {', '.join(pattern.declarations)}"
        raise ConfigError(f"{where}: {pattern.__name__} declares no {name!r}", hint)
    declared = _declared(pattern, role)
    if name is not None:
        wanted = pattern.declarations[name]
        return [p for p in declared if p.declaration is wanted][:1] or [_new(where, pattern, role, name)]
    if declared:
        return declared
    if role is Role.OUTPUT:
        return [Point(role, pattern.root)]
    fitting = ", ".join(name for name, value in pattern.declarations.items() if _fits(role, value, pattern))
    hint = f"name one, as in {role.name}(x), of {fitting}" if fitting else "leave it out"
    raise ConfigError(f"{where}: {pattern.__name__} has no {role.name} of its own", hint)


def _parsed(where: str, text: str) -> tuple[Role, str | None]:
    found = _POINT.fullmatch(text.strip())
    role = Role.__members__.get(found[1].upper()) if found else None
    if found is None or role is None:
        names = [role.name for role in Role]
        hint = near(text.upper(), names) or f"expected {', '.join(names)}, with a name as in INPUT(x)"
        raise ConfigError(f"{where} has {text!r}", hint)
    return role, found[2]


def _declared(pattern: type[Pattern], role: Role) -> list[Point]:
    """The points of a role that the pattern itself has; where a target took them all away, those it had before."""
    every = ([p for p in vars(base).get("qdq_points", ()) if p.role is role] for base in pattern.__mro__)
    return next((points for points in every if points), [])


def _new(where: str, pattern: type[Pattern], role: Role, name: str) -> Point:
    if not _fits(role, pattern.declarations[name], pattern):
        fitting = ", ".join(name for name, value in pattern.declarations.items() if _fits(role, value, pattern))
        raise ConfigError(
            f"{where}: {name!r} of {pattern.__name__} can be no {role.name}",
            f"{_ROOM[role]}: {fitting or 'it has none'}",
        )
    return Point(role, pattern.declarations[name])


def _fits(role: Role, declaration: Any, pattern: type[Pattern]) -> bool:
    if role is Role.OUTPUT:
        return declaration is pattern.root
    return isinstance(declaration, ValueDeclaration) and declaration.constant != role.on_activation


_ENTERS, _HELD = "it stands on what enters the group", "it stands on a constant"
_ROOM = {
    Role.INPUT: _ENTERS,
    Role.RESIDUAL_INPUT: _ENTERS,
    Role.OUTPUT: "it stands on what the group gives",
    Role.WEIGHT: _HELD,
    Role.BIAS: _HELD,
}
