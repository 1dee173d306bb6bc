"""`batch` beyond one machine: the same bytes from a Dask cluster, from parts of the samples, and behind URLs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import parse
from test_batch import batch, save, save_data, states, summary
from test_memory_limit import BLOCKS, LIMITS, ROWS

import quantonnx as qx
from quantonnx.batch.expansion import expand
from quantonnx.batch.remote import upload
from quantonnx.batch.settings import EntrySettings
from quantonnx.batch.splitting import Ended, Part, PartError, SplitObserver
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.calibration.session import Collector
from quantonnx.calibration.statistics import ChannelMeans, TensorStatistics
from quantonnx.model import Model
from quantonnx.observing import Observed, Watch, observe, watch_of
from quantonnx.preparation import Feeding
from quantonnx.sharing import SharedObservation

TARGETS = ("-t", "openvino", "-t", "onnxruntime")


def written(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.onnx"))}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model quantized by a process of this machine."""
    root = tmp_path_factory.mktemp("cluster")
    save(root / "models" / "net.onnx")
    save_data(root / "data.npz")
    batch(root / "models", "-o", root / "out", *TARGETS, "-d", root / "data.npz", "-q")
    return root


@pytest.mark.parametrize("split", [(), pytest.param(("--split-samples", 6), marks=pytest.mark.real)])
def test_a_cluster_writes_the_same_bytes(local: Path, tmp_path: Path, split: tuple[object, ...]) -> None:
    distributed = pytest.importorskip("distributed")
    here = {"processes": False, "protocol": "tcp://", "dashboard_address": None}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **here) as cluster:
        given = (*TARGETS, "-d", local / "data.npz", "-q", *split, "--scheduler", cluster.scheduler_address)
        batch(local / "models", "-o", tmp_path, *given)
    assert written(tmp_path) == written(local / "out")
    assert states(tmp_path) == states(local / "out")


def test_a_scheduler_that_does_not_answer_is_one_line(
    local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("quantonnx.batch.cluster._PATIENCE", 0.2)
    batch(local / "models", "-o", local / "none", "--random-data", 1, "--scheduler", "tcp://127.0.0.1:9", code=2)
    assert "no Dask scheduler answers" in capsys.readouterr().err


@pytest.mark.real
def test_workers_that_join_by_address_write_the_same_bytes(local: Path) -> None:
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dask = [sys.executable, "-m", "distributed.cli.dask_"]
    started = [[dask[0], dask[1], f"{dask[2]}scheduler", "--port", address.rpartition(":")[2], "--no-dashboard"]]
    started += [[dask[0], dask[1], f"{dask[2]}worker", address, "--nthreads", "1", "--no-dashboard"]] * 2
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in started]
    try:
        time.sleep(3)
        out = local / "joined"
        batch(local / "models", "-o", out, *TARGETS, "-d", local / "data.npz", "-q", "--scheduler", address)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    assert written(out) == written(local / "out")


def placed(path: Path, target: str) -> qx.QuantizedModel:
    fused = qx.transform(path, target=target)
    return qx.insert_qdq(fused.model, fused.matches)


def run_in_turn(parts: list[Part], samples: Any) -> Iterator[Ended]:
    """Runs parts as their workers do, in this process and in the opposite order."""
    from quantonnx.commands import batch_part

    for part in reversed(parts):
        batch_part._observe(part)
        yield Ended()


def test_parts_of_the_samples_add_up_to_the_same_bits(local: Path, tmp_path: Path) -> None:
    path, data = local / "models" / "net.onnx", local / "data.npz"
    model = placed(path, "onnxruntime")
    runs: list[int] = []

    def run_parts(parts: list[Part]) -> Iterator[Ended]:
        runs.append(len(parts))
        return run_in_turn(parts, data)

    observer = SplitObserver(
        "", 5, lambda fused: open_samples(data, input_specs(fused)), {"data": str(data)}, tmp_path, run_parts
    )
    samples = open_samples(data, input_specs(model.model))
    split = qx.calibrate(model, samples, observer=observer).to_model().to_bytes()
    assert split == qx.calibrate(model, samples).to_model().to_bytes()
    assert runs == [3]


def test_parts_of_the_samples_keep_to_the_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantonnx.memory.resident", lambda: 0)
    monkeypatch.setattr(Collector, "_open", lambda *_: pytest.fail("the whole model is loaded"))
    data = tmp_path / "data.npz"
    np.savez(data, x0=ROWS)
    fused = qx.transform(parse(BLOCKS), target="onnxruntime")
    model = qx.insert_qdq(fused.model, fused.matches)
    settings, limit = {"data": str(data)}, LIMITS[BLOCKS]
    observer = SplitObserver(
        "", 2, lambda fused: open_samples(data, input_specs(fused)), settings, tmp_path, lambda p: run_in_turn(p, data)
    )
    samples = open_samples(data, input_specs(model.model))
    split = qx.calibrate(model, samples, observer=observer, memory_limit=limit).to_model().to_bytes()
    monkeypatch.undo()
    assert split == qx.calibrate(model, samples).to_model().to_bytes()


KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
REFUSING = "import sys; sys.stderr.write('such a model is refused'); sys.exit(3)"


@pytest.mark.parametrize(("code", "lasting"), [(KILLED, False), (REFUSING, True)])
def test_a_part_that_was_killed_may_work_another_time(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, lasting: bool
) -> None:
    (tmp_path / "dying_part.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    model, data = placed(local / "models" / "net.onnx", "onnxruntime"), local / "data.npz"
    observer = SplitObserver("dying_part", 5, lambda fused: open_samples(data, input_specs(fused)), {}, tmp_path)
    with pytest.raises(qx.CalibrationError, match="a part of the calibration failed from sample 0 on") as caught:
        qx.calibrate(model, open_samples(data, input_specs(model.model)), observer=observer)
    assert caught.type is (qx.CalibrationError if lasting else PartError)


def test_sums_of_parts_do_not_depend_on_where_they_are_cut() -> None:
    rng = np.random.default_rng(0)
    means = (rng.standard_normal((9000, 4)) * 10.0 ** rng.integers(-18, 18, (9000, 4))).astype(np.float32)
    found = set()
    for cuts in ([9000], [1, 9000], [4500, 9000], [100, 5000, 8999, 9000]):
        parts = []
        for start, stop in pairwise([0, *cuts]):
            part, extremes = ChannelMeans(), TensorStatistics("x", histogram=False)
            part.update(means[start:stop])
            extremes.add_extremes(means[start:stop, 0], means[start:stop, 0])
            parts.append((part, extremes))
        first, *others = parts
        for other in others:
            first[0].merge(other[0])
            first[1].merge(other[1])
        found.add((first[0].mean.tobytes(), first[1].average(0.001)))
    assert len(found) == 1


def test_targets_share_a_pass_and_keep_their_numbers(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantonnx.sharing.FEWEST", 8)
    path, data = local / "models" / "net.onnx", local / "data.npz"
    models = [placed(path, target) for target in ("tensorrt", "openvino", "onnxruntime")]
    shared = SharedObservation(map(watch_of, models))
    for model in models:
        samples = open_samples(data, input_specs(model.model))
        one = qx.calibrate(model, samples, observer=shared).to_model().to_bytes()
        assert one == qx.calibrate(model, samples).to_model().to_bytes()
    assert shared.passes == 1


RESIDUAL = """
    network (float[N,3,8,8] image) => (float[N,8,8,8] y)
    <float[8,3,3,3] w1, float[8,8,3,3] w2, float[8] b1, float[8] b2> {
        first = Conv <pads: ints = [1, 1, 1, 1]> (image, w1, b1)
        positive = Relu (first)
        second = Conv <pads: ints = [1, 1, 1, 1]> (positive, w2, b2)
        total = Add (second, positive)
        y = Relu (total)
    }
"""


@pytest.mark.parametrize("foreseen", [True, False])
def test_where_fusions_would_change_numbers_each_target_has_its_own_pass(
    local: Path, monkeypatch: pytest.MonkeyPatch, foreseen: bool
) -> None:
    monkeypatch.setattr("quantonnx.sharing.FEWEST", 8)
    if not foreseen:
        monkeypatch.setattr("quantonnx.sharing._parts_a_fusion", lambda *_: False)
    path = local / "residual.onnx"
    path.write_bytes(parse(RESIDUAL).SerializeToString())
    models = [placed(path, target) for target in ("openvino", "onnxruntime")]
    shared = SharedObservation(map(watch_of, models))
    for model in models:
        samples = open_samples(local / "data.npz", input_specs(model.model))
        one = qx.calibrate(model, samples, observer=shared).to_model().to_bytes()
        assert one == qx.calibrate(model, samples).to_model().to_bytes()
    assert not foreseen or shared.passes == 2


def test_few_samples_are_not_shared(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantonnx.sharing.FEWEST", 8)
    model = placed(local / "models" / "net.onnx", "openvino")
    watch = watch_of(model)
    some = Watch(watch.model, frozenset(sorted(watch.tensors)[:1]), frozenset(), {})
    samples = open_samples(local / "data.npz", input_specs(model.model))
    seen: list[int] = []

    def count(asked: Watch, feeding: Feeding) -> Observed:
        seen.append(len(asked.tensors))
        return observe(asked, feeding)

    shared = SharedObservation([watch, some], count)
    shared(some, Feeding(samples))
    assert seen == [len(watch.tensors)]
    few = open_samples(local / "data.npz", input_specs(model.model), limit=2)
    shared(some, Feeding(few))
    assert seen == [len(watch.tensors), 1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_models_data_and_results_in_memory(local: Path, home: Path) -> None:
    files = pytest.importorskip("fsspec").filesystem("memory")
    files.makedirs("/in/deep", exist_ok=True)
    files.put_file(str(local / "models" / "net.onnx"), "/in/deep/net.onnx")
    files.put_file(str(local / "data.npz"), "/in/data.npz")
    given = ("memory://in", "-o", "memory://results", "-t", "openvino", "-d", "memory://in/data.npz", "-q")
    batch(*given)
    place = "/results/deep_net/openvino.onnx"
    assert files.cat(place) == (local / "out" / "net" / "openvino.onnx").read_bytes()
    assert {"/results/summary.html", "/results/.batch/journal.jsonl"} <= set(files.find("/results"))
    (home / "home").rename(home / "other machine")
    batch(*given)
    files.get_file("/results/summary.json", str(home / "summary.json"))
    assert states(home) == {"deep_net/openvino": "kept"}


@pytest.mark.parametrize("failures", [1, 9])
def test_a_journal_that_cannot_be_stored_is_tried_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failures: int
) -> None:
    pytest.importorskip("fsspec")
    for name in ("one", "two"):
        (home / f"{name}.onnx").write_text("no model")
    tried: list[str] = []

    def failing(file: Path, url: str) -> None:
        tried.append(url)
        if len(tried) <= failures:
            raise ConnectionError("no way there")
        upload(file, url)

    monkeypatch.setattr("quantonnx.batch.running.upload", failing)
    place = home / "results"
    batch(home, "-o", f"file://{place}", "-t", "openvino", "--random-data", 2, code=1 if failures == 1 else 2)
    assert states(place) == {"one/openvino": "failed", "two/openvino": "failed"}
    assert capsys.readouterr().err.count("no way there") == (1 if failures == 1 else 2)
    assert (place / ".batch" / "journal.jsonl").is_file() is (failures == 1)


def test_a_summary_that_cannot_be_stored_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fsspec")

    def failing(*_: object) -> None:
        raise ConnectionError("no way there")

    (home / "one.onnx").write_text("no model")
    monkeypatch.setattr("quantonnx.batch.summary.upload", failing)
    batch(home, "-o", f"file://{home}/results", "-t", "openvino", "--random-data", 2, "-q", code=2)
    assert "results/summary.json cannot be stored: no way there; it is in" in capsys.readouterr().err


def test_a_url_that_is_not_there_costs_one_entry(local: Path, home: Path) -> None:
    pytest.importorskip("fsspec")
    text = f'models = ["{local}/models/net.onnx", "file://{home}/none.onnx"]\ndefaults = {{ random_data = 2 }}'
    (home / "spec.toml").write_text(text)
    batch(home / "spec.toml", "-o", f"file://{home}/results", "-t", "openvino", "-q", code=1)
    found = summary(home / "results")
    assert "cannot be read" in found["none/openvino"]["reason"]
    assert (home / "results" / "net" / "openvino.onnx").is_file()
    assert found["net/openvino"]["state"] == "done"


@pytest.mark.parametrize("source", ["file://{0}/models/", "file://{0}/models/*.onnx"])
def test_folders_and_globs_behind_urls(local: Path, source: str) -> None:
    pytest.importorskip("fsspec")
    jobs = expand(source.format(local), EntrySettings())
    assert [job.name for job in jobs] == ["net"]


@pytest.mark.real
def test_a_real_s3_server(local: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    pytest.importorskip("s3fs")
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    try:
        files = pytest.importorskip("fsspec").filesystem("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
        files.mkdir("bucket")
        files.put_file(str(local / "models" / "net.onnx"), "bucket/in/net.onnx")
        files.put_file(str(local / "data.npz"), "bucket/data.npz")
        given = ("s3://bucket/in/", "-o", "s3://bucket/out", "-t", "openvino", "-d", "s3://bucket/data.npz", "-q")
        batch(*given)
        assert files.cat("bucket/out/net/openvino.onnx") == (local / "out" / "net" / "openvino.onnx").read_bytes()
        batch(*given)
        files.get_file("bucket/out/summary.json", str(home / "summary.json"))
        assert states(home) == {"net/openvino": "kept"}
    finally:
        server.stop()


def test_models_know_themselves(local: Path) -> None:
    path = local / "models" / "net.onnx"
    assert Model.read(path).fingerprint() == Model.read(path).fingerprint()
    other = save(local / "other.onnx", seed=1)
    assert Model.read(path).fingerprint() != Model.read(other).fingerprint()
