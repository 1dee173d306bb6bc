"""Sizes are computed in Python numbers, and come out as ONNX Runtime computes them."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from models import parse  # noqa: E402

from quantonnx.torch import from_onnx  # noqa: E402
from quantonnx.torch.program import as_tensor  # noqa: E402

torch.set_num_threads(1)
CONSTANTS = """
int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] last = {-1},
int64[2] pair = {-1, 2}, int64[1] far = {-9223372036854775808}, int64[3] signs = {2, -3, 4}, float third = {0.3333333},
int64 seven = {7}, int64 deep = {-2}, int64[2] order = {2, 0}, int64[4] four = {1, 2, 3, 4}, bool[1] yes = {1}
"""

ROWS = {
    "gather": "int64 y|y = Gather (s, deep)",
    "gather rows": "int64[2] y|y = Gather (s, order)",
    "concat": "int64[4] y|y = Concat <axis = 0> (s, one)",
    "slice": "int64[2] y|y = Slice (s, one, three, zero)",
    "slice back": "int64[3] y|y = Slice (s, last, far, zero, last)",
    "split": "int64[1] y, int64[2] z|w = Concat <axis = 0> (one, two) y, z = Split (s, w)",
    "squeeze": "int64 y|w = Slice (s, two, three, zero) y = Squeeze (w, zero)",
    "unsqueeze": "int64[1] y|w = Gather (s, seven_less) y = Unsqueeze (w, zero)",
    "reshape": "int64[1] y|w = Gather (s, deep) y = Reshape (w, last)",
    "expand": "int64[3] y|w = Slice (s, one, two, zero) y = Expand (w, three)",
    "tile": "int64[6] y|y = Tile (s, two)",
    "product": "int64 y|y = ReduceProd <keepdims = 0> (s)",
    "sum": "int64[1] y|y = ReduceSum (s, zero)",
    "most": "int64[1] y|y = ReduceMax (s)",
    "least": "int64 y|y = ReduceMin <keepdims = 0> (s)",
    "fill": "int64[3] y|r = Shape (s) w = ConstantOfShape <value = int64[1] {-1}> (r) y = Mul (s, w)",
    "range": "int64[3] y|r = Size (s) a = Constant <value_int = 0> () b = Constant <value_int = 1> () w = Range (a, r, b) y = Add (w, s)",
    "pads": "int64[4] y|w = Concat <axis = 0> (s, one) m = Reshape (w, pair) u = Slice (m, last, far, zero, last) t = Transpose <perm = [1, 0]> (u) y = Reshape (t, last)",
    "part of a shape": "int64 y|w = Shape <start = 1, end = 2> (x) y = Squeeze (w)",
}

ARITHMETIC = {
    "add": "int64[3] y|y = Add (s, signs)",
    "divide": "int64[3] y|y = Div (s, signs)",
    "divide below zero": "int64[3] y|w = Neg (s) y = Div (w, signs)",
    "modulo": "int64[3] y|y = Mod (s, signs)",
    "fmod": "int64[3] y|w = Neg (s) y = Mod <fmod = 1> (w, signs)",
    "power": "int64[3] y|y = Pow (s, two)",
    "least and most": "int64[3] y|w = Min (s, three) y = Max (w, two)",
    "where": "int64[3] y|c = Equal (s, three) y = Where (c, last, s)",
    "logic": "bool[3] y|a = Greater (s, two) b = Less (s, three) c = Or (a, b) d = Not (c) e = And (c, yes) y = Xor (d, e)",
    "orders": "bool[3] y|a = GreaterOrEqual (s, three) b = LessOrEqual (s, three) y = And (a, b)",
    "float32": "float[3] y|f = Cast <to = 1> (s) y = Mul (f, third)",
    "scaled sizes": "int64[3] y|f = Cast <to = 1> (s) g = Div (f, third) h = Floor (g) y = Cast <to = 7> (h)",
    "rounded sizes": "float[3] y|f = Cast <to = 1> (s) g = Mul (f, third) h = Ceil (g) i = Round (g) j = Sub (h, i) k = Abs (j) y = Sum (k, g)",
    "root": "float y|n = ReduceProd <keepdims = 0> (s) f = Cast <to = 1> (n) y = Sqrt (f)",
    "truth": "int64[3] y|w = Sub (s, three) c = Cast <to = 9> (w) y = Cast <to = 7> (c)",
}


@pytest.mark.parametrize("case", [*ROWS, *ARITHMETIC])
def test_sizes_are_those_of_onnxruntime(case):
    outputs, nodes = (ROWS | ARITHMETIC)[case].replace("seven_less", "deep").split("|")
    model = parse(f"g (float[N,C,L] x) => ({outputs}) <{CONSTANTS}> {{ s = Shape (x) {nodes} }}")
    module = from_onnx(model)
    for shape in ((5, 3, 10), (1, 2, 3)):
        x = np.zeros(shape, np.float32)
        expected = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
        found = module(torch.from_numpy(x))
        for one, other in zip(expected, found if isinstance(found, tuple) else (found,), strict=True):
            np.testing.assert_array_equal(other.numpy(), one)
            assert other.numpy().dtype == one.dtype
    assert sum(step.function is as_tensor for step in module._program.steps) == len(expected)
