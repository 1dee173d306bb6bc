"""Bad input through the program itself: one clear line, exit code 2 (130 for Ctrl-C), the input as it was, no rests."""

from __future__ import annotations

import contextlib
import hashlib
import io
import resource
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantonnx import cli

PROGRAM = [sys.executable, "-m", "quantonnx.cli"]
DEMO = Path(str(files("quantonnx.demo"))) / "model.onnx"


@pytest.fixture
def work(tmp_path):
    """A folder with a model, in which nothing may appear."""
    shutil.copy(DEMO, tmp_path / "model.onnx")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def refused(folder: Path, *arguments: str, before=None) -> str:
    """Runs the program in a folder and returns the one line of its refusal.

    With `before`, it is a process of its own, in which that is called first.
    """
    kept = contents(folder)
    code, err = ran(folder, arguments) if before is None else ran_alone(folder, arguments, before)
    assert code == 2, err
    assert contents(folder) == kept
    errors = [line for line in err.splitlines() if "error" in line.lower()]
    assert len(errors) == 1, err
    assert err.splitlines()[-1] == errors[0]
    assert "Traceback" not in err
    assert "unexpected" not in errors[0]
    return errors[0]


def ran(folder: Path, arguments: tuple[str, ...]) -> tuple[int, str]:
    err = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        return cli.run(arguments), err.getvalue()


def ran_alone(folder: Path, arguments: tuple[str, ...], before) -> tuple[int, str]:
    done = subprocess.run([*PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, preexec_fn=before)
    return done.returncode, done.stderr


def quantize(folder: Path, *more: str, model: str = "model.onnx", before=None) -> str:
    data = () if "--data" in more else ("--random-data", "2")
    target = () if "--target" in more else ("--target", "onnxruntime")
    return refused(folder, "quantize", model, "-o", "out.onnx", *data, *target, *more, before=before)


def external_model(folder: Path, location: str, size: int | None) -> None:
    """Writes a model whose weight is at `location`, and `size` bytes there."""
    weight = TensorProto(name="w", dims=[64, 64], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    if size is not None:
        (folder / location).write_bytes(bytes(size))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"hello, this is a text\n", "not an ONNX model"),
        (bytes(1000), "not an ONNX model"),
    ],
)
def test_a_file_that_is_not_onnx(work, content, said):
    (work / "model.onnx").write_bytes(content)
    line = quantize(work)
    assert "model.onnx" in line
    assert said in line


@pytest.mark.parametrize("share", [0.01, 0.999])
def test_a_truncated_file(work, share):
    content = DEMO.read_bytes()
    (work / "model.onnx").write_bytes(content[: int(len(content) * share)])
    assert "truncated" in quantize(work)


def test_no_file(work):
    assert "there is no file 'nothing.onnx'" in quantize(work, model="nothing.onnx")


def test_a_folder_as_the_model(work):
    assert "is a folder" in quantize(work, model=".")


def test_a_graph_that_no_runtime_takes(work):
    model = onnx.load(work / "model.onnx")
    model.graph.node[0].op_type = "Convolve"
    onnx.save(model, work / "model.onnx")
    assert "Convolve" in quantize(work)


def test_a_damaged_name(work):
    content = DEMO.read_bytes()
    name = onnx.load_from_string(content).graph.node[0].output[0].encode()
    (work / "model.onnx").write_bytes(content.replace(name, name[:-1] + b"\xff", 1))
    assert "is not UTF-8" in quantize(work)


def test_a_model_of_a_type_that_the_target_refuses(work):
    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, 64]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(np.ones((64, 64)), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), work / "model.onnx")
    assert "convert the model to float32" in quantize(work)


@pytest.mark.parametrize(
    ("location", "size", "said"),
    [
        ("weights.bin", None, "'weights.bin' is missing"),
        ("weights.bin", 1000, "too short"),
        ("../weights.bin", None, "outside the model's folder"),
        ("/etc/passwd", None, "outside the model's folder"),
    ],
)
def test_external_data(work, location, size, said):
    external_model(work, location, size)
    line = quantize(work)
    assert said in line
    assert "w" in line


def test_external_data_that_links_to_outside(work, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.bin"
    outside.write_bytes(bytes(64 * 64 * 4))
    external_model(work, "weights.bin", None)
    (work / "weights.bin").symlink_to(outside)
    assert "links to outside" in quantize(work)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "tensorr"), "tensorr"),
        (("--method", "minimax"), "minimax"),
        (("--method", "percentile:200"), "200"),
        (("--exclude", "no_such_node"), "no_such_node"),
        (("--data", "nothing.npz"), "nothing.npz"),
        (("--random-data", "0"), "--random-data"),
        (("--no-such-option",), "no-such-option"),
    ],
)
def test_unknown_names(work, options, said):
    assert said in quantize(work, *options)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((4, 3, 5, 5), np.float32)}, "shape"),
        ({"x": np.full((2, 1, 28, 28), np.nan, np.float32)}, "NaN"),
        ({"x": np.zeros((2, 1, 28, 28), np.int64)}, "int64"),
        ({"x": np.zeros((2, 1, 28, 28), np.float32), "z": np.zeros((2, 4), np.float32)}, "'z'"),
    ],
)
def test_data_that_does_not_fit(work, arrays, said):
    (info,) = onnx.load(work / "model.onnx").graph.input
    np.savez(work / "data.npz", **{info.name if name == "x" else name: array for name, array in arrays.items()})
    assert said in quantize(work, "--data", "data.npz")


@pytest.mark.parametrize("content", [b"not an archive", b"PK\x03\x04broken"])
def test_data_that_is_no_archive(work, content):
    (work / "data.npz").write_bytes(content)
    assert "data.npz" in quantize(work, "--data", "data.npz")


def test_an_output_that_exists(work):
    (work / "out.onnx").write_bytes(b"somebody's work")
    line = quantize(work)
    assert "exists" in line
    assert "--force" in line


def test_an_output_that_is_the_input(work):
    shutil.copy(work / "model.onnx", work / "out.onnx")
    assert "'out.onnx' is" in quantize(work, "--force", model="out.onnx")


def test_an_output_in_a_folder_that_is_missing(work):
    assert "does not exist" in refused(work, "quantize", "model.onnx", "-o", "a/b.onnx", "--random-data", "2")


def test_a_model_that_is_quantized_already(work):
    command = [*PROGRAM, "quantize", "model.onnx", "-o", "once.onnx", "--random-data", "2", "--no-speed"]
    subprocess.run(command, cwd=work, check=True, capture_output=True)
    line = quantize(work, model="once.onnx")
    assert "quantized already" in line
    assert "quantonnx calibrate" in line


def small_files() -> None:
    """Lets no file grow beyond 64 KB, which fails like a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


@pytest.mark.parametrize("options", [(), ("--external-data",)])
def test_a_full_disk(work, options):
    line = quantize(work, *options, before=small_files)
    assert "cannot write 'out.onnx'" in line
    assert "space" in line


def test_a_full_disk_keeps_what_force_would_replace(work):
    (work / "out.onnx").write_bytes(b"somebody's work")
    assert "cannot write 'out.onnx'" in quantize(work, "--force", before=small_files)


@pytest.mark.parametrize("wait_for", ["fuse", "calibrating on"])
def test_ctrl_c(work, wait_for):
    kept = contents(work)
    command = [*PROGRAM, "quantize", "model.onnx", "-o", "out.onnx", "--random-data", "1000000"]
    process = subprocess.Popen(command, cwd=work, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        seen = iter(process.stderr.readline, "")
        assert any(line.startswith(wait_for) for line in seen)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, rest
    assert [line for line in rest.splitlines() if "error" in line] == ["quantonnx: error: interrupted"]
    assert "Traceback" not in rest
    assert contents(work) == kept
