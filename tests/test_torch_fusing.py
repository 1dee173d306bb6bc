from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402

from quantonnx.torch import from_onnx  # noqa: E402

torch.set_num_threads(1)
ort.set_default_logger_severity(4)

NUMBERS = """float q = {1.4142135}, float r = {0.70710677}, float one = {1}, float half = {0.5}, float p = {3},
    float c = {0.044715}, float g = {0.7978846}, float zero = {0}, float six = {6}"""
ACTIVATIONS = {
    "erf, divided": "i = Div (x, q) e = Erf (i) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
    "erf, halved first": "m = Mul (half, x) i = Mul (x, r) e = Erf (i) a = Add (one, e) y = Mul (m, a)",
    "erf, halved last": "i = Div (x, q) e = Erf (i) a = Add (e, one) m = Mul (a, half) y = Mul (x, m)",
    "tanh": """i = Pow (x, p) j = Mul (i, c) k = Add (x, j) l = Mul (k, g) t = Tanh (l) a = Add (t, one)
        m = Mul (x, half) y = Mul (m, a)""",
    "silu": "i = Sigmoid (x) y = Mul (x, i)",
    "hard swish": "i = HardSigmoid <alpha = 0.16666667> (x) y = Mul (i, x)",
    "hard swish, in parts": "i = Add (x, p) j = Clip (i, zero, six) m = Mul (x, j) y = Div (m, six)",
}
DIFFERENT = {
    "another number": "i = Div (x, q) e = Erf (i) a = Add (e, p) m = Mul (x, a) y = Mul (m, half)",
    "another value": "i = Sigmoid (x) j = Mul (x, p) y = Mul (j, i)",
    "another slope": "i = HardSigmoid <alpha = 0.2> (x) y = Mul (i, x)",
    "divided by itself": "i = Div (q, x) e = Erf (i) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
}


def model_of(nodes: str, inputs: str = "float[4,5] x", outputs: str = "float[] y", more: str = "") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 17]> one ({inputs}) => ({outputs}) <{NUMBERS}{more}> {{ {nodes} }}'
    model = onnx.parser.parse_model(text)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 3


def expected(model: onnx.ModelProto, **inputs: torch.Tensor) -> list[torch.Tensor]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(map(torch.from_numpy, session.run(None, {name: x.numpy() for name, x in inputs.items()})))


def kept(module: torch.nn.Module, *inputs: torch.Tensor) -> int:
    """Returns how many tensors a forward pass stores for the gradient."""
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: stored.append(value), lambda value: value):
        module(*inputs)
    return len(stored)


@pytest.mark.parametrize("nodes", [*ACTIVATIONS.values(), *DIFFERENT.values()])
def test_results_are_those_of_onnxruntime(nodes):
    x = values(4, 5)
    torch.testing.assert_close(from_onnx(model_of(nodes))(x), expected(model_of(nodes), x=x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nodes", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_an_activation_keeps_nothing_but_its_input(nodes):
    assert kept(from_onnx(model_of(nodes)), values(4, 5).requires_grad_()) == 1


@pytest.mark.parametrize("nodes", DIFFERENT.values(), ids=DIFFERENT)
def test_what_computes_something_else_stays_apart(nodes):
    assert kept(from_onnx(model_of(nodes)), values(4, 5).requires_grad_()) > 1


def test_a_value_inside_is_there_for_who_asks():
    x, nodes = values(4, 5), ACTIVATIONS["erf, divided"]
    result, inside = from_onnx(model_of(nodes)).collect(["e", "m"], x)
    wanted = expected(model_of(nodes, outputs="float[] y, float[] e, float[] m"), x=x)
    for found, value in zip((result, inside["e"], inside["m"]), wanted, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)


def test_an_output_of_the_graph_is_not_hidden():
    model = model_of(ACTIVATIONS["silu"], outputs="float[] y, float[] i")
    x = values(4, 5)
    for found, value in zip(from_onnx(model)(x), expected(model, x=x), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)


WEIGHTS = ", float[5,2] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, float[2] b = {0.5, -1}, float[4,1] d = {1, 2, 3, 4}"


@pytest.mark.parametrize(
    "nodes",
    [
        "m = MatMul (x, w) y = Add (m, b)",
        "m = MatMul (x, w) k = Identity (b) y = Add (k, m)",
        "m = MatMul (x, w) y = Add (m, d)",
        "m = MatMul (x, w) n = Add (m, b) y = Add (n, m)",
    ],
)
def test_a_bias_is_added_by_the_product(nodes):
    model, x = model_of(nodes, more=WEIGHTS), values(4, 5)
    module = from_onnx(model)
    torch.testing.assert_close(module(x).detach(), expected(model, x=x)[0], rtol=1e-5, atol=1e-5)
    module(x).sum().backward()
    assert {name for name, value in module.named_parameters() if value.grad is not None} >= {"w"}


def test_parameters_of_a_fused_layer_get_gradients():
    module = from_onnx(model_of("m = MatMul (x, w) y = Add (m, b)", more=WEIGHTS))
    module(values(4, 5)).sum().backward()
    assert dict(module.named_parameters())["b"].grad.tolist() == [4, 4]
