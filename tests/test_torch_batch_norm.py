from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402

from quantonnx.torch import from_onnx  # noqa: E402

torch.set_num_threads(1)
ort.set_default_logger_severity(4)


def model_of(settings: str = "", outputs: str = "y", opset: int = 15, shape: str = "3") -> onnx.ModelProto:
    results = ", ".join(f"float[{'4,3,5' if name == 'y' else shape}] {name}" for name in outputs.split(", "))
    numbers = ", ".join(f"float[{shape}] {name}" for name in "sbmv")
    header = f'<ir_version: 8, opset_import: ["": {opset}]>'
    node = f"{outputs} = BatchNormalization {settings} (x, s, b, m, v)"
    return onnx.parser.parse_model(f"{header} one (float[4,3,5] x, {numbers}) => ({results}) {{ {node} }}")


def inputs_of(shape: tuple[int, ...] = (3,)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = (4, 3, 5), *[shape] * 4
    return [torch.rand(each, generator=generator) + 0.1 for each in shapes]


def expected(model: onnx.ModelProto, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: x.numpy() for name, x in zip("xsbmv", inputs, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feeds)]


@pytest.mark.parametrize(
    ("settings", "outputs", "opset", "shape"),
    [
        ("", "y", 9, (3,)),
        ("<epsilon = 0.1>", "y", 15, (3,)),
        ("<spatial = 0>", "y", 7, (3, 5)),
        ("<training_mode = 1, momentum = 0.8>", "y, o, p", 15, (3,)),
    ],
)
def test_values_are_those_of_onnxruntime(settings, outputs, opset, shape):
    model, inputs = model_of(settings, outputs, opset, ",".join(map(str, shape))), inputs_of(shape)
    found = from_onnx(model)(*inputs)
    for one, other in zip(expected(model, inputs), found if isinstance(found, tuple) else (found,), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_a_file_for_training_takes_running_statistics_when_frozen():
    inputs = inputs_of()
    module = from_onnx(model_of("<training_mode = 1>", "y, o, p"))
    for layer in module.modules():
        if hasattr(layer, "frozen"):
            layer.frozen = True
    torch.testing.assert_close(module(*inputs)[0], expected(model_of(), inputs)[0])
