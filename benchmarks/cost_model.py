"""Measures what operators cost a runtime in float and in integers: the constants of a target's cost model.

    python benchmarks/cost_model.py onnxruntime|openvino [--seconds 0.15]

For each kind of operator, small graphs of many sizes are timed at one thread, as float and as Q/DQ: operators that keep
their shape in chains of two lengths, whose difference is theirs alone; others side by side, with codes at the boundary.
OpenVINO copies the inputs of a call, so there only chains are timed, and a conversion is what pairs add to a
chain of Softmax. Per kind, time = call + mac · multiply-accumulates + element · elements
read and written + weight · elements of the weight, fitted without negative terms to relative errors. The result is
printed as the Python text that stands in the target's file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

REPEATS = 3  # operators of one graph, so that what happens at its ends counts less
SHORT, LONG = 2, 8  # operators of a chain
Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One operator: its kind, the shapes that enter and leave it, its weight's shape, and its work."""

    kind: str
    op: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    weight: tuple[int, ...] = ()
    macs: int = 0
    attributes: tuple[tuple[str, object], ...] = ()

    @property
    def chained(self) -> bool:
        """True where one can follow the other; products of products leave the range of numbers."""
        return self.inputs[0] == self.output and self.kind not in (
            "QuantizeLinear",
            "DequantizeLinear",
            "Mul",
            "product",
        )

    @property
    def elements(self) -> int:
        """Elements read and written."""
        return sum(int(np.prod(shape)) for shape in (*self.inputs, self.output))

    @property
    def features(self) -> list[float]:
        """What the time is explained by."""
        return [1.0, float(self.macs), float(self.elements), float(np.prod(self.weight)) if self.weight else 0.0]


def convolution(kind: str, channels: int, side: int, kernel: int, group: int) -> Case:
    """Returns a Conv that keeps its shape."""
    shape = (1, channels, side, side)
    weight = (channels, channels // group, kernel, kernel)
    macs = int(np.prod(shape)) * weight[1] * kernel * kernel
    attributes = (("group", group), ("pads", [kernel // 2] * 4))
    return Case(kind, "Conv", (shape,), shape, weight, macs, attributes)


def cases() -> Iterator[Case]:
    """Yields the operators that are timed."""
    for channels, side in ((8, 14), (16, 28), (16, 112), (32, 56), (64, 7), (64, 28), (128, 14), (128, 28), (256, 14)):
        yield convolution("Conv", channels, side, 3, 1)
    for channels, side in ((16, 14), (16, 112), (32, 28), (64, 56), (128, 7), (128, 28), (256, 14), (512, 7), (512, 1)):
        yield convolution("Conv", channels, side, 1, 1)
    for channels, side in ((16, 14), (16, 112), (48, 56), (96, 28), (192, 28), (384, 14), (576, 7)):
        yield convolution("depthwise", channels, side, 3, channels)
        yield convolution("depthwise", channels, side, 5, channels)
    for channels, side, group in ((32, 28, 2), (64, 14, 8), (64, 56, 4), (128, 28, 32), (256, 14, 8)):
        yield convolution("grouped", channels, side, 3, group)
    for rows, inner in (
        (1, 64),
        (1, 512),
        (1, 1024),
        (17, 32),
        (64, 64),
        (64, 384),
        (197, 256),
        (128, 768),
        (400, 128),
    ):
        shape = (1, rows, inner)
        yield Case("MatMul", "MatMul", (shape,), shape, (inner, inner), rows * inner * inner)
    for heads, length, width in ((3, 49, 32), (12, 64, 32), (8, 100, 64), (12, 128, 64), (6, 197, 64), (6, 400, 64)):
        weights, values = (1, heads, length, length), (1, heads, length, width)
        yield Case("product", "MatMul", (weights, values), values, (), heads * length * length * width)
    for channels, side in ((8, 8), (32, 14), (64, 28), (64, 56), (128, 56), (32, 112)):
        shape = (1, channels, side, side)
        doubled = (1, 2 * channels, side, side)
        for op in ("Add", "Mul"):
            yield Case(op, op, (shape, shape), shape)
        yield Case("Concat", "Concat", (shape, shape), doubled, attributes=(("axis", 1),))
        for op in ("Sigmoid", "Relu", "Softmax"):
            yield Case(op, op, (shape,), shape)
        yield Case("GlobalAveragePool", "GlobalAveragePool", (shape,), (1, channels, 1, 1))
        yield Case("QuantizeLinear", "QuantizeLinear", (shape,), shape)
        yield Case("DequantizeLinear", "DequantizeLinear", (shape,), shape)


class Graph:
    """A graph of some operators of one kind, in float or with pairs around each."""

    def __init__(self, case: Case, *, integer: bool, length: int) -> None:
        self.case, self.integer, self.length = case, integer, length
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants = [
            numpy_helper.from_array(np.float32(0.02), "scale"),
            numpy_helper.from_array(np.uint8(128), "uint8"),
            numpy_helper.from_array(np.int8(0), "int8"),
        ]

    def build(self) -> onnx.ModelProto:
        """Returns the model."""
        if self.case.chained:
            self._chain()
        else:
            for index in range(self.length):
                self._alone(index)
        graph = helper.make_graph(self.nodes, "case", self.inputs, self.outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def _chain(self) -> None:
        first = value = self._pair(self._input("x", self.case.inputs[0], TensorProto.FLOAT))
        for index in range(self.length):
            others = [first] * (len(self.case.inputs) - 1)
            value = self._pair(self._node([value, *others], index))
        self._output(value, TensorProto.FLOAT)

    def _alone(self, index: int) -> None:
        kind = self.case.op
        if kind == "QuantizeLinear":
            value = self._input(f"x{index}", self.case.inputs[0], TensorProto.FLOAT)
            self._output(self._convert(kind, value, "uint8"), TensorProto.UINT8)
        elif kind == "DequantizeLinear":
            value = self._input(f"x{index}", self.case.inputs[0], TensorProto.UINT8)
            self._output(self._convert(kind, value, "uint8"), TensorProto.FLOAT)
        else:
            values = [self._operand(f"x{index}_{i}", i) for i in range(len(self.case.inputs))]
            self._close(self._node(values, index))

    def _node(self, values: list[str], index: int) -> str:
        names = [*values, self._weight(f"w{index}")] if self.case.weight else values
        self.nodes.append(helper.make_node(self.case.op, names, [f"f{index}"], **dict(self.case.attributes)))
        return f"f{index}"

    def _close(self, value: str) -> None:
        if self.integer and self.case.kind != "product":
            self._output(self._convert("QuantizeLinear", value, "uint8"), TensorProto.UINT8)
        else:
            self._output(value, TensorProto.FLOAT)

    def _operand(self, name: str, place: int) -> str:
        """A float input, or codes; the second factor of a product has signed ones, which kernels want."""
        if not self.integer:
            return self._input(name, self.case.inputs[place], TensorProto.FLOAT)
        signed = place == 1 and self.case.kind == "product"
        codes = self._input(name, self.case.inputs[place], TensorProto.INT8 if signed else TensorProto.UINT8)
        return self._convert("DequantizeLinear", codes, "int8" if signed else "uint8")

    def _pair(self, value: str) -> str:
        if not self.integer:
            return value
        return self._convert("DequantizeLinear", self._convert("QuantizeLinear", value, "uint8"), "uint8")

    def _convert(self, op: str, value: str, zero_point: str) -> str:
        self.nodes.append(helper.make_node(op, [value, "scale", zero_point], [f"{value}_{op}"]))
        return f"{value}_{op}"

    def _weight(self, name: str) -> str:
        values = np.random.default_rng(0).integers(-127, 128, self.case.weight).astype(np.int8)
        if not self.integer:
            self.constants.append(numpy_helper.from_array((values * 0.01).astype(np.float32), name))
            return name
        axis = 0 if self.case.op == "Conv" else 1
        count = self.case.weight[axis]
        self.constants += [
            numpy_helper.from_array(values, f"{name}_codes"),
            numpy_helper.from_array(np.full(count, 0.01, np.float32), f"{name}_scale"),
            numpy_helper.from_array(np.zeros(count, np.int8), f"{name}_zero_point"),
        ]
        inputs = [f"{name}_codes", f"{name}_scale", f"{name}_zero_point"]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=axis))
        return name

    def _input(self, name: str, shape: tuple[int, ...], kind: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def _output(self, name: str, kind: int) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))


def feed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Returns random values for every input."""
    rng = np.random.default_rng(1)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    kinds = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    return {
        name: rng.integers(0, 256, shape).astype(np.uint8)
        if kinds[name] == TensorProto.UINT8
        else rng.integers(-128, 128, shape).astype(np.int8)
        if kinds[name] == TensorProto.INT8
        else rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def in_onnxruntime(model: onnx.ModelProto) -> Run:
    """Returns a call that runs the model once in ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = feed(model)
    return lambda: session.run(None, values)


def in_openvino(model: onnx.ModelProto) -> Run:
    """Returns a call that runs the model once in OpenVINO."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings).create_infer_request()
    values = feed(model)
    return lambda: request.infer(values)


def shortest(run: Run, seconds: float) -> float:
    """Returns the shortest time of one run in nanoseconds."""
    run(), run()
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best * 1e9


def fit(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns the non-negative coefficients with the least squared relative error, tried over all subsets of terms."""
    weighted, best = rows / times[:, None], (float("inf"), np.zeros(rows.shape[1]))
    for count in range(1, rows.shape[1] + 1):
        for columns in map(list, combinations(range(rows.shape[1]), count)):
            found, *_ = np.linalg.lstsq(weighted[:, columns], np.ones(len(times)), rcond=None)
            error = float(np.square(weighted[:, columns] @ found - 1).sum())
            if (found >= 0).all() and error < best[0]:
                best = (error, np.zeros(rows.shape[1]))
                best[1][columns] = found
    return best[1]


def time_of_one(start: Callable[[onnx.ModelProto], Run], case: Case, *, integer: bool, seconds: float) -> float:
    """Returns the nanoseconds of one operator of a case."""
    lengths = (SHORT, LONG) if case.chained else (0, REPEATS)
    short, long = (
        shortest(start(Graph(case, integer=integer, length=length).build()), seconds)
        if length
        else idle(start, seconds)
        for length in lengths
    )
    return max(long - short, 50.0) / (lengths[1] - lengths[0])


def idle(start: Callable[[onnx.ModelProto], Run], seconds: float) -> float:
    """Returns what a call costs that computes next to nothing."""
    return 0.8 * shortest(start(Graph(Case("Relu", "Relu", ((1,),), (1,)), integer=False, length=1).build()), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", choices=("onnxruntime", "openvino"))
    parser.add_argument("--seconds", type=float, default=0.15)
    arguments = parser.parse_args()
    start = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}[arguments.runtime]
    rows: dict[str, list[tuple[list[float], float, float]]] = {}
    for case in cases():
        if arguments.runtime == "openvino" and not case.chained:
            continue  # a call copies its inputs there, which takes longer than such operators
        exact, rough = (
            time_of_one(start, case, integer=integer, seconds=arguments.seconds) for integer in (False, True)
        )
        print(
            f"# {case.kind:<16} {case.inputs[0]!s:<22} float {exact / 1e3:9.1f} us, integer {rough / 1e3:9.1f} us",
            flush=True,
        )
        rows.setdefault(case.kind, []).append((case.features, exact, rough))
    if "QuantizeLinear" not in rows:  # what a pair adds to an operator that stays in float
        rows["QuantizeLinear"] = [
            (features, rough - exact, rough - exact) for features, exact, rough in rows["Softmax"]
        ]
    for title, column in (("float_costs", 1), ("integer_costs", 2)):
        print(f"{title}={{")
        for kind, measured in rows.items():
            times = np.array([row[column] for row in measured])
            found = fit(np.array([row[0] for row in measured]), times)
            print(f'    "{kind}": Cost({", ".join(f"{value:.3g}" for value in found)}),')
        print("}")


if __name__ == "__main__":
    main()
