"""Operators that integers would slow down stay in float: alone, with neighbours, and as whole regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from models import parse

from quantonnx.config import QuantConfig
from quantonnx.costs import Cost, CostModel
from quantonnx.decisions import Decider
from quantonnx.errors import PlanError
from quantonnx.pipeline import quantize
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import transform
from quantonnx.target import Target, get_target

FREE = Cost(0, 0, 0)
ORT = get_target("onnxruntime")
WIDE = (
    "agraph (float[1,8,32,32] x) => (float[1,8,32,32] y) <float[64,8,3,3] w1, float[64,64,3,3] w2, float[8,64,3,3] w3> "
    "{ a = Conv<pads=[1,1,1,1]>(x, w1) b = Conv<pads=[1,1,1,1]>(a, w2) y = Conv<pads=[1,1,1,1]>(b, w3) }"
)


def priced(*, gains: dict[str, tuple[float, float]], conversion: float, fused: bool = False) -> Target:
    """Returns the target with operators of `(float, integer)` microseconds a call and that price of a conversion."""
    exact = {kind: Cost(1e3 * times[0], 0, 0) for kind, times in gains.items()}
    rough = {kind: Cost(1e3 * times[1], 0, 0) for kind, times in gains.items()}
    converts = Cost(1e3 * conversion, 0, 0)
    exact |= {"QuantizeLinear": converts, "DequantizeLinear": converts}
    return replace(ORT, costs=CostModel(exact, rough, fuses_conversions=fused))


def placed(graph: str, target: Target, **config: object) -> QuantizedModel:
    fused = transform(parse(graph), target=target)
    return insert_qdq(fused.model, fused.matches, QuantConfig(**config))


def released(quantized: QuantizedModel) -> set[str]:
    return {decision.name for decision in quantized.decisions if decision.decider is Decider.COST}


def test_operators_that_gain_more_than_their_conversions_become_integers() -> None:
    quantized = placed(WIDE, priced(gains={"Conv": (100, 20)}, conversion=50))
    assert not released(quantized)
    assert len(quantized.weight_sites) == 3


def test_a_region_that_does_not_pay_for_its_conversions_stays_in_float() -> None:
    """Three times 30 µs are gained, and two conversions of 50 µs paid; one more operator would make it worth them."""
    quantized = placed(WIDE, priced(gains={"Conv": (100, 70)}, conversion=50))
    assert released(quantized) == {"a", "b", "y"}
    assert quantized.faster_in_float
    longer = WIDE.replace(
        "y = Conv<pads=[1,1,1,1]>(b, w3)", "c = Conv<pads=[1,1,1,1]>(b, w2) y = Conv<pads=[1,1,1,1]>(c, w3)"
    )
    assert not released(placed(longer, priced(gains={"Conv": (100, 70)}, conversion=50)))


def test_an_operator_at_the_edge_that_integers_slow_down_is_released_alone() -> None:
    graph = (
        "agraph (float[1,64,32,32] x) => (float[N,C,H,W] y) <float[64,1,3,3] d, float[64,64,3,3] w> "
        "{ a = Conv<group=64>(x, d) b = Conv(a, w) y = Conv(b, w) }"
    )
    target = priced(gains={"Conv": (100, 20), "depthwise": (20, 40)}, conversion=10)
    quantized = placed(graph, replace(target, memory_bound=lambda found: False))
    assert released(quantized) == {"a"}
    assert "integers would be 20.0 µs slower" in next(d.reason for d in quantized.decisions if d.name == "a")


def test_a_slow_operator_between_fast_ones_stays_where_its_conversions_would_cost_more() -> None:
    graph = (
        "agraph (float[1,64,32,32] x) => (float[N,C,H,W] y) <float[64,1,3,3] d, float[64,64,3,3] w> "
        "{ a = Conv(x, w) b = Conv<group=64>(a, d) y = Conv(b, w) }"
    )
    target = priced(gains={"Conv": (100, 20), "depthwise": (20, 30)}, conversion=10)
    assert not released(placed(graph, target))


def test_neighbours_that_only_pay_together_are_released_together() -> None:
    graph = (
        "agraph (float[1,64,32,32] x) => (float[N,C,H,W] y) <float[64,64,3,3] w> "
        "{ a = Conv(x, w) s = Sigmoid(a) b = Mul(a, s) y = Conv(b, w) }"
    )
    gains = {"Conv": (500, 20), "Sigmoid": (5, 20), "Mul": (5, 20)}
    assert released(placed(graph, priced(gains=gains, conversion=12))) == {"s", "b"}
    assert not released(placed(graph, priced(gains=gains, conversion=40)))


def test_fused_conversions_cost_nothing_behind_an_integer_operator() -> None:
    """Only the image is converted then, which one operator's gain pays for."""
    assert released(placed(WIDE, priced(gains={"Conv": (100, 80)}, conversion=50)))
    assert not released(placed(WIDE, priced(gains={"Conv": (100, 80)}, conversion=50, fused=True)))


def test_a_model_that_runs_in_no_time_is_left_as_the_patterns_say() -> None:
    assert not released(placed(WIDE, priced(gains={"Conv": (10, 15)}, conversion=50)))


def test_unknown_costs_and_shapes_release_nothing() -> None:
    assert not released(placed(WIDE, priced(gains={"Add": (1, 1)}, conversion=50)))
    unknown = WIDE.replace("float[1,8,32,32] x", "float x").replace("float[1,8,32,32] y", "float y")
    assert not released(placed(unknown, priced(gains={"Conv": (100, 120)}, conversion=50)))


def test_keep_slow_keeps_them() -> None:
    target = priced(gains={"Conv": (100, 120)}, conversion=50)
    assert len(placed(WIDE, target, keep_slow=True).weight_sites) == 3


def test_what_is_faster_in_float_is_written_without_a_pair() -> None:
    target = priced(gains={"Conv": (100, 120)}, conversion=50)
    feeds = [{"x": np.ones((1, 8, 32, 32), np.float32)}]
    quantized = quantize(parse(WIDE), feeds, target=target)
    assert quantized.faster_in_float
    assert {node.op for node in quantized.to_model().graph.nodes} == {"Conv"}


def test_a_model_without_anything_to_quantize_is_still_refused() -> None:
    graph = "agraph (float[4] x) => (float[4] y) { y = Neg(x) }"
    with pytest.raises(PlanError, match="no pair was placed"):
        quantize(parse(graph), [{"x": np.ones(4, np.float32)}], target="onnxruntime")


def test_no_operator_with_a_weight_is_left_between_pairs_where_the_runtime_would_quantize_it_itself() -> None:
    graph = (
        "agraph (float[1,64,32,32] x) => (float[N,C,H,W] y) <float[64,1,3,3] d, float[64,64,3,3] w> "
        "{ a = Conv(x, w) b = Conv<group=64>(a, d) y = Conv(b, w) }"
    )
    target = priced(gains={"Conv": (500, 20), "depthwise": (20, 90)}, conversion=10)
    assert released(placed(graph, target)) == {"b"}
    filling = replace(target, costs=replace(target.costs, fills_gaps=True))
    assert not released(placed(graph, filling))
