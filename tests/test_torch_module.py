from __future__ import annotations

import copy
import io
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from models import NETWORK, parse  # noqa: E402

from quantonnx.errors import DataError, ModelError  # noqa: E402
from quantonnx.torch import from_onnx  # noqa: E402

torch.set_num_threads(1)
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

SIZES = """
sizes (float[N,C,L] x) => (float[N,L,C] y)
<float[4] scale, int64[1] last = {-1}, int64 zero = {0}, int64 two = {2}, float half = {0.5}> {
    shape = Shape (x)
    n = Gather (shape, zero)
    l = Gather (shape, two)
    as_float = Cast <to = 1> (l)
    root = Pow (as_float, half)
    columns = Constant <value_ints = [0]> ()
    axes = Constant <value = int64[1] {0}> ()
    rows = Unsqueeze (n, axes)
    long = Unsqueeze (l, axes)
    new = Concat <axis = 0> (rows, long, last)
    moved = Transpose <perm = [0, 2, 1]> (x)
    shaped = Reshape (moved, new)
    scaled = Mul (shaped, scale)
    y = Div (scaled, root)
}
"""

BRANCHES = """
branches (bool flag, float[2,3] x) => (float[2,3] y)
<float[3] outer> {
    double = Add (x, x)
    y = If (flag) <
        then_branch = yes () => (float[2,3] a) <float[3] weight = {1, 2, 3}> { t = Mul (double, weight) a = Add (t, outer) },
        else_branch = no () => (float[2,3] b) <float[3] weight = {4, 5, 6}> { b = Mul (double, weight) }
    >
}
"""

TURNS = """
turns (int64 count, bool go, float[3] x) => (float[3] last, float[K,3] all)
<float[3] weight> {
    last, all = Loop (count, go, x) <
        body = turn (int64 i, bool before, float[3] carried) => (bool after, float[3] next, float[3] given) {
            after = Identity (before)
            f = Cast <to = 1> (i)
            next = Mul (carried, weight)
            given = Add (next, f)
        }
    >
}
"""

SCAN = """
scan (float[3] start, float[4,3] rows) => (float[3] total, float[4,3] sums) {
    total, sums = Scan (start, rows) <num_scan_inputs = 1, scan_output_directions = [1],
        body = turn (float[3] so_far, float[3] row) => (float[3] now, float[3] given) {
            now = Add (so_far, row)
            given = Mul (now, now)
        }
    >
}
"""


def run(model, **feeds) -> list[np.ndarray]:
    arrays = {name: value.numpy() for name, value in feeds.items()}
    return ort.InferenceSession(model.SerializeToString()).run(None, arrays)


def assert_same(model, **feeds) -> None:
    with torch.no_grad():
        found = from_onnx(model)(**feeds)
    for expected, given in zip(run(model, **feeds), found if isinstance(found, tuple) else (found,), strict=True):
        torch.testing.assert_close(given, torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return from_onnx(parse(NETWORK))


@pytest.fixture
def image():
    return torch.randn(2, 3, 8, 8)


def test_weights_are_parameters_under_their_names(network):
    assert set(dict(network.named_parameters())) == {"weight", "bias", "inner", "matrix", "offset"}


def test_shapes_are_followed():
    model = parse(SIZES)
    for batch, length in ((1, 5), (3, 7)):
        assert_same(model, x=torch.randn(batch, 4, length))


@pytest.mark.parametrize("flag", [True, False])
def test_branches_have_weights_of_their_own_and_gradients(flag):
    model = parse(BRANCHES)
    x = torch.randn(2, 3)
    assert_same(model, flag=torch.tensor(flag), x=x)
    module = from_onnx(model)
    assert len(list(module.parameters())) == 3
    module(flag=torch.tensor(flag), x=x).sum().backward()
    moved = {
        name.rsplit("/", 2)[-2] for name, value in module.named_parameters() if value.grad is not None and "/" in name
    }
    assert moved == {"then_branch" if flag else "else_branch"}


def test_turns_of_a_loop():
    for count in (0, 1, 4):
        module, feeds = from_onnx(parse(TURNS)), {"count": torch.tensor(count), "go": torch.tensor(True)}
        x = torch.randn(3, requires_grad=True)
        last, stacked = module(**feeds, x=x)
        assert len(stacked) == count
        weight = dict(module.named_parameters())["weight"]
        torch.testing.assert_close(last, x * weight**count)
    assert_same(parse(TURNS), **feeds, x=torch.randn(3))


def test_a_scan_goes_along_its_inputs():
    assert_same(parse(SCAN), start=torch.randn(3), rows=torch.randn(4, 3))


def test_what_a_body_does_not_support_is_told():
    text = BRANCHES.replace("b = Mul (double, weight)", "b = own.Thing (double)")
    with pytest.raises(ModelError, match=r"own\.Thing at 1 node"):
        from_onnx(parse(text, domain="own"))


def test_copies_stand_alone(network, image):
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.get_parameter("bias").add_(1)
    assert (twin(image) != network(image)).any()


def test_a_whole_module_can_be_saved(network, image):
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(image), network(image))


def test_states_can_be_saved(network, image):
    other = from_onnx(parse(NETWORK, seed=1))
    assert not torch.allclose(other(image), network(image))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(image), network(image))


def replica(module):
    """What torch.nn.parallel.replicate makes for one device: no parameters, but tensors in their place."""
    found = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        found._modules[name] = replica(child)
    for name, value in module._parameters.items():
        setattr(found, name, value * 1)
    return found


@pytest.mark.parametrize("name", ["inner", "blocks.0.inner"])
def test_replicas_compute_with_their_own_tensors(name, image):
    model = parse(NETWORK)
    for initializer in model.graph.initializer:
        initializer.name = name if initializer.name == "inner" else initializer.name
    model.graph.node[2].input[1] = name
    module = from_onnx(model)
    copied = replica(module)
    assert not list(copied.parameters())
    torch.testing.assert_close(copied(image), module(image))
    copied(image).sum().backward()
    assert all(value.grad is not None for value in module.parameters())


def test_data_parallel_in_one_process(network, image, tmp_path):
    import torch.distributed as dist

    expected = network(image)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(network)
        for _ in range(2):
            found = parallel(image)
            found.sum().backward()
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(found, expected)


def test_autocast_computes_in_bfloat16(network, image):
    expected = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(image)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
    found.float().sum().backward()
    assert network.get_parameter("weight").grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_another_type_for_the_whole_module(dtype, image):
    module = from_onnx(parse(SIZES)).to(dtype)
    assert module(torch.randn(2, 4, 5, dtype=dtype)).dtype == dtype


def test_sizes_never_wait_for_a_device():
    module = from_onnx(parse(SIZES)).to("meta")
    assert module(torch.randn(2, 4, 5, device="meta")).shape == (2, 5, 4)


@pytest.mark.parametrize(("text", "shapes"), [(NETWORK, [(2, 3, 8, 8), (4, 3, 8, 8)]), (SIZES, [(2, 4, 5), (3, 4, 7)])])
def test_compilers_see_one_graph_for_all_sizes(text, shapes):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    module, counter = from_onnx(parse(text)).requires_grad_(False), CompileCounterWithBackend("eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True, dynamic=True)
    for shape in shapes:
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), module(x))
    assert counter.frame_count == 1


def test_wrong_inputs_are_told(network, image):
    with pytest.raises(DataError, match="got 2 tensors, expected the inputs"):
        network(image, image)


@pytest.mark.real
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0", "resnet50"])
def test_trained_networks_give_what_onnxruntime_gives(name):
    sys.path.insert(0, str(BENCHMARKS))
    import torch_coverage
    from fetch_models import DEFAULT_CACHE, fetch

    assert torch_coverage.show_model(fetch(name, Path(os.environ.get("QUANTONNX_CACHE", DEFAULT_CACHE))))


@pytest.mark.real
def test_mobilenet_compiles_without_a_break():
    sys.path.insert(0, str(BENCHMARKS))
    from fetch_models import DEFAULT_CACHE, fetch

    module = from_onnx(fetch("mobilenet_v2", Path(os.environ.get("QUANTONNX_CACHE", DEFAULT_CACHE))))
    x = torch.randn(2, 3, 224, 224)
    explained = torch._dynamo.explain(module)(x)
    assert explained.graph_break_count == 0
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(module, backend="aot_eager", fullgraph=True)(x), module(x))
