"""Quantizes one model with one tool, inside the environment that holds the tool: what `peers.py` starts.

    PYTHON benchmarks/peers_runners.py TOOL VARIANT MODEL.onnx CALIBRATION.npz OUT.onnx [--transformer] [--samples N]

Every tool gets the same samples, one at a time, and its own defaults for 8-bit weights and activations. The last line
printed is the peak memory in MB, as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """A model to quantize, its samples (one feed each, batch 1), and where the file goes."""

    model: str
    out: str
    arrays: Feed
    variant: str
    transformer: bool

    @property
    def feeds(self) -> list[Feed]:
        """The samples as feeds."""
        count = len(next(iter(self.arrays.values())))
        return [{name: values[i : i + 1] for name, values in self.arrays.items()} for i in range(count)]


@dataclass
class Reader:
    """The samples as ONNX Runtime's CalibrationDataReader and what was made after it want them."""

    feeds: Iterator[Feed]

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)


def quantonnx(job: Job) -> None:
    """`quantonnx.quantize` for the target onnxruntime."""
    import quantonnx as qx

    qx.quantize(job.model, job.feeds, target="onnxruntime").save(job.out, force=True)


def quantize_static(job: Job) -> None:
    """ONNX Runtime's own tool after its own pre-processing; the variant is METHOD-U8S8 or METHOD-S8S8."""
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    method, types = job.variant.split("-")
    prepared = str(Path(job.out).with_suffix(".prepared.onnx"))
    quant_pre_process(job.model, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        job.out,
        Reader(iter(job.feeds)),
        per_channel=True,
        calibrate_method=CalibrationMethod[method],
        activation_type=QuantType.QUInt8 if types == "U8S8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )


def nncf(job: Job) -> None:
    """`nncf.quantize`, told of a transformer as its documentation asks."""
    import nncf
    import onnx

    kind = nncf.ModelType.TRANSFORMER if job.transformer else None
    preset = nncf.QuantizationPreset.MIXED if job.variant == "mixed" else None
    quantized = nncf.quantize(onnx.load(job.model), nncf.Dataset(job.feeds), model_type=kind, preset=preset)
    onnx.save(quantized, job.out)


def onnxsim(job: Job) -> None:
    """`onnxsim.quantize_static` on the simplified model; the variant is its calibration method."""
    import onnx
    import onnxsim

    simplified, _ = onnxsim.simplify(onnx.load(job.model))
    onnx.save(onnxsim.quantize_static(simplified, calibration_data=job.feeds, method=job.variant), job.out)


def modelopt(job: Job) -> None:
    """ModelOpt's int8; the variant is its calibration method. What stays in float stays in float32."""
    from modelopt.onnx.quantization import quantize

    quantize(
        job.model,
        quantize_mode="int8",
        calibration_data=job.arrays,
        calibration_method=job.variant,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=job.out,
    )


def quark(job: Job) -> None:
    """Quark's preset of the variant's name."""
    from quark.onnx import ModelQuantizer, QConfig

    config = QConfig.get_default_config(job.variant)
    ModelQuantizer(config).quantize_model(job.model, job.out, Reader(iter(job.feeds)))


def aimet(job: Job) -> None:
    """AIMET's QuantizationSimModel, its encodings written as Q/DQ."""
    import onnx
    from aimet_onnx import QuantizationSimModel

    simulated = QuantizationSimModel(onnx.load(job.model), providers=["CPUExecutionProvider"])
    simulated.compute_encodings(job.feeds)
    onnx.save(simulated.to_onnx_qdq(), job.out)


RUNNERS: dict[str, Callable[[Job], None]] = {
    function.__name__: function for function in (quantonnx, quantize_static, nncf, onnxsim, modelopt, quark, aimet)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=sorted(RUNNERS))
    parser.add_argument("variant")
    parser.add_argument("model")
    parser.add_argument("calibration", type=Path)
    parser.add_argument("out")
    parser.add_argument("--transformer", action="store_true")
    parser.add_argument("--samples", type=int, default=64)
    given = parser.parse_args()
    with np.load(given.calibration) as arrays:
        samples = {name: arrays[name][: given.samples] for name in arrays.files}
    RUNNERS[given.tool](Job(given.model, given.out, samples, given.variant, given.transformer))
    print(json.dumps({"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)


if __name__ == "__main__":
    main()
