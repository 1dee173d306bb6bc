from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402

from quantonnx.errors import ModelError  # noqa: E402
from quantonnx.torch import from_onnx  # noqa: E402
from quantonnx.torch.operators import quantized_layers  # noqa: E402

torch.set_num_threads(1)
ort.set_default_logger_severity(4)


def parsed(text: str, opset: int = 21) -> onnx.ModelProto:
    domains = f'"": {opset}, "com.microsoft": 1'
    return onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{domains}]> one {text}")


def agree(model: onnx.ModelProto, *inputs: torch.Tensor, within: float = 0.0, steps: int = 0) -> None:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {value.name: x.numpy() for value, x in zip(session.get_inputs(), inputs, strict=True)}
    found = from_onnx(model)(*inputs)
    for one, other in zip(session.run(None, feeds), found if isinstance(found, tuple) else (found,), strict=True):
        assert np.asarray(one).dtype == other.detach().numpy().dtype
        torch.testing.assert_close(
            other.detach().double(), torch.from_numpy(one).double(), rtol=within, atol=within + steps
        )


def values(*shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return low + (high - low) * torch.rand(shape, generator=generator)


PAIR = """(float[2,4] x) => (float[4,2] y) <float s = {0.1}, int8 z = {3}> {
    q = QuantizeLinear (x, s, z) t = Transpose (q) y = DequantizeLinear (t, s, z) }"""


def test_gradients_pass_a_pair_where_nothing_is_clipped():
    module, x = from_onnx(parsed(PAIR)), torch.tensor([[-20.0, -1, 0, 0.04], [0.06, 1, 12.3, 13]], requires_grad=True)
    module(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]


def test_a_scale_gets_the_gradient_of_learned_step_sizes():
    model = parsed("""(float[4] x, float s) => (float[4] y) <int8 z = {0}> {
        q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }""")
    x, scale = torch.tensor([0.26, -0.31, 14.0, -14.0]), torch.tensor(0.1, requires_grad=True)
    from_onnx(model)(x, scale).sum().backward()
    expected = (3 - 2.6) + (-3 + 3.1) + 127 - 128
    assert scale.grad.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "move", ["Transpose (q)", "Concat <axis = 0> (q, q)", "Gather (q, i)", "Reshape (q, r)", "Flatten (q)"]
)
def test_gradients_pass_what_moves_codes(move):
    model = parsed(f"""(float[2,2,2] x) => (float[] y) <float s = {{0.1}}, int8 z = {{3}}, int64[1] i = {{1}}, int64[1] r = {{-1}}> {{
        q = QuantizeLinear (x, s, z) m = {move} y = DequantizeLinear (m, s, z) }}""")
    x = values(2, 2, 2).requires_grad_()
    from_onnx(model)(x).sum().backward()
    assert x.grad.abs().sum() > 0
    agree(model, x.detach(), within=1e-6)


def test_gradients_pass_codes_that_are_split():
    model = parsed("""(float[2,4] x) => (float[2,2] y, int8[2,2] w) <float s = {0.1}, int8 z = {3}> {
        q = QuantizeLinear (x, s, z) v, w = Split <axis = 1, num_outputs = 2> (q) y = DequantizeLinear (v, s, z) }""")
    x = values(2, 4).requires_grad_()
    from_onnx(model)(x)[0].sum().backward()
    assert x.grad.tolist() == [[1, 1, 0, 0]] * 2
    agree(model, x.detach(), within=1e-6)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16"])
def test_codes_of_a_graph_are_integers_of_their_type(kind):
    text = (
        f"(float[2,4] x) => ({kind}[2,4] q) <float s = {{0.01}}, {kind} z = {{3}}> {{ q = QuantizeLinear (x, s, z) }}"
    )
    agree(parsed(text), values(2, 4, low=-4, high=4))


def test_codes_that_integer_operators_read_are_integers():
    model = parsed("""(float[2,4] x) => (int8[2,4] y, float[2,4] w) <float s = {0.1}, int8 z = {3}> {
        q = QuantizeLinear (x, s, z) y = Max (q, z) w = DequantizeLinear (q, s, z) }""")
    agree(model, values(2, 4))


FORMATS = {
    "tensor": ("float s = {0.02}, uint8 z = {120}", "", 13),
    "axis": ("float[4] s = {0.02, 0.1, 0.3, 0.01}, int8[4] z = {0, 5, -3, 2}", "<axis = 1>", 13),
    "blocks": ("float[2,2] s = {0.02, 0.1, 0.3, 0.01}, int8[2,2] z = {0, 5, -3, 2}", "<axis = 1, block_size = 2>", 21),
    "16 bits": ("float s = {0.0001}, int16 z = {12}", "", 21),
}


@pytest.mark.parametrize("name", FORMATS)
def test_pairs_are_those_of_onnxruntime(name):
    numbers, settings, opset = FORMATS[name]
    model = parsed(f"""(float[2,4] x) => (float[2,4] y) <{numbers}> {{
        q = QuantizeLinear {settings} (x, s, z) y = DequantizeLinear {settings} (q, s, z) }}""", opset)  # fmt: skip
    agree(model, values(2, 4, low=-2, high=3), within=1e-6)


def test_four_bits_clip_at_their_ends():
    model = parsed("""(float[6] x) => (float[6] y) <float s = {0.5}> {
        q = QuantizeLinear <output_dtype = 22> (x, s) y = DequantizeLinear (q, s) }""", 23)  # fmt: skip
    assert from_onnx(model)(torch.tensor([-9, -4, -0.3, 0.25, 3.5, 9])).tolist() == [-4, -4, -0.5, 0, 3.5, 3.5]


def test_float8_rounds_to_its_nearest_value():
    model = parsed("""(float[4] x) => (float[4] y) <float s = {1}> {
        q = QuantizeLinear <output_dtype = 17> (x, s) y = DequantizeLinear (q, s) }""", 23)  # fmt: skip
    x = torch.tensor([1.05, 17.1, -1000.0, 0.3], requires_grad=True)
    y = from_onnx(model)(x)
    y.sum().backward()
    assert y.tolist() == [1.0, 18.0, -448.0, 0.3125]
    assert x.grad.tolist() == [1, 1, 0, 1]


def test_gradients_pass_a_product_of_dynamic_codes():
    model = parsed("""(float[3,4] x) => (float[3,2] y) <int8[4,2] w = {1, -2, 3, 4, -5, 6, 7, 8}, int8 wz = {0}, float ws = {0.1}> {
        q, s, z = DynamicQuantizeLinear (x) p = MatMulInteger (q, w, z, wz) f = Cast <to = 1> (p)
        t = Mul (s, ws) y = Mul (f, t) }""")
    x = values(3, 4).requires_grad_()
    agree(model, x.detach(), within=1e-5)
    from_onnx(model)(x).sum().backward()
    weight = torch.tensor([[1, -2], [3, 4], [-5, 6], [7, 8]]).sum(1) * 0.1
    inner = x.grad[0] - weight
    assert inner.abs().max() < 0.5


INTEGERS = {
    "MatMulInteger": """(uint8[3,4] a, int8[4,2] b) => (int32[3,2] y) <uint8 z = {3}, int8[2] w = {1, -2}> {
        y = MatMulInteger (a, b, z, w) }""",
    "ConvInteger": """(uint8[1,2,5,5] a, int8[3,2,3,3] b) => (int32[1,3,5,5] y) <uint8 z = {7}> {
        y = ConvInteger <pads = [1, 1, 1, 1]> (a, b, z) }""",
    "QLinearMatMul": """(uint8[3,4] a, int8[4,2] b) => (uint8[3,2] y)
        <float s = {0.02}, uint8 z = {120}, float t = {0.01}, int8 w = {0}, float u = {0.05}, uint8 v = {128}> {
        y = QLinearMatMul (a, s, z, b, t, w, u, v) }""",
    "QLinearConv": """(uint8[1,2,5,5] a, int8[3,2,3,3] b) => (uint8[1,3,3,3] y)
        <float s = {0.02}, uint8 z = {120}, float[3] t = {0.01, 0.02, 0.03}, int8[3] w = {0, 0, 0}, float u = {0.5},
         uint8 v = {128}, int32[3] c = {100, -200, 30}> { y = QLinearConv (a, s, z, b, t, w, u, v, c) }""",
}


@pytest.mark.parametrize("operator", INTEGERS)
def test_products_of_integers_are_exact(operator):
    shapes = ((1, 2, 5, 5), (3, 2, 3, 3)) if "Conv" in operator else ((3, 4), (4, 2))
    a, b = values(*shapes[0], low=0, high=255).to(torch.uint8), values(*shapes[1], low=-127, high=127).to(torch.int8)
    agree(parsed(INTEGERS[operator], 17), a, b)


NUMBERS = """float s = {0.02}, uint8 z = {120}, float t = {0.03}, uint8 w = {100}, float u = {0.05}, uint8 v = {128},
    float k = {0.004}, uint8 o = {0}, int8[4,2] g = {1, -2, 3, 4, -5, 60, 70, 8}, int8 h = {0}, float[2] r = {0.5, 1},
    int32[2] c = {100, -200}"""
LAYERS = {
    "QLinearAdd (a, s, z, b, t, w, u, v)": "uint8",
    "QLinearMul (a, s, z, b, t, w, u, v)": "uint8",
    "QLinearSigmoid (a, s, z, k, o)": "uint8",
    "QLinearLeakyRelu <alpha = 0.2> (a, s, z, t, w)": "uint8",
    "QLinearSoftmax <axis = 1, opset = 11> (a, s, z, k, o)": "uint8",
    "QLinearSoftmax <axis = 2, opset = 13> (a, s, z, k, o)": "uint8",
    "QLinearGlobalAveragePool (a, s, z, t, w)": "uint8",
    "QLinearAveragePool <kernel_shape = [2, 3], pads = [1, 0, 0, 1]> (a, s, z, t, w)": "uint8",
    "QLinearConcat <axis = 1> (u, v, a, s, z, b, t, w)": "uint8",
    "QGemm (m, s, z, g, t, h, c, u, v)": "uint8",
    "QGemm <alpha = 0.5> (m, s, z, g, t, h, c)": "float",
    "MatMulIntegerToFloat (m, g, s, t, z, h, r)": "float",
    "DynamicQuantizeMatMul (f, g, t, h, r)": "float",
}


@pytest.mark.parametrize("node", LAYERS)
def test_layers_of_codes_are_within_one_step(node):
    text = f"(uint8[1,2,4,4] a, uint8[1,2,4,4] b, uint8[3,4] m, float[3,4] f) => ({LAYERS[node]}[] y)"
    model = parsed(f"{text} <{NUMBERS}> {{ y = com.microsoft.{node} }}", 17)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    codes = (values(*shape, low=0, high=255).to(torch.uint8) for shape in ((1, 2, 4, 4), (1, 2, 4, 4), (3, 4)))
    agree(model, *codes, values(3, 4), within=1e-5, steps=int(LAYERS[node] == "uint8"))


def test_every_layer_of_codes_is_checked():
    assert {f"com.microsoft.{node.split()[0]}" for node in LAYERS} == quantized_layers.OPERATORS.keys()


def test_codes_that_are_no_integers_are_refused():
    model = parsed("(float[2] x, float s, float z) => (float[2] y) { y = QuantizeLinear (x, s, z) }")
    with pytest.raises(ModelError, match=r"QuantizeLinear \(codes of type float32\)"):
        from_onnx(model)
