"""Which operators of an exported model Core AI's settings of a module are about."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from quantonnx.compat.coreai_specs import OFF, REGISTERED, SIDES, Rule, op_rule
from quantonnx.compat.foreign import Section
from quantonnx.compat.torch_names import onnx_types
from quantonnx.errors import ConfigError
from quantonnx.model import Model
from quantonnx.plan import near
from quantonnx.scopes import scopes_of

BOUNDARY = {"module_input_spec": "inputs", "module_output_spec": "outputs", "module_state_spec": "states"}

_NAMES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"


@dataclass(frozen=True)
class Operators:
    """What is said of operators: of all, by type and by name (an expression); each rule says all sides."""

    default: Rule
    by_type: dict[str, Rule]
    by_name: dict[str, Rule]

    @classmethod
    def of(cls, section: Section) -> Operators:
        """Reads the parts of a ModuleQuantizerConfig that are about operators."""
        if section.take("qat_schedule") is not None:
            raise section.error("qat_schedule", "training is not part of this configuration: leave it out")
        by_type: dict[str, Rule] = {}
        for name, content in section.items("op_type_config"):
            found = onnx_types(str(name), section.path("op_type_config"))
            rule = _rule(content, section.path(f"op_type_config.{name}"))
            by_type |= {key: {**rule, "optional": len(found) > 1} for key in found}
        by_name = {
            str(name): {**_rule(content, section.path(f"op_name_config.{name}")), "optional": False}
            for name, content in section.items("op_name_config")
        }
        return cls(op_rule(section), by_type, by_name)

    @property
    def is_off(self) -> bool:
        """True where nothing is to be quantized."""
        return self.default == OFF and not self.by_type and not self.by_name

    def rule(self, node: gs.Node, called: str) -> Rule | None:
        """Returns what is said of one operator, which PyTorch called `called`."""
        names = (called, node.name, *(output.name for output in node.outputs))
        for expression in reversed(self.by_name):
            if any(re.fullmatch(expression, name) for name in names):
                return self.by_name[expression]
        if node.op in self.by_type:
            return self.by_type[node.op]
        return self.default if node.op in REGISTERED or self.default == OFF else None


def _rule(content: Any, where: str) -> Rule:
    if content is None:
        return dict(OFF)
    section = Section(content, where)
    rule = op_rule(section)
    section.close()
    return rule


@dataclass(frozen=True)
class Module:
    """One entry of module_type_configs or module_name_configs; without `content` it is off."""

    key: str
    by_type: bool
    content: Section | None
    operators: Operators | None
    where: str


class Modules:
    """The entries for modules, and the modules of the model, if there is one."""

    def __init__(self, model: Model | None, section: Section) -> None:
        self.model = model
        self._paths = {node.name: _path(model, node) for node in model.graph.nodes} if model else {}
        levels = (("module_type_configs", True), ("module_name_configs", False))
        self.entries = [
            _module(key, content, section.path(level), by_type=by_type)
            for level, by_type in levels
            for key, content in section.items(level)
        ]
        for entry in self.entries:
            self._check(entry)

    def scopes(self, entry: Module) -> list[str]:
        """Returns the names of the modules that an entry is about."""
        found = (scope for path in self._paths.values() for scope in path if self._means(entry, scope))
        return list(dict.fromkeys(name for name, _ in found if name))

    def rules(self) -> Iterator[tuple[str, Rule]]:
        """Yields the operators in modules that an entry is about, each with its rule: the entry of a name is over that
        of a type, a later one over an earlier one."""
        for node in self.model.graph.nodes if self.model else ():
            entry = next(
                (e for e in reversed(self.entries) if any(self._means(e, s) for s in self._paths[node.name])), None
            )
            rule = dict(OFF) if entry is not None else None
            if entry is not None and entry.operators is not None:
                rule = entry.operators.rule(node, self._called(node))
            if rule is not None:
                yield node.name, {**rule, "optional": True}

    def _means(self, entry: Module, scope: tuple[str, str]) -> bool:
        name, kind = scope
        return kind == entry.key if entry.by_type else re.fullmatch(entry.key, name) is not None

    def _check(self, entry: Module) -> None:
        if self.model is None:
            off = entry.operators is None or (entry.operators.is_off and not _has_boundary(entry))
            if entry.by_type or not off:
                raise ConfigError(
                    f"{entry.where} is about operators within a module", "give the model: from_coreai(config, model)"
                )
            return
        known = {kind if entry.by_type else name for path in self._paths.values() for name, kind in path} - {""}
        if entry.by_type and not known:
            raise ConfigError(f"{entry.where}: the file names no classes of modules", "export it with dynamo=True")
        if not any(self._means(entry, scope) for path in self._paths.values() for scope in path):
            raise ConfigError(f"{entry.where}: no module of the model is meant", near(entry.key, known))

    def _called(self, node: gs.Node) -> str:
        assert self.model is not None
        return (_parsed(self.model.node_metadata(node.name).get(_NAMES)) or [str(node.name)])[-1]


def _module(key: Any, content: Any, where: str, *, by_type: bool) -> Module:
    name = f"{key.__module__}.{key.__qualname__}" if isinstance(key, type) else str(key)
    where = f"{where}.{name}"
    if content is None:
        return Module(name, by_type, None, None, where)
    section = Section(content, where)
    operators = Operators.of(section)
    section.close((*SIDES, *BOUNDARY))
    return Module(name, by_type, section, operators, where)


def _has_boundary(entry: Module) -> bool:
    return entry.content is not None and any(entry.content.take(name) for name in BOUNDARY)


def _path(model: Model, node: gs.Node) -> list[tuple[str, str]]:
    """The modules around a node, each with its name and its class, which only dynamo's files tell."""
    told = model.node_metadata(node.name)
    names, classes = _parsed(told.get(_NAMES)), _parsed(told.get(_CLASSES))
    if names and len(names) == len(classes):
        return list(zip(names[:-1], classes[:-1], strict=True))
    return [(name, "") for name in scopes_of(model, node)]


def _parsed(told: str | None) -> list[str]:
    try:
        found = ast.literal_eval(told or "[]")
    except Exception:  # what a hostile text makes the parser raise
        return []
    return [str(entry) for entry in found] if isinstance(found, list) else []
