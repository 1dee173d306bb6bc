"""Core AI's QuantizationSpec, and its mappings of specs by index, name or `*`, as specs and slots of our rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantonnx.compat.foreign import Section, word_of
from quantonnx.errors import ConfigError
from quantonnx.plan import near

Spec = dict[str, Any]
Rule = dict[str, Any]

OFF: Rule = {"inputs": None, "outputs": None, "states": None, "optional": True}
REGISTERED = (
    "Add", "AveragePool", "Concat", "Conv", "ConvTranspose", "Div", "Gather", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Mul", "Sub",
)  # fmt: skip
"""The operators that a setting for all operators means."""

SIDES = ("op_input_spec", "op_output_spec", "op_state_spec")

_DTYPES = {
    **{name: name for name in ("int2", "int4", "int8", "uint2", "uint4", "uint8", "int16", "uint16")},
    "float8_e4m3fn": "float8e4m3fn",
    "float8_e4m3": "float8e4m3fn",
}
_SCHEMES: Mapping[str, Spec] = {
    "symmetric": {"symmetric": True, "narrow_range": False},
    "symmetric_with_clipping": {"symmetric": True, "narrow_range": True},
    "asymmetric": {"symmetric": False, "narrow_range": False},
}
_METHODS = {"default": "moving_average", "moving_average": "moving_average", "global_minmax": "minmax"}
_GRANULARITIES = {
    name: kind
    for kind, title in (("per_tensor", "PerTensor"), ("per_channel", "PerChannel"), ("per_block", "PerBlock"))
    for name in (kind, f"{title}Granularity")
}
_ONE_VALUE = {
    "qformulation": (("zp", "ZP"), "Q/DQ has zero points, no smallest values: use zp"),
    "fake_quantize_cls": (("default", "_DefaultFakeQuantizeImpl"), "a class of one's own has no place in a file"),
    "range_calculator_cls": (("minmax", "MinMaxRangeCalculator"), "a class of one's own has no place in a file"),
    "scale_dtype": ((), "its powers of two are those of MX formats, which ONNX does not have"),
}
_PER_TENSOR_INT8 = {"dtype": "int8", "qscheme": "symmetric", "qparam_calculator_cls": "moving_average"}
_PER_CHANNEL_INT8 = {"dtype": "int8", "qscheme": "symmetric", "granularity": {"type": "per_channel", "axis": 0}}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "op_input_spec": {"*": _PER_TENSOR_INT8},
    "op_output_spec": {"*": _PER_TENSOR_INT8},
    "op_state_spec": {"weight": _PER_CHANNEL_INT8},
}
"""What a part that is not written means: int8."""


def spec_of(content: Any, where: str, kind: str) -> Spec:
    """Returns the spec of an `activation`, `weight` or `bias`. Raises ConfigError for what ONNX cannot say."""
    section = Section(content, where)
    section.only(_ONE_VALUE)
    dtype = section.word("dtype", _DTYPES, default="int8")
    spec: Spec = {"dtype": dtype}
    if dtype.startswith(("int", "uint")):
        scheme = section.word("qscheme", _lowered(_SCHEMES), default=_SCHEMES["symmetric"])
        spec |= {key: value for key, value in scheme.items() if key == "symmetric" or dtype.startswith("int")}
    spec |= _granularity(section, kind) | _range(section)
    spec |= _method(section) if kind == "activation" and "range" not in spec else {}
    section.close(("qscheme", "qparam_calculator_cls"))
    return spec


def _lowered(known: Mapping[str, Any]) -> dict[str, Any]:
    """Members of their enums are upper case, words in files lower case."""
    return {**known, **{name.upper(): value for name, value in known.items()}}


def _granularity(section: Section, kind: str) -> Spec:
    content = section.take("granularity")
    if content is None:
        return {} if kind == "activation" else {"per_channel": False}
    inner = Section(content, section.path("granularity")) if _has_fields(content) else Section({}, "")
    name = word_of(inner.take("type") or type(content))
    known = _GRANULARITIES.get(name)
    if known is None:
        raise ConfigError(f"{section.path('granularity')} is {name!r}", near(name, _GRANULARITIES) or "use per_tensor")
    axis, size = inner.take("axis"), inner.take("block_size")
    inner.close()
    if kind == "activation" and known != "per_tensor":
        raise section.error("granularity", "an activation has one scale: use per_tensor")
    if known == "per_block":
        return _blocks(inner, axis, size)
    if known == "per_channel" and axis not in (None, 0):
        raise inner.error("axis", "channels are those of the output: leave it out")
    return {} if kind == "activation" else {"per_channel": known == "per_channel"}


def _has_fields(content: Any) -> bool:
    return isinstance(content, Mapping) or bool(getattr(type(content), "model_fields", None) or vars(content))


def _blocks(inner: Section, axis: Any, size: Any) -> Spec:
    if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] == 1:
        size = size[1]
    if axis not in (None, 1, -1):
        raise inner.error("axis", "blocks lie along the axis that the operator sums over: leave it out")
    if not isinstance(size, int) or isinstance(size, bool):
        raise inner.error("block_size", "expected the number of values that share a scale")
    return {"group_size": size}


def _range(section: Section) -> Spec:
    found = section.take("float_range")
    if found is None or list(found) == [None, None]:
        return {}
    if None in found:
        raise section.error("float_range", "give both ends, or none")
    return {"range": list(found)}


def _method(section: Section) -> Spec:
    value = section.take("qparam_calculator_cls")
    name = "default" if value is None else word_of(value)
    name = {"MovingAverageQParamsCalculator": "moving_average", "GlobalMinMaxQParamsCalculator": "global_minmax"}.get(
        name, name
    )
    if name in ("static", "StaticQParamsCalculator"):
        raise section.error("qparam_calculator_cls", "it forgets all samples but the last: use global_minmax")
    if name not in _METHODS:
        raise section.error("qparam_calculator_cls", near(name, _METHODS) or f"known are {', '.join(_METHODS)}")
    return {"calibration_method": _METHODS[name]}


def op_rule(section: Section) -> Rule:
    """Returns the rule that an OpQuantizerConfig is: what is not written is int8, what is null or empty is off."""
    rule: Rule = {"optional": True}
    for name in SIDES:
        content = section.take(name, DEFAULTS[name] if name not in section else None)
        side = {"op_input_spec": "inputs", "op_output_spec": "outputs", "op_state_spec": "states"}[name]
        rule[side] = slots_of(content, section.path(name), side) or None
    return rule


def slots_of(content: Any, where: str, side: str, *, closed: bool = True) -> dict[int | str, Spec | None]:
    """Returns specs by index, name or `*`; those not named are off where `closed`, else left to others."""
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} is {word_of(content)!r}", "expected a mapping by index, name or *")
    if side == "states":
        return _states(content, where, closed=closed)
    found = {
        _key(key): None if spec is None else spec_of(spec, f"{where}.{key}", "activation")
        for key, spec in content.items()
    }
    return {**found, "*": None} if found and closed and "*" not in found else found


def _key(key: Any) -> int | str:
    return int(key) if str(key).isdecimal() else str(key)


def _states(content: Mapping[Any, Any], where: str, *, closed: bool) -> dict[int | str, Spec | None]:
    for key in content:
        if key not in ("weight", "bias", "*"):
            raise ConfigError(f"{where} has no {key!r}", near(str(key), ("weight", "bias")) or "known: weight, bias, *")
    found: dict[int | str, Spec | None] = {}
    for kind in ("weight", "bias"):
        key = kind if kind in content else "*"
        if key in content and content[key] is not None:
            found[kind] = spec_of(content[key], f"{where}.{key}", kind)
        elif content and (closed or key in content):
            found[kind] = None
    if found.get("bias"):
        found["bias"] = {**found["bias"], "per_channel": False}  # type: ignore[dict-item]
    return found
