"""When observers, fake quantization and batch statistics switch on and off during training."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from quantonnx.errors import ConfigError
from quantonnx.torch.fake_quantization import FakeQuantize
from quantonnx.torch.modules import normalizations


def enable_fake_quant(module: nn.Module) -> None:
    """Lets every layer of fake quantization in a module quantize."""
    _switch(module, enabled=True)


def disable_fake_quant(module: nn.Module) -> None:
    """Lets tensors pass every layer of fake quantization as they are."""
    _switch(module, enabled=False)


def enable_observer(module: nn.Module) -> None:
    """Lets the ranges of activations follow what passes in training mode."""
    _switch(module, observing=True)


def disable_observer(module: nn.Module) -> None:
    """Keeps the ranges of activations as they are."""
    _switch(module, observing=False)


def freeze_bn_stats(module: nn.Module) -> None:
    """Lets batch normalization compute with its running statistics, and keep them, in training mode too.

    That holds for all layers with an attribute `frozen`, and for those of torch.nn.
    """
    _freeze(module, frozen=True)


def unfreeze_bn_stats(module: nn.Module) -> None:
    """Undoes `freeze_bn_stats`."""
    _freeze(module, frozen=False)


class QatSchedule:
    """Switches at given numbers of training steps; `step()` is called after each of the optimizer's.

    Ranges are observed during the first `observer_steps` steps, tensors are fake-quantized from `fake_quant_start` on,
    and the statistics of batch normalization are frozen from `freeze_at` on, with None never. Between these numbers
    nothing is switched, so that what is switched by hand stays. Raises ConfigError for a number that is none.
    """

    def __init__(
        self, module: nn.Module, *, observer_steps: int = 0, fake_quant_start: int = 0, freeze_at: int | None = None
    ) -> None:
        self.module = module
        self.observer_steps = _checked("observer_steps", observer_steps)
        self.fake_quant_start = _checked("fake_quant_start", fake_quant_start)
        self.freeze_at = None if freeze_at is None else _checked("freeze_at", freeze_at)
        self.steps = 0
        self._apply()

    def step(self) -> None:
        """Counts one step of training."""
        before = self._state()
        self.steps += 1
        if self._state() != before:
            self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Returns how many steps were counted."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after as many steps, with the switches as they are then."""
        self.steps = int(state["steps"])
        self._apply()

    def _state(self) -> tuple[bool, bool, bool]:
        frozen = self.freeze_at is not None and self.steps >= self.freeze_at
        return self.steps < self.observer_steps, self.steps >= self.fake_quant_start, frozen

    def _apply(self) -> None:
        observing, enabled, frozen = self._state()
        _switch(self.module, observing=observing, enabled=enabled)
        if self.freeze_at is not None:
            _freeze(self.module, frozen=frozen)


def _checked(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name} is {value!r}", "expected a number of steps from 0 on")
    return value


def _switch(module: nn.Module, **switches: bool) -> None:
    for layer in module.modules():
        if isinstance(layer, FakeQuantize):
            for name, value in switches.items():
                setattr(layer, name, value)


def _freeze(module: nn.Module, *, frozen: bool) -> None:
    for layer in normalizations(module):
        if isinstance(layer, _BatchNorm):
            _freeze_layer(layer, frozen=frozen, training=module.training)
        else:
            layer.frozen = frozen  # type: ignore[assignment] # torch takes every attribute for a tensor or a module


def _freeze_layer(layer: nn.Module, *, frozen: bool, training: bool) -> None:
    """Keeps a layer of torch.nn in evaluation mode, whatever `train()` says later."""
    hooks = layer._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if hook is _to_evaluation]:
        del hooks[key]
    layer.train(training and not frozen)
    if frozen:
        layer.register_forward_pre_hook(_to_evaluation)


def _to_evaluation(layer: nn.Module, _: Any) -> None:
    layer.training = False
