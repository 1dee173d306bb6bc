"""One step in time of each recurrent operator, with any of ONNX's activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Unsupported
from quantonnx.torch.operators.activation import hard_sigmoid, thresholded_relu

State = tuple[Tensor, ...]
"""The hidden state [batch, hidden], and the cell of an LSTM."""


class Activation(NamedTuple):
    """An activation by its lower-case name, and its numbers, as many as it takes."""

    name: str
    numbers: tuple[float, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the activation of x."""
        return _FUNCTIONS[self.name](x, *self.numbers)


class Weights(NamedTuple):
    """The weights of one direction: recurrent ones [gates · hidden, hidden] and their bias, and peepholes."""

    recurrent: Tensor
    bias: Tensor | None
    peepholes: Tensor | None


class Rules(NamedTuple):
    """What else a node says of its cells: activations, bounds of what they get, ONNX's input_forget and
    linear_before_reset."""

    activations: tuple[Activation, ...]
    clip: float | None = None
    coupled: bool = False
    reset_after: bool = False

    def held(self, x: Tensor) -> Tensor:
        """Returns x within the bounds."""
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


def lstm_cell(given: Tensor, state: State, weights: Weights, rules: Rules) -> State:
    """Returns the next state; `given` [batch, 4 · hidden] is the input's part of the gates i, o, f, c."""
    hidden, cell = state
    gates = given + functional.linear(hidden, weights.recurrent, weights.bias)
    i, o, f, c = gates.chunk(4, -1)
    of_i, of_o, of_f = weights.peepholes.chunk(3) if weights.peepholes is not None else (None, None, None)
    first, second, third = rules.activations
    i = first(rules.held(_peeped(i, of_i, cell)))
    f = 1 - i if rules.coupled else first(rules.held(_peeped(f, of_f, cell)))
    cell = f * cell + i * second(rules.held(c))
    o = first(rules.held(_peeped(o, of_o, cell)))
    return o * third(cell), cell


def _peeped(gate: Tensor, peephole: Tensor | None, cell: Tensor) -> Tensor:
    return gate if peephole is None else gate + peephole * cell


def gru_cell(given: Tensor, state: State, weights: Weights, rules: Rules) -> State:
    """Returns the next state; `given` [batch, 3 · hidden] is the input's part of the gates z, r, h."""
    (hidden,) = state
    first, second = rules.activations
    of_z, of_r, of_h = given.chunk(3, -1)
    size = hidden.shape[-1]
    gates, candidate = torch.split(weights.recurrent, [2 * size, size])
    biases = (None, None) if weights.bias is None else torch.split(weights.bias, [2 * size, size])
    recurrent = functional.linear(hidden, gates, biases[0])
    z = first(rules.held(of_z + recurrent[..., :size]))
    r = first(rules.held(of_r + recurrent[..., size:]))
    if rules.reset_after:
        h = of_h + r * functional.linear(hidden, candidate, biases[1])
    else:
        h = of_h + functional.linear(r * hidden, candidate, biases[1])
    h = second(rules.held(h))
    return ((1 - z) * h + z * hidden,)


def rnn_cell(given: Tensor, state: State, weights: Weights, rules: Rules) -> State:
    """Returns the next state; `given` [batch, hidden] is the input's part."""
    (hidden,) = state
    return (rules.activations[0](rules.held(given + functional.linear(hidden, weights.recurrent, weights.bias))),)


def _affine(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x * alpha + beta


def _scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (x * beta).tanh() * alpha


_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "affine": _affine,
        "leakyrelu": functional.leaky_relu,
        "thresholdedrelu": thresholded_relu,
        "scaledtanh": _scaled_tanh,
        "hardsigmoid": hard_sigmoid,
        "elu": functional.elu,
        "softsign": functional.softsign,
        "softplus": functional.softplus,
    }
)
_ALPHAS = {"affine": 1.0, "leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": 1.0, "hardsigmoid": 0.2, "elu": 1.0}
_BETAS = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}


def activations_of(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> tuple[Activation, ...]:
    """Returns activations; each takes its numbers from the lists, in order. Raises Unsupported."""
    left_alphas, left_betas = list(alphas), list(betas)
    found = []
    for name in (name.lower() for name in names):
        if name not in _FUNCTIONS:
            raise Unsupported(f"activation {name!r}")
        numbers = [left.pop(0) if left else given[name] for left, given in _takes(left_alphas, left_betas, name)]
        found.append(Activation(name, tuple(numbers)))
    return tuple(found)


def _takes(alphas: list[float], betas: list[float], name: str) -> list[tuple[list[float], dict[str, float]]]:
    return [(left, given) for left, given in ((alphas, _ALPHAS), (betas, _BETAS)) if name in given]
