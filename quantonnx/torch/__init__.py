"""PyTorch on both ends: export that quantizes well, and training that starts from an ONNX file and returns it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantonnx.torch.distillation import distill
    from quantonnx.torch.examples import ExportWarning
    from quantonnx.torch.exporting import export
    from quantonnx.torch.module import OnnxModule, from_onnx
    from quantonnx.torch.preparing import prepare_qat
    from quantonnx.torch.quantizing import quantize
    from quantonnx.torch.returning import to_onnx
    from quantonnx.torch.schedule import (
        QatSchedule,
        disable_fake_quant,
        disable_observer,
        enable_fake_quant,
        enable_observer,
        freeze_bn_stats,
        unfreeze_bn_stats,
    )

__all__ = [
    "ExportWarning",
    "OnnxModule",
    "QatSchedule",
    "disable_fake_quant",
    "disable_observer",
    "distill",
    "enable_fake_quant",
    "enable_observer",
    "export",
    "freeze_bn_stats",
    "from_onnx",
    "prepare_qat",
    "quantize",
    "to_onnx",
    "unfreeze_bn_stats",
]

_HOMES = {
    "distillation": ("distill",),
    "examples": ("ExportWarning",),
    "exporting": ("export",),
    "module": ("OnnxModule", "from_onnx"),
    "preparing": ("prepare_qat",),
    "quantizing": ("quantize",),
    "returning": ("to_onnx",),
    "schedule": (
        "QatSchedule",
        "disable_fake_quant",
        "disable_observer",
        "enable_fake_quant",
        "enable_observer",
        "freeze_bn_stats",
        "unfreeze_bn_stats",
    ),
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for. Raises ConfigError where PyTorch is missing."""
    from importlib import import_module

    from quantonnx.errors import ConfigError

    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ConfigError("quantonnx.torch needs PyTorch", "pip install 'quantonnx[torch]'") from None


def __dir__() -> list[str]:
    return __all__
