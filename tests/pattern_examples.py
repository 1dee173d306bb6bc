"""Small models for every shipped pattern, in all the forms that it takes: `EXAMPLES[pattern][form]` is ONNX text.

A model is a chain of stages. `{i}` in a stage stands for the value that enters it, `{o}` for the one that it gives;
the last one gives `y`.
"""

from __future__ import annotations

from transformer_examples import GELU_NUMBERS, GELUS, TRANSFORMERS

RELUS = {
    "relu": "{o} = Relu({i})",
    "clip": "{o} = Clip({i}, zero, six)",
    "clip_high": "{o} = Clip({i}, , six)",
}
ACTIVATIONS = {
    **RELUS,
    "leaky": "{o} = LeakyRelu<alpha=0.1>({i})",
    "sigmoid": "{o} = Sigmoid({i})",
    "hardswish": "{o} = HardSwish({i})",
    "hardsigmoid": "{o} = HardSigmoid({i})",
    "tanh": "{o} = Tanh({i})",
    "elu": "{o} = Elu({i})",
    "prelu": "{o} = PRelu({i}, slope)",
    "silu": "{o}_g = Sigmoid({i}) {o} = Mul({i}, {o}_g)",
    "hard_silu": "{o}_g = HardSigmoid({i}) {o} = Mul({o}_g, {i})",
}
_OTHERS = {name: text for name, text in ACTIVATIONS.items() if name not in RELUS}
_BN = "{o} = BatchNormalization<epsilon=0.01>({i}, gamma, beta, mean, variance)"
_ADD, _ADD_TO = "{o} = Add({i}, r)", "{o} = Add(r, {i})"

# how the weight is shaped, the number of output channels, the node
CONVOLUTIONS = {
    "plain": ("4,3,3,3", 4, "{o} = Conv<pads=[1,1,1,1]>({i}, w)"),
    "bias": ("4,3,3,3", 4, "{o} = Conv<pads=[1,1,1,1]>({i}, w, b)"),
    "strided": ("4,3,3,3", 4, "{o} = Conv<pads=[1,1,1,1], strides=[2,2]>({i}, w, b)"),
    "pointwise": ("4,3,1,1", 4, "{o} = Conv({i}, w)"),
    "depthwise": ("3,1,3,3", 3, "{o} = Conv<group=3>({i}, w, b)"),
    "grouped": ("6,1,3,3", 6, "{o} = Conv<group=3>({i}, w)"),
    "transposed": ("3,4,2,2", 4, "{o} = ConvTranspose<strides=[2,2]>({i}, w, b)"),
    "transposed_grouped": ("3,2,2,2", 6, "{o} = ConvTranspose<strides=[2,2], group=3>({i}, w)"),
}
LINEARS = {
    "gemm": "{o} = Gemm({i}, w)",
    "gemm_bias": "{o} = Gemm({i}, w, b)",
    "gemm_trans_b": "{o} = Gemm<transB=1>({i}, wt, b)",
    "matmul": "{o} = MatMul({i}, w)",
    "matmul_add": "{o}_m = MatMul({i}, w) {o} = Add({o}_m, b)",
    "matmul_add_swapped": "{o}_m = MatMul({i}, w) {o} = Add(b, {o}_m)",
}


def chain(*stages: str) -> str:
    """Returns the nodes of a chain from `x` to `y`."""
    names = ["x", *(f"v{i}" for i in range(1, len(stages))), "y"]
    return " ".join(text.format(i=i, o=o) for text, i, o in zip(stages, names, names[1:], strict=False))


def convolution(kind: str, *tail: str) -> str:
    """Returns a convolution of that kind with a tail of stages; `r` is a skip branch that broadcasts."""
    shape, c, conv = CONVOLUTIONS[kind]
    weights = f"float[{shape}] w, float[{c}] b, float[{c}] gamma, float[{c}] beta, float[{c}] mean, float[{c}] variance"
    scalars = f"float zero = {{0}}, float six = {{6}}, float[{c},1,1] slope"
    head = f"agraph (float[2,3,6,6] x, float[1,{c},1,1] r) => (float[N,{c},H,W] y) <{weights}, {scalars}>"
    return f"{head} {{ {chain(conv, *tail)} }}"


def linear(kind: str, *tail: str) -> str:
    """Returns a matrix product of that kind with a tail of stages."""
    weights = "float[3,4] w, float[4,3] wt, float[4] b, float zero = {0}, float six = {6}, float[4] slopes"
    return f"agraph (float[2,3] x) => (float[2,4] y) <{weights}, {GELU_NUMBERS}> {{ {chain(LINEARS[kind], *tail)} }}"


def _convolutions(*tail: str) -> dict[str, str]:
    plain = {kind: convolution(kind, *tail) for kind in CONVOLUTIONS}
    return plain | {f"{kind}_bn": convolution(kind, _BN, *tail) for kind in CONVOLUTIONS}


def _activated(
    activations: dict[str, str], *, before: tuple[str, ...] = (), after: tuple[str, ...] = ()
) -> dict[str, str]:
    first = next(iter(activations.values()))
    each = {name: convolution("bias", _BN, *before, act, *after) for name, act in activations.items()}
    return each | _convolutions(*before, first, *after)


def _linears(*tail: str) -> dict[str, str]:
    return {kind: linear(kind, *tail) for kind in LINEARS}


def _gate(activation: str, gate: str) -> str:
    excite = "{o} = Conv({i}, w2, b2)"
    nodes = chain(
        "{o} = GlobalAveragePool({i})", "{o} = Conv({i}, w1, b1)", activation, excite, gate, "{o} = Mul(x, {i})"
    )
    weights = "float[2,4,1,1] w1, float[2] b1, float[4,2,1,1] w2, float[4] b2, float zero = {0}, float six = {6}"
    return f"agraph (float[2,4,5,5] x) => (float[2,4,5,5] y) <{weights}, float[2,1,1] slope> {{ {nodes} }}"


def _two(nodes: str) -> str:
    scalars = "<float zero = {0}, float six = {6}>"
    return f"agraph (float[2,3,4,4] a, float[2,3,4,4] b) => (float[N,C,H,W] y) {scalars} {{ {nodes} }}"


def _one(nodes: str, constants: str = "") -> str:
    return f"agraph (float[2,3,4,4] x) => (float[N,C,H,W] y) {constants} {{ {nodes} }}"


_POOL = "{o} = MaxPool<kernel_shape=[2,2], strides=[2,2]>({i})"
_SCALES = "<float[4] scales = {1, 1, 2, 2}>"
_NEAREST = '<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">'

EXAMPLES: dict[str, dict[str, str]] = {
    "ConvBN": _convolutions(),
    "ConvBNRelu": _activated(RELUS),
    "ConvBNActivation": _activated(_OTHERS),
    "ConvBNAdd": _convolutions(_ADD) | {"swapped": convolution("bias", _BN, _ADD_TO)},
    "ConvBNAddRelu": _activated(ACTIVATIONS, before=(_ADD_TO,)),
    "ConvBNReluAdd": _activated(ACTIVATIONS, after=(_ADD_TO,)),
    "StemConvBNReluMaxPool": _activated(ACTIVATIONS, after=(_POOL,)),
    "SqueezeExcite": {
        f"{act}_{gate}": _gate(ACTIVATIONS[act], ACTIVATIONS[gate])
        for act, gate in (("relu", "sigmoid"), ("relu", "hardsigmoid"), ("silu", "sigmoid"))
    },
    "Linear": _linears(),
    "LinearActivation": _linears("{o} = Relu({i})")
    | {name: linear("gemm_bias", act.replace("slope", "slopes")) for name, act in ACTIVATIONS.items()}
    | {f"{name}_{kind}": linear(kind, act) for name, act in GELUS.items() for kind in ("gemm_bias", "matmul_add")},
    "AveragePool": {
        "global": _one("y = GlobalAveragePool(x)"),
        "windowed": _one("y = AveragePool<kernel_shape=[2,2]>(x)"),
    },
    "Add": {
        "plain": _two("y = Add(a, b)"),
        "relu": _two("s = Add(a, b) y = Relu(s)"),
        "clip": _two("s = Add(a, b) y = Clip(s, zero, six)"),
    },
    "Mul": {"plain": _two("y = Mul(a, b)")},
    "Sigmoid": {"plain": _one("y = Sigmoid(x)")},
    "Concat": {"two": _two("y = Concat<axis=1>(a, b)"), "twice": _two("y = Concat<axis=0>(a, b, a)")},
    "ResizeNearest": {
        "scales": _one(f"y = Resize{_NEAREST}(x, , scales)", _SCALES),
        "sizes": _one(f"y = Resize{_NEAREST}(x, , , sizes)", "<int64[4] sizes = {2, 3, 8, 8}>"),
    },
    **TRANSFORMERS,
}
