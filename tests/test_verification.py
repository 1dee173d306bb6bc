"""Verification: the figures are what their definitions say, in constant memory, whatever the batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import parse

from quantonnx.errors import DataError
from quantonnx.speed import measure_speed
from quantonnx.tallying import Comparison, class_scores
from quantonnx.verification import compare

SCALED = (
    "g (float[N,4] x) => (float[N,4] y) {{ factor = Constant <value_floats: floats = [{0}]> () y = Mul (x, factor) }}"
)
FOUR = "1.0, 1.0, 1.0, 1.0"


def scaled(*factors: float) -> bytes:
    return bytes(parse(SCALED.format(", ".join(map(str, factors)))).SerializeToString())


def feeds(values: np.ndarray, batch: int = 1) -> list[dict[str, np.ndarray]]:
    return [{"x": values[i : i + batch]} for i in range(0, len(values), batch)]


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32)


def test_figures_follow_their_definitions(values: np.ndarray) -> None:
    factors = np.array([1.1, 0.9, 1.0, 1.3], np.float32)
    found = compare(scaled(1, 1, 1, 1), scaled(*factors), feeds(values))
    rough = values * factors
    noise = np.sum((values.astype(np.float64) - rough) ** 2)
    cosines = np.sum(values * rough, 1) / np.linalg.norm(values, axis=1) / np.linalg.norm(rough, axis=1)
    assert found.samples == 24
    assert found.sqnr_db == pytest.approx(10 * math.log10(np.sum(values.astype(np.float64) ** 2) / noise), rel=1e-5)
    assert found.cosine == pytest.approx(cosines.mean(), rel=1e-5)
    assert found.outputs["y"].max_abs == pytest.approx(np.abs(values - rough).max(), rel=1e-5)
    assert found.agreement == np.mean(values.argmax(1) == rough.argmax(1))


@pytest.mark.parametrize("batch", [2, 5, 24])
def test_batches_change_nothing(batch: int, values: np.ndarray) -> None:
    models = scaled(1, 1, 1, 1), scaled(1.1, 0.9, 1, 1)
    one, many = (compare(*models, feeds(values, size)) for size in (1, batch))
    assert many.samples == one.samples
    assert many.sqnr_db == pytest.approx(one.sqnr_db)
    assert many.cosine == pytest.approx(one.cosine)
    assert many.agreement == one.agreement


def test_samples_are_whatever_other_calls_take(values: np.ndarray, tmp_path: Path) -> None:
    models, path = (scaled(1, 1, 1, 1), scaled(1.1, 0.9, 1, 1)), tmp_path / "data.npz"
    np.savez(path, x=values, labels=values.argmax(1))
    expected = compare(*models, feeds(values))
    for samples in ({"x": values}, values, lambda: feeds(values), path, str(path)):
        found = compare(*models, samples)
        assert (found.samples, found.sqnr_db) == (24, pytest.approx(expected.sqnr_db))
    assert (found.float_accuracy, expected.float_accuracy) == (1, None)
    assert compare(*models, {"x": values}, limit=5).samples == 5


def test_equal_models_are_infinitely_near(values: np.ndarray) -> None:
    found = compare(scaled(1, 1, 1, 1), scaled(1, 1, 1, 1), feeds(values))
    assert found.sqnr_db == math.inf
    assert found.cosine == pytest.approx(1)
    assert found.agreement == 1


def test_zeros_are_no_division(values: np.ndarray) -> None:
    assert compare(scaled(0, 0, 0, 0), scaled(0, 0, 0, 0), feeds(values)).cosine == 1
    assert compare(scaled(0, 0, 0, 0), scaled(1, 1, 1, 1), feeds(values)).sqnr_db == -math.inf


def test_accuracy_with_class_numbers(values: np.ndarray) -> None:
    labels = values.argmax(1)
    labels[:6] = (labels[:6] + 1) % 4
    found = compare(scaled(1, 1, 1, 1), scaled(-1, -1, -1, -1), feeds(values, 5), labels)
    assert found.float_accuracy == 0.75
    assert found.accuracy == np.mean(values.argmin(1) == labels)


def test_accuracy_with_acceptable_classes(values: np.ndarray) -> None:
    acceptable = np.zeros((24, 4), bool)
    acceptable[:, :2] = True
    found = compare(scaled(1, 1, 1, 1), scaled(1, 1, 1, 1), feeds(values, 7), acceptable)
    assert found.float_accuracy == found.accuracy == np.mean(values.argmax(1) < 2)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(24), "float64"),
        (np.full(24, 4), "4 classes"),
        (np.zeros(3, int), "3 labels"),
        (np.zeros((24, 9), bool), "9 classes"),
    ],
)
def test_labels_that_do_not_fit(labels: np.ndarray, words: str, values: np.ndarray) -> None:
    with pytest.raises(DataError, match=words):
        compare(scaled(1, 1, 1, 1), scaled(1, 1, 1, 1), feeds(values), labels)


def test_labels_without_class_scores() -> None:
    model = parse("g (float[N,4,4] x) => (float[N,4,4] y) { y = Relu (x) }").SerializeToString()
    with pytest.raises(DataError, match="class scores"):
        compare(model, model, [{"x": np.ones((1, 4, 4), np.float32)}], np.zeros(1, int))


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((3, 10), (3, 10)),
        ((3, 10, 1, 1), (3, 10)),
        ((3, 7, 300), (3, 7, 300)),
        ((3, 1), None),
        ((3, 7, 4), None),
        ((3,), None),
        ((0, 10), None),
    ],
)
def test_what_looks_like_class_scores(shape: tuple[int, ...], found: tuple[int, ...] | None) -> None:
    scores = class_scores(np.zeros(shape, np.float32))
    assert (None if scores is None else scores.shape) == found


def test_integers_are_not_class_scores() -> None:
    assert class_scores(np.zeros((3, 10), np.int64)) is None


def test_several_outputs_the_worst_counts(values: np.ndarray) -> None:
    graph = "g (float[N,4] x) => (float[N,4] a, float[N,4] b) {{ a = Relu (x) b = {} (x) }}"
    models = (parse(graph.format(op)).SerializeToString() for op in ("Neg", "Identity"))
    found = compare(*models, feeds(values))
    assert found.outputs["a"].sqnr_db == math.inf
    assert found.sqnr_db == found.outputs["b"].sqnr_db == pytest.approx(-10 * math.log10(4))


def test_samples_are_streamed(values: np.ndarray) -> None:
    alive = 0

    def stream() -> Iterator[dict[str, np.ndarray]]:
        nonlocal alive
        for feed in feeds(values):
            alive += 1
            yield feed

    assert compare(scaled(1, 1, 1, 1), scaled(1, 1, 1, 1), stream(), limit=5).samples == 5
    assert alive == 5


def test_progress_counts_samples(values: np.ndarray) -> None:
    seen: list[tuple[int, int | None]] = []
    compare(scaled(1, 1, 1, 1), scaled(1, 1, 1, 1), feeds(values, 8), progress=lambda *state: seen.append(state))
    assert [done for done, _ in seen] == [8, 16, 24]


def test_models_that_do_not_belong_together(values: np.ndarray) -> None:
    other = parse("g (float[N,4] z) => (float[N,4] y) { y = Relu (z) }").SerializeToString()
    with pytest.raises(DataError, match="inputs differ"):
        compare(scaled(1, 1, 1, 1), other, feeds(values))


def test_outputs_of_other_names_are_taken_in_order(values: np.ndarray) -> None:
    other = parse("g (float[N,4] x) => (float[N,4] z) { z = Identity (x) }").SerializeToString()
    assert compare(scaled(1, 1, 1, 1), other, feeds(values)).outputs["y"].sqnr_db == math.inf


def test_outputs_of_other_shapes_have_no_figures(values: np.ndarray) -> None:
    other = parse(
        "g (float[N,4] x) => (float[M] y) { one = Constant <value_ints: ints = [-1]> () y = Reshape (x, one) }"
    )
    found = compare(scaled(1, 1, 1, 1), other.SerializeToString(), feeds(values))
    assert math.isnan(found.outputs["y"].sqnr_db)


def test_no_samples_and_bad_samples() -> None:
    with pytest.raises(DataError, match="no sample"):
        compare(scaled(1, 1, 1, 1), scaled(1, 1, 1, 1), [])
    with pytest.raises(DataError, match="sample 0"):
        compare(scaled(1, 1, 1, 1), scaled(1, 1, 1, 1), [{"x": np.zeros((1, 9), np.float32)}])


def test_paths_and_bytes_are_the_same(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(scaled(1.1, 1, 1, 1))
    assert compare(path, scaled(1, 1, 1, 1), feeds(values)) == compare(
        path.read_bytes(), scaled(1, 1, 1, 1), feeds(values)
    )


def test_a_comparison_of_nothing_is_not_a_number() -> None:
    empty = Comparison({}, 0)
    assert math.isnan(empty.sqnr_db)
    assert empty.agreement is None


def test_speed_is_a_ratio_of_the_same_run(values: np.ndarray) -> None:
    found = measure_speed(scaled(1, 1, 1, 1), scaled(1, 1, 1, 1), feeds(values)[0], seconds=0.2)
    assert found.float_ms > 0
    assert 0.2 < found.ratio < 5


def test_the_text_models_are_valid() -> None:
    onnx.checker.check_model(onnx.load_from_string(scaled(1, 2, 3, 4)))
