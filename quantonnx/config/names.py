"""Names that a user wrote, matched against what a model has; one that matches nothing is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from quantonnx.errors import ConfigError
from quantonnx.plan import near

REGEX = "re:"


class NameRules:
    """Exact names and `re:` patterns; a rule in `optional` may match nothing."""

    def __init__(self, names: Iterable[str], where: str, optional: Iterable[str] = ()) -> None:
        names = tuple(names)
        self.where = where
        self.optional = frozenset(optional)
        self.exact = tuple(name for name in names if not name.startswith(REGEX))
        self.patterns = {name: compiled(name, where) for name in names if name.startswith(REGEX)}

    def check(self, known: Iterable[str]) -> None:
        """Raises ConfigError for a rule that matches none of `known`, with the nearest names."""
        known = dict.fromkeys(known)
        for name in self.exact:
            if name not in known and name not in self.optional:
                raise ConfigError(f"{self.where}: nothing in the model is called {name!r}", near(name, known))
        for name, pattern in self.patterns.items():
            if name not in self.optional and not any(pattern.search(candidate) for candidate in known):
                raise ConfigError(f"{self.where}: {name!r} matches nothing in the model", "check the expression")

    def first(self, names: Iterable[str]) -> str | None:
        """Returns the rule that matches one of `names`, or None."""
        return next(iter(self.all(names)), None)

    def all(self, names: Iterable[str]) -> Iterator[str]:
        """Yields the rules that match one of `names`: exact ones first, then patterns in the order of writing."""
        names = tuple(names)
        yield from (rule for rule in self.exact if rule in names)
        for rule, pattern in self.patterns.items():
            if any(pattern.search(name) for name in names):
                yield rule


def compiled(name: str, where: str) -> re.Pattern[str]:
    """Returns the expression of a `re:` name; ConfigError where it is none."""
    expression = name.removeprefix(REGEX)
    try:
        return re.compile(expression)
    except re.error as error:
        raise ConfigError(f"{where}: 're:{expression}' is no regular expression: {error}", "check it") from None
