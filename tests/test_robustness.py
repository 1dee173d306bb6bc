"""The models that come with onnx: whatever ONNX Runtime can run, `transform` keeps, and `quantize` does or refuses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "robustness.py"


@pytest.fixture(scope="module")
def robustness() -> ModuleType:
    specification = importlib.util.spec_from_file_location("robustness", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules["robustness"] = module  # its dataclasses look themselves up
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "every", "least"),
    [
        ("light", 5, 2),
        ("simple", 1, 15),
        ("pytorch-converted", 1, 50),
        ("pytorch-operator", 1, 20),
        ("node", 12, 80),
        ("node-constant", 12, 60),
        pytest.param("light", 1, 9, marks=pytest.mark.real),
        pytest.param("node", 1, 1000, marks=pytest.mark.real),
        pytest.param("node-constant", 1, 800, marks=pytest.mark.real),
    ],
)
def test_onnx_own_models_survive(robustness, kind, every, least):
    failures = []
    outcomes = []

    def report(example, step, target, finding):
        outcomes.append(finding.outcome)
        if finding.failed:
            failures.append(f"{step} for {target}: {example.name}: {finding.reason}")

    robustness.sweep(robustness.examples(kind, every), report)
    assert failures == []
    assert outcomes.count("same") >= least * len(robustness.TARGETS)
