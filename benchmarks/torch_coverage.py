"""Shows what `quantonnx.torch.from_onnx` can do: operator by operator, and on real model files beside ONNX Runtime.

    python benchmarks/torch_coverage.py                  # the table of operators: ONNX's own node tests, gradients
    python benchmarks/torch_coverage.py MODEL.onnx …     # the largest difference from ONNX Runtime, of each model

The node tests of an operator are those whose model is this one node. A case that an operator refuses (a type that torch
does not have, strings) counts as not passed. The inputs of a model are drawn as its name and shapes suggest.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import zoo_feeds
from torch import Tensor

from quantonnx.errors import QuantonnxError
from quantonnx.torch import from_onnx
from quantonnx.torch.operators import OPERATORS

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from torch_gradient_cases import GRADIENTS, GradientCase
from torch_layer_gradients import LAYERS
from torch_node_cases import node_cases, outcome

FIRST_OPSET, LAST_OPSET = 7, 23
ENOUGH = 1e-4
BEYOND_THE_TABLE = frozenset({"BatchNormalization", "Constant", "If", "Loop", "Scan", "Shape", "Size"})
FREE = {"batch": 1, 0: 1, 1: 16}
TEXT = {"det": zoo_feeds.text(320, 320, 8), "rec": zoo_feeds.text(48, 320, 1), "cls": zoo_feeds.text(48, 192, 1)}


def versions(operator: str) -> str:
    """Return the opsets that changed an operator, of those from 7 to 23."""
    domain, _, name = operator.rpartition(".")
    known = [
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.name == name and schema.domain == domain and not schema.deprecated
    ]
    first = max((version for version in known if version <= FIRST_OPSET), default=None)
    shown = sorted({version for version in known if FIRST_OPSET < version <= LAST_OPSET})
    return ", ".join(map(str, [first, *shown] if first else shown)) or ", ".join(map(str, sorted(known)[:1])) or "-"


def gradient(cases: list[GradientCase]) -> str:
    """Return how many of an operator's gradients agree with finite differences."""
    agree = 0
    for case in cases:
        module = from_onnx(case.model()).double()
        agree += torch.autograd.gradcheck(module, case.inputs(), fast_mode=True, raise_exception=False)
    return f"{agree} / {len(cases)}" if cases else "none"


def show_operators() -> None:
    """Print the table of operators."""
    found = node_cases(everything=True)
    total = right = 0
    print("| operator | opsets | node tests passed | gradients checked |\n|---|---|---|---|")
    for operator in sorted(OPERATORS.keys() | BEYOND_THE_TABLE):
        cases = found.get(operator, [])
        passed = sum(not outcome(case) for case in cases)
        gradients = gradient([case for case in [*GRADIENTS, *LAYERS] if case.operator == operator])
        print(f"| {operator} | {versions(operator)} | {passed} / {len(cases)} | {gradients} |", flush=True)
        total, right = total + len(cases), right + passed
    several = found[""]
    passed = sum(not outcome(case) for case in several)
    print(
        f"\n{len(OPERATORS.keys() | BEYOND_THE_TABLE)} operators, {right} of {total} node tests, "
        f"and {passed} of {len(several)} of those with several nodes."
    )
    others = sorted(found.keys() - OPERATORS.keys() - BEYOND_THE_TABLE - {""})
    print(f"Without a translation: {', '.join(others)}.")


def draw(path: Path, session: ort.InferenceSession) -> zoo_feeds.Feed:
    """Return inputs for a model."""
    rng = np.random.default_rng(0)
    inputs = session.get_inputs()
    names = {value.name for value in inputs}
    if names == {"images"}:
        return zoo_feeds.photograph(inputs[0].shape[-1])(rng)
    if {"input_ids", "attention_mask"} == names:
        return zoo_feeds.sentence(64, 16384)(rng)
    for part, text in TEXT.items():
        if part in path.stem and "ocr" in path.stem.lower():
            return {inputs[0].name: text(rng)["x"]}
    return {value.name: _values(value, rng) for value in inputs}


def _values(value: Any, rng: np.random.Generator) -> np.ndarray:
    if value.name == "sr":
        return np.array(16000, np.int64)
    shape = [
        size if isinstance(size, int) else FREE.get(size, FREE.get(axis, 1)) for axis, size in enumerate(value.shape)
    ]
    if value.name == "input" and len(shape) == 2:
        return 0.1 * rng.standard_normal((1, 576)).astype(np.float32)
    if value.name == "state":
        return np.zeros((2, 1, 128), np.float32)
    if "float" not in value.type:
        return rng.integers(0, 2, shape).astype(bool if "bool" in value.type else np.int64)
    return zoo_feeds.smooth(rng, *shape) if len(shape) == 4 else rng.standard_normal(shape).astype(np.float32)


def difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Return the largest difference of two lists of outputs, relative to the largest value of each of the first."""
    gaps = [
        np.abs(a.astype(float) - b.astype(float)).max() / max(float(np.abs(a).max()), 1e-9)
        for a, b in zip(one, other, strict=True)
    ]
    return max(map(float, gaps))


def compute(module: torch.nn.Module, feeds: zoo_feeds.Feed, dtype: torch.dtype) -> list[np.ndarray]:
    """Return what a module gives for these inputs, its floats in that type."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in feeds.items()}
    given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    with torch.no_grad():
        found: Tensor | tuple[Tensor, ...] = module.to(dtype)(**given)
    return [value.double().numpy() for value in (found if isinstance(found, tuple) else (found,))]


def show_model(path: Path) -> bool:
    """Print a model's row; False where it is refused, or too far from ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = draw(path, session)
    expected = session.run(None, feeds)
    start = time.perf_counter()
    try:
        module = from_onnx(path)
    except QuantonnxError as error:
        print(f"| {path.name} | {error} | | | |", flush=True)
        return False
    made = time.perf_counter() - start
    gap = difference(expected, compute(module, feeds, torch.float32))
    told = ""
    if gap > ENOUGH:
        exact = compute(module, feeds, torch.float64)
        own = difference(exact, compute(from_onnx(path), feeds, torch.float32))
        told = f"from float64: torch {own:.0e}, ONNX Runtime {difference(exact, expected):.0e}"
    count = len(list(module.parameters()))
    print(
        f"| {path.name} | {len(module.origin.model.graph.nodes)} | {count} | {made:.1f} s | {gap:.1e} | {told} |",
        flush=True,
    )
    return gap <= ENOUGH or own <= ENOUGH


def show_models(paths: list[Path]) -> int:
    """Print the table of models and return how many of them are too far off."""
    print("| model | nodes | parameters | made in | difference | |\n|---|---|---|---|---|---|")
    return sum(not show_model(path) for path in paths)


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ort.set_default_logger_severity(4)
    if not asked.models:
        show_operators()
    elif show_models(asked.models):
        sys.exit(1)


if __name__ == "__main__":
    main()
