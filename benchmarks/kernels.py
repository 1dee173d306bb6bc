"""Which integer kernels ONNX Runtime really runs after quantization, and how fast that is.

    python benchmarks/kernels.py MODEL.onnx... [--samples 8] [--rounds 20] [--no-peer]

Per model: the operators of the runtime's optimized graph, the share of Conv, Add, Gemm and MatMul that became integer
kernels, and the latency of float, this quantizer and `quantize_static` (minmax, per channel, after its own
pre-processing) at one thread and batch 1, in turns. Random samples: nothing here measures accuracy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort
from accuracy_speed import latency, peer
from calibration_cost import generated

import quantonnx as qx
from quantonnx.calibration.samples import input_specs
from quantonnx.runtimes.onnxruntime import optimized_layers

INTEGER = {
    "Conv": ("QLinearConv", "ConvInteger"),
    "Add": ("QLinearAdd",),
    "Gemm": ("QGemm",),
    "MatMul": ("QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger"),
}
FLOAT = {
    "Conv": ("Conv", "FusedConv"),
    "Add": ("Add",),
    "Gemm": ("Gemm", "FusedGemm"),
    "MatMul": ("MatMul", "FusedMatMul"),
}


def optimized_operators(model: Path) -> Counter[str]:
    """Returns how often each operator stands in the graph that ONNX Runtime runs."""
    return Counter(layer.kernel for layer in optimized_layers(str(model)))


def integer_share(operators: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Returns per kind of operator (integer kernels, all of them), where there are any."""
    shares = {}
    for kind, names in INTEGER.items():
        found = sum(operators.get(name, 0) for name in names)
        total = found + sum(operators.get(name, 0) for name in FLOAT[kind])
        if total:
            shares[kind] = (found, total)
    return shares


def show(model: Path, folder: Path, samples: int, rounds: int, *, with_peer: bool) -> None:
    specs = input_specs(qx.Model.read(model))
    feeds = list(generated(specs, samples))
    paths = {"float": model, "quantonnx": folder / f"{model.stem}.int8.onnx"}
    qx.quantize(model, feeds, target="onnxruntime").save(paths["quantonnx"], force=True)
    if with_peer:
        paths["quantize_static"] = folder / f"{model.stem}.static.onnx"
        peer(model, paths["quantize_static"], specs[0].name, [feed[specs[0].name][0] for feed in feeds], peer_method())
    times = latency(paths, feeds[0], rounds)
    print(f"\n{model.name}")
    for key, path in paths.items():
        shares = integer_share(optimized_operators(path))
        shown = ", ".join(f"{kind} {found}/{total}" for kind, (found, total) in shares.items())
        ratio = times["float"] / times[key]
        print(f"  {key:16} {1e3 * times[key]:8.2f} ms  {ratio:5.2f}x faster than float   integer: {shown}")
    counts = optimized_operators(paths["quantonnx"]).most_common()
    print("  optimized graph: " + ", ".join(f"{count} {name}" for name, count in counts), flush=True)


def peer_method() -> object:
    from onnxruntime.quantization import CalibrationMethod

    return CalibrationMethod.MinMax


def main() -> int:
    """Prints one block per model."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    print(f"onnxruntime {ort.__version__}, one thread, batch 1, median of {options.rounds} rounds in turns")
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            show(model, Path(folder), options.samples, options.rounds, with_peer=not options.no_peer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
