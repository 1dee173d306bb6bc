"""Rules about where pairs stand, by the target's own patterns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.inspecting import MOVING, Pair, constant_of
from quantonnx.linting.findings import Finding, warning
from quantonnx.linting.skeleton import Group
from quantonnx.linting.view import WEIGHTED, Coder, View, named, readers_of
from quantonnx.pattern import Edge, Role

_RECTIFIERS = frozenset({"Relu", "Clip"})
_SENSITIVE = frozenset(
    {
        "Erf",
        "Exp",
        "Gelu",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "Pow",
        "RMSNormalization",
        "ReduceMean",
        "SimplifiedLayerNormalization",
        "Softmax",
        "Sqrt",
    }
)
_PASSES = MOVING | _RECTIFIERS | {"Concat", "Pad", "Resize", "QuantizeLinear", "DequantizeLinear"}
_FARTHEST = 64
_NEARLY = 1e-6


def inside_groups(view: View) -> Iterator[Finding]:
    """Nothing stands inside a group that the target fuses."""
    for pair, _ in view.quantizers:
        reader = _inner_reader(view, pair)
        if reader is not None:
            yield from _inside(view, pair, reader)


def dropped_rectifiers(view: View) -> Iterator[Finding]:
    """Where zero points must be 0, a pair cannot stand in for a Relu that a tool has taken out."""
    for pair, coder in view.quantizers:
        value = pair.quantize.inputs[0]
        producer = value.inputs[0] if value.inputs else None
        if producer is None or producer.op not in WEIGHTED | {"Add"} or coder.zero_is_zero or coder.scale is None:
            continue
        if int(coder.zeros[0]) == coder.lowest_code and view.profile.refusal(
            coder.bits, signed=coder.signed, symmetric=False, weight=False
        ):
            yield warning(
                "pair-inside-group",
                pair.tensor,
                f"it stands between {named(producer)} and the Relu that it replaces: it cuts off below 0 by a zero "
                f"point that {view.profile.name} refuses, and with zero point 0 the Relu would be lost",
                "put the Relu back, and take the pair away or behind it",
            )


def open_outputs(view: View) -> Iterator[Finding]:
    """Where the target's kernels need a quantized output, an operator with quantized inputs has one."""
    paired = {view.skeleton.names.get(pair.tensor, pair.tensor) for pair, _ in view.quantizers}
    edges = _paired_edges(view)
    for group in view.skeleton.every_group:
        outputs = [value for value in group.values(Role.OUTPUT) if value.name not in paired]
        wanted = group.edges(Role.INPUT) + group.edges(Role.WEIGHT)
        if not outputs or not wanted or not all(edge in edges for edge in wanted):
            continue
        if _closed_later(outputs[0], paired):
            continue
        yield _open_output(view, group, outputs[0])


def ranges(view: View) -> Iterator[Finding]:
    """A Relu or Clip before a pair vanishes only where the range of the codes implies it."""
    producers = {output.name: node for node in view.skeleton.model.graph.nodes for output in node.outputs}
    for pair, coder in view.quantizers:
        name = view.skeleton.names.get(pair.tensor, pair.tensor)
        last = producers.get(name)
        if last is None or last.op not in _RECTIFIERS or name not in view.skeleton.wanted_outputs:
            continue
        if coder.scale is None or coder.scale.size != 1 or not coder.is_integer or _implied(view, last, coder):
            continue
        low, high = coder.range
        yield warning(
            "range-not-implied",
            pair.tensor,
            f"the codes reach from {low:.3g} to {high:.3g}, which does not imply {last.op} {last.name!r}: the operator "
            f"before it stays in float on {view.profile.name}",
            "choose a range that ends where the activation ends (unsigned codes with zero point 0 for Relu)",
        )


def same_scales(view: View) -> Iterator[Finding]:
    """Operators that copy codes have the same scale on both sides; so have the branches of a Concat, where wanted."""
    for node in view.nodes:
        if node.op in view.profile.target.same_scale and not node.domain:
            yield from _two_sides(view, node)
        elif node.op in view.profile.target.one_scale:
            yield from _branches(view, node)


def useless(view: View) -> Iterator[Finding]:
    """A pair serves an operator that gains from it."""
    wanted = view.skeleton.wanted_edges
    outputs = view.skeleton.wanted_outputs
    for pair, _ in view.quantizers:
        if not pair.dequantize or _inner_reader(view, pair) is not None or _serves(view, pair, wanted, outputs):
            continue
        readers = [reader for reader in readers_of(pair) if reader.op not in _PASSES]
        if readers and not any(reader.op in WEIGHTED for reader in readers):
            yield _useless(view, pair, readers)


def _inner_reader(view: View, pair: Pair) -> gs.Node | None:
    """Returns a reader of the pair that the target fuses with the operator before the pair."""
    groups, value = view.skeleton.groups, pair.quantize.inputs[0]
    group = groups.get(value.inputs[0].name) if value.inputs else None
    if group is None or view.skeleton.names.get(pair.tensor, pair.tensor) in group.points:
        return None
    return next((reader for reader in readers_of(pair) if groups.get(reader.name) is group), None)


def _inside(view: View, pair: Pair, reader: gs.Node) -> Iterator[Finding]:
    producer = pair.quantize.inputs[0].inputs[0]
    group = view.skeleton.groups[producer.name]
    between = f"it stands between {named(producer)} and {named(reader)}"
    if reader.op != "Add":
        yield warning(
            "pair-inside-group",
            pair.tensor,
            f"{between}, which {view.profile.name} runs as one ({group.step.pattern}); the pair splits them",
            "take the pair away",
        )
    elif _other_is_paired(view, pair, reader):
        yield warning(
            "pair-on-residual-branch",
            pair.tensor,
            f"{between}: {view.profile.name} fuses the Add into the operator before it only when that branch has no "
            "pair",
            "take the pair away, and keep the one on the other branch",
        )


def _other_is_paired(view: View, pair: Pair, add: gs.Node) -> bool:
    """With no pair on the other branch, that one is the branch that the target fuses."""
    mine = {id(node) for node in pair.dequantize}
    others = [value for value in add.inputs if not (value.inputs and id(value.inputs[0]) in mine)]
    return any(view.dequantizer(value) is not None for value in others) or not any(
        value.inputs and value.inputs[0].op in WEIGHTED for value in others
    )


def _paired_edges(view: View) -> set[Edge]:
    """The inputs of operators that read dequantized values."""
    found = set()
    for node in view.nodes:
        for index, value in enumerate(node.inputs):
            if value.inputs and value.inputs[0].op == "DequantizeLinear":
                found.add(Edge(node.name, index))
    return found


def _closed_later(value: gs.Tensor, paired: set[str]) -> bool:
    """Whether a pair stands behind operators that only move values, through which it moves back."""
    for _ in range(_FARTHEST):
        if len(value.outputs) != 1 or value.outputs[0].op not in MOVING:
            return False
        value = value.outputs[0].outputs[0]
        if value.name in paired:
            return True
    return False


def _open_output(view: View, group: Group, value: gs.Tensor) -> Finding:
    node = value.inputs[0]
    after = value.outputs[0] if value.outputs else None
    if after is not None and node.op in WEIGHTED and len(value.outputs) == 1 and len(after.inputs) < 3:
        blocked = f"its result goes into {named(after)} without a pair"
    else:
        blocked = "its result has no pair"
    return warning(
        "output-without-pair",
        named(node),
        f"its inputs are quantized, and {blocked}: {view.profile.name} computes it in float",
        f"put a pair on {value.name!r}",
    )


def _implied(view: View, node: gs.Node, coder: Coder) -> bool:
    """Whether saturation at the ends of the codes does what a Relu or Clip does."""
    low, high = coder.range
    if node.op == "Relu":
        return low >= -_NEARLY
    bounds = [_bound(view, node, index, name) for index, name in ((1, "min"), (2, "max"))]
    slack = 1e-6 * max(1.0, abs(high))
    return (bounds[0] is None or low >= bounds[0] - slack) and (bounds[1] is None or high <= bounds[1] + slack)


def _bound(view: View, node: gs.Node, index: int, name: str) -> float | None:
    if name in node.attrs:
        return float(node.attrs[name])
    if index >= len(node.inputs) or not node.inputs[index].name:
        return None
    stored = constant_of(node.inputs[index])
    return None if stored is None else float(np.asarray(view.skeleton.model.array(stored)).reshape(-1)[0])


def _two_sides(view: View, node: gs.Node) -> Iterator[Finding]:
    before = view.coders.get(id(node.inputs[0].inputs[0])) if node.inputs and node.inputs[0].inputs else None
    if before is None or before.node.op != "DequantizeLinear" or view.is_quantized_constant(before):
        return
    for reader in node.outputs[0].outputs:
        after = view.coders.get(id(reader))
        if after is not None and not before.same_numbers(after):
            yield warning(
                "scale-changes",
                named(node),
                f"the pairs on its two sides have different numbers: {view.profile.name} computes it in float",
                "give both pairs the same scale and zero point",
            )
            return


def _branches(view: View, node: gs.Node) -> Iterator[Finding]:
    coders = [view.dequantizer(value) for value in node.inputs]
    known = [coder for coder in coders if coder is not None]
    if len(known) > 1 and any(not known[0].same_numbers(coder) for coder in known[1:]):
        yield warning(
            "concat-scales",
            named(node),
            f"its branches have different scales, so that {view.profile.name} converts them before it joins them",
            "give all branches one scale, that of the widest",
        )


def _serves(view: View, pair: Pair, wanted: frozenset[Edge], outputs: frozenset[str]) -> bool:
    """Whether a pair stands on a wanted output, or some operator behind it wants it, beyond those that pass codes."""
    if view.skeleton.names.get(pair.tensor, pair.tensor) in outputs or _comes_from(pair, view, outputs):
        return True
    waiting = [node.outputs[0] for node in pair.dequantize] + [out for node in pair.moving for out in node.outputs]
    seen: set[int] = set()
    while waiting and len(seen) < _FARTHEST:
        value = waiting.pop()
        for reader in value.outputs:
            if any(read is value and Edge(reader.name, index) in wanted for index, read in enumerate(reader.inputs)):
                return True
            if reader.op in _PASSES and id(reader) not in seen:
                seen.add(id(reader))
                waiting += reader.outputs
    return False


def _comes_from(pair: Pair, view: View, outputs: frozenset[str]) -> bool:
    """Whether what it quantizes was moved from a wanted output, so that codes can be moved instead."""
    value = pair.quantize.inputs[0]
    for _ in range(_FARTHEST):
        if not value.inputs or value.inputs[0].op not in MOVING | {"DequantizeLinear", "QuantizeLinear"}:
            return False
        value = value.inputs[0].inputs[0]
        if view.skeleton.names.get(value.name, value.name) in outputs:
            return True
    return False


def _useless(view: View, pair: Pair, readers: list[gs.Node]) -> Finding:
    value, shown = pair.quantize.inputs[0], ", ".join(sorted({reader.op for reader in readers}))
    name = view.profile.name
    if all(reader.op in _SENSITIVE for reader in readers):
        return warning(
            "sensitive-operator",
            pair.tensor,
            f"only {shown} reads it, which {name} computes in float: rounding there costs accuracy and gains no time",
            "take the pair away",
        )
    rule = "input-pair" if not value.inputs else "useless-pair"
    return warning(
        rule,
        pair.tensor,
        f"only {shown} reads it, and no pattern of {name} quantizes that there: the pair rounds and gains no time",
        "take the pair away",
    )
