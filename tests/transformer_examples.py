"""Small models for the patterns of transformers, in the forms that exporters write: `TRANSFORMERS[pattern][form]`.

`{i}` in a stage stands for the value that enters it, `{o}` for the one that it gives.
"""

from __future__ import annotations

from math import pi, sqrt


def opset(version: int, graph: str, domain: str = "") -> str:
    """Returns the text of a whole model of that opset."""
    further = f', "{domain}": 1' if domain else ""
    return f'<ir_version: 10, opset_import: ["": {version}{further}]> {graph}'


# ------------------------------------------------------------------------------------ GELU

GELU_NUMBERS = ", ".join(
    f"float {name} = {{{value!r}}}"
    for name, value in {
        "half": 0.5,
        "one": 1.0,
        "two": 2.0,
        "three": 3.0,
        "root": sqrt(2),
        "inverse": 1 / sqrt(2),
        "slope": sqrt(2 / pi),
        "third": 0.044715,
        "quick": 1.702,
    }.items()
)
_ERF = "{o}_e = Erf({o}_d) {o}_a = Add({o}_e, one) "
_ERF_DIV, _ERF_MUL = "{o}_d = Div({i}, root) " + _ERF, "{o}_d = Mul({i}, inverse) " + _ERF
_LAST = "{o}_h = Mul({i}, {o}_a) {o} = Mul({o}_h, half)"
_FIRST = "{o}_h = Mul({i}, half) {o} = Mul({o}_h, {o}_a)"
_ON_GATE = "{o}_h = Mul({o}_a, half) {o} = Mul({i}, {o}_h)"
_TANH = "{o}_t = Tanh({o}_n) {o}_a = Add(one, {o}_t) "
_BRACKET = "{o}_k = Mul(third, {o}_c) {o}_s = Add({i}, {o}_k) {o}_n = Mul({o}_s, slope) " + _TANH
_SHORT = "{o}_s = Add(one, {o}_k) {o}_w = Mul({i}, slope) {o}_n = Mul({o}_w, {o}_s) " + _TANH

ERF_GELUS = {
    "erf_div": _ERF_DIV + _LAST,
    "erf_div_first": _ERF_DIV + _FIRST,
    "erf_mul": _ERF_MUL + _FIRST,
    "erf_mul_on_gate": _ERF_MUL + _ON_GATE,
}
TANH_GELUS = {
    "tanh_pow": "{o}_c = Pow({i}, three) " + _BRACKET + _FIRST,
    "tanh_cube": "{o}_q = Mul({i}, {i}) {o}_c = Mul({o}_q, {i}) " + _BRACKET + _LAST,
    "tanh_fast": "{o}_q = Mul({i}, third) {o}_k = Mul({o}_q, {i}) " + _SHORT + _ON_GATE,
    "tanh_short": "{o}_q = Pow({i}, two) {o}_k = Mul({o}_q, third) " + _SHORT + _FIRST,
    "tanh_slope_last": "{o}_q = Mul({i}, {i}) {o}_k = Mul({o}_q, third) {o}_s = Add({o}_k, one) "
    "{o}_w = Mul({i}, {o}_s) {o}_n = Mul({o}_w, slope) " + _TANH + _LAST,
}
GELUS = ERF_GELUS | TANH_GELUS


def activation(stage: str) -> str:
    """Returns a model of one activation."""
    return f"agraph (float[2,3,8] x) => (float[2,3,8] y) <{GELU_NUMBERS}> {{ {stage.format(i='x', o='y')} }}"


# ------------------------------------------------------------------------------------ norms

_CENTERED = "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) "
_VARIANCE = "q = Pow(c, two) s = ReduceMean<axes=[-1]>(q) e = Add(s, eps) "
_AFFINE = " g = Mul(n, gamma) y = Add(g, beta)"
_ROOT, _DIV = "r = Sqrt(e) ", "n = Div(c, r)"
LAYER_NORMS = {
    "plain": _CENTERED + _VARIANCE + _ROOT + _DIV + _AFFINE,
    "reciprocal": _CENTERED + _VARIANCE + _ROOT + "i = Reciprocal(r) n = Mul(c, i)" + _AFFINE,
    "one_over": _CENTERED + _VARIANCE + _ROOT + "i = Div(one, r) n = Mul(i, c)" + _AFFINE,
    "power": _CENTERED + _VARIANCE + "i = Pow(e, minus_half) n = Mul(c, i)" + _AFFINE,
    "product": _CENTERED + "q = Mul(c, c) s = ReduceMean<axes=[-1]>(q) e = Add(eps, s) " + _ROOT + _DIV + _AFFINE,
    "positive_axis": (_CENTERED + _VARIANCE).replace("-1", "2") + _ROOT + _DIV + _AFFINE,
    "two_differences": _CENTERED + "k = Sub(x, m) " + _VARIANCE.replace("(c", "(k") + _ROOT + _DIV + _AFFINE,
    "keras": _CENTERED
    + _VARIANCE
    + "r = Sqrt(e) i = Reciprocal(r) f = Mul(i, gamma) a = Mul(x, f) d = Mul(m, f) b = Sub(beta, d) y = Add(a, b)",
}
_UNSCALED = {
    "without_bias": _CENTERED + _VARIANCE + _ROOT + _DIV + " y = Mul(n, gamma)",
    "without_factors": _CENTERED + _VARIANCE + _ROOT + "y = Div(c, r)",
}
_SQUARES = "q = Pow(x, two) s = ReduceMean<axes=[-1]>(q) e = Add(s, eps) r = Sqrt(e) "
RMS_NORMS = {
    "plain": _SQUARES + "n = Div(x, r) y = Mul(gamma, n)",
    "reciprocal": _SQUARES + "i = Reciprocal(r) n = Mul(x, i) y = Mul(n, gamma)",
    "one_over": _SQUARES + "i = Div(one, r) n = Mul(x, i) y = Mul(n, gamma)",
    "power": "q = Mul(x, x) s = ReduceMean<axes=[-1]>(q) e = Add(s, eps) "
    "i = Pow(e, minus_half) n = Mul(x, i) y = Mul(n, gamma)",
}
_NUMBERS = "float eps = {1e-5}, float one = {1}, float two = {2}, float minus_half = {-0.5}"


def norm(nodes: str, *, version: int = 16, factors: str = "float[8] gamma, float[8] beta") -> str:
    """Returns a model of one norm over the last of three axes; from opset 18 on the axes are an input."""
    axes = ""
    if version >= 18:
        axes = ", int64[1] last = {-1}, int64[1] third_axis = {2}"
        for old, new in (("-1", "last"), ("2", "third_axis")):
            for value in ("x", "q"):
                nodes = nodes.replace(f"<axes=[{old}]>({value})", f"({value}, {new})")
    return opset(version, f"agraph (float[2,3,8] x) => (float[2,3,8] y) <{factors}, {_NUMBERS}{axes}> {{ {nodes} }}")


def half_precision_norm(nodes: str) -> str:
    """Returns a norm in float32 inside a model in float16, as it is exported from mixed precision."""
    numbers = f"float16[8] gamma, float16[8] beta, {_NUMBERS}"
    return opset(16, f"agraph (float16[2,3,8] x) => (float16[2,3,8] y) <{numbers}> {{ {nodes} }}")


_WIDE = (_CENTERED + _VARIANCE + _ROOT).replace("(x", "(w")
_HALVES = {
    "half": "w = Cast<to=1>(x) " + _WIDE + "k = Div(c, r) n = Cast<to=10>(k)" + _AFFINE,
}
_RMS_HALF = (
    "w = Cast<to=1>(x) "
    + _SQUARES.replace("(x", "(w")
    + "i = Reciprocal(r) k = Mul(w, i) n = Cast<to=10>(k) y = Mul(gamma, n)"
)

# ------------------------------------------------------------------------------------ attention

_PRODUCT, _SOFTMAX, _CONTEXT = "s = MatMul(q, k) ", "p = Softmax<axis=-1>({0}) ", "y = MatMul(p, v)"
_END = _SOFTMAX + _CONTEXT
ATTENTIONS = {
    "plain": _PRODUCT + _END.format("s"),
    "last_axis": _PRODUCT + "p = Softmax<axis=3>(s) " + _CONTEXT,
    "mul": _PRODUCT + "t = Mul(s, scale) " + _END.format("t"),
    "div_and_mask": _PRODUCT + "t = Div(s, scale) u = Add(t, mask) " + _END.format("u"),
    "where": _PRODUCT + "t = Mul(s, scale) u = Where(keep, t, low) " + _END.format("u"),
    "where_swapped": _PRODUCT + "u = Where(keep, low, s) " + _END.format("u"),
    "where_and_mask": _PRODUCT + "t = Div(s, scale) u = Where(keep, t, low) w = Add(mask, u) " + _END.format("w"),
    "without_nan": _PRODUCT + "u = Add(s, mask) f = Softmax<axis=-1>(u) n = IsNaN(f) p = Where(n, zero, f) " + _CONTEXT,
    "windows": _PRODUCT
    + "t = Add(s, bias) f = Reshape(t, five) u = Add(f, window_mask) b = Reshape(u, four) "
    + _END.format("b"),
    "transposed": _PRODUCT
    + "t = Mul(s, scale) p = Softmax<axis=-1>(t) z = Transpose<perm=[0,1,3,2]>(p) y = MatMul(w, z)",
}


def attention(nodes: str, *, tail: str = "") -> str:
    """Returns a model of one attention of two heads, 5 queries and 6 keys."""
    inputs = "float[2,2,5,4] q, float[2,2,4,6] k, float[2,2,6,4] v, float[2,1,5,6] mask, bool[2,1,5,6] keep"
    constants = (
        "float scale = {2}, float low = {-10000}, float zero = {0}, float[1,2,5,6] bias, "
        "float[1,1,2,5,6] window_mask, int64[5] five = {1, 2, 2, 5, 6}, int64[4] four = {-1, 2, 5, 6}"
    )
    if "w, z" in nodes:
        inputs = inputs.replace("float[2,2,6,4] v", "float[2,2,4,6] w")
    return f"agraph ({inputs}) => (float[A,B,C,D] y) <{constants}> {{ {nodes} {tail} }}"


_HALF_ATTENTION = (
    "agraph (float16[2,2,5,4] q, float16[2,2,4,6] k, float16[2,2,6,4] v) => (float16[A,B,C,D] y) {"
    "s = MatMul(q, k) c = Cast<to=1>(s) f = Softmax<axis=-1>(c) p = Cast<to=10>(f) y = MatMul(p, v) }"
)
_TOKENS = "float[2,3,8] q, float[2,4,8] k, float[2,4,8] v"
_OWN = "com.microsoft"

TRANSFORMERS: dict[str, dict[str, str]] = {
    "LayerNorm": {
        **{form: norm(nodes) for form, nodes in (LAYER_NORMS | _UNSCALED).items()},
        **{form: half_precision_norm(nodes) for form, nodes in _HALVES.items()},
        "operator": norm("y = LayerNormalization<axis=-1>(x, gamma, beta)", version=17),
    },
    "RMSNorm": {
        **{form: norm(nodes) for form, nodes in RMS_NORMS.items()},
        "half": half_precision_norm(_RMS_HALF),
        "operator": norm("y = RMSNormalization<axis=-1>(x, gamma)", version=23),
    },
    "FusedNorm": {
        "simplified": norm("y = SimplifiedLayerNormalization<axis=-1>(x, gamma)"),
        "skip": opset(
            17,
            "agraph (float[2,3,8] x, float[2,3,8] r) => (float[2,3,8] y) <float[8] gamma, float[8] beta> "
            f"{{ y = {_OWN}.SkipLayerNormalization(x, r, gamma, beta) }}",
            _OWN,
        ),
    },
    "LayerScale": {
        "plain": "agraph (float[2,3,8] x, float[2,3,8] r) => (float[2,3,8] y) <float[8] g> "
        "{ m = Mul(x, g) y = Add(m, r) }",
        "transposed": "agraph (float[2,4,4,8] x, float[2,8,4,4] r) => (float[2,8,4,4] y) <float[8] g> "
        "{ m = Mul(g, x) t = Transpose<perm=[0,3,1,2]>(m) y = Add(r, t) }",
        "image": "agraph (float[2,8,4,4] x, float[2,8,4,4] r) => (float[2,8,4,4] y) <float[1,8,1,1] g> "
        "{ m = Mul(x, g) y = Add(m, r) }",
    },
    "Gelu": {
        **{form: activation(stage) for form, stage in GELUS.items()},
        "operator": opset(20, activation("{o} = Gelu({i})")),
        "operator_tanh": opset(20, activation('{o} = Gelu<approximate="tanh">({i})')),
    },
    "QuickGelu": {"plain": activation("{o}_m = Mul({i}, quick) {o}_s = Sigmoid({o}_m) {o} = Mul({i}, {o}_s)")},
    "FusedGelu": {
        name: opset(17, activation(f"{{o}} = {_OWN}.{name}({{i}})"), _OWN) for name in ("Gelu", "FastGelu", "QuickGelu")
    },
    "ScaledDotProductAttention": {
        **{form: attention(nodes) for form, nodes in ATTENTIONS.items()},
        "half": _HALF_ATTENTION,
    },
    "AttentionOperator": {
        "plain": opset(
            23,
            f"agraph ({_TOKENS}) => (float[2,3,8] y) {{ y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v) }}",
        ),
    },
    "FusedAttention": {
        "plain": opset(
            17,
            f"agraph ({_TOKENS}) => (float[2,3,8] y) {{ y = {_OWN}.MultiHeadAttention<num_heads=2>(q, k, v) }}",
            _OWN,
        ),
    },
    "Embedding": {
        "plain": "agraph (int64[2,3] x) => (float[2,3,4] y) <float[9,4] table> { y = Gather(table, x) }",
    },
}
