"""The memory that quantizing a large model takes, against its size: a chain of matrix products with external data.

Writes a model of the asked size to a temporary folder, piece by piece, quantizes it through the command line for ONNX
Runtime, loads the result, and exits with 1 where the peak is more than the model's size and 1 GB.

    python benchmarks/big_model.py          # 2.5 GB: needs 4 GB of disk and 4 GB of memory
    python benchmarks/big_model.py 0.6
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, save

WIDTH = 4096
LAYER_BYTES = 4 * WIDTH * (WIDTH + 1)
ALLOWED_BEYOND_SIZE = 10**9
SAMPLES = 2


def write_model(folder: Path, size: float) -> Path:
    """Write MatMul + Add + Relu of 4096 × 4096, as often as `size` bytes hold, one weight in memory at a time."""
    layers = round(size / LAYER_BYTES)
    generator = np.random.default_rng(0)
    tensors: list[TensorProto] = []
    with (folder / "model.onnx.data").open("wb") as data:
        for index in range(layers):
            weight = generator.standard_normal((WIDTH, WIDTH), np.float32) * np.float32((2 / WIDTH) ** 0.5)
            bias = generator.standard_normal(WIDTH, np.float32)
            for name, array in ((f"weight_{index}", weight), (f"bias_{index}", bias)):
                tensors.append(outside(name, array.shape, data.tell()))
                data.write(array.data)
    save(chain(tensors), folder / "model.onnx")
    return folder / "model.onnx"


def outside(name: str, shape: tuple[int, ...], offset: int) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "model.onnx.data"), ("offset", offset), ("length", 4 * np.prod(shape))):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def chain(tensors: list[TensorProto]) -> ModelProto:
    nodes = []
    for i in range(len(tensors) // 2):
        nodes.append(helper.make_node("MatMul", [f"x_{i}", f"weight_{i}"], [f"product_{i}"]))
        nodes.append(helper.make_node("Add", [f"product_{i}", f"bias_{i}"], [f"sum_{i}"]))
        nodes.append(helper.make_node("Relu", [f"sum_{i}"], [f"x_{i + 1}"]))
    ends = [
        helper.make_tensor_value_info(f"x_{i}", TensorProto.FLOAT, ["batch", WIDTH]) for i in (0, len(tensors) // 2)
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass
class Peak:
    """The most memory of a process, in bytes: pages of its own, and with those of mapped files."""

    own: int = 0
    resident: int = 0


def watch(process: subprocess.Popen[bytes], peak: Peak) -> None:
    """Sample /proc while the process runs (Linux)."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            peak.own = max(peak.own, 1024 * int(fields["RssAnon"].split()[0]))
            peak.resident = max(peak.resident, 1024 * int(fields["VmRSS"].split()[0]))
        except (OSError, KeyError):
            return
        time.sleep(0.02)


def quantize(model: Path, output: Path) -> Peak:
    """Run `quantonnx quantize` in a process of its own and return its peak."""
    peak = Peak()
    arguments = ["quantize", str(model), "-o", str(output), "-t", "onnxruntime", "--random-data", str(SAMPLES)]
    process = subprocess.Popen([sys.executable, "-m", "quantonnx.cli", *arguments])
    watcher = threading.Thread(target=watch, args=(process, peak), daemon=True)
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"quantonnx quantize ended with {process.returncode}")
    watcher.join()
    peak.resident = max(peak.resident, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return peak


def main(gigabytes: float) -> int:
    with tempfile.TemporaryDirectory(prefix="quantonnx-big-") as name:
        folder = Path(name)
        model = write_model(folder, gigabytes * 1e9)
        size = sum(file.stat().st_size for file in folder.iterdir())
        started = time.perf_counter()
        peak = quantize(model, folder / "quantized.onnx")
        elapsed = time.perf_counter() - started
        written = sum(file.stat().st_size for file in folder.glob("quantized.onnx*"))
    allowed = size + ALLOWED_BEYOND_SIZE
    print(f"model {size / 1e9:.2f} GB, quantized {written / 1e9:.2f} GB, {elapsed:.0f} s")
    print(f"peak memory {peak.resident / 1e9:.2f} GB ({peak.own / 1e9:.2f} GB without mapped files)")
    print(f"allowed {allowed / 1e9:.2f} GB: {'kept' if peak.resident <= allowed else 'EXCEEDED'}")
    return 0 if peak.resident <= allowed else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.5))
