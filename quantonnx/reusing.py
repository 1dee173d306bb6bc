"""Numbers for a placed model from statistics that were collected before: no sample is read, nothing is run."""

from __future__ import annotations

import os

from quantonnx.calibration.collected import Statistics
from quantonnx.quantized import QuantizedModel, with_statistics


def calibrate_from(quantized: QuantizedModel, statistics: Statistics | str | os.PathLike[str]) -> QuantizedModel:
    """Returns the model with scale and zero point at every site, from statistics or the file that holds them.

    Raises CalibrationError where they are of another float model, or do not have a tensor that is to be quantized.
    """
    if not isinstance(statistics, Statistics):
        statistics = Statistics.load(statistics)
    needed = [site.source for site in quantized.activation_sites if site.ranging.needs_samples]
    tensors = statistics.require(quantized.model.digest, needed)
    means = statistics.channel_means() if quantized.config.bias_correction else {}
    return with_statistics(quantized, tensors, means)
