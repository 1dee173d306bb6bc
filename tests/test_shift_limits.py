"""The limits are stated here anew, as inequalities between positions that a test reads from the scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import parse, read

import quantonnx as qx
from quantonnx.algorithms.shift_limits import Limited, shift_limits
from quantonnx.formats import Parameters, ScaleType, TensorFormat
from quantonnx.model import Model
from quantonnx.pattern import Edge, Role
from quantonnx.ranging import Ranging
from quantonnx.sites import Derivation, Site

Positions = dict[str, int]

SHIFTS = TensorFormat(n_bits=8, scale_type=ScaleType.POWER_OF_TWO)
CONV = "<float[4,3,1,1] w, float[4] b>"
GRAPHS = {
    "Conv": f"g (float[1,3,8,8] i) => (float[1,4,8,8] o) {CONV} {{ o = Conv(i, w, b) }}",
    "Conv, Relu": f"g (float[1,3,8,8] i) => (float[1,4,8,8] o) {CONV} {{ a = Conv(i, w, b) o = Relu(a) }}",
    "Conv, LeakyRelu": f"g (float[1,3,8,8] i) => (float[1,4,8,8] o) {CONV} {{ a = Conv(i, w, b) o = LeakyRelu(a) }}",
    "Conv without bias": "g (float[1,3,8,8] i) => (float[1,4,8,8] o) <float[4,3,1,1] w> { o = Conv(i, w) }",
    "ConvTranspose": (
        "g (float[1,3,8,8] i) => (float[1,4,8,8] o) <float[3,4,1,1] w, float[4] b> { o = ConvTranspose(i, w, b) }"
    ),
    "Gemm": "g (float[2,3] i) => (float[2,4] o) <float[3,4] w, float[4] b> { o = Gemm(i, w, b) }",
    "MatMul, Add, Relu": (
        "g (float[2,3] i) => (float[2,4] o) <float[3,4] w, float[4] b> { m = MatMul(i, w) a = Add(m, b) o = Relu(a) }"
    ),
    "Add": "g (float[2,3] i, float[2,3] j) => (float[2,3] o) { o = Add(i, j) }",
    "Add, Relu": "g (float[2,3] i, float[2,3] j) => (float[2,3] o) { a = Add(i, j) o = Relu(a) }",
    "Sub": "g (float[2,3] i, float[2,3] j) => (float[2,3] o) { o = Sub(i, j) }",
    "Mul": "g (float[2,3] i, float[2,3] j) => (float[2,3] o) { o = Mul(i, j) }",
    "swish": "g (float[2,3] i) => (float[2,3] o) { j = HardSigmoid(i) o = Mul(i, j) }",
    "HardSigmoid": "g (float[2,3] i) => (float[2,3] j) { j = HardSigmoid(i) }",
    "Concat": "g (float[2,3] i, float[2,3] j) => (float[2,6] o) { o = Concat<axis=1>(i, j) }",
    "MaxPool": "g (float[1,3,8,8] i) => (float[1,3,4,4] o) { o = MaxPool<kernel_shape=[2,2], strides=[2,2]>(i) }",
    "AveragePool": "g (float[1,3,8,8] i) => (float[1,3,7,7] o) { o = AveragePool<kernel_shape=[2,2]>(i) }",
    "GlobalAveragePool": "g (float[1,3,8,8] i) => (float[1,3,1,1] o) { o = GlobalAveragePool(i) }",
    "Pad": "g (float[2,3] i) => (float[2,5] o) <int64[4] p = {0,1,0,1}> { o = Pad(i, p) }",
    "Slice": (
        "g (float[2,3] i) => (float[2,2] o) <int64[1] s = {0}, int64[1] e = {2}, int64[1] d = {1}> "
        "{ o = Slice(i, s, e, d) }"
    ),
}


def shift_cut(p: Positions) -> bool:
    return 0 <= p["w"] + p["i"] - p["o"] <= 16


def shift_bias(p: Positions) -> bool:
    cut = p["w"] + p["i"] - p["o"]
    return min(0, -(24 - (8 + cut))) <= p["w"] + p["i"] - p["b"] <= 15


def no_negative_shift_bias(p: Positions) -> bool:
    return 0 <= p["w"] + p["i"] - p["b"] <= 15


def sum_limits(p: Positions) -> bool:
    return abs(p["i"] - p["j"]) <= 7 and -7 <= min(p["i"], p["j"]) - p["o"] <= 25


def one_position(p: Positions) -> bool:
    return len(set(p.values())) == 1


WEIGHTED = (shift_cut, shift_bias)
HOLDS: dict[str, tuple[Callable[[Positions], bool], ...]] = {
    **dict.fromkeys(GRAPHS, (one_position,)),
    **dict.fromkeys(("Conv", "Conv, Relu", "ConvTranspose", "Gemm", "MatMul, Add, Relu"), WEIGHTED),
    "Conv, LeakyRelu": (shift_cut, no_negative_shift_bias),
    "Conv without bias": (shift_cut,),
    **dict.fromkeys(("Add", "Add, Relu", "Sub"), (sum_limits,)),
    "Mul": (lambda p: 0 <= p["i"] + p["j"] - p["o"] <= 32,),
    "swish": (
        lambda p: 0 <= p["i"] + p["j"] - p["o"] <= 15,
        lambda p: 0 <= p["i"] <= 15 and p["j"] >= 7,
    ),
    "HardSigmoid": (lambda p: 0 <= p["i"] <= 15 and p["j"] >= 7,),
}
MAY_MOVE = {
    "w": ("shift_cut",),
    "b": ("shift_bias",),
    "i": ("shift_read", "hard_sigmoid_input", "align"),
    "j": ("shift_read", "hard_sigmoid_output", "align"),
    "o": ("shift_write", "shift_swish", "align"),
}


def parameters(position: int) -> Parameters:
    return Parameters(np.asarray(2.0**-position, np.float32), np.asarray(0, np.int8))


def site(model: Model, name: str) -> Site:
    roles = {"w": (Role.WEIGHT,), "b": (Role.BIAS,)}
    edges = [Edge(n.name, k) for n in model.graph.nodes for k, value in enumerate(n.inputs) if value.name == name]
    role = roles.get(name[0], (Role.OUTPUT,))
    return Site(name, role, SHIFTS, tuple(edges), "P", name, source=name, whole=role == (Role.OUTPUT,))


def quantized(text: str, positions: Positions) -> tuple[Model, dict[Site, Parameters]]:
    model = read(text)
    return model, {site(model, name): parameters(position) for name, position in positions.items()}


def found(limited: Limited) -> Positions:
    return {site.tensor: int(-np.log2(each.scale)) for site, each in limited.parameters.items()}


def names_in(text: str) -> list[str]:
    values = read(text).tensors()
    return [name for name in "ijwbo" if name in values]


@pytest.mark.parametrize("name", GRAPHS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_limits_hold_for_any_positions(name: str, data: st.DataObject) -> None:
    text = GRAPHS[name]
    before = {each: data.draw(st.integers(-20, 20), each) for each in names_in(text)}
    model, numbers = quantized(text, before)
    limited = shift_limits(model, numbers, numbers)
    after = found(limited)
    assert limited.unmet == ()
    assert all(holds(after) for holds in HOLDS[name]), (before, after)
    assert {change.tensor: (change.before, change.after) for change in limited.changes} == {
        each: (before[each], after[each]) for each in before if before[each] != after[each]
    }
    for change in limited.changes:
        assert set(change.rule.split(", ")) <= set(MAY_MOVE[change.tensor])
    if all(holds(before) for holds in HOLDS[name]):
        assert not limited.changes
    again = shift_limits(model, limited.parameters, limited.parameters)
    assert again.changes == ()


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("Conv", {"i": 5, "w": 0, "b": 8, "o": 9}, {"w": 4}),
        ("Conv", {"i": 5, "w": 20, "b": 12, "o": 5}, {"w": 16}),
        ("Conv", {"i": 5, "w": 5, "b": -9, "o": 5}, {"b": -5}),
        ("Conv", {"i": 5, "w": 5, "b": 30, "o": 5}, {"b": 21}),
        ("Conv, LeakyRelu", {"i": 5, "w": 5, "b": 12, "o": 5}, {"b": 10}),
        ("Add", {"i": 12, "j": 1, "o": 3}, {"i": 8}),
        ("Add", {"i": 3, "j": 3, "o": 15}, {"o": 10}),
        ("Mul", {"i": 2, "j": 3, "o": 9}, {"o": 5}),
        ("swish", {"i": 9, "j": 8, "o": 0}, {"o": 2}),
        ("swish", {"i": 18, "j": 3, "o": 10}, {"i": 15, "j": 7}),
        ("Concat", {"i": 4, "j": 7, "o": 5}, {"j": 4, "o": 4}),
        ("MaxPool", {"i": 4, "o": 6}, {"o": 4}),
    ],
)
def test_the_right_position_moves_and_only_as_far_as_needed(name: str, before: Positions, after: Positions) -> None:
    model, numbers = quantized(GRAPHS[name], before)
    assert found(shift_limits(model, numbers, numbers)) == before | after


def test_what_is_not_moved_keeps_its_very_numbers() -> None:
    model, numbers = quantized(GRAPHS["Conv"], {"i": 5, "w": 0, "b": 5, "o": 9})
    limited = shift_limits(model, numbers, numbers)
    changed = {change.tensor for change in limited.changes}
    assert changed == {"w"}
    assert all(limited.parameters[each] is numbers[each] for each in numbers if each.tensor not in changed)
    moved = next(each for each in numbers if each.tensor == "w")
    assert limited.parameters[moved].scale.dtype == numbers[moved].scale.dtype
    assert limited.parameters[moved].zero_point is numbers[moved].zero_point
    assert float(numbers[moved].scale) == 1.0


NETWORK = """g (float[1,3,8,8] i) => (float[1,8,4,4] o)
<float[4,3,1,1] w, float[4] b, float[4,4,1,1] w2, float[4] b2>
{ a = Conv(i, w, b) r = Relu(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
  c = Conv(p, w2, b2) s = Add(c, p) o = Concat<axis=1>(s, p) }"""


@settings(deadline=None, max_examples=40)
@given(positions=st.lists(st.integers(-12, 12), min_size=10, max_size=10))
def test_rules_that_meet_settle(positions: list[int]) -> None:
    names = ["i", "w", "b", "r", "p", "w2", "b2", "c", "s", "o"]
    model, numbers = quantized(NETWORK, dict(zip(names, positions, strict=True)))
    limited = shift_limits(model, numbers, numbers)
    p = found(limited)
    assert limited.unmet == ()
    assert p["r"] == p["p"] == p["s"] == p["o"]
    for i, w, b, o in (("i", "w", "b", "r"), ("p", "w2", "b2", "c")):
        assert all(holds({"i": p[i], "w": p[w], "b": p[b], "o": p[o]}) for holds in WEIGHTED)
    assert sum_limits({"i": p["c"], "j": p["p"], "o": p["s"]})
    assert shift_limits(model, limited.parameters, limited.parameters).changes == ()


def test_sites_that_share_a_scale_move_together() -> None:
    model, numbers = quantized(GRAPHS["Add"], {"i": 12, "j": 1, "o": 3})
    (first,) = (each for each in numbers if each.tensor == "i")
    twin = replace(first, roles=(Role.INPUT,), tensor="elsewhere", edges=(), whole=False)
    numbers[twin] = numbers[first]
    limited = shift_limits(model, numbers, numbers)
    assert limited.parameters[twin].scale == limited.parameters[first].scale == 2.0**-8


@pytest.mark.parametrize("name", ["Conv", "MaxPool"])
def test_a_fixed_scale_stays_and_what_is_unmet_is_told(name: str) -> None:
    before = {"i": 5, "w": 0, "b": 8, "o": 9}
    model, numbers = quantized(GRAPHS[name], {each: before[each] for each in names_in(GRAPHS[name])})
    fixed = {replace(each, ranging=Ranging(scale=float(n.scale))): n for each, n in numbers.items()}
    limited = shift_limits(model, fixed, fixed)
    assert limited.changes == ()
    (told,) = limited.unmet
    assert {"Conv": "is -4, expected 0 to 16", "MaxPool": "scales are fixed, and differ"}[name] in told


def test_the_other_side_follows_a_fixed_scale() -> None:
    model, numbers = quantized(GRAPHS["MaxPool"], {"i": 3, "o": 6})
    fixed = {
        replace(each, ranging=Ranging(scale=float(n.scale))) if each.tensor == "o" else each: n
        for each, n in numbers.items()
    }
    limited = shift_limits(model, fixed, fixed)
    assert (found(limited), limited.unmet) == ({"i": 6, "o": 6}, ())


def other_scales(each: Site, numbers: Parameters, kind: str) -> tuple[Site, Parameters]:
    if kind == "float scales":
        return replace(each, format=replace(each.format, scale_type=ScaleType.FLOAT)), numbers
    if kind == "derived bias" and each.tensor == "b":
        return replace(each, derived_from=Derivation("i", SHIFTS, "w", SHIFTS)), numbers
    if kind == "per channel" and each.tensor == "w":
        per_channel = Parameters(np.full(4, numbers.scale), np.zeros(4, np.int8))
        return replace(each, format=replace(each.format, axis=0)), per_channel
    return each, numbers


@pytest.mark.parametrize("kind", ["float scales", "derived bias", "per channel"])
def test_other_scales_do_not_count(kind: str) -> None:
    before = {"i": 5, "w": 8, "b": 40, "o": 9} if kind == "derived bias" else {"i": 5, "w": 0, "b": 40, "o": 9}
    model, numbers = quantized(GRAPHS["Conv"], before)
    numbers = dict(other_scales(each, n, kind) for each, n in numbers.items())
    limited = shift_limits(model, numbers, numbers)
    assert (limited.changes, limited.unmet) == ((), ())
    assert all(limited.parameters[each] is numbers[each] for each in numbers)


def test_a_pair_that_one_reader_has_is_no_ones_elses() -> None:
    """Of two readers of `i`, only the Conv has it quantized: the pool has no position at its input."""
    text = """g (float[1,3,8,8] i) => (float[1,4,8,8] y, float[1,3,1,1] o) <float[4,3,1,1] w>
    { y = Conv(i, w) o = GlobalAveragePool(i) }"""
    model, numbers = quantized(text, {"w": 5, "o": 9, "y": 5, "i": 5})
    numbers = {
        replace(each, roles=(Role.INPUT,), edges=each.edges[:1], whole=False) if each.tensor == "i" else each: n
        for each, n in numbers.items()
    }
    assert shift_limits(model, numbers, numbers).changes == ()


BLOCK = """g (float[N,16,8,8] i) => (float[N,32] y)
<float[16,16,3,3] w, float[16] b, float[16,16,1,1] w2, float[16] b2, float[16,32] w3, float[32] b3>
{ a = Conv<pads=[1,1,1,1]>(i, w, b) r = Relu(a) c = Conv(r, w2, b2) s = Add(c, i) t = Relu(s)
  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t) m = GlobalAveragePool(p) f = Flatten(m) y = Gemm(f, w3, b3) }"""


def test_a_network_in_the_xint8_format_runs_within_the_limits() -> None:
    proto = parse(BLOCK)
    weight = next(item for item in proto.graph.initializer if item.name == "w2")
    tiny = onnx.numpy_helper.to_array(weight) * np.float32(2.0**-14)  # shifts of the bias by more than 15
    weight.CopyFrom(onnx.numpy_helper.from_array(tiny, "w2"))
    data = [{"i": np.random.default_rng(0).normal(size=(2, 16, 8, 8)).astype(np.float32)}]
    fused = qx.transform(proto, target="onnxruntime")
    config = qx.QuantConfig(preset="xint8", shift_limits=False, keep_slow=True)
    quantized = qx.calibrate(qx.insert_qdq(fused.model, fused.matches, config), data)
    assert quantized.parameters is not None
    limited = shift_limits(quantized.model, quantized.sites, quantized.parameters)
    assert limited.unmet == ()
    assert "b2" in {change.tensor for change in limited.changes}
    wanted = qx.QuantConfig(preset="xint8", keep_slow=True)
    made = qx.calibrate(qx.insert_qdq(fused.model, fused.matches, wanted), data)
    assert {site.tensor: float(n.scale) for site, n in (made.parameters or {}).items()} == {
        site.tensor: float(n.scale) for site, n in limited.parameters.items()
    }
    p = found(limited)
    for i, w, b, o in (("i", "w", "b", "r"), ("r", "w2", "b2", "c")):
        assert all(holds({"i": p[i], "w": p[w], "b": p[b], "o": p[o]}) for holds in WEIGHTED)
    assert sum_limits({"i": p["c"], "j": p["i"], "o": p["t"]})
    assert p["t"] == p["p"] == p["m"]
    within = replace(quantized, parameters=limited.parameters)
    assert qx.compare(proto, within.to_onnx(), data).sqnr_db > 10
