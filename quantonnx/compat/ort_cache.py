"""calibration_cache_path of quantize_static: ranges that are kept, in ONNX Runtime's own JSON, or our statistics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from quantonnx.calibration.collected import Statistics
from quantonnx.compat.configuring import to_config
from quantonnx.compat.encodings import Encoding
from quantonnx.compat.files import read_encodings
from quantonnx.compat.ort_ranges import write_ranges
from quantonnx.errors import ConfigError
from quantonnx.quantized import QuantizedModel, calibrate, with_statistics
from quantonnx.surveying import survey

_STATISTICS = ".npz"


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
        found, _ = to_config(read_encodings(self.path).contents.encodings)
        return dict(found["tensors"])

    def calibrate(self, placed: QuantizedModel, samples: Any) -> QuantizedModel:
        """Returns the calibrated model: from the file where there is one, else from samples, which are kept there."""
        if self.path is not None and self.exists:
            return calibrate(placed, statistics=self.path) if self._of_statistics else with_statistics(placed, {})
        if samples is None:
            raise ConfigError(
                "there is no calibration_data_reader", "give one, or a calibration_cache_path that exists"
            )
        if self.path is None:
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
