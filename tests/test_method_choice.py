from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
import pytest
from models import parse, read

import quantonnx as qx
from quantonnx.calibration.feeds import input_specs
from quantonnx.calibration.keeping import MOST_KEPT, KeptSamples, Replayed
from quantonnx.calibration.samples import open_samples
from quantonnx.method_choice import CANDIDATES, output_decibels

RNG = np.random.default_rng(5)


def feed(number: int, rows: int = 1, size: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.full((rows, size), number, np.float32)}


def kept(count: int, rows: int = 1, size: int = 1) -> KeptSamples:
    keeping = KeptSamples()
    for number in range(count):
        keeping.offer(feed(number, rows, size))
    return keeping


def numbers(keeping: KeptSamples) -> list[int]:
    return [int(each["x"][0, 0]) for each in keeping.spread()]


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (16, [0, 4, 8, 12]), (64, [0, 8, 16, 24, 32, 40, 48, 56])]
)
def test_a_share_of_the_samples_is_spread_over_all(count: int, expected: list[int]) -> None:
    assert numbers(kept(count)) == expected


def test_of_many_samples_sixteen_are_spread_over_all() -> None:
    found = numbers(kept(1000))
    assert (len(found), found[0]) == (16, 0)
    assert max(np.diff([*found, 1000])) < 130


def test_large_batches_are_few_and_memory_is_bounded() -> None:
    assert numbers(kept(4, rows=64)) == [0]
    assert len(kept(10_000)._feeds) <= MOST_KEPT
    keeping = kept(40, size=4_000_000)  # 16 MB each
    assert keeping._bytes() <= 64_000_000


def test_what_is_kept_is_a_copy() -> None:
    keeping, buffer = KeptSamples(), feed(1)
    keeping.offer(buffer)
    buffer["x"][:] = 9
    assert numbers(keeping) == [1]


def test_the_first_samples_of_a_stream_are_read_once() -> None:
    read_so_far = []

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for number in range(5):
            read_so_far.append(number)
            yield feed(number)

    model = read("g (float[N,1] x) => (float[N,1] y) { y = Relu(x) }")
    replayed = Replayed(open_samples(stream(), input_specs(model)), 2)
    assert len(replayed.first) == 2
    assert [int(each["x"][0, 0]) for each in replayed] == [0, 1, 2, 3, 4]
    assert read_so_far == [0, 1, 2, 3, 4]


def test_decibels_of_a_known_error() -> None:
    exact = [[np.full((1, 4), 10, np.float32)]]
    rough = [[np.full((1, 4), 11, np.float32)]]
    assert output_decibels(exact, rough) == pytest.approx(20)
    assert output_decibels(exact, exact) > 100


def test_large_boxes_do_not_hide_dead_scores() -> None:
    exact = np.stack([np.full((2, 8), 300), np.full((2, 8), 0.5)], axis=1).astype(np.float32)
    boxes_off, scores_dead = exact.copy(), exact.copy()
    boxes_off[:, 0] *= 1.01
    scores_dead[:, 1] = 0
    assert output_decibels([[exact]], [[boxes_off]]) > output_decibels([[exact]], [[scores_dead]]) + 20


def test_integers_do_not_count_and_infinity_loses() -> None:
    exact = [[np.array([[1.0, -np.inf]], np.float32), np.array([3])]]
    assert output_decibels(exact, [[np.array([[1.1, 5.0]], np.float32), np.array([4])]]) == pytest.approx(20, abs=0.1)
    assert output_decibels(exact, [[np.array([[np.nan, 5.0]], np.float32), np.array([4])]]) == -np.inf


def test_other_shapes_are_noise_and_what_is_no_tensor_does_not_count() -> None:
    exact = [[np.ones(4, np.float32), [np.ones(2)]]]
    assert output_decibels(exact, [[np.ones(3, np.float32), []]]) == pytest.approx(0, abs=1e-6)
    assert output_decibels(exact, exact) > 100


CHOSEN = """g (float[N,16] x) => (float[k] y)
<float[16,32] w1, float[32,16] w2, float zero = {0}, int64[1] all = {-1}>
{ a = MatMul(x, w1) r = Relu(a) h = MatMul(r, w2) f = Reshape(h, all) c = Greater(f, zero) y = Compress(f, c) }"""


def test_the_choice_stands_outputs_whose_shape_depends_on_values() -> None:
    samples = [{"x": RNG.normal(size=(8, 16)).astype(np.float32)} for _ in range(8)]
    made = qx.quantize(parse(CHOSEN), samples, target="onnxruntime", config=config("auto"))
    assert made.method in CANDIDATES


SATURATED = """g (float[1,8] x) => (float[1,6] y)
<float[8,16] w1, float[16] b1, float[16,6] w2, float zero = {0}, float six = {6}>
{ h = Gemm(x, w1, b1) c = Clip(h, zero, six) y = MatMul(c, w2) }"""


def outlying_samples(count: int = 48) -> list[dict[str, np.ndarray]]:
    """Of inputs like these, a few that drive the layer far into saturation: their size does not matter."""
    x = RNG.normal(size=(count, 1, 8)).astype(np.float32)
    x[::12] = 60
    return [{"x": each} for each in x]


def config(method: str) -> qx.QuantConfig:
    return qx.QuantConfig(activation={"calibration_method": method}, keep_slow=True, recipe=[])


def error(model: qx.QuantizedModel, samples: list[dict[str, np.ndarray]]) -> float:
    runs = [
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        for proto in (parse(SATURATED), model.to_onnx())
    ]
    exact, rough = ([run.run(None, each) for each in samples] for run in runs)
    return output_decibels(exact, rough)


def test_auto_takes_a_method_within_half_a_decibel_of_the_best() -> None:
    samples = outlying_samples()
    judged = samples[::8]
    proto = parse(SATURATED)
    found = {
        str(method): error(qx.quantize(proto, samples, target="onnxruntime", config=config(str(method))), judged)
        for method in CANDIDATES
    }
    chosen = qx.quantize(proto, samples, target="onnxruntime", config=config("auto"))
    assert max(found.values()) - min(found.values()) > 1
    assert error(chosen, judged) >= max(found.values()) - 0.5 - 1e-6
    told = [decision for decision in chosen.decisions if decision.name == "calibration method"]
    assert len(told) == 1
    assert ("brings the outputs nearest" in told[0].reason) == (error(chosen, judged) >= max(found.values()) - 1e-6)


def test_auto_is_the_default_of_onnxruntime_and_gives_the_same_bytes_again() -> None:
    samples, proto = outlying_samples(), parse(SATURATED)
    plain = qx.QuantConfig(keep_slow=True)
    first, second = (qx.quantize(proto, samples, target="onnxruntime", config=plain) for _ in range(2))
    assert {site.ranging.method.kind for site in first.activation_sites} == {"auto"}
    assert first.to_model().to_bytes() == second.to_model().to_bytes()


def test_from_statistics_auto_is_mse() -> None:
    samples, proto = outlying_samples(), parse(SATURATED)
    known = qx.collect_statistics(proto, samples, target="onnxruntime")
    auto, mse = (
        qx.quantize(proto, statistics=known, target="onnxruntime", config=config(method)) for method in ("auto", "mse")
    )
    assert auto.ranges == mse.ranges


def test_a_forward_loop_runs_once() -> None:
    samples, calls = outlying_samples(), 0

    def loop(run: object) -> None:
        nonlocal calls
        calls += 1
        for each in samples:
            run(each)  # type: ignore[operator]

    made = qx.quantize(parse(SATURATED), forward_loop=loop, target="onnxruntime", config=config("auto"))
    assert calls == 1
    assert any(decision.name == "calibration method" for decision in made.decisions)
