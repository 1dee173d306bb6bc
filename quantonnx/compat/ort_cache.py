"""calibration_cache_path of quantize_static: ranges that are kept, in ONNX Runtime's own JSON, or our statistics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantonnx.calibrating import calibrate, with_statistics
from quantonnx.calibration.collected import Statistics
from quantonnx.compat.configuring import to_config
from quantonnx.compat.encodings import Encoding
from quantonnx.compat.files import read_encodings
from quantonnx.compat.ort_ranges import write_ranges
from quantonnx.errors import ConfigError
from quantonnx.formats import SMALLEST_RANGE
from quantonnx.quantized import QuantizedModel
from quantonnx.surveying import survey

_STATISTICS = ".npz"
_NUMBERS = frozenset({"scale", "zero_point", "range"})


class Cache:
    """The file, if one is named; `exists` where it holds something already."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = Path(path) if path is not None else None
        self.exists = self.path is not None and self.path.exists()
        self._of_statistics = self.path is not None and self.path.suffix == _STATISTICS

    def rules(self) -> dict[str, Any]:
        """Returns the rules for tensors that the ranges of the file are."""
        if self.path is None or not self.exists or self._of_statistics:
            return {}
        encodings = read_encodings(self.path).contents.encodings
        found, _ = to_config(encodings)
        zeros = (encoding.name for encoding in encodings if encoding.only_zeros)
        kept: dict[str, Any] = found["tensors"]
        return {name: {"range": [0.0, SMALLEST_RANGE], "optional": True} for name in zeros} | kept

    def beneath(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the rules of the file under those for tensors that a call has: numbers of the call count alone."""
        kept = self.rules()
        for name, rule in overrides.items():
            ours = {} if _NUMBERS & rule.keys() else kept.get(name, {})
            kept[name] = {key: value for key, value in ours.items() if key in _NUMBERS} | rule
        return kept

    def calibrate(self, placed: QuantizedModel, samples: Any) -> QuantizedModel:
        """Returns the calibrated model: from the file where there is one, else from samples, which are kept there.

        What smoothing does to a model is in no file, so that it needs samples each time.
        """
        smooths = placed.config.smooth_quant is not None
        if smooths and self._of_statistics:
            hint = "smoothing changes them: name a .json file, or leave one of the two out"
            raise ConfigError("SmoothQuant is set, and calibration_cache_path keeps statistics", hint)
        if self.path is not None and self.exists and not smooths:
            return calibrate(placed, statistics=self.path) if self._of_statistics else with_statistics(placed, {})
        if samples is None:
            raise ConfigError(
                "there is no calibration_data_reader", "give one, or a calibration_cache_path that exists"
            )
        if self.path is None or self.exists:
            return calibrate(placed, samples)
        if self._of_statistics:
            statistics: Statistics = survey(placed.model, samples)
            statistics.save(self.path)
            return calibrate(placed, statistics=statistics)
        calibrated = calibrate(placed, samples)
        self.path.write_text(_ranges(calibrated), encoding="utf-8")
        return calibrated


def _ranges(calibrated: QuantizedModel) -> str:
    found = calibrated.ranges.items()
    return write_ranges(Encoding(name, low=np.asarray(low), high=np.asarray(high)) for name, (low, high) in found).text
