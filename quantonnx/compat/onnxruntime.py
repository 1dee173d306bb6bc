"""onnxruntime.quantization's own call: a script changes its import, and nothing else.

from quantonnx.compat.onnxruntime import CalibrationDataReader, QuantFormat, QuantType, quantize_static

What a call says about formats, methods, operators and tensors is translated into our configuration. Where pairs stand
is ours: the positions of the target `onnxruntime`, which keeps in float what would be slower in integers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from quantonnx.compat.ort_cache import Cache
from quantonnx.compat.ort_names import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, word
from quantonnx.compat.ort_options import translate
from quantonnx.compat.ort_selection import Selection
from quantonnx.compat.ort_settings import Settings, activation_of, weight_of
from quantonnx.config import QuantConfig
from quantonnx.errors import ConfigError
from quantonnx.model import Model
from quantonnx.plan import near
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import Transformed, transform

__all__ = [
    "CalibrationDataReader",
    "CalibrationMethod",
    "QuantFormat",
    "QuantType",
    "StaticQuantConfig",
    "quantize",
    "quantize_static",
]

TARGET = "onnxruntime"


def quantize_static(
    model_input: str | Path | onnx.ModelProto,
    model_output: str | Path,
    calibration_data_reader: CalibrationDataReader | None = None,
    quant_format: Any = QuantFormat.QDQ,
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool = False,
    reduce_range: bool = False,
    activation_type: Any = QuantType.QInt8,
    weight_type: Any = QuantType.QInt8,
    nodes_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | None = None,
    use_external_data_format: bool = False,
    calibrate_method: Any = CalibrationMethod.MinMax,
    calibration_providers: Sequence[Any] | None = None,
    extra_options: Mapping[str, Any] | None = None,
    calibration_cache_path: str | Path | None = None,
) -> None:
    """Writes a Q/DQ model for ONNX Runtime; the signature is that of ONNX Runtime 1.31, and so is what it says.

    Types, methods and formats are ours, ONNX Runtime's own, or their names. `nodes_to_quantize` and
    `op_types_to_quantize` keep a fused group in integers where they name one of its operators. `model_output` is
    overwritten. `calibration_providers` are not needed: the float model runs on the CPU. `calibration_cache_path` is
    read where it exists, else written: ONNX Runtime's JSON, or with the ending .npz our statistics, which serve any
    method.
    Raises ConfigError for what is unknown or has no equivalent, and warns where the whole model stays in float.
    """
    if word(QuantFormat, quant_format, "quant_format") is not QuantFormat.QDQ:
        raise ConfigError("quant_format is 'QOperator'", "only QuantFormat.QDQ is written; the runtime fuses it")
    options = dict(extra_options or {})
    source = Model.read(model_input)
    settings = Settings(
        source,
        activation_of(activation_type, calibrate_method, options),
        weight_of(weight_type, per_channel=bool(per_channel), reduce_range=bool(reduce_range)),
    )
    translate(options, settings)
    cache = Cache(calibration_cache_path)
    settings.others["tensors"] = cache.rules() | settings.others.get("tensors", {})
    selection = Selection(
        source,
        nodes_to_quantize or (),
        op_types_to_quantize or (),
        nodes_to_exclude or (),
        constant_matmuls=bool(options.get("MatMulConstBOnly")),
    )
    fused = transform(source, target=TARGET)
    placed = _placed(fused, settings, selection)
    samples = _samples(calibration_data_reader, options.get("CalibStridedMinMax"))
    if samples is not None and options.get("SmoothQuant"):
        samples = list(samples if isinstance(samples, Iterator) else iter(samples.get_next, None))  # read twice
    calibrated = cache.calibrate(placed, samples)
    calibrated.save(model_output, force=True, external_data=bool(use_external_data_format))


def _placed(fused: Transformed, settings: Settings, selection: Selection) -> QuantizedModel:
    exclude = selection.exclusions(fused.matches, fused.model)
    values = settings.values() | {"exclude": exclude, "keep_slow": selection.says_which}
    placed = insert_qdq(fused.model, fused.matches, QuantConfig(**values))
    placed.refuse_nothing("the model")
    if placed.faster_in_float:
        warnings.warn(
            "quantize_static: every operator is estimated slower in integers, so the model stays in float; "
            "op_types_to_quantize quantizes it all the same",
            stacklevel=3,
        )
    return placed


def _samples(reader: Any, stride: int | None) -> Any:
    """The samples of a reader; with CalibStridedMinMax it is told one range after the other, as it may rely on."""
    return reader if reader is None or not stride else _strides(reader, int(stride))


def _strides(reader: Any, stride: int) -> Iterator[Any]:
    for start in range(0, len(reader), stride):
        reader.set_range(start_index=start, end_index=start + stride)
        yield from iter(reader.get_next, None)


@dataclass
class StaticQuantConfig:
    """What `quantize` takes: the arguments of `quantize_static` as one value."""

    calibration_data_reader: CalibrationDataReader
    calibrate_method: Any = CalibrationMethod.MinMax
    quant_format: Any = QuantFormat.QDQ
    activation_type: Any = QuantType.QInt8
    weight_type: Any = QuantType.QInt8
    op_types_to_quantize: Sequence[str] | None = None
    nodes_to_quantize: Sequence[str] | None = None
    nodes_to_exclude: Sequence[str] | None = None
    per_channel: bool = False
    reduce_range: bool = False
    use_external_data_format: bool = False
    calibration_providers: Sequence[Any] | None = None
    extra_options: Mapping[str, Any] | None = None


def quantize(model_input: str | Path | onnx.ModelProto, model_output: str | Path, quant_config: Any) -> None:
    """Calls `quantize_static` with a StaticQuantConfig, ours or ONNX Runtime's. Raises ConfigError for any other."""
    names = StaticQuantConfig.__dataclass_fields__
    if not hasattr(quant_config, "calibration_data_reader"):
        given = type(quant_config).__name__
        raise ConfigError(f"quant_config is {given}", near(given, ["StaticQuantConfig"]) or "give a StaticQuantConfig")
    quantize_static(model_input, model_output, **{name: getattr(quant_config, name) for name in names})
