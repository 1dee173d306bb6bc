"""`batch`: every model and target accounted for, one crash costs one entry, and nothing is done twice or half."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import parse

from quantonnx import cli
from quantonnx.batch.board import Board
from quantonnx.batch.expansion import Entry, Job, expand
from quantonnx.batch.journal import FOLDER, Journal, opened, read_records
from quantonnx.batch.names import distinct_names, safe_name
from quantonnx.batch.protocol import Outcome, Progress, State
from quantonnx.batch.running import Item
from quantonnx.batch.settings import EntrySettings, parse_seconds
from quantonnx.batch.summary import write_summary
from quantonnx.commands.batch_options import GivenOptions
from quantonnx.errors import ConfigError, OutputError
from quantonnx.placing import sweep

NETWORK = """
    network (float[N,3,8,8] image) => (float[N,5] scores)
    <float[8,3,3,3] weight, float[8] bias, float[8,5] matrix> {
        first = Conv <pads: ints = [1, 1, 1, 1]> (image, weight, bias)
        positive = Relu (first)
        pooled = GlobalAveragePool (positive)
        flat = Flatten (pooled)
        scores = MatMul (flat, matrix)
    }
"""
HARMFUL = """
import os, time
import numpy as np
from quantonnx import INPUT, WEIGHT, Mismatch, Pattern, const, op, tensor

class Harmful(Pattern):
    '''Does what a runtime in trouble does.'''
    x = tensor()
    weight = const()
    output = op.MatMul(x, weight)
    qdq_points = (INPUT(x), WEIGHT(weight, axis=1))

    def check(self):
        {harm}
        raise Mismatch("it was only harm")

patterns = (Harmful,)
"""
HARMS = {
    "abort": "os.abort()",
    "hang": "time.sleep(600)",
    "hog": "kept = []\n        while True: kept.append(np.ones(2_000_000)); time.sleep(0.01)",
}


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(parse(NETWORK, seed=seed).SerializeToString())
    return path


def save_data(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    np.savez(path, image=rng.standard_normal((12, 3, 8, 8)).astype(np.float32))
    return path


def batch(*arguments: object, code: int = 0) -> None:
    assert cli.run(["batch", *(str(argument) for argument in arguments)]) == code


def summary(out: Path) -> dict[str, Any]:
    content = json.loads((out / "summary.json").read_text())
    return {entry["entry"]: entry for entry in content["entries"]}


def states(out: Path) -> dict[str, str]:
    return {name: entry["state"] for name, entry in summary(out).items()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a batch of two models, one of them no model, has run for two targets."""
    root = tmp_path_factory.mktemp("batch")
    save(root / "models" / "deep" / "a model.onnx")
    (root / "models" / "bad.onnx").write_text("no model")
    save_data(root / "data.npz")
    targets = ("-t", "openvino", "-t", "onnxruntime")
    batch(root / "models", "-o", root / "out", *targets, "-d", root / "data.npz", "--jobs", 2, "-q", code=1)
    return root


def test_every_entry_is_accounted_for(ran: Path) -> None:
    found = summary(ran / "out")
    assert {name: entry["state"] for name, entry in found.items()} == {
        "bad/openvino": "failed",
        "bad/onnxruntime": "failed",
        "deep_a_model/openvino": "done",
        "deep_a_model/onnxruntime": "done",
    }
    assert "is not an ONNX model" in found["bad/openvino"]["reason"]
    with (ran / "out" / "summary.csv").open() as file:
        assert [row["entry"] for row in csv.DictReader(file)] == list(found)
    page = (ran / "out" / "summary.html").read_text()
    assert all(name in page for name in found)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_results_are_those_of_quantize(ran: Path, tmp_path: Path, target: str) -> None:
    model, out = ran / "models" / "deep" / "a model.onnx", tmp_path / "one.onnx"
    assert (
        cli.run(["quantize", str(model), "-o", str(out), "-t", target, "-d", str(ran / "data.npz"), "--no-speed"]) == 0
    )
    assert out.read_bytes() == (ran / "out" / "deep_a_model" / f"{target}.onnx").read_bytes()


def test_finished_work_is_kept_and_changed_work_is_done_again(ran: Path) -> None:
    out, again = ran / "out", ("-d", ran / "data.npz", "-q")
    before = (out / "deep_a_model" / "openvino.onnx").stat().st_mtime_ns
    batch(ran / "models", "-o", out, "-t", "openvino", "-t", "onnxruntime", *again, code=1)
    assert set(states(out).values()) == {"failed", "kept"}
    (out / "deep_a_model" / "onnxruntime.onnx").write_bytes(b"torn")
    batch(ran / "models", "-o", out, "-t", "openvino", "-t", "onnxruntime", *again, code=1)
    assert states(out)["deep_a_model/onnxruntime"] == "done"
    assert (out / "deep_a_model" / "openvino.onnx").stat().st_mtime_ns == before
    onnx.checker.check_model(out / "deep_a_model" / "onnxruntime.onnx")


def test_a_dry_run_writes_nothing(ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch(ran / "models", "-o", tmp_path / "new", "-d", ran / "data.npz", "--dry-run")
    assert not (tmp_path / "new").exists()
    assert "deep_a_model/tensorrt" in capsys.readouterr().out


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of models whose worker comes to harm, beside one that is well."""
    root = tmp_path_factory.mktemp("harmed")
    save(root / "model.onnx")
    save_data(root / "data.npz")
    models = [{"model": "model.onnx", "name": "well"}]
    for name, harm in HARMS.items():
        (root / f"{name}.py").write_text(HARMFUL.format(harm=harm))
        models.append({"model": "model.onnx", "name": name, "patterns": f"{name}.py", "memory_limit": "600MB"})
    models[2]["timeout"] = "1s"
    content = {"defaults": {"data": "data.npz", "target": "openvino"}, "models": models}
    (root / "spec.json").write_text(json.dumps(content))
    batch(root / "spec.json", "-o", root / "out", "--jobs", 2, "-q", code=1)
    return root / "out"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("abort", "ended by SIGABRT"),
        ("hang", "still at work after 1 s"),
        ("hog", "over the limit of 600 MB"),
    ],
)
def test_a_crash_costs_one_entry_and_says_why(harmed: Path, name: str, reason: str) -> None:
    assert reason in summary(harmed)[f"{name}/openvino"]["reason"]
    assert states(harmed)["well/openvino"] == "done"
    assert not list((harmed / name).glob("*")) if (harmed / name).exists() else True


def test_ctrl_c_ends_the_workers_and_loses_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a.onnx")
    (tmp_path / "hang.py").write_text(HARMFUL.format(harm="print('x', file=open('started', 'w')); time.sleep(600)"))
    command = [sys.executable, "-m", "quantonnx.cli", "batch", "a.onnx", "-o", "out", "--random-data", "2", "-q"]
    process = subprocess.Popen([*command, "--patterns", "hang.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (130, "quantonnx: error: interrupted\n")
    assert states(tmp_path / "out") == {"a/tensorrt": "open"}
    assert not read_records(tmp_path / "out")
    with opened(tmp_path / "out"):  # no worker holds the lock
        pass


@pytest.mark.real
def test_a_batch_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    for seed in range(6):
        save(tmp_path / "models" / f"net{seed}.onnx", seed)
    command = [
        sys.executable,
        "-m",
        "quantonnx.cli",
        "batch",
        "models",
        "--random-data",
        "8",
        "--jobs",
        "2",
        "-q",
        "-o",
    ]
    assert subprocess.run([*command, "whole"], cwd=tmp_path, check=False).returncode == 0
    for seconds in (1.0, 3.0, 5.0, 4.0):
        process = subprocess.Popen([*command, "killed"], cwd=tmp_path)
        time.sleep(seconds)
        process.kill()
        process.wait()
    assert subprocess.run([*command, "killed"], cwd=tmp_path, check=False).returncode == 0
    lines = (tmp_path / "killed" / FOLDER / "journal.jsonl").read_bytes().splitlines()
    assert sorted(json.loads(line)["identity"] for line in lines if line) == [f"net{n}/tensorrt" for n in range(6)]
    for path in (tmp_path / "whole").rglob("*.onnx"):
        assert path.read_bytes() == (tmp_path / "killed" / path.relative_to(tmp_path / "whole")).read_bytes()
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_two_batches_in_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantonnx.batch.journal._PATIENCE", 0.0)
    with opened(tmp_path), pytest.raises(OutputError, match="another batch is at work"), opened(tmp_path):
        pass
    with opened(tmp_path):
        pass


def test_a_journal_that_cannot_be_written_ends_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "bad.onnx").write_text("no model")
    monkeypatch.setattr(Journal, "add", full)
    batch(tmp_path, "-o", tmp_path / "out", "--random-data", 1, "-q", code=2)
    assert "No space left" in capsys.readouterr().err
    assert states(tmp_path / "out") == {"bad/tensorrt": "open"}


def test_what_a_killed_batch_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("no model")
    folder = tmp_path / "out" / "bad"
    folder.mkdir(parents=True)
    for name in (".x.onnx.7.tmp", ".x.onnx.data.7.part", ".x.onnx.7.old", ".mine.part", "kept.7.tmp"):
        (folder / name).touch()
    batch(tmp_path, "-o", tmp_path / "out", "--random-data", 1, "-q", code=1)
    assert {path.name for path in folder.iterdir()} == {".mine.part", "kept.7.tmp"}


def test_only_files_of_the_worker_that_ended_are_removed(tmp_path: Path) -> None:
    for name in (".x.onnx.7.part", ".x.onnx.77.part"):
        (tmp_path / name).touch()
    sweep(tmp_path, 7)
    assert [path.name for path in tmp_path.iterdir()] == [".x.onnx.77.part"]


def outcome(identity: str, **values: Any) -> Outcome:
    return Outcome(identity, State.DONE, **values)


def test_a_torn_journal_loses_no_more_than_its_last_line(tmp_path: Path) -> None:
    with opened(tmp_path) as (journal, _, _):
        journal.add("k1", outcome("a/x", digest="d"))
        journal.add("k2", outcome("b/x"))
    path = tmp_path / FOLDER / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with opened(tmp_path) as (journal, _, _):
        journal.add("k3", outcome("c/x"))
    records = read_records(tmp_path)
    assert {name: key for name, (key, _) in records.items()} == {"a/x": "k1", "c/x": "k3"}
    assert records["a/x"][1].digest == "d"


@pytest.mark.parametrize(
    "line",
    [
        '{"key": "k", "identity": ["a"], "state": "done"}',
        '{"key": "k", "identity": "a", "state": "done", "result": 3}',
        '{"key": "k", "identity": "a", "state": "done", "seconds": "long"}',
        "[" * 100_000,
    ],
)
def test_damaged_records_are_passed_over(tmp_path: Path, line: str) -> None:
    with opened(tmp_path) as (journal, _, _):
        journal.add("k1", outcome("b/x"))
    with (tmp_path / FOLDER / "journal.jsonl").open("a") as file:
        file.write(line + "\n")
    assert list(read_records(tmp_path)) == ["b/x"]


def test_the_page_takes_nothing_of_a_record_for_markup(tmp_path: Path) -> None:
    job = Job("a.onnx", "a", EntrySettings(), (Entry("x", "x"),))
    pairs = {"activation": "<script>alert(1)</script>", "weight": "<b>"}
    write_summary([Item(job, job.entries[0], "k", outcome("a/x", result={"pairs": pairs}))], tmp_path)
    page = (tmp_path / "summary.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page


def test_the_last_record_of_an_entry_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.close()
    with opened(tmp_path) as (journal, _, _):
        journal.add("old", outcome("a/x"))
        journal.add("new", outcome("a/x"))
    assert read_records(tmp_path)["a/x"][0] == "new"


@pytest.mark.parametrize(
    "name", ["../../etc", "/abs", "a/b", "con", ".hidden", "x\x00\x1b[31m", "ü" * 300, "", "summary.html", "a b"]
)
def test_hostile_names_become_harmless(name: str) -> None:
    safe = safe_name(name)
    assert "/" not in safe
    assert not safe.startswith(".")
    assert 0 < len(safe.encode()) < 200
    assert safe.isprintable()


def test_names_that_collide_are_told_apart(tmp_path: Path) -> None:
    names = distinct_names(["a/b", "a_b", "A B", "c"], ["1", "2", "3", "4"])
    assert len({name.casefold() for name in names}) == 4
    assert names[3] == "c"
    with pytest.raises(ConfigError, match="listed twice"):
        distinct_names(["x", "x"], ["same", "same"])


def spec(folder: Path, text: str, name: str = "spec.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_what_is_said_of_a_model_stands_over_the_defaults(tmp_path: Path) -> None:
    save(tmp_path / "one.onnx")
    text = """
defaults: {targets: [openvino, tensorrt], data: calib.npz, samples: 4, memory_limit: 2GB}
models:
  - one.onnx
  - {model: two.onnx, target: onnxruntime, random_data: 3, config: {exclude: [Conv]}}
"""
    one, two = expand(spec(tmp_path, text), EntrySettings(samples=8))
    assert [entry.target for entry in one.entries] == ["openvino", "tensorrt"]
    assert (one.settings.samples, one.settings.data) == (8, str(tmp_path / "calib.npz"))
    assert (two.settings.data, two.settings.random_data) == (None, 3)
    assert two.settings.memory_limit == 2_000_000_000
    assert [entry.target for entry in two.entries] == ["onnxruntime"]


def test_settings_written_in_the_batch_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    given = GivenOptions("a.onnx", {"config": {"preset": "w8a16", "exclude": ["Conv"]}, "exclude": ["Gemm"]})
    config = given.numbers.build()
    assert (config.preset, [each.name for each in config.exclude]) == ("w8a16", ["Conv", "Gemm"])
    assert not list(tmp_path.iterdir())


def test_toml_and_globs_and_placeholders(tmp_path: Path) -> None:
    for name in ("x/a.onnx", "y/a.onnx", ".hidden/z.onnx", "out/a/tensorrt.onnx"):
        save(tmp_path / name)
    jobs = expand(str(tmp_path / "*" / "*.onnx"), EntrySettings(data="{folder}/{stem}_calib.npz"), tmp_path / "out")
    assert [job.name for job in jobs] == ["x_a", "y_a"]
    assert jobs[0].settings.data == str(tmp_path / "x" / "a_calib.npz")
    text = 'models = [{ model = "?/a.onnx", data = "{folder}/d.npz" }]'
    assert [job.name for job in expand(spec(tmp_path, text, "spec.toml"), EntrySettings())] == ["x_a", "y_a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: []", "has no models"),
        ("models: [{model: a.onnx, dta: x}]", "unknown setting 'models.0.dta'; did you mean data"),
        ("models: [{model: a.onnx, memory_limit: lots}]", "the memory limit is 'lots'; expected a size"),
        ("defaults: {samples: 0}\nmodels: [a.onnx]", "expected at least 1"),
        ("models: [{model: a.onnx, targets: [tensorrt, TensorRT]}]", "have a name twice"),
        ("models: [a.onnx, a.onnx]", "listed twice"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(spec(tmp_path, text), EntrySettings())
    assert message in str(caught.value)


def test_a_typo_in_a_target_stops_the_batch_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.onnx")
    batch(tmp_path, "-o", tmp_path / "out", "-t", "tensorrtt", "--random-data", 1, code=2)
    assert "tensorrt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("10min", 600), ("2h", 7200), (1.5, 1.5)])
def test_times(text: str, expected: float) -> None:
    assert parse_seconds(text) == expected


def test_the_board_tells_each_entry_where_nothing_moves() -> None:
    told: list[str] = []
    board = Board(told.append, None)
    board.begin([])
    board.hear(Progress("a/x", "calibrate", 3, 8))
    result: Mapping[str, Any] = {"pairs": {"activation": 2, "weight": 1}, "metrics": {"sqnr_db": 40.0}}
    board.hear(outcome("a/x", seconds=1.25, result=result))
    board.hear(Outcome("b/x", State.FAILED, reason="why"))
    assert told == ["[1/0] a/x: done in 1.2 s, 2 pairs, 1 weights, 40.0 dB", "[2/0] b/x: FAILED: why"]
