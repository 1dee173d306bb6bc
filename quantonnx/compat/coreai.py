"""Core AI's QuantizerConfig as our configuration.

Settings of operators everywhere, of their types and of their names become rules; settings of modules as opaque things
become rules for scopes. What a module says of the operators in it is resolved to those operators, for which the model
is needed. Globally, specs apply at the positions of the target; where an operator or module is named, a pair stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantonnx.compat.coreai_modules import BOUNDARY, Module, Modules, Operators
from quantonnx.compat.coreai_specs import REGISTERED, Rule, slots_of
from quantonnx.compat.foreign import Section, load
from quantonnx.config import QuantConfig
from quantonnx.model import Model
from quantonnx.rewriting import Source

_ALL = f"re:^({'|'.join(REGISTERED)})$"
_EVERY = "re:."
_HOW_IT_RUNS = ("preserved_attributes", "execution_mode")


def from_coreai(config: Any = None, model: Source | Model | None = None) -> QuantConfig:
    """Returns our configuration for Core AI's: a dictionary, the path of a JSON file, or its QuantizerConfig itself.

    `model` is the float file that will be quantized; what is said of types of modules, and of operators within a
    module, needs it. Without `config` everything is int8, as in Core AI.
    Raises ConfigError with the path to a field that is unknown, or that says what ONNX, or this tool, does not have.
    """
    section = _unwrapped(load({} if config is None else config))
    modules = Modules(None if model is None else Model.read(model), section)
    settings = _globally(section)
    section.close(_HOW_IT_RUNS)
    settings["op_names"] |= dict(modules.rules())
    for entry in modules.entries:
        if modules.model is None:
            settings["modules"][_exact(entry.key)] = None
        elif rule := _boundary(entry):
            settings["modules"] |= dict.fromkeys(modules.scopes(entry), rule)
    return QuantConfig(**settings)


def _unwrapped(content: Any) -> Section:
    """A file has the configuration under a key, beside specs that it only names."""
    if not isinstance(content, Mapping) or "quantization_config" not in content:
        return Section(content) if content != {} else Section({})
    outer = Section(content)
    section = outer.section("quantization_config") or Section({})
    outer.close(("quantization_spec",))
    return section


def _globally(section: Section) -> dict[str, Any]:
    settings: dict[str, Any] = {"op_types": {}, "op_names": {}, "modules": {}}
    found = section.section("global_config")
    if found is None and "global_config" in section:
        return settings | {"activation": None, "weight": None, "bias": None}
    found = found or Section({}, "global_config")
    for name in BOUNDARY:
        if found.take(name):
            raise found.error(name, "it is for module_type_configs and module_name_configs")
    operators = Operators.of(found)
    found.close()
    settings |= _everywhere(operators.default, settings["op_types"])
    settings["op_types"] |= operators.by_type
    settings["op_names"] |= {f"re:^(?:{expression})$": rule for expression, rule in operators.by_name.items()}
    return settings


def _everywhere(rule: Rule, op_types: dict[str, Any]) -> dict[str, Any]:
    """One spec for all activations, at the positions of the target; what is not that becomes a rule for types."""
    inputs, outputs = rule["inputs"], rule["outputs"]
    activation = (inputs or {}).get("*") or (outputs or {}).get("*")
    for side, slots in (("inputs", inputs), ("outputs", outputs)):
        if slots is None and activation is not None:
            op_types.setdefault(_EVERY, {"optional": True})[side] = None
        elif slots is not None and slots != {"*": activation}:
            op_types.setdefault(_ALL, {"optional": True})[side] = slots
    states = rule["states"] or {}
    return {"activation": activation, "weight": states.get("weight"), "bias": states.get("bias")}


def _boundary(entry: Module) -> Rule:
    """The rule for a module as one thing; what it does not say is left to the operators within."""
    if entry.content is None:
        return {}
    said = {
        side: slots_of(entry.content.take(name), f"{entry.where}.{name}", side, closed=False)
        for name, side in BOUNDARY.items()
    }
    return {side: slots for side, slots in said.items() if slots}


def _exact(name: str) -> str:
    """A name without the signs of an expression is that of one module; its dots are dots."""
    plain = all(part.isidentifier() or part.isdecimal() for part in name.split("."))
    return name if plain else f"re:^(?:{name})$"
