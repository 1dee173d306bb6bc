"""AMD Quark's configuration (QConfig of its PyTorch side, and of its ONNX side) as ours.

Layers are scopes of the exported network, which the exporters leave in the file; their names may hold `*`. What a
level leaves None falls through to the level above, as in Quark. Positions stay those of the target, except where a
layer or a type of layers is named: its inputs and outputs get what is said there.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx

from quantonnx.compat.foreign import Section, load, word_of
from quantonnx.compat.quark_specs import spec_of
from quantonnx.config import QuantConfig
from quantonnx.errors import ConfigError
from quantonnx.plan import near

_LAYERS = {
    "Linear": ("Gemm", "MatMul"),
    **{f"Conv{n}d": ("Conv",) for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": ("ConvTranspose",) for n in (1, 2, 3)},
    "Embedding": ("Gather",),
}
_WEIGHTED = "re:^(Conv|ConvTranspose|Gemm|MatMul)$"
"""The operators of the layers that Quark quantizes."""

_OFF = {"inputs": None, "outputs": None, "states": None}
_ALGORITHMS = {
    name: f"{name} is not built: take it out, or use smooth"
    for name in ("awq", "gptq", "gptaq", "qronos", "autosmoothquant", "svdquant", "rotation", "quarot", "cle")
}
_ONE_VALUE = {
    "kv_cache_quant_config": (("{}",), "a key/value cache is no part of an ONNX graph: name its tensors in `tensors`"),
    "kv_cache_group": (("[]",), "a key/value cache is no part of an ONNX graph"),
    "shared_scale_groups": (("[]",), "say `share_with` for a tensor"),
    "sync_moe_expert_input_amax": ((False,), "say `share_with` for a tensor"),
}
_NOTHING_TO_DO = (
    "quant_mode", "quant_method", "version", "log_severity_level", "keep_prequantized_layers", "kv_cache_post_rope",
    "min_kv_scale", "export", "use_external_data_format",
)  # fmt: skip
"""How Quark runs and writes, not how tensors are quantized."""

Rule = dict[str, Any]


def from_quark(config: Any) -> QuantConfig:
    """Returns our configuration for Quark's: a dictionary, the path of a JSON file, or its QConfig object itself.

    Raises ConfigError with the path to a field that is unknown, or that says what ONNX, or this tool, does not have.
    """
    section = Section(load(config))
    onnx_side = "global_config" in section
    section.only(_ONE_VALUE)
    settings = _globals(section.section("global_config" if onnx_side else "global_quant_config"))
    excluded = [str(name) for name in section.listed("exclude") if _is_name(section, name)]
    if onnx_side:
        _by_name(section, settings, excluded)
    else:
        _by_layer(section, settings, excluded)
    _softmax(section, settings)
    settings |= _algorithms([*section.listed("pre_quant_opt_config"), *section.listed("algo_config")])
    extra = section.take("extra_options")
    if extra:
        raise section.error("extra_options", "say each of them in our configuration")
    section.close(_NOTHING_TO_DO)
    return QuantConfig(**settings)


def _globals(layer: Section | None) -> dict[str, Any]:
    """Nothing said globally is off; outputs have no level of their own here, so that they are a rule for types."""
    if layer is None:
        return {"activation": None, "weight": None, "bias": None}
    rule = _layer(layer)
    inputs, outputs = (rule.get(side, {}).get("*") for side in ("inputs", "outputs"))
    states = rule.get("states", {})
    settings = {"activation": inputs, "weight": states.get("weight"), "bias": states.get("bias")}
    if outputs is not None and outputs != inputs:
        settings["op_types"] = {_WEIGHTED: {"outputs": {"*": outputs}, "optional": True}}
    return settings


def _layer(layer: Section) -> Rule:
    """The rule that a QLayerConfig is; what it leaves None is not in it."""
    rule: Rule = {}
    inputs = "activation" if layer.take("input_tensors") is None and layer.take("activation") else "input_tensors"
    for side, name in (("inputs", inputs), ("outputs", "output_tensors")):
        if layer.take(name) is not None:
            rule[side] = {"*": spec_of(layer.take(name), layer.path(name), "activation")}
    for name in ("weight", "bias"):
        if layer.take(name) is not None:
            rule.setdefault("states", {})[name] = spec_of(layer.take(name), layer.path(name), name)
    layer.only({"target_device": (("cpu", "CPU"), "choose the target in the call; preset xint8 is what an IPU takes")})
    layer.close(("activation",))
    return rule


def _by_layer(section: Section, settings: dict[str, Any], excluded: list[str]) -> None:
    for kind, content in section.items("layer_type_quant_config"):
        _add_types(settings, word_of(kind), content, section.path(f"layer_type_quant_config.{word_of(kind)}"))
    modules: dict[str, Any] = {}
    for name, content in section.items("layer_quant_config"):
        if not any(_covers(pattern, str(name)) for pattern in excluded):
            modules[_scope(str(name))] = _layer(Section(content, section.path(f"layer_quant_config.{name}")))
    for pattern in excluded:
        modules.setdefault(_scope(pattern.removesuffix(".*") if pattern[:-2] in excluded else pattern), None)
    settings["modules"] = modules


def _by_name(section: Section, settings: dict[str, Any], excluded: list[str]) -> None:
    """The ONNX side names operators; each configuration comes with the list of those it is for."""
    for content, names, where in _pairs(section, "layer_type_config"):
        for name in names:
            _add_types(settings, name, content, where)
    rules = settings.setdefault("op_names", {})
    for content, names, where in _pairs(section, "specific_layer_config"):
        rules |= {name: None if content is None else _layer(Section(content, where)) for name in names}
    settings["exclude"] = excluded


def _pairs(section: Section, name: str) -> Iterator[tuple[Any, list[str], str]]:
    value = section.take(name) or ()
    pairs = value.items() if isinstance(value, Mapping) else value
    for index, pair in enumerate(pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise section.error(name, "expected pairs of a configuration and the names that it is for")
        yield pair[0], [str(entry) for entry in pair[1]], section.path(f"{name}[{index}]")


def _add_types(settings: dict[str, Any], kind: str, content: Any, where: str) -> None:
    rule = dict(_OFF) if content is None else _layer(Section(content, where))
    found = _types(kind, where)
    settings.setdefault("op_types", {}).update({key: {**rule, "optional": len(found) > 1} for key in found})


def _types(kind: str, where: str) -> tuple[str, ...]:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    name = kind.rpartition(".")[2]
    if name in _LAYERS or name in known:
        return _LAYERS.get(name, (name,))
    raise ConfigError(
        f"{where} names no type of layers", near(name, [*_LAYERS, *known]) or f"known: {', '.join(_LAYERS)}"
    )


def _scope(pattern: str) -> str:
    return f"re:^{fnmatch.translate(pattern)}" if re.search(r"[*?\[]", pattern) else pattern


def _covers(pattern: str, layer: str) -> bool:
    """True where an excluded name is that of a layer, or of one around it."""
    return fnmatch.fnmatchcase(layer, pattern) or fnmatch.fnmatchcase(layer, f"{pattern}.*")


def _is_name(section: Section, name: Any) -> bool:
    if not isinstance(name, str):
        raise section.error("exclude", "expected names; a part of the graph is a list of the names in it")
    return True


def _softmax(section: Section, settings: dict[str, Any]) -> None:
    content = section.take("softmax_quant_spec")
    if content is not None:
        spec = spec_of(content, section.path("softmax_quant_spec"), "activation")
        settings.setdefault("op_types", {})["Softmax"] = {"outputs": {0: spec}}


def _algorithms(steps: Iterable[Any]) -> dict[str, Any]:
    """SmoothQuant is the one step that there is; which layers a norm feeds is found in the graph."""
    found: dict[str, Any] = {}
    for index, content in enumerate(steps):
        step = Section(content, f"algo_config[{index}]")
        name = str(step.take("name")).lower()
        if name not in ("smooth", "smoothquant", "smooth_quant"):
            raise step.error("name", _ALGORITHMS.get(name) or near(name, ["smooth", *_ALGORITHMS]) or "use smooth")
        _check_scaling(step)
        found["smooth_quant"] = {
            "alpha": step.take("alpha", 1.0),
            "scale_clamp_min": step.take("scale_clamp_min", 1e-3),
        }
        step.close(("model_decoder_layers", "embedding_layers", "scaling_layers"))
    return found


def _check_scaling(step: Section) -> None:
    """Only a normalization can be divided by a factor per channel without changing what others read of it."""
    for entry in step.listed("scaling_layers"):
        previous = str(Section(entry, step.path("scaling_layers")).take("prev_op"))
        if not re.search(r"norm|(^|[._])ln", previous):
            raise ConfigError(
                f"{step.path('scaling_layers')} smooths behind {previous!r}",
                "only normalizations are smoothed: leave it out",
            )
