from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402

from quantonnx.torch import from_onnx  # noqa: E402
from quantonnx.torch.operators import fused, fused_attention  # noqa: E402

torch.set_num_threads(1)
ort.set_default_logger_severity(4)

SAME = (2, 5, 8)
ATTENTION = "num_heads = 2"
FUSED = {
    "Gelu (a)": (SAME,),
    "BiasGelu (a, b)": (SAME, (8,)),
    "FastGelu (a)": (SAME,),
    "FastGelu (a, b)": (SAME, (8,)),
    "QuickGelu <alpha = 1.3> (a)": (SAME,),
    "SkipLayerNormalization <epsilon = 0.00001> (a, b, c, d, e)": (SAME, SAME, (8,), (8,), (8,)),
    "SkipSimplifiedLayerNormalization (a, b, c)": (SAME, SAME, (8,)),
    "EmbedLayerNormalization (i, , a, b, , c, d)": ((9, 8), (5, 8), (8,), (8,)),
    "FusedMatMul <alpha = 0.7, transA = 1> (a, b)": ((2, 3, 4), (2, 3, 5)),
    "FusedMatMul <transB = 1, transBatchA = 1> (a, b)": ((3, 2, 4), (2, 5, 4)),
    'FusedGemm <activation = "LeakyRelu", activation_alpha = 0.2> (a, b, c)': ((3, 4), (4, 5), (5,)),
    'FusedConv <activation = "HardSigmoid", activation_params = [0.3, 0.4]> (a, b, c)': (
        (1, 2, 5, 5),
        (3, 2, 3, 3),
        (3,),
    ),
    'FusedConv <activation = "Relu"> (a, b, c, d)': ((1, 2, 5, 5), (3, 2, 3, 3), (3,), (1, 3, 3, 3)),
    f"Attention <{ATTENTION}> (a, b, c)": (SAME, (8, 24), (24,)),
    f"Attention <{ATTENTION}, unidirectional = 1> (a, b, c, m)": (SAME, (8, 24), (24,)),
    f"MultiHeadAttention <{ATTENTION}> (a, b, c)": (SAME, (2, 7, 8), (2, 7, 8)),
    f"MultiHeadAttention <{ATTENTION}, unidirectional = 1> (a, b, c, d, m, e)": (SAME, SAME, SAME, (24,), (1, 2, 5, 5)),
    "RotaryEmbedding (a, p, b, c)": ((2, 5, 16), (9, 4), (9, 4)),
    "RotaryEmbedding <interleaved = 1> (a, p, b, c)": ((2, 2, 5, 8), (9, 4), (9, 4)),
}
CONSTANTS = "int32[2,3] i = {0, 3, 8, 2, 4, 1}, int32[2,5] m = {1,1,1,0,0,1,1,1,1,1}, int64[1] p = {3}"
OUTPUTS = {"EmbedLayerNormalization": "y, z"}


def model_of(node: str) -> onnx.ModelProto:
    inputs = ", ".join(f"float[{','.join(map(str, shape))}] {'abcde'[i]}" for i, shape in enumerate(FUSED[node]))
    outputs = OUTPUTS.get(node.split()[0], "y")
    header = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>'
    text = f"{header} one ({inputs}) => (float[] y) <{CONSTANTS}> {{ {outputs} = com.microsoft.{node} }}"
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def inputs_of(node: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(shape, generator=generator) * 2 - 1 for shape in FUSED[node]]


@pytest.mark.parametrize("node", FUSED)
def test_results_are_those_of_onnxruntime(node):
    inputs = inputs_of(node)
    session = ort.InferenceSession(model_of(node).SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(["y"], {"abcde"[i]: x.numpy() for i, x in enumerate(inputs)})[0]
    torch.testing.assert_close(
        from_onnx(model_of(node))(*inputs).detach(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("node", FUSED)
def test_gradients_are_those_of_finite_differences(node):
    module = from_onnx(model_of(node)).double()
    assert torch.autograd.gradcheck(module, [x.double().requires_grad_() for x in inputs_of(node)], fast_mode=True)


def test_weights_of_four_bits_are_unpacked():
    text = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
    one (float[3,32] a, uint8[6,2,8] b, float[12] s, uint8[6] z) => (float[3,6] y) {
        y = com.microsoft.MatMulNBits <K = 32, N = 6, bits = 4, block_size = 16> (a, b, s, z) }"""
    generator = torch.Generator().manual_seed(3)
    packed, zeros = (
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for shape in ((6, 2, 8), (6,))
    )
    inputs = torch.rand(3, 32, generator=generator), packed, torch.rand(12, generator=generator) / 10, zeros
    model = onnx.parser.parse_model(text)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {name: x.numpy() for name, x in zip("absz", inputs, strict=True)})[0]
    torch.testing.assert_close(from_onnx(model)(*inputs), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_every_operator_is_checked():
    known = {f"com.microsoft.{node.split()[0]}" for node in FUSED}
    assert known >= fused.OPERATORS.keys() | fused_attention.OPERATORS.keys()
