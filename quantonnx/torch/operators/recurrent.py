"""LSTM, GRU and RNN: torch's kernels where they compute exactly what ONNX says, step by step in time elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantonnx.torch.node import Call, Node, Translation
from quantonnx.torch.operators.cells import (
    Rules,
    State,
    Weights,
    activations_of,
    gru_cell,
    lstm_cell,
    rnn_cell,
)

_CELLS: Mapping[str, Callable[[Tensor, State, Weights, Rules], State]] = {
    "LSTM": lstm_cell,
    "GRU": gru_cell,
    "RNN": rnn_cell,
}
_KERNELS: Mapping[str, Callable[..., Any]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "tanh": torch.rnn_tanh,
    "relu": torch.rnn_relu,
}
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where torch's gates stand among ONNX's, which are i, o, f, c and z, r, h."""

_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@dataclass(frozen=True)
class Recurrence:
    """What a recurrent node says besides its weights: its operator, direction, the rules of each direction's cells."""

    op: str
    direction: str
    rules: tuple[Rules, ...]
    batch_first: bool = False

    @property
    def kernel(self) -> str:
        """The kernel of torch that computes the same; "" where none does."""
        names = {tuple(activation.name for activation in rules.activations) for rules in self.rules}
        plain = all(rules.clip is None and not rules.coupled for rules in self.rules)
        if not plain or len(names) > 1 or (self.op == "GRU" and not self.rules[0].reset_after):
            return ""
        (found,) = names
        if self.op == "RNN":
            return found[0] if found[0] in _KERNELS else ""
        return self.op if found == tuple(name.lower() for name in _DEFAULTS[self.op]) else ""


def recur(
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    settings: Recurrence,
) -> tuple[Tensor, ...]:
    """Returns all hidden states [time, directions, batch, hidden] and the last ones [directions, batch, hidden]; with
    the last cells of an LSTM. x is [time, batch, inputs]; with `batch_first` the batch is everyone's first axis."""
    if settings.batch_first:
        x = x.transpose(0, 1)
        hidden, cell = (None if state is None else state.transpose(0, 1) for state in (hidden, cell))
    zeros = x.new_zeros(weight.shape[0], x.shape[1], recurrent.shape[2])
    state = tuple(zeros if given is None else given for given in (hidden, cell)[: 2 if settings.op == "LSTM" else 1])
    if settings.kernel and lengths is None and peepholes is None:
        found, last = _by_kernel(x, weight, recurrent, bias, state, settings)
    else:
        found, last = _by_steps(x, weight, recurrent, (bias, peepholes), lengths, state, settings)
    if settings.batch_first:
        return found.permute(2, 0, 1, 3), *(values.transpose(0, 1) for values in last)
    return found, *last


def recur_in_full(*inputs: Tensor | None, settings: Recurrence) -> Tensor:
    """Returns all hidden states only."""
    return recur(*inputs, settings=settings)[0]  # type: ignore[arg-type]


def _by_kernel(
    x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor | None, state: State, settings: Recurrence
) -> tuple[Tensor, State]:
    parameters = []
    for direction in range(weight.shape[0]):
        parameters += [_in_torch_order(values[direction], settings.op) for values in (weight, recurrent)]
        if bias is not None:
            parameters += [_in_torch_order(half, settings.op) for half in bias[direction].chunk(2)]
    both = settings.direction == "bidirectional"
    flipped = settings.direction == "reverse"
    given = state if settings.op == "LSTM" else state[0]
    rest = (bias is not None, 1, 0.0, torch.is_grad_enabled(), both, False)
    found, *last = _KERNELS[settings.kernel](x.flip(0) if flipped else x, given, parameters, *rest)
    found = found.unflatten(-1, (weight.shape[0], -1)).transpose(1, 2)
    return found.flip(0) if flipped else found, tuple(last)


def _in_torch_order(values: Tensor, op: str) -> Tensor:
    gates = _GATES[op]
    if len(gates) == 1:
        return values
    pieces = values.chunk(len(gates))
    return torch.cat([pieces[gate] for gate in gates])


def _by_steps(
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    others: tuple[Tensor | None, Tensor | None],
    lengths: Tensor | None,
    state: State,
    settings: Recurrence,
) -> tuple[Tensor, State]:
    outputs, lasts = [], []
    for direction, rules in enumerate(settings.rules):
        bias, peepholes = (None if values is None else values[direction] for values in others)
        of_input, of_state = (None, None) if bias is None else bias.chunk(2)
        given = functional.linear(x, weight[direction], of_input)
        weights = Weights(recurrent[direction], of_state, peepholes)
        backwards = settings.direction == "reverse" or direction == 1
        start = tuple(values[direction] for values in state)
        rows, last = _one_way(given, start, weights, rules, lengths, settings.op, backwards=backwards)
        outputs.append(rows)
        lasts.append(last)
    return torch.stack(outputs, 1), tuple(torch.stack(values) for values in zip(*lasts, strict=True))


def _one_way(
    given: Tensor, state: State, weights: Weights, rules: Rules, lengths: Tensor | None, op: str, *, backwards: bool
) -> tuple[Tensor, State]:
    """Returns hidden states [time, batch, hidden] and the last state; behind a sequence's length there are zeros."""
    steps: Sequence[int] = range(given.shape[0])
    found: list[Tensor] = []
    for step in reversed(steps) if backwards else steps:
        new = _CELLS[op](given[step], state, weights, rules)
        if lengths is None:
            state, hidden = new, new[0]
        else:
            valid = (lengths > step)[:, None]
            state = tuple(torch.where(valid, after, before) for after, before in zip(new, state, strict=True))
            hidden = torch.where(valid, new[0], 0)
        found.append(hidden)
    return torch.stack(found[::-1] if backwards else found), state


def _recur(node: Node) -> Call:
    direction = node.get("direction", "forward")
    directions = 2 if direction == "bidirectional" else 1
    names = node.get("activations") or _DEFAULTS[node.op] * directions
    activations = activations_of(names, node.get("activation_alpha") or (), node.get("activation_beta") or ())
    each = len(_DEFAULTS[node.op])
    rest = node.get("clip"), bool(node.get("input_forget", 0)), bool(node.get("linear_before_reset", 0))
    rules = tuple(Rules(activations[i * each : (i + 1) * each], *rest) for i in range(directions))
    settings = Recurrence(node.op, direction, rules, bool(node.get("layout", 0)))
    places = tuple(range(8 if node.op == "LSTM" else 6))
    return Call(recur_in_full if len(node.wanted) == 1 else recur, places, {"settings": settings})


OPERATORS: dict[str, Translation] = {"LSTM": _recur, "GRU": _recur, "RNN": _recur}
