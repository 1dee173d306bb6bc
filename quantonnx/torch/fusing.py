"""Steps that one kernel of torch computes together, so that training reads and keeps fewer tensors.

Exports write GELU, SiLU, hard swish and linear layers as several operators; each would store its result for the
gradient. What is put together still has its parts, for whoever asks for a value inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.program import Step

Shape = tuple[int, ...]
_CLOSE = 1e-4


class Fused(NamedTuple):
    """What several steps are together: its inputs, function and settings, and those steps but for the last."""

    inputs: tuple[str, ...]
    function: Callable[..., Any]
    settings: Mapping[str, Any]
    inner: tuple[Step, ...]


@dataclass(frozen=True)
class View:
    """The steps that make values, how often each value is read, and the constants: their numbers and shapes."""

    makers: Mapping[str, Step]
    reads: Mapping[str, int]
    number: Callable[[str], float | None]
    shape: Callable[[str], Shape | None]

    def maker(self, name: str, op: str) -> Step | None:
        """Returns the step of that operator that makes a value which is read once."""
        step = self.makers.get(name)
        found = step is not None and step.op == op and len(step.outputs) == 1 and not step.layer
        return step if found and self.reads[name] == 1 else None

    def is_number(self, name: str, value: float) -> bool:
        """True for a constant that is that number, as far as an export rounds, and adds no axis."""
        found = self.number(name) if len(self.constant_shape(name) or ()) < 2 else None
        return found is not None and abs(found - value) <= _CLOSE * abs(value)

    def constant_shape(self, name: str) -> Shape | None:
        """Returns the shape of a constant, also behind a layer that only rounds it."""
        maker = self.makers.get(name)
        same = maker is not None and maker.op in ("FakeQuantize", "Identity")
        return self.constant_shape(maker.inputs[0]) if maker is not None and same else self.shape(name)

    def other(self, step: Step, value: float) -> str | None:
        """Returns the operand of a step of two that stands beside that number."""
        first, second = step.inputs
        return first if self.is_number(second, value) else second if self.is_number(first, value) else None

    def factors(self, step: Step) -> tuple[list[str], list[Step]]:
        """Returns the factors of a product, those of a product inside it too, and the steps of these."""
        found: list[str] = []
        inner: list[Step] = []
        for name in step.inputs:
            maker = self.maker(name, "Mul")
            if maker is not None and not inner:
                inner.append(maker)
                found += maker.inputs
            else:
                found.append(name)
        return found, inner


def with_fusions(steps: Sequence[Step], view: View) -> list[Step]:
    """Returns the steps, with those put together that one function computes."""
    order = {id(step): place for place, step in enumerate(steps)}
    taken: set[int] = set()
    together: dict[int, Step] = {}
    for step in reversed(steps):
        if id(step) in taken or step.layer or len(step.outputs) != 1:
            continue
        found = next((each for match in _MATCHES.get(step.op, ()) if (each := match(step, view)) is not None), None)
        if found is None or any(id(part) in taken for part in found.inner):
            continue
        taken.update(map(id, found.inner))
        parts = tuple(sorted((*found.inner, step), key=lambda part: order[id(part)]))
        together[id(step)] = Step(
            step.node, step.op, found.inputs, step.outputs, found.settings, found.function, parts=parts
        )
    return [together.get(id(step), step) for step in steps if id(step) not in taken]


def view_of(
    steps: Sequence[Step],
    outputs: Sequence[str],
    number: Callable[[str], float | None],
    shape: Callable[[str], Shape | None],
) -> View:
    """Returns the view of steps whose results `outputs` someone outside reads."""
    makers = {name: step for step in steps for name in step.outputs if name}
    reads = Counter(name for step in steps for name in step.inputs)
    reads.update(outputs)
    return View(makers, reads, number, shape)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns x times a matrix [inputs, outputs], plus a bias [outputs]."""
    return functional.linear(x, weight.t(), bias)


def _linear(step: Step, view: View) -> Fused | None:
    for name, bias in (step.inputs, step.inputs[::-1]):
        product = view.maker(name, "MatMul")
        if product is None:
            continue
        weight, wanted = view.constant_shape(product.inputs[1]), view.constant_shape(bias)
        if weight is not None and len(weight) == 2 and wanted == weight[1:]:
            return Fused((*product.inputs, bias), linear, {}, (product,))
    return None


def _silu(step: Step, view: View) -> Fused | None:
    for name, x in (step.inputs, step.inputs[::-1]):
        gate = view.maker(name, "Sigmoid")
        if gate is not None and gate.inputs == (x,):
            return Fused((x,), functional.silu, {}, (gate,))
        gate = view.maker(name, "HardSigmoid")
        if gate is not None and gate.inputs == (x,) and _is_sixth(gate):
            return Fused((x,), functional.hardswish, {}, (gate,))
    return None


def _is_sixth(gate: Step) -> bool:
    alpha, beta = gate.settings["alpha"], gate.settings["beta"]
    return bool(abs(alpha - 1 / 6) < _CLOSE and beta == 0.5)


def _hard_swish(step: Step, view: View) -> Fused | None:
    """x · clip(x + 3, 0, 6) / 6."""
    product = view.maker(step.inputs[0], "Mul")
    if product is None or not view.is_number(step.inputs[1], 6):
        return None
    for name, x in (product.inputs, product.inputs[::-1]):
        clip = view.maker(name, "Clip")
        if clip is None or _bounds(clip, view) != (0, 6):
            continue
        shifted = view.maker(clip.inputs[0], "Add")
        if shifted is not None and view.other(shifted, 3) == x:
            return Fused((x,), functional.hardswish, {}, (shifted, clip, product))
    return None


def _bounds(clip: Step, view: View) -> tuple[float | None, float | None]:
    low, high = (clip.settings.get(name) for name in ("low", "high"))
    if len(clip.inputs) > 2:
        low, high = (view.number(name) for name in clip.inputs[1:3])
    return low, high


def _gelu(step: Step, view: View) -> Fused | None:
    """x / 2 · (1 + erf(x / √2)), and the same with tanh for erf, its factors in any order."""
    factors, inner = view.factors(step)
    halves = [name for name in factors if view.is_number(name, 0.5)]
    if len(factors) != 3 or len(halves) != 1:
        return None
    rest = [name for name in factors if name != halves[0]]
    for name, x in (rest, rest[::-1]):
        shifted = view.maker(name, "Add")
        curve = None if shifted is None else view.other(shifted, 1)
        if shifted is None or curve is None:
            continue
        found = _erf(curve, x, view) or _tanh(curve, x, view)
        if found is not None:
            kind, steps = found
            return Fused((x,), functional.gelu, {"approximate": kind}, (*steps, shifted, *inner))
    return None


def _erf(name: str, x: str, view: View) -> tuple[str, tuple[Step, ...]] | None:
    curve = view.maker(name, "Erf")
    if curve is None:
        return None
    for op, value in (("Div", 2**0.5), ("Mul", 0.5**0.5)):
        scaled = view.maker(curve.inputs[0], op)
        if scaled is None:
            continue
        quotient = op == "Div" and scaled.inputs[0] == x and view.is_number(scaled.inputs[1], value)
        if quotient or (op == "Mul" and view.other(scaled, value) == x):
            return "none", (scaled, curve)
    return None


def _tanh(name: str, x: str, view: View) -> tuple[str, tuple[Step, ...]] | None:
    """tanh(√(2/π) · (x + 0.044715 · x³))."""
    curve = view.maker(name, "Tanh")
    scaled = None if curve is None else view.maker(curve.inputs[0], "Mul")
    whole = None if scaled is None else view.other(scaled, (2 / torch.pi) ** 0.5)
    total = None if whole is None else view.maker(whole, "Add")
    if curve is None or scaled is None or total is None or x not in total.inputs:
        return None
    term = view.maker(total.inputs[1 - total.inputs.index(x)], "Mul")
    cube = None if term is None else view.other(term, 0.044715)
    power = None if cube is None else view.maker(cube, "Pow")
    if term is None or power is None or power.inputs[0] != x or not view.is_number(power.inputs[1], 3):
        return None
    return "tanh", (power, term, total, scaled, curve)


_MATCHES: Mapping[str, Sequence[Callable[[Step, View], Fused | None]]] = {
    "Add": (_linear,),
    "Mul": (_gelu, _silu),
    "Div": (_hard_swish,),
}
"""By the operator of the last step: what it may be part of."""
