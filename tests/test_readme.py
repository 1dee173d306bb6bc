"""The README is true: its examples run, its module list is complete, its tables name what is shipped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from models import parse

import quantonnx as qx
from quantonnx.target import load_patterns

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_user_pattern_of_the_readme_is_applied(tmp_path: Path) -> None:
    file = tmp_path / "my_patterns.py"
    file.write_text(next(block for block in python_blocks() if "ConvSiLU" in block), encoding="utf-8")
    model = parse(
        "agraph (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w> "
        "{ c = Conv(x, w) s = Sigmoid(c) y = Mul(s, c) }"
    )
    (pattern,) = load_patterns(file)
    plan = qx.make_plan(model, target="tensorrt", patterns=file)
    assert [(step.pattern, step.points) for step in plan] == [(pattern.__name__, ("INPUT", "WEIGHT"))]


def test_the_python_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(next(block for block in python_blocks() if "qx.quantize" in block), {})
    assert Path("demo.int8.onnx").exists()
    assert Path("demo.trt.onnx").exists()


def test_every_module_is_listed_once() -> None:
    listed = re.findall(r"^\| `((?:quantonnx|patterns)/[^`]+)`", README, re.MULTILINE)
    files = [*ROOT.glob("quantonnx/**/*.py"), *ROOT.glob("patterns/**/*.py")]
    shipped = [file.relative_to(ROOT).as_posix() for file in files if file.name != "__init__.py"]
    assert sorted(listed) == sorted(shipped)


def test_every_pattern_of_the_targets_is_in_the_table() -> None:
    for target in qx.known_targets().values():
        for pattern in target.patterns:
            assert f"`{pattern.__name__}`" in README


def test_a_misspelt_operator_in_a_pattern_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "my_patterns.py"
    text = next(block for block in python_blocks() if "ConvSiLU" in block)
    file.write_text(text.replace("op.Sigmoid", "op.Sigmoidd"), encoding="utf-8")
    with pytest.raises(
        qx.PatternError, match="ConvSiLU names op.Sigmoidd, which ONNX does not have; did you mean Sigmoid"
    ):
        load_patterns(file)
