"""The memory and the time that quantizing a large model takes, against its size: a chain of matrix products.

Writes models of the asked sizes with external data to a temporary folder, piece by piece and one after the other,
quantizes each through the command line for ONNX Runtime, and deletes it. With `--memory-limit` the command gets that
limit, and the system refuses it more memory of its own (RLIMIT_DATA, which counts what is not mapped from files); the
peak below counts mapped pages of files too. Exits with 1 where the peak is above the limit, or, without one, above the
model's size and 1 GB.

    python benchmarks/big_model.py                                # 2.5 GB: needs 8 GB of disk and 4 GB of memory
    python benchmarks/big_model.py 1 2 4 6 --memory-limit 4GB     # 20 GB of disk
    python benchmarks/big_model.py 1 2 4 6 --memory-limit 1GB --method minmax
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, save

from quantonnx.memory import memory_limit_of

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
            peak.resident = max(peak.resident, 1024 * int(fields["VmHWM"].split()[0]))
        except (OSError, KeyError):
            return
        time.sleep(0.02)


def quantize(model: Path, output: Path, limit: str | None, further: list[str]) -> Peak:
    """Run `quantonnx quantize` in a process of its own and return its peak."""
    peak = Peak()
    arguments = ["quantize", str(model), "-o", str(output), "-t", "onnxruntime", "--random-data", str(SAMPLES), "-q"]
    bytes_allowed = memory_limit_of(limit)
    process = subprocess.Popen(
        [sys.executable, "-m", "quantonnx.cli", *arguments, *(["--memory-limit", limit] if limit else []), *further],
        preexec_fn=None if bytes_allowed is None else partial(_confine, bytes_allowed),
    )
    watcher = threading.Thread(target=watch, args=(process, peak), daemon=True)
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"quantonnx quantize ended with {process.returncode}")
    watcher.join()
    return peak


def processor_time() -> float:
    """Seconds on all cores of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _confine(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def measure(gigabytes: float, limit: str | None, further: list[str]) -> bool:
    """Print what one size takes; return whether that is allowed."""
    with tempfile.TemporaryDirectory(prefix="quantonnx-big-") as name:
        folder = Path(name)
        model = write_model(folder, gigabytes * 1e9)
        size = sum(file.stat().st_size for file in folder.iterdir())
        started, worked = time.perf_counter(), processor_time()
        peak = quantize(model, folder / "quantized.onnx", limit, further)
        elapsed, worked = time.perf_counter() - started, processor_time() - worked
        written = sum(file.stat().st_size for file in folder.glob("quantized.onnx*"))
    allowed = memory_limit_of(limit) or size + ALLOWED_BEYOND_SIZE
    kept = peak.resident <= allowed
    print(
        f"| {size / 1e9:.2f} GB | {written / 1e9:.2f} GB "
        f"| {elapsed:.0f} s | {worked:.0f} s | {worked / size * 1e9:.0f} s "
        f"| {peak.resident / 1e9:.2f} GB | {peak.own / 1e9:.2f} GB | {allowed / 1e9:.2f} GB"
        f"{'' if kept else ' EXCEEDED'} |",
        flush=True,
    )
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory and time of quantizing large models.")
    parser.add_argument("gigabytes", type=float, nargs="*", default=[2.5])
    parser.add_argument("--memory-limit")
    known, further = parser.parse_known_args()
    print(
        "| model | quantized | time | of processors | the same per GB | peak memory | without mapped files | allowed |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    kept = [measure(size, known.memory_limit, further) for size in known.gigabytes]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
