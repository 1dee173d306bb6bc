"""The command line: what it does, what it says, its exit codes, and what it never touches."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import onnx
import pytest
from models import NETWORK, parse
from typer.testing import CliRunner

from quantonnx import cli, demo
from quantonnx.commands import running
from quantonnx.commands.explaining import entries

TARGETS = ("onnxruntime", "tensorrt")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "network.onnx"
    path.write_bytes(parse(NETWORK).SerializeToString())
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    labels = rng.integers(0, 5, 12)
    np.savez(path, image=rng.standard_normal((12, 3, 8, 8)).astype(np.float32), labels=labels)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


def succeed(*arguments: object) -> None:
    assert cli.run([str(argument) for argument in arguments]) == 0


def result_of(*arguments: object, tmp: Path, code: int = 0) -> dict[str, Any]:
    """Runs a command and returns what it wrote with --json."""
    path = tmp / "result.json"
    assert cli.run([*(str(argument) for argument in arguments), "--json", str(path)]) == code
    return dict(json.loads(path.read_text()))


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with code 2 and one line, and returns the line."""

    def refuse(*arguments: object) -> str:
        assert cli.run([str(argument) for argument in arguments]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert len(lines) == 1
        assert lines[0].startswith("quantonnx: error: ")
        return lines[0]

    return refuse


# -------------------------------------------------------------------------------------------------- quantize


@pytest.mark.parametrize("target", TARGETS)
def test_quantize_says_what_it_did(target: str, model: Path, data: Path, out: Path, tmp_path: Path) -> None:
    command = ("quantize", model, "-o", out, "--target", target, "--data", data, "--eval-data", data, "--no-speed")
    result = result_of(*command, tmp=tmp_path)
    assert result["command"] == "quantize"
    assert result["target"] == target
    assert result["pairs"]["weight"] == (3 if target == "onnxruntime" else 2)
    assert result["samples"] == 12
    assert {"pattern", "output", "applied", "reason"} <= set(result["matches"][0])
    assert all("scale" in site or "scale_range" in site for site in result["sites"])
    assert result["metrics"]["sqnr_db"] > 20
    assert 0 <= result["metrics"]["accuracy"] <= 1
    assert set(result["seconds"]) == {"read", "transform", "place", "calibrate", "write", "load", "compare"}
    assert result["peak_rss_mb"] > 1
    assert "onnxruntime" in result["versions"]
    assert result["error"] is None
    onnx.checker.check_model(onnx.load(out))


def test_quantize_shows_tables(model: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed("quantize", model, "-o", out, "-t", "onnxruntime", "--data", data, "--eval-data", data, "--speed", "-v")
    shown = capsys.readouterr()
    for words in ("Placed", "Against float", "Before and after", "time of one run", "ConvBNRelu", "accuracy"):
        assert words in shown.out
    assert "calibrate: 12 samples" in shown.err


def test_quiet_prints_nothing(model: Path, data: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    succeed("quantize", model, "-o", out, "--data", data, "-q")
    assert capfd.readouterr() == ("", "")


def test_json_on_standard_output_is_all_there_is(
    model: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    succeed("quantize", model, "-o", out, "--data", data, "--json", "-")
    assert json.loads(capsys.readouterr().out)["output"] == str(out)


def test_a_file_is_the_same_each_time(model: Path, data: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    succeed("quantize", model, "-o", first, "--data", data, "-q")
    succeed("quantize", model, "-o", second, "--data", data, "-q", "--batch-size", 5)
    assert first.read_bytes() == second.read_bytes()


def test_options_reach_the_result(model: Path, data: Path, out: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("activation: {n_bits: 8}\nexclude: [Gemm]\n")
    options = ("--method", "percentile:99.9", "--samples", 4, "--exclude", "second", "--config", config)
    result = result_of(
        "quantize", model, "-o", out, "-t", "onnxruntime", "--data", data, *options, "--no-speed", tmp=tmp_path
    )
    assert result["samples"] == 4
    assert result["pairs"]["weight"] == 1
    reasons = " ".join(entry["reason"] for entry in result["excluded"])
    assert "'Gemm'" in reasons
    assert "'second'" in reasons


def test_random_data_is_said_to_be_random(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed("quantize", model, "-o", out, "--random-data", 2)
    assert "random data" in capsys.readouterr().err


def test_a_report_folder(model: Path, data: Path, out: Path, tmp_path: Path) -> None:
    succeed("quantize", model, "-o", out, "--data", data, "--report", tmp_path / "report", "-q")
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["output"] == str(out)
    succeed("quantize", model, "-o", out, "--data", data, "--plan", tmp_path / "report" / "plan.yaml", "--force", "-q")


def test_a_drop_in_accuracy_fails_the_check(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    model = tmp_path / "linear.onnx"
    graph = "g (float[N,32] x) => (float[N,8] y) <float[32,8] matrix> { y = MatMul (x, matrix) }"
    model.write_bytes(parse(graph).SerializeToString())
    for name, size in (("small", 1e-3), ("large", 1.0)):
        np.save(tmp_path / f"{name}.npy", size * rng.standard_normal((64, 32)).astype(np.float32))
    command = ("quantize", model, "-o", out, "--data", tmp_path / "small.npy", "--eval-data", tmp_path / "large.npy")
    assert cli.run([*map(str, command), "--max-drop", "0.01", "-t", "onnxruntime", "--no-speed"]) == 1
    assert "agreement fell" in capsys.readouterr().err
    assert out.exists()


def test_fine_tuning_needs_torch(
    model: Path, data: Path, out: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantonnx.commands.finetuning.find_spec", lambda _: None)
    line = refusal("finetune", model, "-o", out, "--data", data)
    assert line.endswith("finetune needs torch, which is not installed; pip install 'quantonnx[torch]'")


# -------------------------------------------------------------------------------------------------- the others


def test_a_plan_can_be_edited_and_applied(model: Path, data: Path, out: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    succeed("plan", model, "-t", "onnxruntime", "-o", path, "-q")
    edited = path.read_text().replace("output: scores", "output: scores\n  apply: false").replace("  apply: true\n", "")
    path.write_text(edited)
    result = result_of("quantize", model, "-o", out, "--plan", path, "--data", data, "--no-speed", tmp=tmp_path)
    assert result["target"] == "onnxruntime"
    assert result["pairs"]["weight"] == 2
    assert {"name": "scores", "reason": "switched off in the plan"} in result["excluded"]


def test_a_plan_is_printed_without_a_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed("plan", model)
    assert "pattern: ConvBNRelu" in capsys.readouterr().out


def test_transform_writes_a_float_model(model: Path, data: Path, out: Path, tmp_path: Path) -> None:
    succeed("transform", model, "-o", out, "-q")
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load(out).graph.node}
    result = result_of("compare", model, out, "--data", data, tmp=tmp_path)
    assert result["metrics"]["sqnr_db"] is None or result["metrics"]["sqnr_db"] > 100


@pytest.mark.parametrize("target", TARGETS)
def test_calibrate_gives_the_scales_of_other_data(target: str, model: Path, data: Path, tmp_path: Path) -> None:
    first, second, wide = tmp_path / "first.onnx", tmp_path / "second.onnx", tmp_path / "wide.npz"
    with np.load(data) as arrays:
        np.savez(wide, image=4 * arrays["image"])
    succeed("quantize", model, "-o", first, "--data", data, "-t", target, "--no-speed", "-q")
    result = result_of("calibrate", first, "-o", second, "--data", wide, tmp=tmp_path)
    assert result["recalibrated"]["pairs"] == result["pairs"]["activation"]
    assert [node.op_type for node in onnx.load(first).graph.node] == [
        node.op_type for node in onnx.load(second).graph.node
    ]
    before = result_of("compare", model, first, "--data", wide, tmp=tmp_path)["metrics"]["sqnr_db"]
    after = result_of("compare", model, second, "--data", wide, tmp=tmp_path)["metrics"]["sqnr_db"]
    assert after > before + 10


def test_explain_without_a_name_lists_all(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed("explain", model, "-t", "tensorrt", "--exclude", "Gemm")
    assert "INPUT of ConvBNRelu" not in capsys.readouterr().out
    succeed("explain", model, "-t", "tensorrt", "--exclude", "Gemm", "-v")
    shown = capsys.readouterr().out
    assert "INPUT of ConvBNRelu" in shown
    assert "excluded by" in shown


def test_explain_a_tensor_and_a_node(model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    node = next(node.name for node in cli_model(model) if node.op == "Relu")
    succeed("explain", model, "-t", "tensorrt", "--node", node)
    assert "ConvBNRelu" in capsys.readouterr().out
    result = result_of("explain", model, "--tensor", "positive", tmp=tmp_path)
    assert "a pair stands on 'positive'" in result["explanation"]["answer"]


def cli_model(path: Path) -> list[Any]:
    from quantonnx.model import Model

    return list(Model.read(path).graph.nodes)


def test_inspect_any_file(model: Path, data: Path, out: Path, tmp_path: Path) -> None:
    assert result_of("inspect", model, tmp=tmp_path)["pairs"] == {"activation": 0, "weight": 0}
    succeed("quantize", model, "-o", out, "--data", data, "-q")
    found = result_of("inspect", out, tmp=tmp_path)
    assert found["pairs"]["activation"] > 0
    assert found["inspection"]["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["N", 3, 8, 8]}]
    assert found["inspection"]["file_bytes"] == out.stat().st_size


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    succeed("targets")
    shown = capsys.readouterr().out
    assert all(name in shown for name in TARGETS)
    succeed("targets", "tensorrt")
    shown = capsys.readouterr().out
    assert "ConvBNAddRelu: INPUT, RESIDUAL_INPUT, WEIGHT" in shown
    assert "small_product" in shown


def test_lists_keep_names_whole_in_a_narrow_terminal() -> None:
    name = "/blocks/blocks.0/a-long-name/" * 4
    shown = entries("Pairs", [(name, f"read by {name} and then some more words to fill the line")], 80)
    assert [line for line in shown.splitlines() if name in line] == [f"  {name}", f"        {name}"]
    assert all(len(line) <= 80 for line in shown.splitlines() if name not in line)


def test_the_demo_end_to_end(out: Path, tmp_path: Path) -> None:
    options = (
        "--data",
        demo.calibration_path(),
        "--eval-data",
        demo.evaluation_path(),
        "-t",
        "onnxruntime",
        "--batch-size",
        50,
    )
    result = result_of("quantize", demo.model_path(), "-o", out, *options, tmp=tmp_path)
    assert result["metrics"]["sqnr_db"] > 30
    assert result["metrics"]["accuracy"] > result["metrics"]["float_accuracy"] - 0.01
    assert result["speed"]["ratio"] > 0
    assert result["bytes"]["quantized"] < 0.4 * result["bytes"]["float"]


# -------------------------------------------------------------------------------------------------- bad input


BAD_MODELS = {
    "missing": None,
    "empty": b"",
    "text": b"hello, this is no model",
    "truncated": parse(NETWORK).SerializeToString()[:700],
    "web page": b"<html></html>",
}


@pytest.mark.parametrize("kind", BAD_MODELS)
@pytest.mark.parametrize("command", ["quantize", "plan", "transform", "explain", "inspect", "compare", "calibrate"])
def test_a_bad_model_is_refused(
    command: str, kind: str, tmp_path: Path, data: Path, refusal: Callable[..., str]
) -> None:
    bad, out = tmp_path / "bad.onnx", tmp_path / "out.onnx"
    content = BAD_MODELS[kind]
    if content is not None:
        bad.write_bytes(content)
    further = {"quantize": ("-o", out, "--data", data), "transform": ("-o", out), "compare": (bad, "--data", data)}
    further["calibrate"] = further["quantize"]
    assert "bad.onnx" in refusal(command, bad, *further.get(command, ()))
    assert not out.exists()
    assert (bad.read_bytes() if bad.exists() else None) == content


def test_external_data_that_is_missing_or_outside(tmp_path: Path, data: Path, refusal: Callable[..., str]) -> None:
    path, out = tmp_path / "external.onnx", tmp_path / "out.onnx"
    proto = parse(NETWORK)
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in refusal("quantize", path, "-o", out, "--data", data)
    light = onnx.load(path, load_external_data=False)
    for tensor in light.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    path.write_bytes(light.SerializeToString())
    assert "outside" in refusal("quantize", path, "-o", out, "--data", data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--random-data"),
        (("--random-data", "2", "--target", "tensort"), "did you mean tensorrt"),
        (("--random-data", "2", "--method", "minmx"), "minmax"),
        (("--random-data", "2", "--exclude", "Cnv"), "did you mean Conv"),
        (("--random-data", "2", "--exclude", "re:("), "regular expression"),
        (("--random-data", "0"), "--random-data"),
        (("--random-data", "2", "--unknown"), "--unknown"),
        (("--random-data", "2", "--max-drop", "0.1"), "--eval-data"),
        (("--data", "nowhere.npz"), "nowhere.npz"),
        (("--random-data", "2", "--data", "nowhere.npz"), "both given"),
        (("--random-data", "2", "--eval-data", "nowhere.npz"), "nowhere.npz"),
        (("--random-data", "2", "--config", "nowhere.yaml"), "nowhere.yaml"),
        (("--random-data", "2", "--plan", "nowhere.yaml"), "nowhere.yaml"),
        (("--random-data", "2", "--patterns", "nowhere.py"), "nowhere.py"),
        (("--random-data", "2", "--exclude", "Conv", "--exclude", "Gemm", "--exclude", "GlobalAveragePool"), "no pair"),
        (("--random-data", "2", "--mean", "a,b"), "--mean"),
        (("--random-data", "2", "--resize", "1x2x3"), "--resize"),
    ],
)
def test_wrong_use_is_one_line(
    options: tuple[str, ...], words: str, model: Path, out: Path, refusal: Callable[..., str]
) -> None:
    content = model.read_bytes()
    assert words in refusal("quantize", model, "-o", out, *options)
    assert not out.exists()
    assert model.read_bytes() == content


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("quantize",), ("--nonsense",), ("inspect", "a", "b")])
def test_wrong_use_of_the_program(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("image", np.zeros((4, 3, 9, 8), np.float32), "image"),
        ("picture", np.zeros((4, 2, 8), np.float32), "[N, 3, 8, 8]"),
        ("image", np.zeros((4, 3, 8, 8), np.complex64), "complex64"),
        ("image", np.full((4, 3, 8, 8), np.nan, np.float32), "NaN"),
        ("image", np.zeros((0, 3, 8, 8), np.float32), "sample"),
    ],
)
def test_data_that_does_not_fit(
    name: str, array: np.ndarray, words: str, model: Path, out: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    np.savez(tmp_path / "odd.npz", **{name: array})  # type: ignore[arg-type]  # numpy means allow_pickle
    assert words in refusal("quantize", model, "-o", out, "--data", tmp_path / "odd.npz")
    assert not out.exists()


def test_labels_that_do_not_fit(
    model: Path, data: Path, out: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    with np.load(data) as arrays:
        np.savez(tmp_path / "odd.npz", image=arrays["image"], labels=np.full(12, 7))
    assert "classes" in refusal("quantize", model, "-o", out, "--data", data, "--eval-data", tmp_path / "odd.npz")


def test_an_existing_output_is_kept(model: Path, data: Path, out: Path, refusal: Callable[..., str]) -> None:
    out.write_text("mine")
    assert "--force" in refusal("quantize", model, "-o", out, "--data", data)
    assert out.read_text() == "mine"
    succeed("quantize", model, "-o", out, "--data", data, "--force", "-q")
    assert out.read_bytes()[:4] != b"mine"


@pytest.mark.parametrize("option", ["-o", "--json"])
def test_no_input_is_ever_overwritten(
    option: str, model: Path, data: Path, out: Path, refusal: Callable[..., str]
) -> None:
    for victim in (model, data):
        content = victim.read_bytes()
        others = () if option == "-o" else ("-o", out)
        assert str(victim) in refusal("quantize", model, option, victim, *others, "--data", data, "--force")
        assert victim.read_bytes() == content


def test_json_does_not_replace_other_files(model: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "no JSON file" in refusal("inspect", model, "--json", tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("out", ["nowhere/out.onnx", "."])
def test_an_output_that_cannot_be(
    out: str, model: Path, data: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    assert "folder" in refusal("quantize", model, "-o", tmp_path / out, "--data", data)


def test_a_quantized_model_is_not_quantized_again(
    model: Path, data: Path, out: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    succeed("quantize", model, "-o", out, "--data", data, "-q")
    assert "quantonnx calibrate" in refusal("quantize", out, "-o", tmp_path / "again.onnx", "--data", data)
    assert "quantonnx quantize" in refusal("calibrate", model, "-o", tmp_path / "again.onnx", "--data", data)


def test_compare_needs_two_versions_of_one_model(
    model: Path, data: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(parse("g (float[N,2] x) => (float[N,2] y) { y = Relu (x) }").SerializeToString())
    assert "inputs differ" in refusal("compare", model, other, "--data", data)


def test_an_error_is_in_the_json(model: Path, out: Path, tmp_path: Path) -> None:
    result = result_of("quantize", model, "-o", out, "--random-data", 1, "--exclude", "Cnv", tmp=tmp_path, code=2)
    assert "Cnv" in result["error"]


def test_a_defect_is_one_line_too(model: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("quantonnx.inspecting.inspect", broken)
    assert "unexpected RuntimeError: two lines" in refusal("inspect", model)


def test_a_traceback_is_shown_when_asked(model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["quantize", str(model), "-o", str(out), "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_exit_codes_without_our_own_main(model: Path) -> None:
    assert CliRunner().invoke(cli.app, ["inspect", str(model)]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["inspect", "nowhere.onnx"]).exit_code == 2


# -------------------------------------------------------------------------------------------------- the process


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "quantonnx.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_help_needs_nothing_heavy() -> None:
    code = f"""
        import sys, types
        package = types.ModuleType("quantonnx")  # what the command line itself imports, not what the package offers
        package.__path__ = [{str(Path(cli.__file__).parent)!r}]
        sys.modules["quantonnx"] = package
        from quantonnx import cli
        cli.run(["--help"])
        found = {{"torch", "onnxruntime", "onnx", "onnx_graphsurgeon", "numpy", "PIL"}} & set(sys.modules)
        sys.exit(" ".join(found) or 0)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quantize" in done.stdout


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing(sent: signal.Signals, code: int, model: Path, out: Path) -> None:
    before = set(model.parent.iterdir())
    process = start("quantize", model, "-o", out, "--random-data", 10_000_000)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("place"):
            break
    time.sleep(0.3)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert set(model.parent.iterdir()) == before


def test_a_full_disk_leaves_nothing(model: Path, data: Path, out: Path) -> None:
    before = set(model.parent.iterdir())

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    process = start("quantize", model, "-o", out, "--data", data, preexec_fn=limit_files)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("quantonnx: error: cannot write")
    assert set(model.parent.iterdir()) == before


def test_a_closed_pipe_is_no_error(model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "quantonnx.cli", "inspect", str(model)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def test_nothing_is_finite_but_numbers() -> None:
    assert running.finite({"a": [float("inf"), 1.0, (float("nan"),)]}) == {"a": [None, 1.0, [None]]}


def test_the_program_reports_to_nobody(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    places = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    program = [sys.executable, "-m", "quantonnx.cli", "demo", "-q", "-o", str(tmp_path / "out.onnx")]
    subprocess.run(program, check=True, env=environment | places)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
