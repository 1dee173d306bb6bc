"""What is promised on real networks, as far as it is the same on every machine: positions, kernels, accuracy, bytes.

The demo's network runs with all tests; those that are downloaded and built (torch is needed) are marked `real`, and
kept in the folder QUANTONNX_CACHE, else in that of benchmarks/fetch_models.py.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import quantonnx as qx
from quantonnx import demo, memory
from quantonnx.calibration.loading import open_session
from quantonnx.calibration.staging import StageModels
from quantonnx.evidence import collect_evidence, release
from quantonnx.quantized import QuantizedModel

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from fetch_models import DEFAULT_CACHE, fetch  # noqa: E402  (scripts, not a package)
from kernels import integer_share, optimized_operators  # noqa: E402
from package_download import Unavailable  # noqa: E402

CACHE = Path(os.environ.get("QUANTONNX_CACHE", DEFAULT_CACHE))
# network -> its photographs, and the SQNR (dB) and agreement that are promised; measured ones are in RESULTS.md
TRAINED = {
    "mobilenet_v2": ("photos_mobilenet", 14.7, 0.9),
    "efficientnet_lite0": ("photos_efficientnet", 19.5, 0.95),
}
RESNET_OPERATORS = 53 + 16 + 1 + 1  # Conv, residual Add, pooling, classifier
DEMO_SQNR = 36.0


def available(name: str) -> Path:
    try:
        return fetch(name, CACHE)
    except Unavailable as reason:
        pytest.skip(f"{name}: {reason}")


def photos(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    folder = available("photos").parent
    return tuple(  # type: ignore[return-value]
        [{"input": image[None]} for image in np.load(folder / f"{name}_{part}.npz")["input"]]
        for part in ("calib", "eval")
    )


def noise(count: int = 2) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [{"input": generator.standard_normal((1, 3, 224, 224)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def resnet_tensorrt() -> QuantizedModel:
    return qx.quantize(available("resnet50"), noise(), target="tensorrt")


@pytest.fixture(scope="module")
def resnet_onnxruntime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet") / "int8.onnx"
    qx.quantize(available("resnet50"), noise(), target="onnxruntime").save(path)
    return path


@pytest.mark.real
def test_tensorrt_resnet_has_its_pairs(resnet_tensorrt: QuantizedModel) -> None:
    activations, weights = resnet_tensorrt.activation_sites, resnet_tensorrt.weight_sites
    assert (len(activations), len(weights)) == (55, 54)
    assert len({edge for site in activations for edge in site.edges}) == RESNET_OPERATORS
    nodes = {node.name: node.op for node in resnet_tensorrt.model.graph.nodes}
    readers = Counter(nodes[edge.node] for edge in {edge for site in activations for edge in site.edges})
    assert (readers["Conv"], readers["Add"], readers["GlobalAveragePool"]) == (53, 16, 1)


@pytest.mark.real
def test_tensorrt_resnet_has_zero_points_of_zero(resnet_tensorrt: QuantizedModel) -> None:
    assert resnet_tensorrt.parameters is not None
    assert not any(numbers.zero_point.any() for numbers in resnet_tensorrt.parameters.values())


@pytest.mark.real
def test_tensorrt_resnet_has_no_pair_inside_a_group(resnet_tensorrt: QuantizedModel) -> None:
    graph = resnet_tensorrt.to_onnx().graph
    producer = {output: node for node in graph.node for output in node.output}
    for quantize in (node for node in graph.node if node.op_type == "QuantizeLinear"):
        source = producer.get(quantize.input[0])
        # a group ends in Relu; only the convolution of a downsampled shortcut stands alone
        assert source is None or source.op_type in {"Relu", "MaxPool", "GlobalAveragePool", "Conv"}, quantize.name
    for add in (node for node in graph.node if node.op_type == "Add"):
        assert sorted(producer[name].op_type for name in add.input) == ["Conv", "DequantizeLinear"], add.name


@pytest.mark.real
def test_onnxruntime_resnet_is_all_integer(resnet_onnxruntime: Path) -> None:
    operators = optimized_operators(resnet_onnxruntime)
    assert integer_share(operators) == {"Conv": (53, 53), "Add": (16, 16), "Gemm": (1, 1)}
    assert operators["QuantizeLinear"] == 1


@pytest.mark.real
@pytest.mark.parametrize("name", TRAINED)
def test_trained_networks_stay_accurate(name: str, tmp_path: Path) -> None:
    data, least_sqnr, least_agreement = TRAINED[name]
    model, out = available(name), tmp_path / "int8.onnx"
    calibration, evaluation = photos(data)
    qx.quantize(model, calibration, target="onnxruntime").save(out)
    found = qx.compare(model, out, evaluation[:100])
    assert found.sqnr_db > least_sqnr
    assert found.agreement is not None
    assert found.agreement > least_agreement


@pytest.mark.real
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_trained_networks_give_the_same_bytes_twice(target: str) -> None:
    model = available("mobilenet_v2")
    calibration = photos("photos_mobilenet")[0][:4]
    first, second = (qx.quantize(model, calibration, target=target).to_model().to_bytes() for _ in range(2))
    assert first == second


@pytest.mark.real
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_evidence_leads_to_a_better_trained_network(target: str) -> None:
    """Releasing the group that alone does most to the outputs makes the whole network better."""
    calibration, evaluation = photos("photos_mobilenet")
    model, samples = available("mobilenet_v2"), evaluation[:8]
    quantized = qx.quantize(model, calibration[:16], target=target)
    found = collect_evidence(quantized, samples, at_outputs=8, blame=8)
    assert {site.tensor for site in found.sites} == {site.tensor for site in quantized.sites}
    before = qx.compare(model, quantized.to_onnx().SerializeToString(), samples).sqnr_db
    assert found.outputs["output"].sqnr_db == pytest.approx(before, abs=1.5)  # integer kernels round on their own
    worst = max(found.groups, key=lambda group: group.at_output.relative if group.at_output else 0.0)
    config = qx.QuantConfig(exclude=release(found, worst))
    released = qx.quantize(model, calibration[:16], target=target, config=config).to_onnx().SerializeToString()
    assert qx.compare(model, released, samples).sqnr_db > before


@pytest.fixture(scope="module")
def demo_int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "int8.onnx"
    qx.quantize(demo.model_path(), demo.calibration_path(), target="onnxruntime").save(path)
    return path


def test_the_demo_is_all_integer(demo_int8: Path) -> None:
    shares = integer_share(optimized_operators(demo_int8))
    assert set(shares) == {"Conv", "Add", "Gemm"}
    assert all(found == total for found, total in shares.values()), shares


def test_the_demo_stays_accurate(demo_int8: Path) -> None:
    images = np.load(demo.evaluation_path())["image"]
    found = qx.compare(demo.model_path(), demo_int8, [{"image": batch} for batch in np.split(images, 10)])
    assert found.sqnr_db > DEMO_SQNR


def test_the_demo_has_the_same_bytes_twice(demo_int8: Path) -> None:
    again = qx.quantize(demo.model_path(), demo.calibration_path(), target="onnxruntime")
    assert again.to_model().to_bytes() == demo_int8.read_bytes()


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_demo_loads_at_every_level_of_optimization(target: str) -> None:
    proto = qx.quantize(demo.model_path(), demo.calibration_path(), target=target, limit=4).to_onnx()
    onnx.checker.check_model(proto, full_check=True)
    feed = {"image": np.load(demo.evaluation_path())["image"][:8]}
    exact, optimized = (
        open_session(proto, threads=1, optimize=optimize).run(None, feed)[0] for optimize in (False, True)
    )
    assert np.abs(exact - optimized).max() < 0.1 * np.abs(exact).max()


@pytest.mark.real
@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize(("network", "limit"), [("mobilenet_v2", "45MB"), ("resnet50", "120MB")])
def test_a_model_in_parts_gives_the_same_bytes(network: str, limit: str, method: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(memory, "resident", lambda: 0)
    path, samples = available(network), noise(4)
    config = qx.QuantConfig(activation={"calibration_method": method})
    options = {"target": "tensorrt", "config": config, "threads": 1}
    opened: list[Any] = []
    original = StageModels.open
    monkeypatch.setattr(StageModels, "open", lambda *given: opened.append(given) or original(*given))
    whole, parts = (qx.quantize(path, samples, **options, memory_limit=allowed) for allowed in (None, limit))
    assert len(opened) > 1
    assert parts.to_model().to_bytes() == whole.to_model().to_bytes()
