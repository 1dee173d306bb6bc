"""A slice of the random graphs of benchmarks/random_graphs.py, and what the thousands of them have found."""

from __future__ import annotations

import graph_laws as laws
import pytest
from graph_samples import Sample, in_a_branch, in_a_loop, samples
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from models import assert_same_results, parse

import quantonnx as qx
from quantonnx.summary import left_in_float
from quantonnx.target import known_targets

TARGETS = tuple(known_targets())
quick = settings(max_examples=35, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


@quick
@given(samples(most=6), st.sampled_from(TARGETS))
def test_a_random_graph_keeps_its_results_when_it_is_fused(sample: Sample, target: str) -> None:
    try:
        known = laws.in_float(sample, count=1)
    except laws.NotRunnable:
        return
    if known.usable:
        laws.transform_is_done_at_once(laws.transform_keeps_results(sample, known, target), target)


@quick
@given(samples(most=5), st.sampled_from(TARGETS), st.sampled_from(sorted(laws.CONFIGS)))
def test_a_random_graph_becomes_a_sound_file(sample: Sample, target: str, config: str) -> None:
    try:
        known = laws.in_float(sample)
    except laws.NotRunnable:
        return
    if known.usable:
        fused = qx.transform(sample.proto, target=target).model
        laws.quantize_gives_a_sound_file(sample, known, fused, target, config)


@settings(quick, max_examples=20)
@given(samples(most=4), st.sampled_from(TARGETS), st.sampled_from(sorted(laws.CONFIGS)), st.booleans())
def test_a_random_graph_in_a_body_becomes_a_sound_file(sample: Sample, target: str, config: str, loop: bool) -> None:
    inside = in_a_loop(sample) if loop else in_a_branch(sample)
    try:
        known = laws.in_float(inside)
    except laws.NotRunnable:
        return
    if known.usable:
        fused = laws.transform_keeps_results(inside, known, target)
        laws.quantize_gives_a_sound_file(inside, known, fused, target, config)


def test_a_stack_of_matrices_stays_in_float_where_weights_are_in_groups() -> None:
    proto = parse(
        "agraph (float[2,4,32] x) => (float[2,4,16] y) <float[32,32] w, float[1,32,16] stack> "
        "{ h = MatMul(x, w) y = MatMul(h, stack) }"
    )
    groups = {"activation": None, "weight": {"n_bits": 4, "group_size": 32}}
    done = qx.quantize(proto, target="onnxruntime", config=qx.QuantConfig(**groups))  # type: ignore[arg-type]
    assert [site.tensor for site in done.weight_sites] == ["w"]
    assert ("y", "'stack' has no known axis to sum over, so it cannot be in groups") in [
        (decision.name, decision.reason) for decision in left_in_float(done)
    ]
    asked = groups | {"op_types": {"MatMul": {"states": {"weight": {"group_size": 32}}}}}
    with pytest.raises(qx.ConfigError, match="without an axis to sum over for 'stack'"):
        qx.quantize(proto, target="onnxruntime", config=qx.QuantConfig(**asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("operands", ["n, c", "c, n"])
def test_a_residual_branch_is_no_inner_value_of_its_own_group(target: str, operands: str) -> None:
    proto = parse(
        "agraph (float[2,3,6,6] x) => (float[2,4,6,6] y) "
        "<float[4,3,1,1] w, float[4] gamma, float[4] beta, float[4] mean, float[4] variance> "
        f"{{ c = Conv(x, w) n = BatchNormalization(c, gamma, beta, mean, variance) y = Add({operands}) }}"
    )
    assert_same_results(proto, qx.transform(proto, target=target).model)
