"""What will be done, as text that a person can read and edit.

A plan holds names, never pointers into a graph: every step is found again by the name of the value that it gives. So a
plan survives being written to a file, edited, and applied to a fresh copy of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from quantonnx.errors import PlanError


@dataclass
class Step:
    """One rewrite or fusion: which pattern, where (the value that it gives), and whether it is applied.

    `points` are the roles that the pattern declares there; `reason` says why a step is not applied.
    """

    pattern: str
    output: str
    nodes: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    apply: bool = True
    reason: str = ""


@dataclass
class Plan:
    """All steps of one model for one target, editable: `plan["layer1.0.conv1"].apply = False`.

    `left_in_float` tells a reader what placement will decide against, as `name` and `reason`; it is decided anew when
    the plan is used. `bodies` are the plans of the bodies of control flow, by the body's name (`Loop_12/body`).
    """

    model: str
    target: str
    conversions: list[Step] = field(default_factory=list)
    fusions: list[Step] = field(default_factory=list)
    left_in_float: list[dict[str, str]] = field(default_factory=list)
    bodies: dict[str, Plan] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.fusions)

    def __len__(self) -> int:
        return len(self.fusions)

    def __getitem__(self, name: str) -> Step:
        """Returns the fusion that gives the value `name` or holds the node `name` (a part of a path will do)."""
        fusions = [*self.fusions, *(step for plan in self.bodies.values() for step in plan.every_step(fusions=True))]
        exact = [step for step in fusions if name == step.output or name in step.nodes]
        found = exact or [step for step in fusions if _is_part(name, (step.output, *step.nodes))]
        taken = [step for step in found if step.apply] or found
        if len(taken) == 1:
            return taken[0]
        if not taken:
            known = [known for step in fusions for known in (step.output, *step.nodes)]
            raise PlanError(f"no step of the plan is called {name!r}", near(name, known))
        raise PlanError(f"{name!r} names {len(taken)} steps of the plan", f"say which: {taken[0].output}, …")

    def every_step(self, *, fusions: bool = False) -> list[Step]:
        """Returns the steps, or the fusions alone, bodies included."""
        own = self.fusions if fusions else self.conversions + self.fusions
        return [*own, *(step for plan in self.bodies.values() for step in plan.every_step(fusions=fusions))]

    def to_yaml(self) -> str:
        """Returns the plan as YAML text."""
        return yaml.safe_dump(self._content(), sort_keys=False, width=120)

    def _content(self) -> dict[str, Any]:
        steps = {key: [_shown(step) for step in getattr(self, key)] for key in ("conversions", "fusions")}
        told = {"left_in_float": self.left_in_float} if self.left_in_float else {}
        bodies = {name: plan._content() for name, plan in self.bodies.items()}
        inner = {"bodies": bodies} if bodies else {}
        return {"model": self.model, "target": self.target, **steps, **inner, **told}

    def save(self, path: str | Path) -> None:
        """Writes the plan as a YAML file."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Reads a plan from a YAML file; PlanError says which entry is wrong."""
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except Exception as error:  # PyYAML raises many types
            raise PlanError(
                f"{path} is not a plan: {_one_line(error)}", "write one with `quantonnx plan -o`"
            ) from error
        return cls.from_dict(content, str(path))

    @classmethod
    def from_dict(cls, content: Any, where: str = "the plan") -> Plan:
        """Builds a plan from its YAML content."""
        known = {"model", "target", "conversions", "fusions", "bodies", "left_in_float"}
        if not isinstance(content, dict) or not known >= set(content):
            raise PlanError(f"{where} is not a plan", f"expected the keys {', '.join(sorted(known))}")
        steps = {
            key: [_step(entry, f"{where}: {key}[{i}]") for i, entry in enumerate(_list(content, key, where))]
            for key in ("conversions", "fusions")
        }
        told = [entry for entry in _list(content, "left_in_float", where) if isinstance(entry, dict)]
        inner = content.get("bodies") or {}
        if not isinstance(inner, dict):
            raise PlanError(f"{where}: bodies is {inner!r}", "expected a mapping from names of bodies to plans")
        bodies = {str(name): cls.from_dict(plan, f"{where}: bodies.{name}") for name, plan in inner.items()}
        model, target = (str(content.get(key, "")) for key in ("model", "target"))
        return cls(model, target, **steps, left_in_float=told, bodies=bodies)


def near(name: str, known: Iterable[str]) -> str:
    """Returns a hint with the names nearest to `name`."""
    found = get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.5)
    return f"did you mean {', '.join(found)}?" if found else ""


def _is_part(name: str, names: Sequence[str]) -> bool:
    dotted = name.strip("/").replace("/", ".")
    return any(f".{dotted}." in f".{known.strip('/').replace('/', '.')}." for known in names)


def _shown(step: Step) -> dict[str, Any]:
    shown = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(step).items()}
    return {key: value for key, value in shown.items() if value != "" and value != []}


def _step(entry: Any, where: str) -> Step:
    if not isinstance(entry, dict):
        raise PlanError(f"{where} is {entry!r}", "expected a mapping with pattern and output")
    known = set(Step.__dataclass_fields__)
    for key in entry:
        if key not in known:
            raise PlanError(f"{where} has the unknown key {key!r}", near(str(key), known))
    if not isinstance(entry.get("pattern"), str) or not isinstance(entry.get("output"), str):
        raise PlanError(f"{where} names no pattern and output", "both are required")
    if not isinstance(entry.get("apply", True), bool):
        raise PlanError(f"{where} has apply: {entry['apply']!r}", "expected true or false")
    lists = {key: tuple(str(name) for name in _list(entry, key, where)) for key in ("nodes", "points")}
    return Step(
        entry["pattern"],
        entry["output"],
        apply=entry.get("apply", True),
        reason=str(entry.get("reason", "")),
        **lists,
    )


def _list(content: dict[str, Any], key: str, where: str) -> list[Any]:
    found = content.get(key) or []
    if not isinstance(found, list):
        raise PlanError(f"{where}: {key} is {found!r}", "expected a list")
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
