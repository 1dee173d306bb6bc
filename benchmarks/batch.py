"""A batch of many models, timed with one worker and with two, killed at random moments and resumed, and on a cluster.

    python benchmarks/batch.py --models 100 [--real FOLDER] [--kills 10] [--cluster]

Generated networks, the demo network, `.onnx` files of FOLDER (random samples), and a tenth that are bad on purpose, for
two targets. Says what became of all entries, the throughput of two workers against one, how much was lost or done
twice when the batch was killed, and whether a Dask cluster gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantonnx.batch.journal import FOLDER, read_records
from quantonnx.batch.keys import output_digest
from quantonnx.demo import calibration_path, model_path

TARGETS = ("onnxruntime", "openvino")
BATCH = (sys.executable, "-m", "quantonnx.cli", "batch")


def network(seed: int) -> onnx.ModelProto:
    """A residual network of random depth and width, whose input has a random size."""
    rng = np.random.default_rng(seed)
    width, depth, size = int(rng.choice([8, 16, 24])), int(rng.integers(2, 6)), int(rng.choice([8, 12, 16]))
    nodes, weights, value = [], [], "image"
    for index in range(depth):
        channels = 3 if index == 0 else width
        weight = rng.standard_normal((width, channels, 3, 3)).astype(np.float32) / (3 * channels**0.5)
        weights += [numpy_helper.from_array(weight, f"w{index}")]
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        if index:
            nodes.append(helper.make_node("Add", [f"r{index}", value], [f"a{index}"]))
        value = f"a{index}" if index else f"r{index}"
    weights.append(numpy_helper.from_array(rng.standard_normal((width, 10)).astype(np.float32), "matrix"))
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "network", [image], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bad(folder: Path, index: int) -> None:
    """One of the ways in which a file can be no good."""
    path, good = folder / f"bad_{index}.onnx", network(index)
    kind = index % 5
    if kind == 0:
        path.write_bytes(b"no model at all")
    elif kind == 1:
        content = good.SerializeToString()
        path.write_bytes(content[: len(content) // 2])
    elif kind == 2:
        good.graph.node[0].input[0] = good.graph.node[-1].output[0]  # a cycle
        path.write_bytes(good.SerializeToString())
    elif kind == 3:
        good.graph.node[1].op_type = "NoSuchOperator"
        path.write_bytes(good.SerializeToString())
    else:
        onnx.save(good, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
        path.with_name(f"{path.name}.data").unlink()


def spec(folder: Path, count: int, real: Path | None) -> Path:
    """Writes the models and the list of them."""
    found = sorted(real.glob("*.onnx")) if real else []
    models = [{"model": str(path.absolute()), "random_data": 2} for path in found[: count // 5]]
    models.append({"model": str(model_path()), "name": "demo", "data": str(calibration_path()), "samples": 64})
    for index in range(count // 10):
        bad(folder, index)
        models.append({"model": f"bad_{index}.onnx", "random_data": 2})
    for index in range(count - len(models)):
        onnx.save(network(1000 + index), folder / f"network_{index}.onnx")
        models.append({"model": f"network_{index}.onnx", "random_data": 32})
    path = folder / "models.json"
    path.write_text(json.dumps({"defaults": {"targets": TARGETS, "timeout": "10min"}, "models": models}))
    return path


def start(listed: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """Starts a batch."""
    return subprocess.Popen([*BATCH, str(listed), "-o", str(out), "-q", *options], start_new_session=True)


def timed(listed: Path, out: Path, *options: str) -> float:
    """Runs a batch to its end and returns the seconds."""
    started = time.perf_counter()
    code = start(listed, out, *options).wait()
    assert code in (0, 1), code
    return time.perf_counter() - started


def outputs(out: Path) -> dict[str, str]:
    """The digest of every file that was written, by its place."""
    return {str(path.relative_to(out)): output_digest(path) for path in sorted(out.rglob("*.onnx"))}


def states(out: Path) -> Counter[str]:
    """How many entries ended how, from the summary."""
    return Counter(entry["state"] for entry in json.loads((out / "summary.json").read_text())["entries"])


def killed(listed: Path, out: Path, kills: int, longest: float) -> list[str]:
    """Kills a batch at random moments and starts it again; returns what went wrong."""
    wrong = []
    chance = random.Random(0)
    for _ in range(kills):
        process = start(listed, out, "--jobs", "2")
        time.sleep(chance.uniform(0.05, longest))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for name, (_, outcome) in read_records(out).items():
            if outcome.digest and output_digest(out / f"{name}.onnx") != outcome.digest:
                wrong.append(f"{name} is not what the journal says")
        print(f"  killed with {len(read_records(out))} entries done", flush=True)
    timed(listed, out, "--jobs", "2")
    lines = (out / FOLDER / "journal.jsonl").read_text(errors="replace").splitlines()
    done = Counter(json.loads(line)["identity"] for line in lines if line.endswith("}"))
    wrong += [f"{name} was done {times} times" for name, times in done.items() if times > 1]
    wrong += [f"{path} was left" for path in out.rglob(".*.tmp")]
    return wrong


def cluster(listed: Path, out: Path) -> dict[str, dict[str, str]]:
    """Runs the batch on a LocalCluster and on two workers that join by address; returns what each wrote."""
    from distributed import LocalCluster

    found = {}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local:
        timed(listed, out / "local", "--scheduler", local.scheduler_address)
        found["LocalCluster"] = outputs(out / "local")
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "8799", "--no-dashboard"]
    )
    worker = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        "tcp://127.0.0.1:8799",
        "--nthreads",
        "1",
        "--no-dashboard",
    ]
    workers = [subprocess.Popen(worker) for _ in range(2)]
    try:
        timed(listed, out / "joined", "--scheduler", "tcp://127.0.0.1:8799")
        found["two workers by address"] = outputs(out / "joined")
    finally:
        for process in (*workers, scheduler):
            process.terminate()
            process.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "quantonnx-batch")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    listed = spec(options.work, options.models, options.real)

    two = timed(listed, options.work / "two", "--jobs", "2")
    one = timed(listed, options.work / "one", "--jobs", "1")
    wanted = outputs(options.work / "one")
    print(f"{options.models} models × {len(TARGETS)} targets: {dict(states(options.work / 'one'))}")
    print(f"one worker {one:.0f} s, two {two:.0f} s: {one / two:.2f} times the throughput")
    print(f"same bytes with two: {outputs(options.work / 'two') == wanted}")
    print(
        f"again, all kept: {timed(listed, options.work / 'one', '--jobs', '2'):.1f} s",
        dict(states(options.work / "one")),
    )
    if options.kills:
        wrong = killed(listed, options.work / "killed", options.kills, 1.6 * two / options.kills)
        same = outputs(options.work / "killed") == wanted
        print(f"killed {options.kills} times and resumed: same bytes {same}; wrong: {wrong or 'nothing'}")
    for name, found in cluster(listed, options.work / "cluster").items() if options.cluster else ():
        print(f"{name}: same bytes {found == wanted}")


if __name__ == "__main__":
    main()
