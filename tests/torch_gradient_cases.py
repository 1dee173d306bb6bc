"""Models of one node each, whose gradients are compared with finite differences: a list for each family of operators.

Inputs are called a, b, c, …, results y, z; constants stand in the text as ONNX writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_lowercase

import onnx
import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class GradientCase:
    """One node, the shapes of its float inputs and the range of their values, `constants` and further `outputs`."""

    node: str
    shapes: tuple[Shape, ...] = ((2, 3),)
    constants: str = ""
    low: float = -1.0
    high: float = 1.0
    opset: int = 20
    outputs: str = "float y"

    @property
    def operator(self) -> str:
        """The operator of the node."""
        return self.node.split("=", 1)[1].split()[0].split("(")[0]

    @property
    def name(self) -> str:
        """What the case is called: the node, as text."""
        return " ".join(self.node.split())

    def model(self) -> onnx.ModelProto:
        """Returns the model."""
        inputs = ", ".join(
            f"float[{','.join(map(str, shape))}] {ascii_lowercase[i]}" for i, shape in enumerate(self.shapes)
        )
        header = f'<ir_version: 9, opset_import: ["": {self.opset}]>'
        constants = f"<{self.constants}>" if self.constants else ""
        return onnx.parser.parse_model(f"{header} one ({inputs}) => ({self.outputs}) {constants} {{ {self.node} }}")

    def named(self) -> dict[str, torch.Tensor]:
        """Returns the inputs by name."""
        return dict(zip(ascii_lowercase, self.inputs(), strict=False))

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Returns the inputs: different numbers in the range, none at its middle."""
        generator = torch.Generator().manual_seed(1)
        found = []
        for shape in self.shapes:
            count = torch.Size(shape).numel()
            even = (torch.randperm(count, generator=generator).double() + 0.35) / max(count, 1)
            found.append((self.low + (self.high - self.low) * even).reshape(shape).requires_grad_())
        return tuple(found)


def _unary(*operators: str, low: float = -1.0, high: float = 1.0) -> list[GradientCase]:
    return [GradientCase(f"y = {operator} (a)", low=low, high=high) for operator in operators]


_PAIR = ((2, 3), (2, 3))
_BROADCAST = ((2, 1, 3), (4, 1))

ELEMENTWISE = [
    *_unary(
        "Abs", "Atan", "Asinh", "Cos", "Cosh", "Erf", "Exp", "Neg", "Relu", "Sigmoid", "Sin", "Sinh", "Tan", "Tanh"
    ),
    *_unary("Acos", "Asin", "Atanh", low=-0.9, high=0.9),
    *_unary("Acosh", low=1.1, high=3.0),
    *_unary("Log", "Reciprocal", "Sqrt", low=0.3, high=2.0),
    *[GradientCase(f"y = {op} (a, b)", _BROADCAST) for op in ("Add", "Mul", "Sub")],
    *[GradientCase(f"y = {op} (a, b, c)", (*_PAIR, (1, 3))) for op in ("Mean", "Sum")],
    *[GradientCase(f"y = {op} (a, b)", ((2, 3), (3,))) for op in ("Max", "Min")],
    GradientCase("y = Div (a, b)", _BROADCAST, low=0.3, high=2.0),
    GradientCase("y = Pow (a, b)", _BROADCAST, low=0.3, high=2.0),
    GradientCase("y = Pow (a, e)", ((2, 3),), "float e = {3}"),
    GradientCase("y = Pow (a, e)", ((2, 3),), "int64[3] e = {1, 2, 3}"),
    GradientCase("y = Mod <fmod = 1> (a, k)", ((2, 3),), "float k = {0.7}", low=0.75, high=1.35),
    GradientCase("y = Where (m, a, b)", _BROADCAST, "bool[4,3] m = {1,0,1,0,1,0,1,1,0,0,1,0}"),
]

CONVERSION = [
    GradientCase("y = Cast <to = 11> (a)", outputs="double y"),
    GradientCase("y = CastLike (a, k)", constants="double k = {1}", outputs="double y"),
    *_unary("Dropout", "Identity"),
]

_REDUCED = ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")
_RUNNING = ("<exclusive = 1>", "<reverse = 1>", "<exclusive = 1, reverse = 1>")

REDUCTIONS = [
    *[GradientCase(f"y = {op} (a, x)", ((2, 3, 2),), "int64[2] x = {0, -1}") for op in (*_REDUCED, "ReduceSumSquare")],
    *[GradientCase(f"y = {op} <axes = [1], keepdims = 0> (a)", opset=12) for op in (*_REDUCED, "ReduceSum")],
    GradientCase("y = ReduceSum (a)"),
    GradientCase("y = ReduceLogSum (a, x)", ((2, 3),), "int64[1] x = {1}", low=0.3, high=2.0),
    GradientCase("y, z = TopK <axis = 0> (a, k)", ((4, 3),), "int64[1] k = {2}", outputs="float y, int64 z"),
    GradientCase("y = CumSum (a, x)", ((2, 3),), "int64 x = {1}"),
    *[GradientCase(f"y = CumSum {settings} (a, x)", ((2, 3),), "int64 x = {-1}") for settings in _RUNNING],
]

SHAPING = [
    GradientCase("y = Concat <axis = -1> (a, b)", ((2, 3), (2, 1))),
    GradientCase("y = DepthToSpace <blocksize = 2> (a)", ((1, 8, 2, 3),)),
    GradientCase('y = DepthToSpace <blocksize = 2, mode = "CRD"> (a)', ((1, 8, 2, 3),)),
    GradientCase("y = SpaceToDepth <blocksize = 2> (a)", ((1, 2, 4, 6),)),
    GradientCase("y = Expand (a, s)", ((2, 1),), "int64[3] s = {3, 1, 4}"),
    GradientCase("y = Flatten <axis = 2> (a)", ((2, 1, 3),)),
    GradientCase("y = Reshape (a, s)", ((2, 3, 2),), "int64[2] s = {0, -1}"),
    GradientCase(
        "y = Slice (a, s, e, x, t)",
        ((4, 5),),
        "int64[2] s = {-1, 1}, int64[2] e = {-9223372036854775808, 9223372036854775807}, int64[2] x = {0, 1}, int64[2] t = {-2, 3}",
    ),
    GradientCase("y = Slice <starts = [1], ends = [-1], axes = [1]> (a)", ((2, 5),), opset=9),
    GradientCase("y, z = Split <axis = 1> (a, s)", ((2, 5),), "int64[2] s = {2, 3}", outputs="float y, float z"),
    GradientCase("y, z = Split <axis = 1, num_outputs = 2> (a)", ((2, 5),), outputs="float y, float z"),
    GradientCase("y = Squeeze (a, x)", ((2, 1, 3),), "int64[1] x = {-2}"),
    GradientCase("y = Tile (a, t)", ((2, 3),), "int64[2] t = {2, 3}"),
    GradientCase("y = Transpose (a)", ((2, 3, 1),)),
    GradientCase("y = Transpose <perm = [1, 0, 2]> (a)", ((2, 3, 1),)),
    GradientCase("y = Unsqueeze (a, x)", ((2, 3),), "int64[2] x = {0, -1}"),
]

_WRITES = [
    GradientCase(
        f'y = ScatterElements <axis = 1, reduction = "{how}"> (a, i, b)',
        ((2, 4), (2, 2)),
        "int64[2,2] i = {0, -1, 2, 1}",
        low=0.3,
    )
    for how in ("none", "add", "mul", "max", "min")
] + [
    GradientCase(f'y = ScatterND <reduction = "{how}"> (a, i, b)', ((4, 3), (2, 3)), "int64[2,1] i = {-1, 1}", low=0.3)
    for how in ("none", "add", "mul", "max", "min")
]

INDEXING = [
    GradientCase("y = Compress <axis = 1> (a, m)", ((2, 3),), "bool[3] m = {1, 0, 1}"),
    GradientCase("y = Gather <axis = 1> (a, i)", ((2, 4),), "int64[2,2] i = {0, -1, 1, 1}"),
    GradientCase("y = Gather (a, i)", ((4, 3),), "int64 i = {-2}"),
    GradientCase("y = GatherElements <axis = 1> (a, i)", ((2, 4),), "int64[2,3] i = {0, -1, 1, 1, 2, -2}"),
    GradientCase("y = GatherND <batch_dims = 1> (a, i)", ((2, 3, 2),), "int64[2,1] i = {0, -1}"),
    GradientCase("y = OneHot (i, d, a)", ((2,),), "int64[3] i = {0, -1, 2}, int64 d = {4}"),
    GradientCase("y = ReverseSequence (a, n)", ((3, 2),), "int64[2] n = {2, 3}"),
    GradientCase("y = Scatter (a, i, b)", ((3, 3), (1, 2)), "int64[1,2] i = {2, 0}", opset=10),
    *_WRITES,
]

OLD_FORMS = [
    GradientCase("y = Squeeze <axes = [1]> (a)", ((2, 1, 3, 1),), opset=11),
    GradientCase("y = Squeeze (a)", ((2, 1, 3, 1),), opset=9),
    GradientCase("y = Unsqueeze <axes = [0, 3]> (a)", ((2, 3),), opset=11),
    GradientCase("y, z = Split <axis = 1, split = [2, 3]> (a)", ((2, 5),), opset=11, outputs="float y, float z"),
    GradientCase("y, z = Split <axis = 1> (a)", ((2, 4),), opset=11, outputs="float y, float z"),
    GradientCase("y, z = TopK <axis = 1, k = 2> (a)", ((2, 4),), opset=9, outputs="float y, int64 z"),
    GradientCase("y = Slice <starts = [-4], ends = [100]> (a)", ((6, 2),), opset=9),
    GradientCase("y = Dropout <ratio = 0.3> (a)", opset=7),
    GradientCase("y = Dropout <ratio = 0.3> (a)", opset=10),
    GradientCase("y = Mean (a, b)", _PAIR, opset=7),
    GradientCase("y = Pow (a, b)", _PAIR, low=0.3, high=2.0, opset=7),
    GradientCase("y = DepthToSpace <blocksize = 2> (a)", ((1, 8, 2, 3),), opset=10),
    GradientCase("y = CumSum (a, x)", ((2, 3),), "int64[1] x = {1}", opset=11),
]

GENERATING = [
    GradientCase("y = Trilu (a)", ((3, 3),)),
    GradientCase("y = Trilu <upper = 0> (a, k)", ((3, 4),), "int64 k = {-1}"),
]

GRADIENTS = [*ELEMENTWISE, *CONVERSION, *REDUCTIONS, *SHAPING, *INDEXING, *GENERATING, *OLD_FORMS]
"""The cases of all families."""

NO_GRADIENT = frozenset(
    {"And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Equal", "Greater", "GreaterOrEqual"}
    | {"IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor", "ArgMax", "ArgMin", "NonZero", "Unique"}
    | {"Ceil", "Floor", "Round", "Sign", "Bernoulli", "ConstantOfShape", "EyeLike", "Multinomial", "Range"}
    | {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators whose result has no gradient, or zero everywhere."""
