"""Rules of the house, enforced: imports go downwards only, files stay small, the public names are exact."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import quantonnx
import quantonnx.errors

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "quantonnx").rglob("*.py"), *(ROOT / "patterns").rglob("*.py")])
LONGEST = 300

# From the bottom up: a module imports only what stands before it. A package is one entry; inside, siblings are free.
ORDER = [
    "errors",
    "version",
    "memory",
    "wire",
    "model_files",
    "placing",
    "schema_checks",
    "printable",
    "collecting",
    "rounding",
    "scales",
    "formats",
    "dynamic_formats",
    "costs",
    "declarations",
    "pattern",
    "pattern_index",
    "plan",
    "weights",
    "failures",
    "matching",
    "scanning",
    "expansion",
    "tensor_sizes",
    "reading",
    "target",
    "importing",
    "exporting",
    "ordering",
    "writing",
    "batch_norm_folds",
    "model",
    "element_types",
    "bodies",
    "following",
    "shapes",
    "editing",
    "patterns",
    "calibration",
    "config",
    "ranging",
    "formal_names",
    "scopes",
    "format_rules",
    "resolution",
    "fusions",
    "rewriting",
    "sites",
    "provenance",
    "decisions",
    "slots",
    "claims",
    "demands",
    "repointing",
    "rule_checks",
    "estimates",
    "units",
    "islands",
    "placement",
    "saturation",
    "dynamic",
    "insertion",
    "assembly",
    "method_choice",
    "site_numbers",
    "algorithms",
    "surveying",
    "preparation",
    "range_conflicts",
    "weight_moving",
    "quantized",
    "observing",
    "sharing",
    "calibrating",
    "pipeline",
    "tallying",
    "verification",
    "timing",
    "speed",
    "model_files",
    "inspecting",
    "quantities",
    "diffing",
    "recalibration",
    "compat",
    "linting",
    "runtimes",
    "explaining",
    "drawing",
    "summary",
    "evidence",
    "report",
    "search",
    "torch",
    "quantonnx",
    "demo",
    "batch",
    "commands",
    "cli",
    "program",
]


def module_name(path: Path) -> str:
    """Returns the dotted name under which a file is installed."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "quantonnx" else ("quantonnx", *parts)
    return ".".join(part for part in parts if part != "__init__")


def entry(module: str) -> str:
    """Returns the entry of ORDER that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def imports_of(path: Path) -> set[str]:
    """Returns the entries that a file needs to be imported; what it imports for types, or later, does not count."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("quantonnx"):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES if inner <= MODULES else {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES
    return {entry(name) for name in found}


MODULES = {module_name(path) for path in FILES}
NAMES = [module_name(path) for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_go_downwards_only(path: Path) -> None:
    own = entry(module_name(path))
    assert own in ORDER, f"put {own!r} into ORDER, above all that it imports"
    upwards = {name for name in imports_of(path) - {own} if ORDER.index(name) > ORDER.index(own)}
    assert not upwards, f"{own} imports {upwards}, which stand above it"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_say_why_they_exist(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_public_names_are_exact() -> None:
    """What a type checker sees, what `__all__` lists and what can be read are the same names."""
    tree = ast.walk(ast.parse((ROOT / "quantonnx" / "__init__.py").read_text(encoding="utf-8")))
    imports = [node for node in tree if isinstance(node, ast.ImportFrom) and str(node.module).startswith("quantonnx.")]
    declared = [alias.asname or alias.name for node in imports for alias in node.names]
    assert sorted(declared) == sorted(quantonnx.__all__)
    assert not [name for name in quantonnx.__all__ if not hasattr(quantonnx, name)]


def test_the_documented_names_are_public() -> None:
    verbs = {"make_plan", "transform", "insert_qdq", "calibrate", "quantize", "compare"}
    settings = {"QuantConfig", "TensorQuantConfig", "OpsToSkip", "CalibrationMethod"}
    vocabulary = {"Pattern", "Conversion", "Mismatch", "op", "tensor", "tensors", "const", "maybe", "either"}
    roles = {"INPUT", "RESIDUAL_INPUT", "OUTPUT", "WEIGHT", "BIAS"}
    assert verbs | settings | vocabulary | roles <= set(quantonnx.__all__)


def test_the_whole_tree_of_errors_is_public() -> None:
    errors = {
        name
        for name, value in vars(quantonnx.errors).items()
        if isinstance(value, type) and value.__module__.endswith("errors")
    }
    assert errors <= set(quantonnx.__all__)


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {module_name(path) for path in FILES if path.name == "__init__.py"}
    assert set(settings["packages"]) == packages


def test_types_are_shipped() -> None:
    assert (ROOT / "quantonnx" / "py.typed").is_file()


def run_python(code: str, folder: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_importing_brings_in_nothing_heavy(tmp_path: Path) -> None:
    code = "import quantonnx, sys; print([m for m in ('torch', 'openvino', 'matplotlib') if m in sys.modules])"
    assert run_python(code, tmp_path) == "[]"


def test_patterns_are_installed_inside_the_package_only(tmp_path: Path) -> None:
    code = (
        "import importlib.util, quantonnx.patterns.targets.tensorrt as found; "
        "print(found.target.name, importlib.util.find_spec('patterns'))"
    )
    assert run_python(code, tmp_path) == "tensorrt None"
