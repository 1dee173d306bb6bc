"""OpenVINO on the CPU: which kernels it runs is read from the model that it compiled."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from quantonnx.runtimes.child import Compiled, Request
from quantonnx.runtimes.report import Layer
from quantonnx.timing import measure

_INTEGER_KERNEL = re.compile(r"_[iu]8$", re.IGNORECASE)
_SUFFIXES = ("/DequantizationMultiply", "/WithoutBiases", "/transpose_b")
_PREPARING = frozenset({"Const", "Reorder", "Reshape", "Transpose"})
_NO_LAYERS = frozenset({"Const", "Input", "Output"})


def compile_here(request: Request) -> Compiled:
    """Loads, compiles and times a model; what OpenVINO raises goes up."""
    import openvino

    core = openvino.Core()
    compiled = _compile(core, request.model, request)
    layers = tuple(filter(None, map(_layer, compiled.get_runtime_model().get_ordered_ops())))
    exact = _compile(core, request.float_model, request) if request.float_model else None
    times = measure(_runner(compiled, request), _runner(exact, request) if exact else None, request.seconds)
    return Compiled(str(openvino.get_version()).split("-")[0], layers, times)


def _compile(core: Any, path: str, request: Request) -> Any:
    """Shapes are fixed, since integer kernels of open shapes are chosen at the first run; float stays float32."""
    model = core.read_model(path)
    model.reshape({name: list(shape) for name, (shape, _) in request.inputs.items()})
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": request.threads,
        "NUM_STREAMS": 1,
    }
    return core.compile_model(model, "CPU", settings)


def _layer(operation: Any) -> Layer | None:
    facts = {key: str(value.astype(str)) for key, value in _known(operation.get_rt_info()).items()}
    kind, kernel = facts.get("layerType", ""), facts.get("primitiveType", "")
    if kind in _NO_LAYERS:
        return None
    origins = filter(None, facts.get("originalLayersNames", "").split(","))
    names = (operation.get_friendly_name(), *origins, *_weights(operation))
    return Layer(kind, kernel, bool(_INTEGER_KERNEL.search(kernel)), tuple(map(_without_suffix, names)))


def _weights(operation: Any) -> Iterator[str]:
    """What is prepared for a layer is called after a constant of the file, or after the operator that it is for."""
    for value in operation.inputs():
        node = value.get_source_output().get_node()
        if str(node.get_rt_info()["layerType"].astype(str)) in _PREPARING:
            yield str(node.get_friendly_name())


def _without_suffix(name: str) -> str:
    """Operators that a node of the file is split into are called after it."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in ("layerType", "primitiveType", "originalLayersNames") if key in facts}


def _runner(compiled: Any, request: Request) -> Callable[[], Any]:
    running = compiled.create_infer_request()
    feed = request.feed()
    return lambda: running.infer(feed)
