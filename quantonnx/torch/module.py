"""An ONNX graph as a torch module: differentiable, trainable, with parameters under their ONNX names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantonnx.errors import DataError, ModelError
from quantonnx.model import Model
from quantonnx.reading import Source
from quantonnx.torch.converting import Converter
from quantonnx.torch.graph_values import Layers
from quantonnx.torch.program import Program
from quantonnx.torch.states import States, tensors_at


class OnnxModule(nn.Module):
    """A module that computes what an ONNX graph computes.

    Called with the inputs in the graph's order, or by their names, it returns the output, or a tuple of several.
    Initializers that are weights are parameters, the others buffers, under the names that they have in the file.
    """

    def __init__(self, origin: Origin) -> None:
        super().__init__()
        self.origin = origin
        self._program = Program((), (), (), {})
        self._paths: dict[str, tuple[str, str]] = {}

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the graph's inputs."""
        return self._program.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the graph's outputs."""
        return tuple(value.name for value in self.origin.model.graph.outputs)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Returns the graph's output, or a tuple of its outputs."""
        outputs = self._program.run(self._fed(inputs, named), self.get_submodule, _device(inputs, named))
        return outputs[0] if len(outputs) == 1 else outputs

    def collect(self, names: Collection[str], *inputs: Tensor, **named: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """Returns what `forward` does, and the values of the graph that have these names."""
        values = self._fed(inputs, named)
        outputs = self._program.run(values, self.get_submodule, _device(inputs, named), set(names))
        missing = [name for name in names if name not in values]
        if missing:
            raise DataError(f"the graph has no value {missing[0]!r}", "name values as the ONNX file does")
        return outputs[0] if len(outputs) == 1 else outputs, {name: values[name] for name in names}

    def _fed(self, inputs: Sequence[Tensor], named: dict[str, Tensor]) -> dict[str, Any]:
        names = self.input_names
        given = dict(zip(names, inputs, strict=False)) | named
        if len(inputs) > len(names) or given.keys() != set(names) or len(inputs) + len(named) != len(names):
            found = [*names[: len(inputs)], *named] if len(inputs) <= len(names) else f"{len(inputs)} tensors"
            raise DataError(f"the module got {found}, expected the inputs {list(names)}")
        return dict(tensors_at(self, self._paths)) | given


class Origin:
    """What a module was made from; copies of the module share it, as it never changes."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __deepcopy__(self, memo: Any) -> Origin:
        return self

    def __reduce__(self) -> tuple[Callable[[bytes], Origin], tuple[bytes]]:
        if type(self) is not Origin:
            raise DataError("a module prepared for training cannot be pickled", "save its state_dict() instead")
        return _from_bytes, (self.model.to_bytes(),)


def _from_bytes(model: bytes) -> Origin:
    return Origin(Model.read(model))


def from_onnx(source: Source | Model) -> OnnxModule:
    """Returns an ONNX model (a path, bytes, a ModelProto or a Model) as a torch module, in evaluation mode.

    Raises ModelError that lists all operators without a translation.
    """
    if isinstance(source, nn.Module):
        found = f"from_onnx takes an ONNX model, found a {type(source).__name__}"
        raise ModelError(found, "use quantonnx.torch.export")
    module = OnnxModule(Origin(Model.read(source)))
    build(module, States(module), Layers())
    return module


def build(module: OnnxModule, states: States, layers: Layers) -> None:
    """Fills a module with the steps of the model that it is made from, and puts it into evaluation mode."""
    module._program = Converter(module.origin.model, states, layers).program()
    module._paths = states.paths
    module.eval()


def _device(inputs: Sequence[Tensor], named: dict[str, Tensor]) -> torch.device | None:
    return next((value.device for value in (*inputs, *named.values())), None)
