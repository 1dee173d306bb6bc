"""Rules about pairs as such: open ends, repetitions, operators that a target does not load."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from quantonnx.insertion import integer_operators
from quantonnx.inspecting import MOVING, Pair, constant_of
from quantonnx.linting.findings import Finding, error, warning
from quantonnx.linting.view import Coder, View, readers_of

_GIVES_CODES = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QGemm"})
_TAKES_CODES = frozenset({"ConvInteger", "MatMulInteger", "ConvTransposeInteger", "QGemm", "MatMulIntegerToFloat"})


def any_pair(view: View) -> Iterator[Finding]:
    """A quantized file has pairs."""
    if not view.coders and not integer_operators(view.model):
        yield error(
            "no-pairs",
            "the file",
            "it has no Q/DQ pair at all: it is a float model",
            "quantize it: `quantonnx quantize`",
        )


def orphans(view: View) -> Iterator[Finding]:
    """Codes begin at a QuantizeLinear or in a constant, and end in a DequantizeLinear."""
    for pair, _ in view.quantizers:
        if pair.open and not pair.dequantize and "computes on" not in pair.open:
            yield error(
                "orphan-quantize",
                str(pair.quantize.name),
                f"the codes of {pair.tensor!r} end nowhere: {pair.open}",
                "add a DequantizeLinear with the same numbers",
            )
    for coder in view.coders.values():
        if coder.node.op == "DequantizeLinear" and not _has_origin(coder.node.inputs[0]):
            yield error(
                "orphan-dequantize",
                str(coder.node.name),
                f"its codes {coder.node.inputs[0].name!r} come from no QuantizeLinear and no constant",
                "quantize what it reads with the same numbers",
            )


def repetitions(view: View) -> Iterator[Finding]:
    """A value is quantized once."""
    seen: dict[int, list[Coder]] = {}
    for pair, coder in view.quantizers:
        value = pair.quantize.inputs[0]
        twin = next((other for other in seen.get(id(value), ()) if other.same_numbers(coder)), None)
        seen.setdefault(id(value), []).append(coder)
        if twin is not None:
            yield warning(
                "duplicate-pair",
                pair.tensor,
                f"{twin.node.name!r} and {coder.node.name!r} quantize it with the same numbers",
                "let all readers share one pair",
            )
        before = view.dequantizer(value)
        if before is None or view.is_quantized_constant(before) or before.bits != coder.bits:
            continue
        if value.inputs[0] is before.node and not coder.only_saturates(before):
            yield _again(pair.tensor, before, coder)


def operators(view: View) -> Iterator[Finding]:
    """Some targets read Q/DQ pairs of ONNX itself only."""
    facts, name = view.profile.facts, view.profile.name
    for node in view.nodes:
        is_pair = id(node) in view.coders
        if not facts.foreign_pairs and is_pair and node.domain:
            yield error(
                "foreign-pair",
                str(node.name),
                f"{name} has no {node.op} of {node.domain}",
                "use the operator of ONNX itself, at opset 21 for 16 bits",
            )
        if not facts.integer_operators and not is_pair and _computes_on_codes(node):
            yield error(
                "integer-operator",
                str(node.name),
                f"{name} does not load {node.op}",
                "write float operators between Q/DQ pairs instead",
            )


def signs(view: View) -> Iterator[Finding]:
    """Signed activations where the kernels want unsigned ones."""
    if not view.profile.facts.signed_costs or view.profile.target.activation.signed:
        return
    found = [pair for pair, coder in view.quantizers if coder.is_integer and coder.bits == 8 and coder.signed]
    found = [pair for pair in found if not all(_takes_signed(pair, node) for node in readers_of(pair))]
    if found:
        yield warning(
            "signed-activations",
            found[0].tensor,
            f"it and {len(found) - 1} others have signed codes: {view.profile.facts.signed_costs}",
            "quantize activations as uint8",
        )


def _takes_signed(pair: Pair, node: gs.Node) -> bool:
    """The next pair does, and kernels as a second factor, be it a weight or an activation."""
    if node.op == "QuantizeLinear":
        return True
    if node.op != "MatMul" or not node.inputs[1].inputs:
        return False
    return any(node.inputs[1].inputs[0] is giver for giver in pair.dequantize)


def _again(tensor: str, before: Coder, coder: Coder) -> Finding:
    if before.same_numbers(coder):
        return warning(
            "double-quantization",
            tensor,
            f"{before.node.name!r} gives it, and {coder.node.name!r} quantizes it again with the same numbers",
            "take one of the two pairs away",
        )
    return warning(
        "requantization",
        tensor,
        f"{before.node.name!r} gives it, and {coder.node.name!r} quantizes it again with other numbers",
        "keep one pair; its readers then share its numbers",
    )


def _has_origin(codes: gs.Tensor) -> bool:
    while codes.inputs and codes.inputs[0].op in MOVING and codes.inputs[0].inputs:
        codes = codes.inputs[0].inputs[0]
    if not codes.inputs or constant_of(codes) is not None:
        return True  # codes may enter the graph
    return (
        codes.inputs[0].op in _GIVES_CODES or codes.inputs[0].op in _TAKES_CODES or _computes_on_codes(codes.inputs[0])
    )


def _computes_on_codes(node: gs.Node) -> bool:
    return node.op.startswith("QLinear") or node.op in _TAKES_CODES or node.op == "DynamicQuantizeLinear"
