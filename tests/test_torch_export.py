"""Modules of PyTorch become float models that quantize well, and quantized models, whatever form their samples have."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import quantonnx.torch as qt  # noqa: E402
from quantonnx.errors import DataError, ModelError, OutputError, PlanError  # noqa: E402
from quantonnx.model import Model  # noqa: E402
from quantonnx.rewriting import transform  # noqa: E402
from quantonnx.scopes import Scopes  # noqa: E402
from quantonnx.torch import exporters  # noqa: E402

TS, DYNAMO = "torchscript", "dynamo"
EXPORTERS = (
    TS,
    pytest.param(DYNAMO, marks=pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="onnxscript")),
)
torch.set_num_threads(1)


class Net(nn.Module):
    """A convolution with its norm, a LayerNorm, attention, a residual and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.norm, self.mix = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        tokens = tokens + self.mix(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.inner(tokens).mean(1))


class Two(nn.Module):
    """Two inputs, one of them optional, and a dict of results."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 16)

    def forward(self, ids: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> dict[str, Tensor]:
        found = self.table(ids)
        if mask is not None:
            found = found * mask.unsqueeze(-1)
        return {"logits": self.head(found.mean(1)) * scale, "states": found}


class Branching(nn.Module):
    """Python decides by values."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.abs().sum()) >= 0 else x


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


def trained(network: nn.Module) -> nn.Module:
    """Statistics of norms as training leaves them; the module is in training mode."""
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -1, 1)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
    return network.train()


def small() -> nn.Module:
    return trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)))


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def ran(model: Any, **feeds: Tensor) -> list[np.ndarray]:
    session = ort.InferenceSession(model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in feeds.items()})


def result(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return module.eval()(*args, **kwargs)


def operators(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


def weights(model: Model) -> dict[str, tuple[int, ...]]:
    found = {name: value for name, value in model.tensors().items() if isinstance(value, gs.Constant)}
    return {name: tuple(value.shape) for name, value in found.items() if np.dtype(value.dtype).kind == "f"}


@pytest.fixture(scope="module", params=EXPORTERS)
def nets(request: pytest.FixtureRequest) -> tuple[nn.Module, Model]:
    """A module in training mode, and its export."""
    network = trained(Net())
    return network, qt.export(network, images(1), exporter=request.param, keep_batch_norm=True)


# what both exporters must keep


def test_any_batch_gives_what_the_module_gives(nets: tuple[nn.Module, Model]) -> None:
    network, model = nets
    assert [list(value.shape) for value in (*model.graph.inputs, *model.graph.outputs)] == [
        ["batch", 3, 6, 6],
        ["batch", 5],
    ]
    for count in (1, 2, 5):
        (found,) = ran(model, x=images(count))
        twin = Net()
        twin.load_state_dict(network.state_dict())
        np.testing.assert_allclose(found, result(twin, images(count)).numpy(), atol=1e-5)


def test_the_module_is_left_in_training_mode(nets: tuple[nn.Module, Model]) -> None:
    assert all(part.training for part in nets[0].modules())


def test_weights_are_called_as_the_parameters_are(nets: tuple[nn.Module, Model]) -> None:
    network, model = nets
    expected = {name for name, value in network.state_dict().items() if value.is_floating_point()}
    assert expected <= weights(model).keys()


def test_a_norm_that_is_kept_has_parameters_of_its_own(nets: tuple[nn.Module, Model]) -> None:
    _, model = nets
    (norm,) = (node for node in model.graph.nodes if node.op == "BatchNormalization")
    assert [value.name for value in norm.inputs[1:]] == [
        f"stem.1.{part}" for part in ("weight", "bias", "running_mean", "running_var")
    ]


def test_attention_and_norms_are_recognised(nets: tuple[nn.Module, Model]) -> None:
    counts = transform(nets[1], target="tensorrt").report.counts
    assert (counts["ScaledDotProductAttention"], counts["LayerNorm"], counts["ConvBNRelu"]) == (1, 1, 1)


def test_operators_know_the_module_that_they_came_from(nets: tuple[nn.Module, Model]) -> None:
    scopes = Scopes(nets[1])
    (conv,) = (node for node in nets[1].graph.nodes if node.op == "Conv")
    assert "stem.0" in scopes.of(conv)
    assert {"mix", "inner", "head", "norm"} <= set(scopes.names)


def test_nothing_of_the_users_files_is_in_the_model(nets: tuple[nn.Module, Model]) -> None:
    assert Path(__file__).name.encode() not in nets[1].to_bytes()


def test_what_is_exported_to_train_on_has_the_modules_parameters() -> None:
    network = small()
    module = qt.from_onnx(qt.export(network, images(2), exporter=TS, keep_batch_norm=True))
    assert {name for name, _ in module.named_parameters()} == {name for name, _ in network.named_parameters()}
    torch.testing.assert_close(result(module, images(3)), result(network, images(3)), atol=1e-5, rtol=1e-5)


def test_the_norm_is_folded_once_under_the_convolutions_names() -> None:
    model = qt.export(trained(Net()), images(2), exporter=TS)
    assert "BatchNormalization" not in operators(model)
    (conv,) = (node for node in model.graph.nodes if node.op == "Conv")
    assert [value.name for value in conv.inputs[1:]] == ["stem.0.weight", "stem.0.bias"]
    assert "BatchNormalization" not in operators(transform(model, target="tensorrt").model)


def test_equal_parameters_are_not_merged() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.LayerNorm(4))
    model = qt.export(network, torch.randn(2, 4), exporter=TS)
    assert weights(model).keys() == network.state_dict().keys()


def test_shapes_are_fixed_on_request() -> None:
    model = qt.export(small(), images(1), exporter=TS, dynamic_batch=False)
    assert [list(value.shape) for value in (*model.graph.inputs, *model.graph.outputs)] == [[1, 3, 6, 6], [1, 5]]
    assert "Shape" not in operators(model)


# arguments and results


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.arange(6).reshape(2, 3), torch.ones(2, 3)), {}),
        ({"mask": torch.ones(2, 3), "ids": torch.arange(6).reshape(2, 3)}, {}),
        (torch.arange(6).reshape(2, 3), {"mask": torch.ones(2, 3)}),
        ((np.arange(6).reshape(2, 3), np.ones((2, 3), np.float32)), {}),
    ],
)
def test_arguments_may_be_given_in_any_form(args: Any, kwargs: dict[str, Any]) -> None:
    network = Two()
    model = qt.export(network, args, kwargs=kwargs, exporter=TS)
    assert [value.name for value in model.graph.inputs] == ["ids", "mask"]
    assert [value.name for value in model.graph.outputs] == ["logits", "states"]
    ids, mask = torch.arange(12).reshape(4, 3), torch.tensor([[1.0, 1, 0]] * 4)
    np.testing.assert_allclose(ran(model, ids=ids, mask=mask)[0], result(network, ids, mask)["logits"], atol=1e-6)


def test_arguments_that_are_no_tensors_are_constants() -> None:
    network, ids = Two(), torch.arange(6).reshape(2, 3)
    model = qt.export(network, (ids, None), kwargs={"scale": 3.0}, exporter=TS)
    assert [value.name for value in model.graph.inputs] == ["ids"]
    np.testing.assert_allclose(ran(model, ids=ids)[0], result(network, ids, scale=3.0)["logits"], atol=1e-6)


@pytest.mark.parametrize("exporter", [TS, pytest.param(DYNAMO, marks=pytest.mark.real)])
def test_an_input_without_a_batch_keeps_its_length(exporter: str) -> None:
    class Weighted(nn.Module):
        def forward(self, x: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor]:
            return x @ others[0] + others[1], others[0] * 2

    model = qt.export(Weighted(), (torch.randn(2, 4), [torch.randn(4, 3), torch.randn(3)]), exporter=exporter)
    assert {value.name: list(value.shape) for value in (*model.graph.inputs, *model.graph.outputs)} == {
        "x": ["batch", 4],
        "others_0": [4, 3],
        "others_1": [3],
        "output_0": ["batch", 3],
        "output_1": [4, 3],
    }


def test_named_inputs_hold_the_batch() -> None:
    class Shared(nn.Module):
        def forward(self, x: Tensor, table: Tensor) -> Tensor:
            return x + table.sum(0)

    args = (torch.randn(2, 4), torch.randn(2, 4))
    model = qt.export(
        Shared(), args, exporter=TS, dynamic_batch=["image"], input_names=["image", "rows"], output_names=["y"]
    )
    assert [list(value.shape) for value in model.graph.inputs] == [["batch", 4], [2, 4]]
    assert model.graph.outputs[0].name == "y"


def test_named_tuples_and_scalars_are_results() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Pair, Tensor]:
            return Pair(x * 2, x[:, :1]), x.sum()

    model = qt.export(Both(), torch.randn(2, 4), exporter=TS)
    assert [value.name for value in model.graph.outputs] == ["output_0_left", "output_0_right", "output_1"]


def test_half_precision_is_kept() -> None:
    model = qt.export(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).half(), torch.randn(2, 8).half(), exporter=TS)
    assert model.graph.inputs[0].dtype == model.graph.outputs[0].dtype == np.float16


def test_a_module_may_write_into_its_arguments() -> None:
    class Adding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1) * 2

    given = torch.zeros(2, 3)
    model = qt.export(Adding(), given, exporter=TS)
    assert ran(model, x=given)[0].max() == 2
    assert given.abs().max() == 0


def test_newer_opsets_than_tracing_knows_are_converted_to() -> None:
    assert qt.export(small(), images(2), exporter=TS, opset=22).opset == 22


def test_more_weights_than_fit_into_a_file_need_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("quantonnx.torch.exporting.EMBEDDED_LIMIT", 1000)
    network = small()
    with pytest.raises(ModelError, match=r"Sequential has 0.0 GB of weights; give a path"):
        qt.export(network, images(2), exporter=TS)
    model = qt.export(network, images(2), tmp_path / "large.onnx", exporter=TS)
    np.testing.assert_allclose(ran(model, input=images(3))[0], result(network, images(3)), atol=1e-5)


def test_wrappers_are_looked_through() -> None:
    network = small()
    assert weights(qt.export(nn.DataParallel(network), images(2), exporter=TS)).keys() >= {"0.weight", "4.bias"}


# what goes wrong is said


def test_what_dynamo_cannot_do_tracing_does_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: object) -> None:
        raise ModelError("it has no such operator")

    monkeypatch.setitem(exporters.EXPORTERS, "dynamo", unable)
    said = r"^Linear is exported by torchscript, since dynamo: it has no such operator"
    with pytest.warns(qt.ExportWarning, match=said) as caught:
        model = qt.export(nn.Linear(3, 3), torch.ones(2, 3))
    assert caught[0].filename == __file__
    assert ran(model, input=torch.ones(4, 3))[0].shape == (4, 3)


def test_without_onnxscript_tracing_is_used_and_the_package_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(qt.ExportWarning, match="onnxscript; pip install onnxscript"):
        qt.export(small(), images(2))
    with pytest.raises(ModelError, match="onnxscript"):
        qt.export(small(), images(2), exporter=DYNAMO)


def test_a_module_that_nothing_exports_says_what_each_exporter_said() -> None:
    class Complex(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x).real

    with pytest.raises(ModelError, match=r"^Complex cannot be exported: dynamo: .* not 17; torchscript: ") as caught:
        qt.export(Complex(), torch.randn(2, 3, 3), opset=17)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_agree_is_refused() -> None:
    class Fickle(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Fickle.calls += 1
            return x * Fickle.calls

    with pytest.raises(ModelError, match=r"deviates from the module's by .* on .* samples, allowed is 0.0001"):
        qt.export(Fickle(), torch.ones(2, 3), exporter=TS)
    assert qt.export(Fickle(), torch.ones(2, 3), exporter=TS, verify=False)


def test_a_batch_size_that_the_code_fixes_says_what_to_try() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * len(x.tolist())

    with pytest.raises(ModelError, match=r"deviates .* on 1 samples.*; try dynamic_batch=False"):
        qt.export(Counting(), torch.ones(2, 3), exporter=TS)
    assert qt.export(Counting(), torch.ones(2, 3), exporter=TS, dynamic_batch=False)


def test_a_module_of_one_batch_size_gets_fixed_shapes_aloud() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(4, 6).sum(0)

    with pytest.warns(qt.ExportWarning, match="^the batch of Fixed is fixed, since it runs at no other size"):
        model = qt.export(Fixed(), torch.ones(4, 6), exporter=TS)
    assert list(model.graph.inputs[0].shape) == [4, 6]
    with pytest.raises(ModelError, match="Fixed does not run on 2 samples"):
        qt.export(Fixed(), torch.ones(4, 6), exporter=TS, dynamic_batch=["x"])


@pytest.mark.parametrize(
    ("args", "settings", "error", "told"),
    [
        ((images(1), images(1)), {}, DataError, "too many positional arguments"),
        ((3,), {}, DataError, "no argument is a tensor"),
        (torch.randn(1, 4, 6, 6), {}, ModelError, "Sequential does not run: "),
        (images(1), {"input_names": ["a", "b"]}, DataError, "2 input names for 1 tensors"),
        (images(1), {"output_names": ["a", "b"]}, DataError, "2 output names for 1 results"),
        (images(1), {"dynamic_batch": ["y"]}, DataError, "'y' is no input with axes, found 'input'"),
        (images(1), {"exporter": "onnx"}, PlanError, "expected auto, dynamo or torchscript"),
        (images(1).bfloat16(), {}, ModelError, "bfloat16"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(args: Any, settings: Any, error: type, told: str) -> None:
    with pytest.raises(error, match=told):
        qt.export(small(), args, **({"exporter": TS} | settings))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = qt.export(small(), images(1), path, exporter=TS)
    assert Model.read(path).fingerprint() == model.fingerprint()
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        qt.export(small(), images(1), path, exporter=TS)
    with pytest.raises(ModelError):
        qt.export(small(), torch.randn(1, 4, 6, 6), path, exporter=TS, force=True)
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (before, 1)


# samples


def numbers(quantized: Any) -> dict[str, float]:
    return {site.tensor: float(p.scale.max()) for site, p in quantized.parameters.items() if site.on_activation}


def loaders() -> dict[str, Any]:
    x, label = images(8), torch.arange(8)
    cut = [x[start : start + 4] for start in (0, 4)]
    return {
        "tensors": cut,
        "pairs": DataLoader(TensorDataset(x, label), batch_size=4),
        "dataset": TensorDataset(x, label),
        "stacked": x,
        "numpy": x.numpy(),
        "lists": [[part, [0, 1, 2, 3]] for part in cut],
        "dicts": [{"input": part, "labels": label[:4]} for part in cut],
        "named otherwise": [{"image": part, "label": label[:4]} for part in cut],
        "generator": (part for part in cut),
    }


@pytest.mark.parametrize("kind", loaders())
def test_samples_of_any_form_give_the_same_numbers(kind: str) -> None:
    network = small()
    expected = qt.quantize(network, loaders()["tensors"], exporter=TS)
    found = qt.quantize(network, loaders()[kind], exporter=TS)
    assert found.calibrated
    assert numbers(found) == numbers(expected)


def test_a_forward_loop_runs_what_looks_like_the_module() -> None:
    network, seen = small(), []

    def loop(model: Any) -> None:
        model.eval()
        place = next(model.parameters()).device
        for part in loaders()["tensors"]:
            seen.append(model(part.to(place)))

    found = qt.quantize(network, forward_loop=loop, args=images(1), exporter=TS)
    assert numbers(found) == numbers(qt.quantize(network, loaders()["tensors"], exporter=TS))
    torch.testing.assert_close(seen[0], result(network, images(8)[:4]), atol=1e-5, rtol=1e-5)


def test_a_forward_loop_gets_results_of_the_modules_form() -> None:
    network, shapes = Two(), []

    def loop(model: Any) -> None:
        for _ in range(2):
            shapes.append({name: tuple(v.shape) for name, v in model(torch.arange(12).reshape(4, 3)).items()})

    qt.quantize(network, forward_loop=loop, args=torch.arange(6).reshape(2, 3), exporter=TS)
    assert shapes[0] == {"logits": (4, 16), "states": (4, 3, 16)}


def test_optional_arguments_are_told_from_labels() -> None:
    ids, mask = torch.arange(6).reshape(2, 3), torch.ones(2, 3)
    pairs = [(ids, mask, torch.tensor([0, 1]))]
    assert len(qt.quantize(Two(), pairs, exporter=TS).model.graph.inputs) == 2
    assert len(qt.quantize(Two(), [(ids, torch.tensor([0, 1]))], exporter=TS).model.graph.inputs) == 1
    chosen = qt.quantize(Two(), [(mask, ids)], select=lambda batch: (batch[1], batch[0]), exporter=TS)
    assert [value.name for value in chosen.model.graph.inputs] == ["ids", "mask"]


@pytest.mark.parametrize(
    ("loader", "settings", "error", "told"),
    [
        (None, {}, PlanError, "needs samples; give either a loader or a forward_loop"),
        ([], {}, DataError, "the loader holds no batch"),
        (3, {}, DataError, "the loader is a int, expected a DataLoader"),
        ([[images(2)], [images(2)] * 2], {"select": tuple}, DataError, "batch 1: the arguments do not fit"),
        ("calib.npz", {}, DataError, "no example to export the module by; give `args`"),
        (
            [{"a": images(1), "b": images(1)}],
            {},
            DataError,
            "a batch has 'a', 'b', and Sequential.forward takes 'input'",
        ),
    ],
)
def test_wrong_samples_are_refused_in_one_line(loader: Any, settings: Any, error: type, told: str) -> None:
    with pytest.raises(error, match=told):
        qt.quantize(small(), loader, exporter=TS, **settings)


def test_files_of_samples_are_taken_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input=images(8).numpy())
    network = small()
    found = qt.quantize(network, tmp_path / "x.npz", args=images(1), exporter=TS)
    assert numbers(found) == numbers(qt.quantize(network, images(8), exporter=TS))


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_three_lines_give_a_quantized_file_of_any_batch(target: str, tmp_path: Path) -> None:
    network = small()
    qt.quantize(network, DataLoader(TensorDataset(images(16)), batch_size=4), target=target, exporter=TS).save(
        tmp_path / "int8.onnx"
    )
    session = ort.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    assert any(node.op == "QuantizeLinear" for node in Model.read(tmp_path / "int8.onnx").graph.nodes)
    for count in (1, 7):
        exact = result(network, images(count)).numpy()
        (found,) = session.run(None, {"input": images(count).numpy()})
        assert np.abs(found - exact).max() < 0.1 * np.abs(exact).max()


def test_limits_count_samples() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield images(4)

    assert qt.quantize(small(), endless(), limit=6, exporter=TS).data[0].samples == 6


# networks that people have


@pytest.mark.real
@pytest.mark.parametrize(("package", "name"), [("torchvision", "resnet18"), ("timm", "vit_tiny_patch16_224")])
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_networks_of_libraries(package: str, name: str, target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    library = torch.library.Library("torchvision", "DEF")  # for builds without its operators
    if not hasattr(torch.ops.torchvision, "nms"):
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    models = pytest.importorskip("torchvision").models if package == "torchvision" else pytest.importorskip("timm")
    network = models.resnet18() if package == "torchvision" else models.create_model(name, pretrained=False)
    samples = torch.randn(4, 3, 224, 224)
    with warnings.catch_warnings():
        warnings.simplefilter("error", qt.ExportWarning)
        qt.quantize(network, samples, target=target).save(tmp_path / "int8.onnx")
    (found,) = ort.InferenceSession(tmp_path / "int8.onnx").run(None, {"x": samples[:1].numpy()})
    exact = result(network, samples[:1]).numpy()
    assert np.square(found - exact).sum() < 0.02 * np.square(exact).sum()


def test_a_branch_on_values_is_not_frozen_silently() -> None:
    with pytest.raises(ModelError, match="decides by its data what to do"):
        qt.export(Branching(), torch.ones(2, 3))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ModelError, match="is a str, expected a torch.nn.Module"):
        qt.export("resnet18", torch.ones(2, 4))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="found a Linear"):
        qt.from_onnx(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="found a Linear"):
        qt.prepare_qat(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
