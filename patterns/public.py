"""Names that a conversion must keep: outputs of the graph, and what the bodies of If, Loop and Scan read."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from quantonnx.pattern import Conversion, Mismatch


def refuse_public(found: Conversion, value: gs.Tensor | None = None) -> None:
    """Raises Mismatch where the result of a match has a public name, unless `value` can take that name over."""
    result = found.result
    public = any(result is output for output in found.model.graph.outputs) or result.name in found.model.captured
    if not public:
        return
    inner = value is not None and bool(value.inputs) and value.name not in found.model.captured
    if not inner or any(value is output for output in found.model.graph.outputs):
        raise Mismatch(f"{result.name!r} is an output of the graph or read by a body, and its name must stay")
