"""A loop of the user's own runs the float ONNX model: it gets what looks like the module that was exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantonnx.torch.calls import bound, call_of, mapped, named_tensors
from quantonnx.torch.dtypes import to_numpy
from quantonnx.torch.examples import Array, Example

Run = Callable[[Mapping[str, Array]], list[Any]]


class ExportedModule:
    """Is called as the module is and returns what it returns, by ONNX Runtime; all else is the module's."""

    def __init__(self, example: Example, run: Run, wanted: frozenset[str]) -> None:
        self._example, self._run, self._wanted = example, run, wanted

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the float model."""
        call = bound(self._example.module, call_of(args, kwargs))
        tensors = named_tensors(self._example.module, call, self._example.inputs)
        place = next(iter(tensors.values())).device
        found = self._run({name: to_numpy(tensor) for name, tensor in tensors.items() if name in self._wanted})
        values = iter([torch.from_numpy(np.array(array)).to(place) for array in found])
        return mapped(
            self._example.trials[0].returned, lambda path, leaf: next(values) if isinstance(leaf, Tensor) else leaf
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._example.module, name)

    def _itself(self, *args: Any, **kwargs: Any) -> ExportedModule:
        return self

    forward = __call__
    eval = train = to = cpu = cuda = _itself
