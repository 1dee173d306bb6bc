"""Every model in the onnx package's test data, through `transform` and `quantize`, for both targets.

`transform` may change no output by more than float rounding, and may never fail. `quantize` on random data gives a
model that ONNX Runtime runs, or a reason. Prints a table of counts and every failure; exits with 1 where there is one.

    python benchmarks/robustness.py                # everything: two minutes
    python benchmarks/robustness.py simple light
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import DATA_DIR, load_model_tests

import quantonnx as qx
from quantonnx.calibration.loading import open_session
from quantonnx.calibration.samples import input_specs, open_samples

KINDS = ("light", "simple", "pytorch-converted", "pytorch-operator", "node", "node-constant")
"""Folders of the test data; `node-constant` are the models of `node` with all inputs but the first made constants,
without which hardly any of them has a weight."""

TARGETS = ("tensorrt", "onnxruntime")
TOLERANCE = 1e-4
"""Of the largest magnitude of an output; what float32 arithmetic in another order gives."""

LEAST_SQNR = 20.0
"""dB on a sample that calibrated; 8 bits give 30 to 40 on models this small, a wrong scale or axis under 10."""

Feed = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """A model with inputs that fit."""

    kind: str
    name: str
    model: onnx.ModelProto
    feed: Feed


@dataclass(frozen=True)
class Finding:
    """What became of one model in one step: `outcome` is one of a few words, `reason` explains it."""

    outcome: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.outcome == "FAILED"


def examples(kind: str, every: int = 1) -> Iterator[Example]:
    """Yield the models of a kind, or one in `every` of them."""
    if kind == "light":
        yield from map(light_example, sorted(Path(DATA_DIR, kind).glob("*.onnx"))[::every])
        return
    if kind == "node-constant":
        yield from filter(None, map(with_constants, examples("node", every)))
        return
    for case in sorted(cases(kind), key=lambda case: case.name)[::every]:
        if case.model is not None and case.data_sets is not None:
            yield Example(kind, case.name, case.model, feed_of(case.model, case.data_sets[0][0]))
        elif case.model_dir is not None:
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            yield Example(kind, case.name, model, feed_of(model, stored_inputs(model, folder / "test_data_set_0")))


@cache
def cases(kind: str) -> list[TestCase]:
    """Return what onnx tests itself with; those of `node` are computed, which takes seconds."""
    with warnings.catch_warnings():  # some expected values come from casts that overflow
        warnings.simplefilter("ignore", RuntimeWarning)
        return list(load_model_tests(kind=kind))


def with_constants(example: Example) -> Example | None:
    """Return the same with every input but the first a constant, or None where none other is an array."""
    others = list(example.feed.items())[1:]
    arrays = {name: value for name, value in others if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"}
    if not arrays:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(example.model)
    kept = [item for item in model.graph.input if item.name not in arrays]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in arrays.items())
    model.ir_version = max(model.ir_version, 4)  # until then, an initializer has to be an input too
    feed = {name: value for name, value in example.feed.items() if name not in arrays}
    return Example("node-constant", example.name, model, feed)


def light_example(path: Path) -> Example:
    """Return a model that is distributed without inputs, with random ones."""
    model = onnx.load(path)
    feed = next(iter(open_samples(None, input_specs(qx.Model.read(model)), random=1)))
    return Example("light", path.stem, model, feed)


def feed_of(model: onnx.ModelProto, values: Iterable[Any]) -> Feed:
    """Return the values by input name, as ONNX Runtime takes them."""
    names = [item.name for item in model.graph.input]
    return {name: as_fed(value) for name, value in zip(names, values, strict=False) if value is not None}


def as_fed(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return [as_fed(item) for item in value] if isinstance(value, list) else np.asarray(value)


def stored_inputs(model: onnx.ModelProto, folder: Path) -> list[Any]:
    """Return the inputs in a test_data_set folder, in the order of the model's inputs."""
    files = [folder / f"input_{index}.pb" for index in range(len(list(folder.glob("input_*.pb"))))]
    return [stored_value(file.read_bytes(), info) for file, info in zip(files, model.graph.input, strict=False)]


def stored_value(data: bytes, info: onnx.ValueInfoProto) -> Any:
    if info.type.WhichOneof("value") == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def run(model: qx.Model | onnx.ModelProto, feed: Feed) -> list[Any]:
    """Return the outputs in ONNX Runtime, which gets only the inputs that the model has."""
    session = open_session(model, threads=1)
    return list(session.run(None, {item.name: feed[item.name] for item in session.get_inputs() if item.name in feed}))


def difference(found: Any, expected: Any) -> str:
    """Return how two outputs differ by more than float rounding, or nothing."""
    if isinstance(expected, list):
        pairs = zip(found, expected, strict=True) if len(found) == len(expected) else []
        return next(filter(None, (difference(*pair) for pair in pairs)), "" if pairs else "another length")
    found, expected = np.asarray(found), np.asarray(expected)
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{found.dtype}{found.shape} instead of {expected.dtype}{expected.shape}"
    if expected.dtype.kind not in "fc":
        return "" if np.array_equal(found, expected) else "other values"
    finite = np.abs(expected[np.isfinite(expected)])
    bound = TOLERANCE * (1 + finite.max(initial=0))
    same = np.isclose(found, expected, rtol=0, atol=bound, equal_nan=True)
    if same.all():
        return ""
    return f"values off by {np.nanmax(np.abs(found - expected)):.3g}, of {finite.max(initial=0):.3g}"


def check_transform(example: Example, target: str, expected: list[Any], *, repeatable: bool) -> Finding:
    """Return whether the fused model gives the same outputs; of a random model, only that it runs."""
    try:
        found = run(qx.transform(example.model, target=target).model, example.feed)
    except Exception as error:
        return Finding("FAILED", explained(error))
    worst = difference(found, expected) if repeatable else ""
    return Finding("FAILED", worst) if worst else Finding("same")


def check_quantize(example: Example, target: str) -> Finding:
    """Return whether random data gives a model that runs, or why there is none."""
    try:
        fused = qx.transform(example.model, target=target)
        placed = qx.insert_qdq(fused.model, fused.matches)
        if not any(part.sites for part in placed.parts):
            return Finding("nothing to quantize")
        samples = open_samples(None, input_specs(fused.model), random=2)
        quantized = qx.calibrate(placed, samples, threads=1).to_model()
    except qx.QuantonnxError as error:
        return Finding("refused", str(error))
    except Exception as error:
        return Finding("FAILED", explained(error))
    try:
        feed = next(iter(samples))
        worst = min(map(sqnr, run(example.model, feed), run(quantized, feed)))
        run(quantized.to_proto(), example.feed)
    except Exception as error:
        return Finding("FAILED", f"the quantized model does not run: {explained(error)}")
    return Finding("runs") if worst >= LEAST_SQNR else Finding("FAILED", f"only {worst:.1f} dB of float")


def sqnr(expected: Any, found: Any) -> float:
    """Return how close two outputs are, in dB; 300 where they are the same."""
    expected, found = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    noise = np.square(expected - found).sum()
    return 10 * float(np.log10(np.square(expected).sum() / noise)) if noise else 300.0


def explained(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def baseline(example: Example) -> tuple[list[Any], bool] | None:
    """Return the outputs of the model itself and whether they repeat, or None where ONNX Runtime cannot run it."""
    try:
        first = run(example.model, example.feed)
        second = run(example.model, example.feed)
    except Exception:
        return None
    return first, not any(difference(*pair) for pair in zip(first, second, strict=True))


def sweep(chosen: Iterable[Example], report: Callable[[Example, str, str, Finding], None]) -> None:
    """Check every model in both steps for both targets; one that ONNX Runtime cannot run is only counted."""
    for example in chosen:
        before = baseline(example)
        if before is None:
            report(example, "", "", Finding("not runnable"))
            continue
        expected, repeatable = before
        for target in TARGETS:
            report(example, "transform", target, check_transform(example, target, expected, repeatable=repeatable))
            report(example, "quantize", target, check_quantize(example, target))


def main(kinds: Iterable[str]) -> int:
    counts: Counter[tuple[str, str, str, str]] = Counter()
    notes: list[str] = []

    def report(example: Example, step: str, target: str, finding: Finding) -> None:
        counts[example.kind, step, target, finding.outcome] += 1
        if finding.failed or finding.outcome == "refused":
            notes.append(f"{finding.outcome:8} {step:9} {target:11} {example.kind}/{example.name}: {finding.reason}")

    for kind in kinds:
        sweep(examples(kind), report)
    print("\n".join(sorted(notes)))
    for (kind, step, target, outcome), count in sorted(counts.items()):
        print(f"{kind:18} {step:10} {target:12} {outcome:20} {count:5}")
    failures = sum(count for (*_, outcome), count in counts.items() if outcome == "FAILED")
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or KINDS))
