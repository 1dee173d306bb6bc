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
        self.exact = {name: place for place, name in enumerate(names) if not name.startswith(REGEX)}
        self.patterns = {name: compiled(name, where) for name in names if name.startswith(REGEX)}
        self._found: dict[str, frozenset[str]] = {}

    def check(self, known: Iterable[str]) -> None:
        """Raises ConfigError for a rule that matches none of `known`, with the nearest names."""
        known = dict.fromkeys(known) if self.exact or self.patterns else {}
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
        names = dict.fromkeys(names)
        yield from sorted((name for name in names if name in self.exact), key=self.exact.__getitem__)
        if self.patterns:
            found = frozenset().union(*map(self._expressions, names))
            yield from (rule for rule in self.patterns if rule in found)

    def _expressions(self, name: str) -> frozenset[str]:
        """The expressions that match a name, remembered: a name is asked about at every tensor around it."""
        if name not in self._found:
            self._found[name] = frozenset(rule for rule, pattern in self.patterns.items() if pattern.search(name))
        return self._found[name]


def compiled(name: str, where: str) -> re.Pattern[str]:
    """Returns the expression of a `re:` name; ConfigError where it is none."""
    expression = name.removeprefix(REGEX)
    try:
        return re.compile(expression)
    except re.error as error:
        raise ConfigError(f"{where}: 're:{expression}' is no regular expression: {error}", "check it") from None
