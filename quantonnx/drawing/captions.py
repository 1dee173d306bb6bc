"""What the box of an operator says: its kernel, stride and the like, and the weight that it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from quantonnx.inspecting import MOVING, constant_of

_LONGEST_ORDER = 4


@dataclass(frozen=True)
class Stored:
    """A value that is known before the model runs: its shape where known, and the integer type of its codes."""

    shape: tuple[int, ...] | None
    codes: str = ""


def stored_values(nodes: Sequence[gs.Node], codes: Callable[[gs.Node], str]) -> dict[str, Stored]:
    """Returns what constants give, by name: Constant nodes, dequantized weights, and constants that are only moved.

    `codes` says in which integer type a DequantizeLinear or QuantizeLinear node reads or gives its codes.
    """
    found: dict[str, Stored] = {}
    for node in nodes:
        first = _behind(node.inputs[0], found) if node.inputs else None
        if node.op == "Constant" and not node.inputs:
            held = constant_of(node.outputs[0])
            found[node.outputs[0].name] = Stored(None if held is None else tuple(held.shape))
        elif first is not None and node.op in ("DequantizeLinear", "QuantizeLinear"):
            found[node.outputs[0].name] = Stored(first.shape, codes(node))
        elif first is not None and not node.domain and node.op in MOVING | {"Cast"} and _rest_is_stored(node, found):
            for output in node.outputs:
                found[output.name] = Stored(_shape(output), first.codes)
    return found


def _rest_is_stored(node: gs.Node, found: dict[str, Stored]) -> bool:
    return all(not value.name or _behind(value, found) is not None for value in node.inputs[1:])


def _behind(value: gs.Tensor, found: dict[str, Stored]) -> Stored | None:
    return Stored(tuple(value.shape)) if isinstance(value, gs.Constant) else found.get(value.name)


def _shape(value: gs.Tensor) -> tuple[int, ...] | None:
    known = value.shape is not None and all(isinstance(size, int) for size in value.shape)
    return tuple(value.shape) if known else None


def is_stored(value: gs.Tensor, found: dict[str, Stored]) -> bool:
    """True for a value that is not drawn, since it is known before the model runs."""
    return not value.name or _behind(value, found) is not None


def weight_of(node: gs.Node, found: dict[str, Stored]) -> Stored | None:
    """Returns the largest constant of two dimensions or more that an operator reads, or any that is quantized."""
    behind = (_behind(value, found) for value in node.inputs if value.name)
    constants = [stored for stored in behind if stored is not None and (stored.codes or len(stored.shape or ()) > 1)]
    return max(constants, key=lambda stored: (len(stored.shape or ()), bool(stored.codes)), default=None)


def details(node: gs.Node, weight: Stored | None) -> str:
    """Returns the attributes that a person looks for: kernel, stride, groups, axis."""
    parts = [_kernel(node, weight), _steps(node), _groups(node, weight), _axis(node)]
    return " ".join(part for part in parts if part)


def times(sizes: Sequence[Any]) -> str:
    """Returns sizes as `64×3×7×7`; `?` for an unknown one."""
    return "×".join("?" if size is None else str(size) for size in sizes)


def _kernel(node: gs.Node, weight: Stored | None) -> str:
    kernel = node.attrs.get("kernel_shape")
    if kernel is None and node.op in ("Conv", "ConvTranspose") and weight is not None and weight.shape is not None:
        kernel = weight.shape[2:]
    return times(kernel) if _numbers(kernel) else ""


def _steps(node: gs.Node) -> str:
    strides, dilations = node.attrs.get("strides"), node.attrs.get("dilations")
    stride = f"/{_once(strides)}" if _numbers(strides) and set(strides) != {1} else ""
    dilation = f" dilation {_once(dilations)}" if _numbers(dilations) and set(dilations) != {1} else ""
    return stride + dilation


def _once(sizes: Sequence[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else times(sizes)


def _groups(node: gs.Node, weight: Stored | None) -> str:
    groups = node.attrs.get("group", 1)
    if not isinstance(groups, int) or groups == 1:
        return ""
    one_each = weight is not None and weight.shape is not None and len(weight.shape) > 1 and weight.shape[1] == 1
    return "depthwise" if one_each else f"group {groups}"


def _axis(node: gs.Node) -> str:
    axis, order = node.attrs.get("axis"), node.attrs.get("perm")
    if _numbers(order) and len(order) <= _LONGEST_ORDER:
        return " ".join(map(str, order))
    return f"axis {axis}" if isinstance(axis, int) else ""


def _numbers(value: Any) -> bool:
    """A malformed attribute must not spoil a picture."""
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, int) for item in value)
