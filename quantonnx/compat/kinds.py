"""The names of the file formats that other tools have for quantized tensors."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """A file with the numbers of quantized tensors. `MODEL` is only read, `CONFIG` only written."""

    MODEL = "onnx"
    TENSORRT = "tensorrt"
    AIMET_0_6_1 = "aimet-0.6.1"
    AIMET_1_0_0 = "aimet-1.0.0"
    AIMET_2_0_0 = "aimet-2.0.0"
    ORT_RANGES = "ort-ranges"
    ORT_OVERRIDES = "ort-overrides"
    CONFIG = "config"


WRITABLE = tuple(kind for kind in Kind if kind is not Kind.MODEL)
