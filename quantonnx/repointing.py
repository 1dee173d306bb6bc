"""Other Q/DQ points for a pattern, as a configuration writes them: `INPUT`, `WEIGHT`, `INPUT(residual)`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from quantonnx.config import PatternRule
from quantonnx.errors import ConfigError
from quantonnx.pattern import Pattern, Point, Role
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
    points = tuple(_point(pattern, text) for text in wanted)
    return type(
        pattern.__name__,
        (pattern,),
        {"qdq_points": points, "__doc__": pattern.__doc__, "__module__": pattern.__module__},
    )


def _point(pattern: type[Pattern], text: str) -> Point:
    where = f"patterns.{pattern.__name__}.qdq_points"
    found = _POINT.fullmatch(text.strip())
    role = Role.__members__.get(found[1].upper()) if found else None
    if found is None or role is None:
        names = [role.name for role in Role]
        hint = near(text.upper(), names) or f"expected {', '.join(names)}, with a name as in INPUT(x)"
        raise ConfigError(f"{where} has {text!r}", hint)
    declared: list[Point] = [point for base in pattern.__mro__ for point in vars(base).get("qdq_points", ())]
    name = found[2]
    if name is not None and name not in pattern.declarations:
        raise ConfigError(f"{where}: {pattern.__name__} declares no {name!r}", near(name, pattern.declarations))
    wanted = pattern.declarations.get(name or "")
    same = [p for p in declared if p.role is role and (wanted is None or p.declaration is wanted)]
    if same:
        return same[0]
    if wanted is None and role is Role.OUTPUT:
        wanted = pattern.root
    if wanted is None:
        known = ", ".join(pattern.declarations)
        raise ConfigError(f"{where}: {pattern.__name__} has no {role.name} of its own", f"name one of {known}")
    return Point(role, wanted)
