"""`quantonnx check`: what it says, what it writes as JSON, and its exit codes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import parse
from onnx import numpy_helper
from typer.testing import CliRunner

from quantonnx import cli
from quantonnx.pipeline import quantize

NETWORK = """
network (float[N,3,8,8] image) => (float[N,8,8,8] scores)
<float[16,3,3,3] weight, float[16] bias, float[8,16,1,1] inner> {
    first = Conv <pads: ints = [1, 1, 1, 1]> (image, weight, bias)
    positive = Relu (first)
    scores = Conv (positive, inner)
}
"""


@cache
def _made(target: str) -> bytes:
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(3)]
    return quantize(parse(NETWORK), feeds, target=target).to_onnx().SerializeToString()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(_made("onnxruntime"))
    return path


def called(*arguments: object, columns: int = 80) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli.app, ["check", *map(str, arguments)])
    return result.exit_code, result.output


def as_json(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli.app, ["check", *map(str, arguments), "--json", "-", "-q"])
    return result.exit_code, json.loads(result.stdout)


def test_a_file_of_this_tool_passes(model: Path) -> None:
    code, text = called(model, "--target", "onnxruntime")
    assert code == 0
    assert "No findings for onnxruntime." in text


def test_errors_fail_the_check(model: Path) -> None:
    code, text = called(model, "--target", "tensorrt")
    assert code == 1
    assert "unsigned-refused" in text
    assert "use signed codes" in text
    assert "and 2 more (--verbose shows all)" in text


def test_verbose_shows_every_place(model: Path) -> None:
    _, text = called(model, "--target", "tensorrt", "-v")
    assert text.count("unsigned-refused") > 1
    assert "more" not in text


def test_warnings_alone_pass(model: Path) -> None:
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        if tensor.name == "inner_quantized":
            codes = np.clip(numpy_helper.to_array(tensor), -2, 2)
            tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))
    onnx.save(proto, model)
    code, text = called(model, "--target", "onnxruntime")
    assert code == 0
    assert "1 warning" in text


def test_the_result_as_json(model: Path) -> None:
    code, result = as_json(model, "--target", "tensorrt")
    assert code == 1
    assert (result["command"], result["target"], result["error"]) == ("check", "tensorrt", None)
    assert set(result["findings"][0]) == {"severity", "rule", "place", "reason", "remedy"}
    assert result["findings"][0]["severity"] == "error"
    assert result["run"] is None


def test_a_run_as_json(model: Path) -> None:
    code, result = as_json(model, "--target", "onnxruntime", "--run")
    run = result["run"]
    assert code == 0
    assert run["integer_share"] == 1
    assert run["runtime"] == "onnxruntime"
    assert {o["name"] for o in run["operators"] if o["multiply_accumulates"]} == {
        node.name for node in onnx.load(model).graph.node if node.op_type == "Conv"
    }
    assert all(operator["kernel"] == "QLinearConv" for operator in run["operators"])
    assert run["speed"]["ratio"] > 0


def test_a_run_for_people(model: Path) -> None:
    code, text = called(model, "--target", "onnxruntime", "--run", "--shape", "image=2x3x8x8")
    assert code == 0
    assert "100.0 %" in text
    assert "QLinearConv" in text
    assert "2 of 2" in text


def test_a_file_that_does_not_run_fails_the_check(tmp_path: Path) -> None:
    proto = onnx.ModelProto.FromString(_made("onnxruntime"))
    node = next(n for n in proto.graph.node if n.op_type == "Conv")
    node.op_type, node.domain = "Mystery", "acme"
    proto.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    path = tmp_path / "broken.onnx"
    path.write_bytes(proto.SerializeToString())
    code, text = called(path, "--target", "onnxruntime", "--run")
    assert code == 1
    assert "onnxruntime does not run it" in text


def test_tensorrt_is_linted_where_its_program_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    model.write_bytes(_made("tensorrt"))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, result = as_json(model, "--target", "tensorrt", "--run")
    assert code == 0
    assert "trtexec" in result["run"]["note"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.onnx",), "missing.onnx"),
        (("MODEL", "--target", "npu"), "unknown target 'npu'"),
        (("MODEL", "--run", "--runtime", "npu"), "no runtime for the target 'npu'; name one: --runtime onnxruntime"),
        (("MODEL", "--run", "--shape", "wide"), "--shape is 'wide'"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], message: str, model: Path) -> None:
    code, text = called(*(str(model) if a == "MODEL" else a for a in arguments))
    assert code == 2
    assert message in text
    assert "Traceback" not in text


def test_a_target_of_the_user_s_own_needs_a_runtime_to_run(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "npu.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from quantonnx import get_target\n"
        "target = replace(get_target('onnxruntime'), name='npu')\n"
    )
    assert called(model, "--target", path)[0] == 0
    assert called(model, "--target", path, "--run")[0] == 2
    assert called(model, "--target", path, "--runtime", "onnxruntime")[0] == 0


def test_findings_fit_into_80_columns(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from quantonnx.commands.checking import findings_table
    from quantonnx.linting import lint

    Console(width=80).print(findings_table(lint(model, "tensorrt"), every=False))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("unsigned-refused" in line for line in lines)
