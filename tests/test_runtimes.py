"""What real runtimes make of a file: kernels by operator, conversions, time, and processes that end."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import parse

from quantonnx.errors import ModelError, TargetError
from quantonnx.pipeline import quantize
from quantonnx.runtimes import child
from quantonnx.runtimes.child import Request, compile_apart
from quantonnx.runtimes.report import RunReport
from quantonnx.runtimes.running import run_with
from quantonnx.runtimes.tensorrt import read_layers

NETWORK = """
network (float[N,3,16,16] image) => (float[N,16] scores)
<float[16,3,3,3] outer, float[16] offset, float[16,16,3,3] middle, float[16,16] matrix, float[16] bias> {
    first = Conv <pads: ints = [1, 1, 1, 1]> (image, outer, offset)
    positive = Relu (first)
    inner = Conv <pads: ints = [1, 1, 1, 1]> (positive, middle)
    total = Add (inner, positive)
    pooled = GlobalAveragePool (total)
    flat = Flatten (pooled)
    product = MatMul (flat, matrix)
    scores = Add (product, bias)
}
"""
WORK = 16 * 16 * 16 * (27 + 144) + 256

openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@cache
def _made(target: str) -> bytes:
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(3)]
    return quantize(parse(NETWORK), feeds, target=target).to_onnx().SerializeToString()


def written(folder: Path, content: bytes, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def run(folder: Path, runtime: str, target: str, **options: object) -> RunReport:
    report = run_with(runtime, written(folder, _made(target)), seconds=0.01, **options)  # type: ignore[arg-type]
    assert not report.error
    return report


def test_onnxruntime_runs_the_file_made_for_it_in_integers(tmp_path: Path) -> None:
    report = run(tmp_path, "onnxruntime", "onnxruntime")
    assert report.multiply_accumulates == WORK
    assert report.integer_share == 1
    assert report.in_float == ()
    found = {operator.operator: operator.kernel for operator in report.operators}
    assert found["Conv"] == "QLinearConv"
    assert found["GlobalAveragePool"] == "QLinearGlobalAveragePool"
    assert found["MatMul"] in ("QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
    assert report.conversions is not None
    assert report.conversions["QuantizeLinear"] == 1


def test_onnxruntime_runs_the_file_made_for_tensorrt_in_float(tmp_path: Path) -> None:
    report = run(tmp_path, "onnxruntime", "tensorrt")
    assert report.integer_share is not None
    assert report.integer_share < 0.1
    assert {operator.operator for operator in report.in_float} >= {"Conv"}
    assert report.in_float[0].multiply_accumulates == 16 * 16 * 16 * 144
    assert report.conversions is not None
    assert report.conversions["DequantizeLinear of a constant"] >= 2


def test_both_models_are_timed(tmp_path: Path) -> None:
    speed = run(tmp_path, "onnxruntime", "onnxruntime").speed
    assert speed is not None
    assert speed.float_ms > 0
    assert speed.quantized_ms > 0
    assert speed.threads == 1


def test_the_float_model_can_be_given(tmp_path: Path) -> None:
    slow = NETWORK.replace(
        "first = Conv", "again = Conv <pads: ints = [1, 1, 1, 1]> (image, outer, offset) first = Conv"
    )
    proto = parse(slow)
    path = written(tmp_path, proto.SerializeToString(), "float.onnx")
    assert run(tmp_path, "onnxruntime", "onnxruntime", float_model=path).speed is not None
    path.write_bytes(b"no model")
    report = run_with("onnxruntime", tmp_path / "model.onnx", float_model=path, seconds=0.01)
    assert "Protobuf" in report.error or "parsing" in report.error.lower()


@openvino
def test_openvino_runs_either_file_in_integers(tmp_path: Path) -> None:
    for target in ("tensorrt", "openvino"):
        report = run(tmp_path, "openvino", target)
        assert report.multiply_accumulates == WORK
        assert report.integer_share is not None
        assert report.integer_share > 0.99
        assert any("8" in operator.kernel for operator in report.operators if operator.operator == "Conv")


@openvino
def test_openvino_shows_what_stays_in_float(tmp_path: Path) -> None:
    path = written(tmp_path, parse(NETWORK).SerializeToString())
    report = run_with("openvino", path, seconds=0.01)
    assert report.integer_share == 0
    assert all(operator.kernel for operator in report.in_float)
    assert report.speed is None
    assert "float model" in report.note


def test_a_runtime_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"openvino is not installed; pip install 'quantonnx\[openvino\]'"):
        run_with("openvino", tmp_path / "model.onnx")


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no runtime 'npu'"):
        run_with("npu", tmp_path / "model.onnx")


def test_a_model_that_the_runtime_refuses_says_why(tmp_path: Path) -> None:
    proto = parse("m (float[1,8] x) => (float[1,8] y) { y = acme.Mystery(x) }", domain="acme")
    report = run_with("onnxruntime", written(tmp_path, proto.SerializeToString()), seconds=0.01)
    assert "Mystery" in report.error
    assert report.operators == ()


def test_an_input_of_open_rank_needs_sizes(tmp_path: Path) -> None:
    proto = parse("m (float[1,8] x) => (float[1,8] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    path = written(tmp_path, proto.SerializeToString())
    with pytest.raises(ModelError, match="no shape"):
        run_with("onnxruntime", path)
    assert not run_with("onnxruntime", path, sizes={"x": (1, 8)}, seconds=0.01).error


def fake_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Request:
    """Makes a module that child processes find as the runtime `fake`."""
    (folder / "sitecustomize.py").write_text(
        "import sys, types\n"
        "fake = types.ModuleType('quantonnx.runtimes.fake')\n"
        f"exec({body!r}, fake.__dict__)\n"
        "sys.modules['quantonnx.runtimes.fake'] = fake\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Request("model.onnx", None, {}, 0.01, 1)


def test_a_runtime_that_aborts_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = fake_runtime(tmp_path, monkeypatch, "def compile_here(request):\n    import os\n    os.abort()\n")
    answer = compile_apart("fake", request)
    assert isinstance(answer, str)
    assert "its process was ended by SIGABRT" in answer


def test_a_runtime_that_hangs_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = fake_runtime(tmp_path, monkeypatch, "def compile_here(request):\n    import time\n    time.sleep(60)\n")
    monkeypatch.setattr(child, "LONGEST", 1.0)
    assert compile_apart("fake", request) == "it was still at work after 1 s"


def test_what_a_runtime_raises_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = fake_runtime(
        tmp_path, monkeypatch, "def compile_here(request):\n    raise RuntimeError('no\\tkernel\\nat all')\n"
    )
    assert compile_apart("fake", request) == "no kernel"


LAYERS = {
    "Layers": [
        {
            "Name": "/first/Conv + /first/Relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "image", "Format/Datatype": "Int8 NC/32HW32"}],
            "TacticName": "sm80_xmma_fprop_int8",
            "Metadata": "[ONNX Layer: first]\u001e[ONNX Layer: Relu_1]",
        },
        {"Name": "Reformat 1", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "FP32"}]},
    ]
}


def test_layers_of_tensorrt_are_read() -> None:
    convolution, reformat = read_layers(LAYERS)
    assert convolution.integer
    assert convolution.origins == ("first", "Relu_1")
    assert convolution.kernel == "sm80_xmma_fprop_int8"
    assert not reformat.integer


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a script")
def test_tensorrt_runs_when_its_program_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = onnx.ModelProto.FromString(_made("tensorrt"))
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    layers = json.dumps({"Layers": [LAYERS["Layers"][0] | {"Metadata": f"[ONNX Layer: {n}]"} for n in convolutions]})
    program = tmp_path / "trtexec"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "given = dict(a.split('=', 1) for a in sys.argv[1:] if '=' in a)\n"
        "assert given['--shapes'] == 'image:1x3x16x16', given\n"
        f"open(given['--exportLayerInfo'], 'w').write({layers!r})\n"
        "open(given['--exportTimes'], 'w').write('[{\"computeMs\": 2.0}]')\n"
        "print('TensorRT v10.3.0')\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    report = run(tmp_path, "tensorrt", "tensorrt")
    assert report.version.startswith("10")
    assert report.integer_share is not None
    assert report.integer_share > 0.99
    assert report.speed is not None
    assert report.speed.ratio == 1


def test_tensorrt_without_its_program_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="trtexec is not on the PATH"):
        run_with("tensorrt", tmp_path / "model.onnx")
