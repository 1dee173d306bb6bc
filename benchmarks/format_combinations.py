"""What a runtime makes of one operator, for each format of its activation and of its weight.

    python benchmarks/format_combinations.py [--runtime onnxruntime|openvino] [--op MatMul MatMulAdd Gemm Conv …]
                                             [--activation uint8 …] [--weight int8 …] [--outputs 128]

A model of one operator per case, with a float bias where it takes one: Q/DQ on the activation and on the result
(`uint8 in` has none there, `int4 then int8` is a pair of each), DequantizeLinear on the weight; `dynamic` is
DynamicQuantizeLinear and an integer operator. The result is compared with that of the same model on ONNX Runtime
without optimizations, its weight put in as floats.

A table per operator, the granularity of the weight in columns: `integer` or `float` kernel, with the error (root mean
square, relative) where that is over 0.1 %, WRONG over 5 %; NO LOAD, NO RUN, CRASH; `-` where ONNX has no such thing.
Shapes are small: only kernels and numbers count. With `--outputs 256` weights are square, which lets a runtime take
scales along the wrong axis.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from format_cases import ACTIVATIONS, GRANULARITIES, OPERATORS, WEIGHTS, Builder, Case

from quantonnx.runtimes import openvino as openvino_runtime
from quantonnx.runtimes.child import Request
from quantonnx.runtimes.onnxruntime import optimized_layers


def session(model: onnx.ModelProto, *, optimize: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def verdict(case: Case, runtime: str) -> str:
    """Returns the cell of a case; only a crash of the runtime is not seen here."""
    model = Builder(case, exact=False).model()
    reference = session(Builder(case, exact=case.activation != "dynamic").model(), optimize=False)
    x = np.random.default_rng(1).normal(size=reference.get_inputs()[0].shape).astype(np.float32)
    try:
        compiled, kernels = (with_openvino if runtime == "openvino" else with_onnxruntime)(model, x.shape)
    except Exception:
        return "NO LOAD"
    try:
        found, expected = compiled(x), reference.run(None, {"x": x})[0]
    except Exception:
        return "NO RUN"
    error = np.sqrt(np.mean(np.square(found - expected)) / np.mean(np.square(expected)))
    if not error < 0.05:
        return f"WRONG {kernels} ±{error:.0%}"
    return f"{kernels} ±{error:.1%}" if error > 1e-3 else kernels


def with_onnxruntime(model: onnx.ModelProto, shape: Sequence[int]) -> tuple[Any, str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        running = session(model, optimize=True)
        layers = optimized_layers(str(path))
    found = [layer.kernel for layer in layers if layer.integer and layer.kernel not in ("Reshape", "Transpose")]
    return lambda x: running.run(None, {"x": x})[0], f"integer {found[0]}" if found else "float"


def with_openvino(model: onnx.ModelProto, shape: Sequence[int]) -> tuple[Any, str]:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        request = Request(str(path), None, {"x": (list(shape), "float32")}, 0.0, 1)
        compiled = openvino_runtime._compile(openvino.Core(), str(path), request)
    layers = filter(None, map(openvino_runtime._layer, compiled.get_runtime_model().get_ordered_ops()))
    kinds = ("Convolution", "FullyConnected", "MatMul")
    integer = any(layer.integer for layer in layers if layer.kind in kinds)
    return lambda x: compiled.create_infer_request().infer({"x": x})[0], "integer" if integer else "float"


def worker(runtime: str) -> None:
    """Answers cases from standard input, a line each."""
    for line in sys.stdin:
        print(json.dumps(verdict(Case(*json.loads(line)), runtime)), flush=True)


def verdicts(cases: Sequence[Case], runtime: str) -> Iterator[str]:
    """Asks a child process, and a new one after a crash."""
    child = None
    for case in cases:
        if not case.can_be_said:
            yield "-"
            continue
        child = child or subprocess.Popen(
            [sys.executable, __file__, "--worker", runtime],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(astuple(case)) + "\n")
        child.stdin.flush()
        answer = child.stdout.readline()
        yield json.loads(answer) if answer else "CRASH"
        child = child if answer else None


def show(cases: Sequence[Case], runtime: str) -> None:
    """Prints the table of each operator; weights of which the same is to be said share a row."""
    answers = zip(cases, verdicts(cases, runtime), strict=True)
    for op, of_op in groupby(answers, key=lambda pair: pair[0].op):
        print(f"\n### {op} on {runtime}\n\n| activation | weight | {' | '.join(GRANULARITIES)} |")
        print("|---" * (2 + len(GRANULARITIES)) + "|")
        for activation, of_activation in groupby(of_op, key=lambda pair: pair[0].activation):
            rows: dict[tuple[str, ...], list[str]] = {}
            for weight, cells in groupby(of_activation, key=lambda pair: pair[0].weight):
                rows.setdefault(tuple(cell for _, cell in cells), []).append(weight)
            for row, weights in rows.items():
                if set(row) != {"-"}:
                    print(f"| {activation} | {', '.join(weights)} | {' | '.join(row)} |", flush=True)


def main() -> int:
    """Prints one table per operator."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--runtime", default="onnxruntime", choices=["onnxruntime", "openvino"])
    parser.add_argument("--op", nargs="+", default=OPERATORS, choices=OPERATORS)
    parser.add_argument("--activation", nargs="+", default=ACTIVATIONS, choices=ACTIVATIONS)
    parser.add_argument("--weight", nargs="+", default=WEIGHTS, choices=WEIGHTS)
    parser.add_argument("--outputs", type=int, default=128)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return 0
    formats = [(activation, weight) for activation in options.activation for weight in options.weight]
    cases = [
        Case(op, *pair, granularity, options.outputs)
        for op in options.op
        for pair in formats
        for granularity in GRANULARITIES
    ]
    show(cases, options.runtime)
    return 0


if __name__ == "__main__":
    sys.exit(main())
