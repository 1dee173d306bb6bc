"""Damaged files of every kind through their readers, and runs that are stopped: a slice of what the scripts do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def corrupt() -> ModuleType:
    return script("corrupt_files")


def test_undamaged_every_specimen_is_read(corrupt: ModuleType, tmp_path: Path) -> None:
    for index, specimen in enumerate(corrupt.specimens()):
        folder = tmp_path / str(index)
        for name, content in specimen.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(specimen.packed(content) if name == specimen.damaged else content)
        specimen.read(folder)


def test_damaged_every_one_is_read_or_refused(corrupt: ModuleType, tmp_path: Path) -> None:
    outcomes = []
    for specimen, seed in corrupt.chosen((), 250, None):
        folder = tmp_path / str(seed)
        outcomes.append((specimen.kind, seed, *corrupt.read(specimen, seed, folder)))
    assert [found for found in outcomes if found[2] == "FAILED"] == []
    assert {found[2] for found in outcomes} == {"read", "refused"}


@pytest.mark.real
def test_damaged_each_in_its_own_process(corrupt: ModuleType) -> None:
    found = list(corrupt.findings(corrupt.chosen((), 1000, None)))
    assert len(found) == 1000
    assert [item for item in found if item.outcome == "FAILED"] == []


@pytest.mark.real
@pytest.mark.parametrize("fault", ["kill", "interrupt", "terminate", "abort", "disk", "data"])
def test_a_run_that_is_stopped(fault: str, tmp_path: Path) -> None:
    """In a process of its own: the runs are forks, which ONNX Runtime's threads would not survive."""
    command = [sys.executable, str(BENCHMARKS / "faults.py"), "--count", "6", "--faults", fault]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
