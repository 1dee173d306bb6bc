"""PyTorch on both ends: modules become float models that quantize well, and quantized models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantonnx.torch.examples import ExportWarning
    from quantonnx.torch.exporting import export
    from quantonnx.torch.quantizing import quantize

__all__ = ["ExportWarning", "export", "quantize"]

_HOMES = {
    "quantonnx.torch.examples": ("ExportWarning",),
    "quantonnx.torch.exporting": ("export",),
    "quantonnx.torch.quantizing": ("quantize",),
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for."""
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
