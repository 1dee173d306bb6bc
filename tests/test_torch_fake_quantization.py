from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from quantonnx.calibration.weight_ranges import least_error_range  # noqa: E402
from quantonnx.formats import Parameters, Rounding, ScaleType, TensorFormat, dequantize, quantize  # noqa: E402
from quantonnx.pattern import Role  # noqa: E402
from quantonnx.ranging import Ranging  # noqa: E402
from quantonnx.sites import Site  # noqa: E402
from quantonnx.torch.fake_quantization import FakeQuantize, fake_quantizers  # noqa: E402
from quantonnx.torch.training_numbers import (  # noqa: E402
    DynamicNumbers,
    FollowingNumbers,
    LearnedNumbers,
    Numbers,
)

torch.set_num_threads(1)
SHAPE = (4, 6, 3)


@st.composite
def formats(draw):
    if draw(st.integers(0, 9)) == 0:
        return TensorFormat(float8=True, axis=draw(st.sampled_from([None, 0, 1])))
    signed, axis = draw(st.booleans()), draw(st.sampled_from([None, 0, 1, -1]))
    return TensorFormat(
        n_bits=draw(st.integers(2, 16)),
        signed=signed,
        symmetric=draw(st.booleans()),
        narrow_range=signed and draw(st.booleans()),
        axis=axis,
        group_size=None if axis is None else draw(st.sampled_from([None, 1, 2, 4, 5])),
        scale_type=draw(st.sampled_from(ScaleType)),
        rounding=draw(st.sampled_from(Rounding)),
        seed=draw(st.integers(0, 3)),
    )


def values_of(seed: int, spread: float, shape=SHAPE) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = generator.normal(0, spread, shape).astype(np.float32)
    return np.maximum(values, 0) if seed % 5 == 0 else values


@settings(max_examples=150, deadline=None)
@given(formats(), st.integers(0, 999), st.sampled_from([1e-9, 1e-3, 1.0, 1e6]), st.sampled_from(["float32", "float16"]))
def test_values_are_those_of_numpy_bit_for_bit(fmt, seed, spread, float_type):
    values = values_of(seed, spread)
    numbers = fmt.parameters(*fmt.extremes(values), float_type)
    with np.errstate(over="ignore"):
        shown = np.concatenate([values[:2], values[2:] * np.float32(1.7)]).astype(float_type)
    shown[0, 0, 0], shown[0, 0, 1] = (6e4, -6e4) if float_type == "float16" else (3e38, -3e38)
    layer = FakeQuantize(fmt, Numbers(fmt, numbers, float_type=float_type), name="w", shape=SHAPE)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = dequantize(quantize(shown, numbers, fmt, "w"), numbers, fmt)
        np.testing.assert_array_equal(layer(torch.from_numpy(shown)).numpy(), expected)


@settings(max_examples=100, deadline=None)
@given(formats(), st.integers(0, 999), st.sampled_from([0.0, 1e-9, 1.0, 1e6]), st.booleans())
def test_numbers_of_ranges_are_those_of_numpy(fmt, seed, spread, half):
    values = values_of(seed, spread)
    float_type = "float16" if half and spread <= 1 else "float32"
    numbers = Numbers(fmt, fmt.parameters(*fmt.extremes(values * 0), float_type), float_type=float_type)
    numbers.seen.fill_(False)
    layer = FakeQuantize(fmt, numbers, tracks=True, name="w", shape=SHAPE)
    layer.observing = True
    layer(torch.from_numpy(values))
    expected, found = fmt.parameters(*fmt.extremes(values), float_type), layer.parameters_of()
    np.testing.assert_array_equal(found.scale, expected.scale)
    np.testing.assert_array_equal(found.zero_point, expected.zero_point)
    assert found.scale.dtype == expected.scale.dtype
    assert found.zero_point.dtype == expected.zero_point.dtype


def test_the_gradient_passes_inside_the_range_only():
    fmt = TensorFormat(n_bits=4, signed=False, symmetric=False)
    layer = FakeQuantize(fmt, Numbers(fmt, Parameters(np.float32(0.5), np.array(3, np.uint8))))
    x = torch.tensor([-9.0, -1.76, -1.74, 0.0, 6.24, 6.26, 40.0], requires_grad=True)
    layer(x).backward(torch.arange(1.0, 8.0))
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]


def test_the_largest_weight_still_learns():
    fmt = TensorFormat(n_bits=4)
    values = np.array([0.3, -0.1, 0.7], np.float32)
    layer = FakeQuantize(fmt, FollowingNumbers(fmt, fmt.parameters(*fmt.extremes(values)), torch.from_numpy(values)))
    x = torch.tensor(values, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "fmt",
    [
        TensorFormat(n_bits=3),
        TensorFormat(n_bits=4, axis=1),
        TensorFormat(n_bits=4, axis=1, group_size=4),
        TensorFormat(n_bits=4, symmetric=False, signed=False),
        TensorFormat(n_bits=2, symmetric=False, axis=0),
        TensorFormat(float8=True),
    ],
)
def test_learned_gradients_are_those_of_the_papers(fmt):
    values = values_of(1, 1.0)
    low, high = fmt.extremes(values * np.float32(0.6))
    start = fmt.parameters(low, high)
    numbers = LearnedNumbers(fmt, start)
    layer = FakeQuantize(fmt, numbers, batched=False)
    x, up = torch.tensor(values, requires_grad=True), torch.from_numpy(values_of(2, 1.0))
    layer(x).backward(up)

    scale, shift = (
        torch.from_numpy(np.broadcast_to(spread(part, fmt), SHAPE).copy())
        for part in (start.scale, start.zero_point.astype(np.float32))
    )
    scaled = torch.from_numpy(values) / scale + shift
    inside = (scaled > fmt.qmin) & (scaled < fmt.qmax)
    exact = torch.from_numpy(dequantize(quantize(values, start, fmt), start, fmt)) / scale
    per_value = torch.where(inside, exact - torch.from_numpy(values) / scale, exact) * up
    count = values.size / start.scale.size if fmt.group_size is None else None
    expected = gathered(per_value, fmt, start.scale.shape)
    if count is None:
        count = fmt.group_size
        factor = (values.size + 4 * 2 * 3) / start.scale.size  # zeros fill the last groups: 6 values, groups of 4
        assert factor == count
    expected = expected / np.sqrt(count * fmt.qmax)
    torch.testing.assert_close(numbers.factor.grad * torch.from_numpy(start.scale), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x.grad, torch.where(inside, up, 0))
    if numbers.shift is not None:  # the offset is −zero_point · scale; a step along it moves the shift by as much
        of_offset = gathered(torch.where(inside, 0, up), fmt, start.scale.shape) / np.sqrt(count * fmt.qmax)
        width = torch.from_numpy(start.scale) * (fmt.qmax - fmt.qmin)
        torch.testing.assert_close(-numbers.shift.grad * width, of_offset, rtol=1e-4, atol=1e-6)


def spread(part, fmt):
    if part.ndim == 0:
        return part
    if fmt.group_size is not None:
        return part.repeat(fmt.group_size, fmt.axis)[:, : SHAPE[fmt.axis]]
    return part.reshape([-1 if i == fmt.axis else 1 for i in range(3)])


def gathered(per_value, fmt, shape):
    if fmt.axis is None:
        return per_value.sum()
    if fmt.group_size is not None:
        return torch.stack([part.sum(1) for part in per_value.split(fmt.group_size, 1)], 1)
    return per_value.sum([i for i in range(3) if i != fmt.axis])


def test_learned_scales_follow_finite_differences_where_nothing_rounds():
    """Clipped values: the result is a code times the scale, a smooth function of it."""
    fmt = TensorFormat(n_bits=4, axis=0)
    start = Parameters(np.array([0.1, 0.2], np.float32), np.zeros(2, np.int8))
    x = torch.tensor([[9.0, -9.0, 5.0], [8.0, 7.0, -6.0]])
    up = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]])
    numbers = LearnedNumbers(fmt, start)
    layer = FakeQuantize(fmt, numbers, batched=False)
    (layer(x) * up).sum().backward()
    found = []
    for row in range(2):
        ends = []
        for step in (0.01, -0.01):
            moved = LearnedNumbers(fmt, start)
            with torch.no_grad():
                moved.factor[row] += step
            ends.append((FakeQuantize(fmt, moved)(x) * up).sum().item())
        found.append((ends[0] - ends[1]) / 0.02)
    scale = torch.from_numpy(start.scale)
    expected = torch.tensor(found) / scale / (3 * fmt.qmax) ** 0.5
    torch.testing.assert_close(numbers.factor.grad * scale, expected, rtol=1e-3, atol=1e-4)


def test_an_optimizer_learns_a_scale_that_was_ten_times_too_large():
    torch.manual_seed(0)
    fmt = TensorFormat(n_bits=4)
    numbers = LearnedNumbers(fmt, fmt.parameters(-30.0, 30.0))
    layer, x = FakeQuantize(fmt, numbers), torch.randn(64, 64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    errors = []
    for _ in range(150):
        error = (layer(x) - x).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0] / 20
    assert 0.2 < layer.parameters_of().scale < 0.6


@pytest.mark.parametrize(("kind", "expected"), [(ScaleType.POWER_OF_TWO, 0.125), (ScaleType.FLOAT16, np.float16(0.11))])
def test_a_learned_scale_stays_of_its_kind_and_positive(kind, expected):
    fmt = TensorFormat(scale_type=kind)
    numbers = LearnedNumbers(fmt, fmt.parameters(-12.75, 12.75))
    layer = FakeQuantize(fmt, numbers)
    with torch.no_grad():
        numbers.factor.fill_(0.11 / float(numbers.scale))
    assert layer.parameters_of().scale == pytest.approx(float(expected), abs=1e-9)
    with torch.no_grad():
        numbers.factor.fill_(-5)
    assert layer.parameters_of().scale > 0
    assert layer(torch.randn(5)).isfinite().all()


def test_a_learned_zero_point_is_a_code():
    fmt = TensorFormat(signed=False, symmetric=False)
    numbers = LearnedNumbers(fmt, fmt.parameters(-1.0, 3.0))
    with torch.no_grad():
        numbers.shift.fill_(0.1)
    found = FakeQuantize(fmt, numbers).parameters_of()
    assert found.zero_point == 64 + 26
    assert found.zero_point.dtype == np.uint8


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize(
    "fmt",
    [
        TensorFormat(n_bits=4, axis=0, narrow_range=True),
        TensorFormat(n_bits=4, axis=1, group_size=4),
        TensorFormat(n_bits=3, symmetric=False),
        TensorFormat(n_bits=3, signed=False, axis=0),
        TensorFormat(n_bits=4, axis=0, scale_type=ScaleType.POWER_OF_TWO),
        TensorFormat(float8=True, axis=1),
    ],
)
def test_scales_of_weights_start_as_calibrated_and_follow(fmt, method):
    values = values_of(7, 0.2)
    if fmt.signed is False:
        values[0] = abs(values[0])
    start = fmt.parameters(*(fmt.extremes(values) if method == "minmax" else least_error_range(values, fmt)))
    weight = torch.from_numpy(values)
    layer = fake_quantizers([site(fmt)], {site(fmt): start}, {"w": values})[site(fmt)]
    now = layer.parameters_of(weight)
    np.testing.assert_array_equal(now.scale, start.scale)
    np.testing.assert_array_equal(now.zero_point, start.zero_point)
    np.testing.assert_array_equal(layer(weight), dequantize(quantize(values, start, fmt), start, fmt))
    twice = layer.parameters_of(weight * 2)
    np.testing.assert_array_equal(twice.scale, start.scale * 2)
    np.testing.assert_array_equal(twice.zero_point, start.zero_point)


def test_a_scale_that_was_raised_for_the_bias_is_a_least_one():
    fmt = TensorFormat(axis=0)
    values = np.array([[1e-7, -1e-7], [1.0, 2.0]], np.float32)
    start = Parameters(np.array([0.01, 2 / 127.5], np.float32), np.zeros(2, np.int8))
    layer = FakeQuantize(fmt, FollowingNumbers(fmt, start, torch.from_numpy(values)))
    assert layer.parameters_of(torch.from_numpy(values)).scale.tolist() == start.scale.tolist()
    grown = torch.tensor([[51.0, 1.0], [1.0, 2.0]])
    np.testing.assert_allclose(layer.parameters_of(grown).scale, [51 / 127.5, 2 / 127.5], rtol=1e-6)


def test_moving_averages_and_extremes_are_tracked_in_training_only():
    fmt = TensorFormat(signed=False, symmetric=False)
    for averaging, expected in ((0.25, (-1.5, 3.5)), (None, (-3.0, 5.0))):
        numbers = Numbers(fmt, fmt.parameters(-1.0, 3.0), averaging=averaging)
        layer = FakeQuantize(fmt, numbers, tracks=True)
        shown = torch.tensor([-3.0, 5.0])
        layer(shown)
        layer.observing = True
        layer.eval()(shown)
        assert numbers.low.item() == pytest.approx(-1, abs=0.01)
        layer.train()(shown)
        layer(torch.tensor([float("inf"), float("nan")]))
        assert (numbers.low.item(), numbers.high.item()) == pytest.approx(expected, abs=0.01)
        found = fmt.parameters(numbers.low.numpy(), numbers.high.numpy())
        assert layer.parameters_of().scale == found.scale
        assert layer.parameters_of().zero_point == found.zero_point


def test_the_first_range_counts_whole_where_nothing_is_calibrated():
    fmt = TensorFormat()
    layer = FakeQuantize(fmt, Numbers(fmt), tracks=True)
    layer.enabled, layer.observing = False, True
    x = torch.tensor([-2.0, 1.0])
    assert layer(x) is x
    assert layer.parameters_of().scale == fmt.parameters(-2.0, 1.0).scale


def test_tracking_between_two_passes_does_not_disturb_gradients():
    fmt = TensorFormat()
    layer = FakeQuantize(fmt, Numbers(fmt, fmt.parameters(-1.0, 1.0)), tracks=True)
    layer.observing = True
    x = torch.randn(8, requires_grad=True)
    (layer(x).sum() + layer(x * 3).sum()).backward()
    assert x.grad is not None


def site(fmt, tensor="w", role=Role.WEIGHT, **changes) -> Site:
    return Site(tensor, (role,), fmt, (), "", "", **{"source": tensor, **changes})


def test_sites_of_one_source_share_their_numbers():
    fmt = TensorFormat()
    joined, left, right = (site(fmt, name, Role.INPUT, source="joined") for name in ("joined", "left", "right"))
    other = site(fmt, "other", Role.INPUT)
    start = {s: fmt.parameters(-1.0, 1.0) for s in (joined, left, right, other)}
    for learn in (False, True):
        layers = fake_quantizers([joined, left, right, other], start, {}, learn_scales=learn)
        assert layers[left].numbers is layers[right].numbers is layers[joined].numbers
        assert layers[other].numbers is not layers[joined].numbers
        assert [layers[s].tracks for s in (joined, left, right, other)] == [True, False, False, True]
        assert len(list(torch.nn.ModuleList(layers.values()).parameters())) == 2 * learn


def test_numbers_that_the_user_fixed_neither_learn_nor_move():
    fmt = TensorFormat()
    fixed = site(fmt, "x", Role.INPUT, ranging=Ranging(scale=0.5))
    weight = site(fmt, "w", ranging=Ranging(range=(-1.0, 1.0)))
    start = {fixed: Parameters(np.float32(0.5), np.array(0, np.int8)), weight: fmt.parameters(-1.0, 1.0)}
    layers = fake_quantizers(start, start, {"w": np.ones(3, np.float32)}, learn_scales=True)
    layers[fixed].observing = True
    layers[fixed](torch.randn(9) * 100)
    assert layers[fixed].parameters_of().scale == 0.5
    assert layers[weight].parameters_of().scale == start[weight].scale
    assert not [*layers[fixed].parameters(), *layers[weight].parameters()]


def test_switches_and_ranges_survive_a_checkpoint(tmp_path):
    fmt = TensorFormat(signed=False, symmetric=False)
    layers = [FakeQuantize(fmt, LearnedNumbers(fmt, fmt.parameters(-1.0, i + 1.0)), tracks=True) for i in range(2)]
    layers[0].enabled, layers[0].observing = False, True
    layers[0](torch.randn(9))
    torch.save(layers[0].state_dict(), tmp_path / "a.pt")
    layers[1].load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert (layers[1].enabled, layers[1].observing) == (False, True)
    for (name, one), (_, other) in zip(layers[0].named_buffers(), layers[1].named_buffers(), strict=True):
        assert torch.equal(one, other), name


def test_dynamic_numbers_are_those_of_onnx_runtime():
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {
            codes, scale, zero = DynamicQuantizeLinear(x)
            y = DequantizeLinear(codes, scale, zero)
        }"""
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    layer = FakeQuantize(TensorFormat(signed=False, symmetric=False), DynamicNumbers())
    for seed in range(40):
        x = values_of(seed, 10.0 ** (seed % 7 - 3), (97,)) + np.float32(seed % 3 - 1)
        np.testing.assert_array_equal(layer(torch.from_numpy(x)).numpy(), session.run(None, {"x": x})[0])
    np.testing.assert_array_equal(layer(torch.zeros(3)).numpy(), np.zeros(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_computes_in_float32_under_autocast(dtype):
    fmt = TensorFormat()
    layer = FakeQuantize(fmt, LearnedNumbers(fmt, fmt.parameters(-1.0, 1.0)))
    x = torch.randn(50).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(x)
    assert result.dtype == dtype
    assert torch.equal(result, layer(x.float()).to(dtype))


def test_it_compiles_without_a_break_with_its_gradients():
    fmt = TensorFormat(n_bits=4, axis=1, group_size=4, rounding=Rounding.HALF_AWAY)
    values = torch.from_numpy(values_of(1, 1.0))
    layer = FakeQuantize(fmt, LearnedNumbers(fmt, fmt.parameters(*fmt.extremes(values.numpy()))))
    results = []
    for call in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        x = values.clone().requires_grad_()
        layer.zero_grad()
        call(x).square().sum().backward()
        results.append([x.grad, *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(*results)


def test_switches_are_seen_by_what_was_compiled():
    fmt = TensorFormat(n_bits=4, signed=False, symmetric=False)
    values = torch.from_numpy(values_of(1, 1.0))
    start = fmt.parameters(*fmt.extremes(values.numpy()))
    kept = FakeQuantize(fmt, Numbers(fmt, start), tracks=True)
    layers = torch.nn.Sequential(kept, FakeQuantize(fmt, FollowingNumbers(fmt, start, values)))
    compiled = torch.compile(layers, fullgraph=True, backend="eager")
    assert torch.equal(compiled(values), layers(values))
    kept.observing = True
    before = kept.parameters_of().scale.copy()
    compiled(values * 50)
    assert kept.parameters_of().scale > before
    for layer in layers:
        layer.enabled = layer.observing = False
    assert torch.equal(compiled(values), values)


def test_stochastic_rounding_takes_the_numbers_of_the_file():
    fmt = TensorFormat(n_bits=3, rounding=Rounding.STOCHASTIC, seed=5)
    values = values_of(3, 1.0)
    numbers = fmt.parameters(*fmt.extremes(values))
    layers = [FakeQuantize(fmt, Numbers(fmt, numbers), name=name, shape=SHAPE) for name in ("w", "v")]
    one, other = (layer(torch.from_numpy(values)) for layer in layers)
    assert not torch.equal(one, other)
    assert torch.equal(one, layers[0](torch.from_numpy(values)))
    assert all(not torch.equal(a, b) for a, b in pairwise((one, other)))
