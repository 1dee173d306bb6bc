"""Modules of torch whatever they compute: what is wrapped around one, its mode, and its layers with statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the module inside what torch.compile, DataParallel and DistributedDataParallel wrap around it."""
    inner = getattr(module, "_orig_mod", None)
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = module.module
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, and every part back into its own afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        module.eval()
        for part in training:
            part.training = True


def normalizations(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the layers with running statistics: those of torch, and those here that can be frozen."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) or isinstance(getattr(layer, "frozen", None), bool):
            yield layer
