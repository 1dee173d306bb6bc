"""Random configurations over random graphs: precedence as it is documented, said a second time and simply; and what
placement says is what stands in the written graph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, assume, event, given, settings
from hypothesis import strategies as st
from models import feeds_of
from onnx import TensorProto, helper, numpy_helper
from written import Written

import quantonnx as qx
from quantonnx.pattern import Role

FREE = replace(
    qx.get_target("tensorrt"), name="free", rules=(), refuses=lambda request: None, one_scale=frozenset(), transparent=frozenset()
)  # fmt: skip
"""Pairs at declared inputs and weights only, in any format: nothing but the configuration decides."""

SIZE = [1, 8, 4, 4]
OPERATORS = ("Conv", "MatMul", "Relu", "Add", "MaxPool", "Concat", "Softmax")
SCOPES = ("", "/a", "/a/b", "/c")
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])

# --------------------------------------------------------------------------------- graphs


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Chains with branches; each operator has a name, some in a scope."""
    nodes, weights, values = [], [], ["x"]
    rng = np.random.default_rng(0)
    for count in range(draw(st.integers(1, 6))):
        op, name = draw(st.sampled_from(OPERATORS)), f"{draw(st.sampled_from(SCOPES))}/n{count}"
        read = [draw(st.sampled_from(values[-3:])) for _ in range(2 if op in ("Add", "Concat") else 1)]
        shape = {"Conv": (8, 8, 1, 1), "MatMul": (4, 4), "Concat": (8, 16, 1, 1)}.get(op)
        if shape is not None:
            weights.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), f"w{count}"))
        out = f"v{count}"
        if op == "Concat":
            nodes.append(helper.make_node("Concat", read, [f"{out}_c"], f"{name}_c", axis=1))
            nodes.append(helper.make_node("Conv", [f"{out}_c", f"w{count}"], [out], name))
        elif op == "MaxPool":
            nodes.append(helper.make_node(op, read, [out], name, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        else:
            nodes.append(helper.make_node(op, [*read, f"w{count}"] if shape else read, [out], name))
        values.append(out)
    ends = list(dict.fromkeys([values[-1], draw(st.sampled_from(values[1:]))]))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SIZE) for name in ("x", *ends)]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


# --------------------------------------------------------------------------------- configurations

bits, flag = st.sampled_from([8, 16]), st.booleans()
on_activation = st.fixed_dictionaries({}, optional={"n_bits": bits, "symmetric": flag})
on_weight = st.fixed_dictionaries(
    {}, optional={"n_bits": st.sampled_from([4, 8]), "symmetric": flag, "per_channel": flag}
)


def either(spec: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | spec


def slots(keys: list[Any], spec: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return either(st.dictionaries(st.sampled_from(keys), either(spec), max_size=2))


def rules(*, outputs: bool, pattern: bool = False) -> st.SearchStrategy[Any]:
    """Rules for operators; those for patterns count inputs in their own way."""
    parts = {
        "inputs": slots(["*"] if pattern else ["*", 0], on_activation),
        "states": slots(["weight", "*"], on_weight),
    }
    return either(
        st.fixed_dictionaries(
            {"optional": st.just(True)}, optional=parts | ({"outputs": slots(["*"], on_activation)} if outputs else {})
        )
    )


@st.composite
def configurations(draw: st.DrawFn, proto: onnx.ModelProto, *, outputs: bool) -> dict[str, Any]:
    """Settings that are all about this graph."""
    names = [node.name for node in proto.graph.node]
    operators = sorted({node.op_type for node in proto.graph.node})
    tensors = ["x", *(item.name for item in proto.graph.initializer)]
    scopes = sorted({".".join(n.strip("/").split("/")[:end]) for n in names for end in range(1, n.count("/"))})
    rule = rules(outputs=outputs)
    return {
        "activation": draw(either(on_activation)),
        "weight": draw(either(on_weight)),
        "op_types": draw(st.dictionaries(st.sampled_from(operators), rule, max_size=2)),
        "op_names": draw(st.dictionaries(st.sampled_from([*names, "re:n[0-2]", "re:n[1-9]"]), rule, max_size=3)),
        "modules": draw(st.dictionaries(st.sampled_from(scopes), st.none(), max_size=2)) if scopes else {},
        "patterns": draw(st.dictionaries(st.sampled_from(["ConvBN", "ConvBNRelu", "Linear"]), rules(outputs=outputs, pattern=True), max_size=2)),
        "tensors": {name: draw(_for_tensor(name)) for name in draw(st.sets(st.sampled_from(tensors), max_size=2))},
        "exclude": [{"name": name} for name in draw(st.sets(st.sampled_from(names), max_size=1))],
    }  # fmt: skip


def _for_tensor(name: str) -> st.SearchStrategy[Any]:
    spec = on_weight if name.startswith("w") else on_activation
    return either(spec.map(lambda said: {**said, "optional": True}))


# --------------------------------------------------------------------------------- precedence, said naively

UNSAID = object()


def levels(
    config: Mapping[str, Any], group: list[Any], own: Any, kind: str, tensor: str, pattern: str
) -> Iterator[Any]:
    """What each level says about one input or weight, lowest first; UNSAID where it says nothing."""
    yield from operator_level(config["op_types"], group, own, kind, lambda rule, node: rule == node.op)
    rule = config["patterns"].get(pattern, UNSAID)
    yield rule if rule in (None, UNSAID) else in_rule(rule, kind)
    yield from operator_level(
        config["op_names"], group, own, kind, lambda rule, node: rule.startswith("re:") and found(rule, node)
    )
    yield from operator_level(config["op_names"], group, own, kind, lambda rule, node: rule == node.name)
    scopes = {".".join(n.name.strip("/").split("/")[:end]) for n in group for end in range(1, n.name.count("/"))}
    if scopes & config["modules"].keys():
        yield None


def found(rule: str, node: Any) -> bool:
    return any(re.search(rule[3:], name) for name in (node.name, *(out.name for out in node.outputs)))


def operator_level(rules: Mapping[str, Any], group: list[Any], own: Any, kind: str, fits: Any) -> Iterator[Any]:
    """To be off is contagious in a fused group; the operator itself has the last word."""
    if any(rule is None and fits(name, node) for name, rule in rules.items() for node in group if node is not own):
        yield None
    for name, rule in rules.items():
        if fits(name, own):
            yield None if rule is None else in_rule(rule, kind)


def in_rule(rule: Mapping[str, Any], kind: str) -> Any:
    side = rule.get("inputs" if kind == "activation" else "states", {})
    if side is None:
        return None
    first = next((key for key in ((0,) if kind == "activation" else ("weight",)) if key in side), "*")
    return side.get(first, UNSAID)


def predicted(
    config: Mapping[str, Any], above: list[Any], kind: str, tensor: str, *, declared: bool
) -> dict[str, Any] | None:
    """What is said in the end; None for no pair."""
    on, said = declared and config[kind] is not None, spelled_out(config[kind] or {})
    for level in above:
        if level is not UNSAID:
            on = level is not None
            said |= spelled_out(level or {})
    about = config["tensors"].get(tensor, UNSAID)
    if about is not UNSAID and (declared or on):
        on = about is not None
        said |= spelled_out(about or {})
    return said if on else None


def spelled_out(spec: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in spec.items() if name != "optional"}
    return said | ({"signed": said["symmetric"]} if "symmetric" in said else {})


@quick
@given(st.data())
def test_precedence(data: st.DataObject) -> None:
    proto = data.draw(graphs())
    config = data.draw(configurations(proto, outputs=False))
    fused = qx.transform(proto, target=FREE)
    try:
        placed = qx.insert_qdq(fused.model, fused.matches, qx.QuantConfig(**config))
    except qx.ConfigError as error:
        assume("matches nothing" not in str(error) and "called" not in str(error))  # folded away, or fused otherwise
        raise
    sites = {(edge.node, edge.index): site for site in placed.sites for edge in site.edges}
    excluded = {entry["name"] for entry in config["exclude"]}
    for step, match in fused.matches.resolve(fused.model):
        gone = excluded & {*step.nodes, *(name for node in match.nodes for name in (node.name, node.op))}
        nodes = {node.name: node for node in match.nodes}
        for point in match.qdq_points:
            kind = "weight" if point.role is Role.WEIGHT else "activation"
            for edge in match.edges(point.declaration):
                own = nodes[edge.node]
                tensor = own.inputs[edge.index].name
                rules_about = list(levels(with_index(config, edge.index), match.nodes, own, kind, tensor, step.pattern))
                wanted = None if gone else predicted(config, rules_about, kind, tensor, declared=True)
                check(sites.get((edge.node, edge.index)), wanted, FREE.weight if kind == "weight" else FREE.activation)


def with_index(config: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """Rules by index 0 say nothing about another input; `*` does."""
    if index == 0:
        return config

    def without(rule: Any) -> Any:
        if rule is None or not rule.get("inputs"):
            return rule
        return {**rule, "inputs": {key: spec for key, spec in rule["inputs"].items() if key != 0}}

    return {
        **config,
        **{
            section: {name: without(rule) for name, rule in config[section].items()}
            for section in ("op_types", "op_names")
        },
    }


def check(site: Any, wanted: dict[str, Any] | None, base: Any) -> None:
    assert (site is not None) == (wanted is not None), (site, wanted)
    if wanted is not None:
        assert site.format.n_bits == wanted.get("n_bits", 8)
        assert site.format.symmetric == wanted.get("symmetric", True)
        assert site.format.signed == wanted.get("signed", True)
        assert (site.format.axis is None) == (not wanted.get("per_channel", base.axis is not None))


# --------------------------------------------------------------------------------- placement and file


@quick
@given(st.data(), st.sampled_from(["tensorrt", "onnxruntime", "openvino", FREE]))
def test_what_placement_says_stands_in_the_file(data: st.DataObject, target: Any) -> None:
    proto = data.draw(graphs())
    config = qx.QuantConfig(keep_slow=data.draw(flag), **data.draw(configurations(proto, outputs=True)))
    try:
        quantized = qx.quantize(proto, [feeds_of(proto)], target=target, config=config)
        model = quantized.to_onnx()
    except qx.QuantonnxError as error:
        event(type(error).__name__)  # any other error fails
        return
    onnx.checker.check_model(model)
    written = Written(model)
    own = {(edge.node, edge.index): site for site in quantized.sites if not site.whole for edge in site.edges}
    common = {site.tensor: site for site in quantized.sites if site.whole}
    for node in quantized.model.graph.nodes:
        for index, value in enumerate(node.inputs):
            stands(written.places[node.name, index], own.get((node.name, index), common.get(value.name)), quantized)
    for output in quantized.model.graph.outputs:
        stands(written.places["", output.name], common.get(output.name), quantized)


def stands(pair: Any, site: Any, quantized: qx.QuantizedModel) -> None:
    assert (pair is None) == (site is None), (pair, site)
    if site is None:
        return
    numbers = quantized.parameters[site]
    assert pair.tensor == site.tensor
    assert pair.dtype == ("int32" if site.derived_from else site.format.dtype.name), site
    assert pair.axis == (site.format.axis if numbers.scale.ndim else None)
    np.testing.assert_array_equal(pair.scale, numbers.scale)
    np.testing.assert_array_equal(pair.zero_point, numbers.zero_point)
