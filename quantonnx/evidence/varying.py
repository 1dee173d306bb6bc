"""Values whose shape is decided by other values, such as the boxes that pass a threshold."""

from __future__ import annotations

from quantonnx.model import Model
from quantonnx.ordering import body_reads, has_body

_CHOOSING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
_SHAPE_READERS = frozenset({"Shape", "Size"})


def varying_shapes(quantized: Model) -> frozenset[str]:
    """Returns the values that may have another shape than in the float model, by name: what rounded numbers chose, and
    all that comes after it. They cannot be compared number by number."""
    rounded: set[str] = set()
    varying: set[str] = set()
    for node in quantized.graph.nodes:
        reads = {value.name for value in node.inputs if value.name} | (body_reads(node) if has_body(node) else set())
        gives = {value.name for value in node.outputs if value.name}
        chosen = node.op in _CHOOSING and not rounded.isdisjoint(reads)
        if chosen or not varying.isdisjoint(reads):
            varying |= gives
        if node.op == "DequantizeLinear" or (node.op not in _SHAPE_READERS and not rounded.isdisjoint(reads)):
            rounded |= gives
    return frozenset(varying)
