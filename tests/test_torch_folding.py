from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from quantonnx.batch_norm_folds import BatchNormFold  # noqa: E402
from quantonnx.formats import TensorFormat, dequantize, quantize  # noqa: E402
from quantonnx.torch.fake_quantization import FakeQuantize  # noqa: E402
from quantonnx.torch.folding import FoldedConvolution  # noqa: E402
from quantonnx.torch.node import Call  # noqa: E402
from quantonnx.torch.schedule import disable_fake_quant, freeze_bn_stats  # noqa: E402
from quantonnx.torch.training_numbers import FollowingNumbers  # noqa: E402

torch.set_num_threads(1)
CASES = {
    "conv": (functional.conv2d, (4, 3, 3, 3), {"padding": 1, "stride": 2}, 1, 4),
    "depthwise": (functional.conv2d, (6, 1, 3, 3), {"groups": 6}, 6, 6),
    "conv1d": (functional.conv1d, (4, 3, 3), {}, 1, 4),
    "transposed": (functional.conv_transpose2d, (4, 3, 2, 2), {"stride": 2}, 1, 3),
    "grouped transposed": (functional.conv_transpose2d, (6, 2, 2, 2), {"stride": 2, "groups": 3}, 3, 6),
}
FORMAT = TensorFormat(n_bits=4, axis=0)


class Case:
    """The tensors of one convolution with its normalization, with a bias or without."""

    def __init__(self, name: str, *, bias: bool = True, dtype=torch.float32, momentum: float = 0.9) -> None:
        generator = torch.Generator().manual_seed(1)
        self.convolve, shape, self.settings, group, outputs = CASES[name]
        transposed = "transposed" in name
        channels = shape[0] if transposed else shape[1] * group
        made = [torch.randn(3, channels, *[5] * (len(shape) - 2), generator=generator) * 2 + 1]
        made += [torch.randn(shape, generator=generator)]
        made += [torch.randn(outputs, generator=generator) for _ in range(4)]
        made += [torch.rand(outputs, generator=generator) + 0.3]
        self.tensors = [each.to(dtype) for each in made]
        if not bias:
            self.tensors[2] = None
        constants = [None if t is None else gs.Constant(f"c{i}", t.numpy()) for i, t in enumerate(self.tensors[1:])]
        self.fold = BatchNormFold(*constants, epsilon=1e-3, momentum=momentum, group=group, transposed=transposed)

    def layer(self, quantizer: nn.Module | None = None) -> FoldedConvolution:
        return FoldedConvolution(Call(self.convolve, settings=self.settings), self.fold, quantizer)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        return self.fold.folded([None if t is None else t.detach().numpy() for t in self.tensors[1:]])

    def quantizer(self) -> FakeQuantize:
        weight = self.folded()[0]
        start = FORMAT.parameters(*FORMAT.extremes(weight))
        return FakeQuantize(FORMAT, FollowingNumbers(FORMAT, start, torch.from_numpy(weight)), batched=False)


def over_outputs(values, result):
    return values.reshape(1, -1, *[1] * (result.ndim - 2))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_in_evaluation_it_is_the_quantized_folded_convolution_to_the_bit(name, bias):
    case = Case(name, bias=bias)
    weight, shift = case.folded()
    start = FORMAT.parameters(*FORMAT.extremes(weight))
    codes = torch.from_numpy(dequantize(quantize(weight, start, FORMAT), start, FORMAT))
    expected = case.convolve(case.tensors[0], codes, torch.from_numpy(shift), **case.settings)
    layer = case.layer(case.quantizer())
    assert torch.equal(layer.eval()(*case.tensors), expected)
    freeze_bn_stats(layer)
    before = [case.tensors[5].clone(), case.tensors[6].clone()]
    assert torch.equal(layer.train()(*case.tensors), expected)
    assert all(map(torch.equal, before, case.tensors[5:]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_without_quantization_it_trains_as_convolution_and_normalization(name, bias):
    case, twin = Case(name, bias=bias), Case(name, bias=bias)
    layer = case.layer(case.quantizer())
    disable_fake_quant(layer)
    found = layer.train()(*case.tensors)
    x, weight, shift, gamma, beta, mean, variance = twin.tensors
    convolved = twin.convolve(x, weight, shift, **twin.settings)
    expected = functional.batch_norm(convolved, mean, variance, gamma, beta, True, 0.1, 1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(case.tensors[5:], twin.tensors[5:])


@pytest.mark.parametrize("name", CASES)
def test_in_training_the_result_is_set_right_to_the_statistics_of_the_batch(name):
    case = Case(name)
    layer = case.layer(case.quantizer())
    x, weight, bias, gamma, beta, _, variance = case.tensors
    convolved = case.convolve(x, weight, bias, **case.settings)
    others = [i for i in range(convolved.ndim) if i != 1]
    batch_variance, batch_mean = torch.var_mean(convolved, others, correction=0)
    found = layer.train()(*case.tensors)
    codes = layer.fake_quantize(torch.from_numpy(case.folded()[0]))  # with the running variance of now
    ratio = ((variance + 1e-3) / (batch_variance + 1e-3)).sqrt()
    expected = case.convolve(x, codes, None, **case.settings) * over_outputs(ratio, convolved)
    expected += over_outputs(beta + gamma * (bias - batch_mean) / (batch_variance + 1e-3).sqrt(), convolved)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["depthwise", "grouped transposed"])
def test_gradients_are_those_of_finite_differences(name, frozen):
    case = Case(
        name, dtype=torch.float64, momentum=1.0
    )  # running statistics that stay let it be called again and again
    layer = case.layer(nn.Tanh()).train()  # something smooth in the place of rounding
    layer.frozen = frozen
    trained = [tensor.requires_grad_() for tensor in case.tensors[:5]]
    assert torch.autograd.gradcheck(lambda *inputs: layer(*inputs, *case.tensors[5:]), trained, fast_mode=True)


def test_it_compiles_without_a_break_and_under_autocast():
    case, twin = Case("conv"), Case("conv")
    layer = case.layer(case.quantizer()).train()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*case.tensors), layer(*twin.tensors))
    torch.testing.assert_close(case.tensors[5:], twin.tensors[5:])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(*case.tensors).dtype == torch.bfloat16


def test_frozen_statistics_survive_a_checkpoint():
    case = Case("conv")
    one, other = (case.layer(case.quantizer()) for _ in range(2))
    freeze_bn_stats(one)
    other.load_state_dict(one.state_dict())
    assert other.frozen
