"""The page about a new target is true: its file is loaded by every command, and its mistakes are named as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import parse

import quantonnx as qx
from quantonnx.cli import run
from quantonnx.demo import calibration_path, evaluation_path, model_path

PAGE = (Path(__file__).parent.parent / "docs" / "new_target.md").read_text(encoding="utf-8")
FILE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]

SILU = """
    g (float[1,4,8,8] x) => (float[1,4,8,8] y)
    <float[4,4,3,3] w = {0.5}, float[4] b = {1, 2, 3, 4}, float[4,1,7,7] d = {0.25}> {
        [conv] c = Conv <pads: ints = [1, 1, 1, 1]> (x, w, b)
        [gate] s = Sigmoid (c)
        [silu] m = Mul (s, c)
        [wide] y = Conv <group: int = 4, pads: ints = [3, 3, 3, 3]> (m, d)
    }
"""


@pytest.fixture
def npu(tmp_path: Path) -> Path:
    file = tmp_path / "my_npu.py"
    file.write_text(FILE, encoding="utf-8")
    return file


@pytest.fixture
def silu(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    model = parse(re.sub(r" = \{[^}]*\}(?=[,>])", "", SILU))
    for name, shape in (("w", (4, 4, 3, 3)), ("b", (4,)), ("d", (4, 1, 7, 7))):
        kept = [item for item in model.graph.initializer if item.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    onnx.save(model, tmp_path / "silu.onnx")
    return tmp_path / "silu.onnx"


def result_of(tmp_path: Path, *arguments: Any) -> dict[str, Any]:
    result = tmp_path / "result.json"
    assert run([str(argument) for argument in (*arguments, "--json", result, "-q")]) == 0
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def test_the_file_shows_itself(npu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = result_of(tmp_path, "targets", npu)["targets"]
    assert found["patterns"][0]["points"] == ["INPUT", "WEIGHT", "BIAS", "OUTPUT"]
    assert (found["ranges"], found["bias"]) == ("minmax", "int32")
    assert [rule["name"] for rule in found["rules"]] == ["large_depthwise"]
    assert run(["targets", str(npu)]) == 0
    assert "ConvSiLU: INPUT, WEIGHT, BIAS, OUTPUT" in capsys.readouterr().out


def test_plan_and_explain_know_the_pattern_and_the_rule(npu: Path, silu: Path, tmp_path: Path) -> None:
    plan = result_of(tmp_path, "plan", silu, "--target", npu)
    assert [step["pattern"] for step in plan["matches"]] == ["ConvSiLU", "ConvBN"]
    conv = result_of(tmp_path, "explain", silu, "--target", npu, "--node", "conv")["explanation"]
    assert "is quantized as part of ConvSiLU at 'm'" in conv["answer"]
    wide = result_of(tmp_path, "explain", silu, "--target", npu, "--node", "wide")["explanation"]
    assert "has a window of 7, the NPU takes up to 5" in wide["answer"]
    assert wide["decided_by"] == "rule large_depthwise of tern"


def test_the_own_pattern_gets_its_pairs(npu: Path, silu: Path, tmp_path: Path) -> None:
    out = tmp_path / "silu.int8.onnx"
    result = result_of(tmp_path, "quantize", silu, "-o", out, "--target", npu, "--random-data", 8)
    roles = {site["tensor"]: (site["roles"], site["format"]) for site in result["sites"]}
    assert roles == {
        "x": (["INPUT"], "int8 symmetric"),
        "w": (["WEIGHT"], "int8 symmetric per channel"),
        "b": (["BIAS"], "int32"),
        "m": (["OUTPUT"], "int8 symmetric"),
    }
    graph = onnx.load(out).graph
    assert [node.op_type for node in graph.node].count("QuantizeLinear") == 2
    zero_points = [item for item in graph.initializer if item.name.endswith("_zero_point")]
    assert zero_points
    assert not any(onnx.numpy_helper.to_array(item).any() for item in zero_points)


def test_the_demo_network_is_quantized(npu: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo.onnx"
    common = (model_path(), "-o", out, "--target", npu, "--data", calibration_path())
    result = result_of(tmp_path, "quantize", *common, "--eval-data", evaluation_path())
    assert result["pairs"] == {"activation": 15, "weight": 9}
    assert result["metrics"]["sqnr_db"] > 30
    assert result["metrics"]["accuracy"] > 0.92


def test_it_works_from_python(npu: Path) -> None:
    found = qx.quantize(model_path(), calibration_path(), target=npu, limit=4)
    assert found.matches.target.name == "tern"


MISTAKES = {
    "target = Target(": ("goal = Target(", "defines no target; end the file with"),
    "LARGEST_DEPTHWISE = 5": ("LARGEST_DEPTHWISE = five", "my_npu.py, line 20 fails: NameError"),
    "op.Sigmoid(conv)": ("op.Sigmoidd(conv)", "names op.Sigmoidd, which ONNX does not have; did you mean Sigmoid"),
    "(INPUT(x), WEIGHT": ("(INPUT(tensor()), WEIGHT", "INPUT of ConvSiLU stands on an undeclared value"),
    "    weight = const()": ("    weight = tensor()", "WEIGHT of ConvSiLU stands on a value that is no const()"),
    "axis=0), BIAS": ("axis=4), BIAS", "puts its WEIGHT on axis 4, but 'w' has 4 axes"),
    '("ConvBNRelu",': ('("ConvBN",', "target tern: patterns[2] is called ConvBN, as patterns[1] is"),
    "(ConvSiLU, *(": ("(ConvSiLU, tuple(", "target tern: patterns[1] is a tuple, expected a Pattern"),
    '    conv = getattr(found, "conv", None)': (
        "    conv = found.convolution",
        "rule large_depthwise of target tern fails",
    ),
    "    if size <= LARGEST_DEPTHWISE:\n        return None\n": (
        "    return True\n",
        "answers True; return the reason",
    ),
    "(x, weight, bias)": ("(x, weight, bias, group=lambda g: g > 1)", "the predicate of attribute 'group' fails"),
}


@pytest.mark.parametrize(("before", "after", "words"), [(key, *value) for key, value in MISTAKES.items()])
def test_a_mistake_is_one_line_that_names_it(
    before: str, after: str, words: str, npu: Path, silu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert before in FILE
    npu.write_text(FILE.replace(before, after), encoding="utf-8")
    assert run(["explain", str(silu), "--target", str(npu), "-q"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_a_file_of_patterns_is_no_target(npu: Path, silu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = FILE[: FILE.index("target = Target(")] + "patterns = (ConvSiLU,)\n"
    assert run(["explain", str(silu), "--patterns", str(npu), "-q"]) == 2
    assert "it has a target: give it as --target" in capsys.readouterr().err
    npu.write_text(text, encoding="utf-8")
    assert run(["explain", str(silu), "--target", str(npu), "-q"]) == 2
    assert "it has patterns: give it as --patterns" in capsys.readouterr().err


def test_points_by_a_wrong_name() -> None:
    pattern = qx.get_target("tensorrt").names["ConvBN"]
    with pytest.raises(qx.PatternError, match="declares no 'input'; it declares x, weight"):
        pattern.with_points(input=qx.INPUT)


def test_the_page_names_every_field_of_a_target() -> None:
    fields = {field for field in qx.Target.__dataclass_fields__ if field != "names"}
    assert {field for field in fields if f"`{field}`" not in PAGE} == set()
