"""What `benchmarks/peers.py` says of other tools must be right: limits hold, reasons are told, nobody's failure wins."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from peers_child import Limits, run_child
from peers_table import table

PYTHON = sys.executable


def row(sqnr: float, agreement: float = 0.9) -> dict[str, object]:
    return {"sqnr_db": sqnr, "agreement": agreement, "metric": 0.8, "float": 0.81, "ratio": 0.5, "seconds": 2.0}


def test_the_last_line_of_a_child_is_its_output() -> None:
    done = run_child([PYTHON, "-c", "print('chatter'); print(42)"], Limits(30, 4))
    assert (done.output, done.error) == ("42", "")


def test_a_child_that_hangs_is_ended_with_all_that_it_started() -> None:
    started = time.monotonic()
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert run_child([PYTHON, "-c", code], Limits(1, 4)).error == "not done after 1 s"
    assert time.monotonic() - started < 20


def test_a_child_that_needs_too_much_memory_says_so() -> None:
    assert run_child([PYTHON, "-c", "bytearray(2**30)"], Limits(30, 0.5)).error.startswith("needs more than")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no such operator')", "ValueError: no such operator"),
        ("raise FileNotFoundError('/a/folder/of/mine/model.onnx')", "FileNotFoundError: model.onnx"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_failure_is_told_in_one_line(code: str, reason: str) -> None:
    error = run_child([PYTHON, "-c", code], Limits(30, 4)).error
    assert error == reason


def test_rows_are_ordered_by_sqnr_and_failures_come_last() -> None:
    rows = {"nncf default": row(18.0), "quark A8W8": {"error": "asserts"}, "quantonnx default": row(21.0)}
    lines = table({"mobilenet": rows}).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:5]] == ["**quantonnx**", "nncf", "quark A8W8"]
    assert "asserts" in lines[4]


def test_the_standing_names_the_best_other_tool_for_each_figure() -> None:
    rows = {"quantonnx default": row(21.0), "nncf default": row(18.0, 0.95), "aimet default": row(19.0)}
    standing = table({"mobilenet": rows}).splitlines()[-1]
    assert "SQNR 21.0 beats 19.0 (aimet default)" in standing
    assert "agreement 0.900 LOSES to 0.950 (nncf default" in standing


def test_a_file_left_in_float_is_no_best_however_exact() -> None:
    rows = {"quantonnx default": row(21.0), "onnxsim minmax": row(105.0) | {"quantizers": 0}}
    text = table({"ppocr": rows})
    assert "105" not in text
    assert "onnxsim minmax | left in float" in text


def test_a_tool_that_failed_is_not_the_best_of_the_others() -> None:
    rows = {"quantonnx default": row(21.0), "quark A8W8": {"error": "asserts", "sqnr_db": 99.0}}
    assert "99.0" not in table({"mobilenet": rows})
