"""Bodies of If, Loop and Scan: quantized as models of their own, by what they are fed, or left with a reason."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph_laws import Feeds, Results, run
from models import parse
from onnx import numpy_helper

import quantonnx as qx
from quantonnx.bodies import open_bodies, put_back
from quantonnx.explaining import Explainer
from quantonnx.inspecting import inspect
from quantonnx.summary import left_in_float, pairs
from quantonnx.target import known_targets

TARGETS = tuple(known_targets())
INTEGERS = qx.QuantConfig(keep_slow=True)
WEIGHTS = qx.QuantConfig(activation=None)

BRANCHES = """agraph (float[N,16] x, bool flag) => (float[N,16] y)
<float[16,16] first, float[16,16] shared, float[16] bias> {
    [in] h = MatMul (x, first)
    [choice] y = If (flag) <
        then_branch = yes () => (float[N,16] a) { [left] m = MatMul (h, shared) a = Tanh (m) },
        else_branch = no () => (float[N,16] b) { [right] n = MatMul (h, shared) [sum] b = Add (n, bias) }
    >
}"""
LOOP = """agraph (float[2,16] x, int64 count) => (float[2,16] y, float[K,2,16] each)
<float[16,16] w, float[16,16] u, bool go = {1}> {
    [steps] y, each = Loop (count, go, x) <
        body = step (int64 i, bool more, float[2,16] s) => (bool on, float[2,16] next, float[2,16] out) {
            on = Identity (more)
            [state] h = MatMul (s, w)
            [input] k = MatMul (x, u)
            q = Add (h, k)
            next = Tanh (q)
            out = Identity (next)
        }
    >
}"""
SCAN = """agraph (float[2,16] start, float[2,16] other, float[2,6,16] xs) => (float[2,16] y, float[2,16] z, float[6,2,16] ys)
<float[16,16] w, float[16,16] u> {
    [scan] y, z, ys = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
        body = step (float[2,16] s, float[2,16] t, float[2,16] x) => (float[2,16] s2, float[2,16] t2, float[2,16] o) {
            [state] h = MatMul (s, w)
            [input] g = MatMul (x, u)
            k = Add (h, g)
            s2 = Tanh (k)
            t2 = Identity (s)
            o = Add (s2, t)
        }
    > (start, other, xs)
}"""
NESTED = """agraph (float[2,16] x, int64 count) => (float[2,16] y)
<float[16,16] w, float[16,16] u, bool go = {1}, int64 one = {1}> {
    [outer] f = MatMul (x, w)
    [steps] y = Loop (count, go, f) <
        body = step (int64 i, bool more, float[2,16] s) => (bool on, float[2,16] next) {
            on = Identity (more)
            rest = Mod (i, two)
            even = Equal (rest, one)
            [choice] next = If (even) <
                then_branch = yes () => (float[2,16] a) { [left] h = MatMul (s, w) k = Add (h, f) a = Tanh (k) },
                else_branch = no () => (float[2,16] b) { [right] h = MatMul (s, u) b = Tanh (h) }
            >
        }
    >
}""".replace("int64 one = {1}", "int64 one = {1}, int64 two = {2}")


@cache
def model(name: str) -> onnx.ModelProto:
    proto = parse({"if": BRANCHES, "loop": LOOP, "scan": SCAN, "nested": NESTED}[name], opset=17)
    for item in proto.graph.initializer:  # a loop whose state grows would make anything of an error
        values = numpy_helper.to_array(item)
        if values.dtype == np.float32:
            item.CopyFrom(numpy_helper.from_array(values / 4, item.name))
    return proto


def feeds(name: str, count: int = 12) -> list[Feeds]:
    rng = np.random.default_rng(3)

    def made(*shape: int) -> Any:
        return (rng.normal(size=shape) * 0.5).astype(np.float32)

    if name == "if":
        return [{"x": made(2, 16), "flag": np.asarray(i % 2 == 0)} for i in range(count)]
    if name == "scan":
        return [{"start": made(2, 16), "other": made(2, 16), "xs": made(2, 6, 16)} for _ in range(count)]
    return [{"x": made(2, 16), "count": np.asarray(i % 4 + 1)} for i in range(count)]


def sqnr(expected: list[Results], found: list[Results]) -> float:
    """Returns the worst output's signal to noise in dB, over all feeds."""
    ratios = []
    for name in expected[0]:
        before = np.concatenate([result[name].reshape(-1) for result in expected]).astype(np.float64)
        after = np.concatenate([result[name].reshape(-1) for result in found])
        ratios.append(10 * np.log10((before**2).sum() / max(((before - after) ** 2).sum(), 1e-30)))
    return float(min(ratios))


@pytest.mark.parametrize("config", [INTEGERS, WEIGHTS], ids=["integers", "weights"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["if", "loop", "scan", "nested"])
def test_bodies_are_quantized_and_stay_near_float(name: str, target: str, config: qx.QuantConfig) -> None:
    samples = feeds(name)
    done = qx.quantize(model(name), samples, target=target, config=config)
    proto = done.to_onnx()
    onnx.checker.check_model(proto, full_check=True)
    counts = {"if": 3, "loop": 2, "scan": 2, "nested": 3}[name]
    assert pairs(done) == {"activation": counts if config is INTEGERS else 0, "weight": counts}
    exact = run(model(name), samples)
    for optimized in (False, True):
        assert sqnr(exact, run(proto, samples, optimized=optimized)) > 20
    assert done.to_model().to_bytes() == done.to_model().to_bytes()


@pytest.mark.parametrize("name", ["if", "loop", "scan", "nested"])
def test_names_are_unique_over_the_whole_file_and_nodes_keep_theirs(name: str) -> None:
    proto = qx.quantize(model(name), feeds(name), target="onnxruntime", config=INTEGERS).to_onnx()
    nodes = [node.name for graph in _graphs(proto.graph) for node in graph.node]
    assert len(set(nodes)) == len(nodes)
    assert {node.name for graph in _graphs(model(name).graph) for node in graph.node if node.name} <= set(nodes)
    fused = qx.transform(model(name), target="onnxruntime").model.to_proto()
    assert _values(fused) <= _values(proto)
    assert _values(fused) <= _values(model(name))
    given = [item.name for graph in _graphs(proto.graph) for item in graph.initializer]
    assert len(set(given)) == len(given)


def test_a_float_weight_that_no_graph_reads_any_more_is_gone() -> None:
    proto = qx.quantize(model("if"), feeds("if"), target="onnxruntime", config=INTEGERS).to_onnx()
    stored = {
        item.name: numpy_helper.to_array(item).dtype for graph in _graphs(proto.graph) for item in graph.initializer
    }
    assert "shared" not in stored
    assert sum(dtype == np.int8 and "zero" not in name for name, dtype in stored.items()) == 3


def test_the_file_imports_the_domain_of_pairs_that_stand_in_bodies_only() -> None:
    config = qx.QuantConfig(keep_slow=True, contrib_ops=True, activation={"n_bits": 16}, exclude=("in",))  # type: ignore[arg-type]
    done = qx.quantize(model("if"), feeds("if"), target="onnxruntime", config=config).to_onnx()
    onnx.checker.check_model(done)
    assert {entry.domain for entry in done.opset_import} == {"", "com.microsoft"}
    assert sqnr(run(model("if"), feeds("if")), run(done, feeds("if"))) > 30


def test_a_weight_that_branches_share_is_not_folded_into_each() -> None:
    proto = parse("""agraph (float[2,128] x, bool flag) => (float[2,64] y) <float[64,128] w> {
        y = If (flag) <
            then_branch = yes () => (float[2,64] a) { v = Transpose <perm = [1, 0]> (w) a = MatMul (x, v) },
            else_branch = no () => (float[2,64] b) { u = Transpose <perm = [1, 0]> (w) n = MatMul (x, u) b = Neg (n) }
        >
    }""")
    assert len(qx.transform(proto, target="onnxruntime").model.to_bytes()) < 1.1 * 64 * 128 * 4


def test_ranges_are_those_of_all_iterations() -> None:
    samples = [{"x": np.full((2, 16), 0.5, np.float32), "count": np.asarray(5)}]
    done = qx.quantize(model("loop"), samples, target="onnxruntime", config=qx.QuantConfig(**MINMAX))
    states = []
    for count in range(5):
        states.append(
            run(model("loop"), [samples[0] | {"count": np.asarray(count)}])[0]["y"] if count else samples[0]["x"]
        )
    low, high = done.bodies["steps/body"].ranges["s"]
    assert low == pytest.approx(min(0, *(state.min() for state in states)), abs=1e-3)
    assert high == pytest.approx(max(state.max() for state in states), abs=1e-3)


MINMAX: dict[str, Any] = {"keep_slow": True, "activation": {"calibration_method": "minmax"}, "recipe": ()}


def test_a_branch_that_no_sample_takes_stays_in_float_and_says_so() -> None:
    samples = [feed | {"flag": np.asarray(True)} for feed in feeds("if")]
    done = qx.quantize(model("if"), samples, target="onnxruntime", config=INTEGERS)
    told = {decision.name: decision.reason for decision in left_in_float(done)}
    assert told["choice/else_branch"] == "the body stays in float: no sample reaches it"
    assert pairs(done) == {"activation": 2, "weight": 2}
    exact = feeds("if")
    assert sqnr(run(model("if"), exact[1::2]), run(done.to_onnx(), exact[1::2])) > 20


def test_statistics_and_loops_leave_activations_in_bodies_in_float() -> None:
    seen = qx.collect_statistics(model("if"), feeds("if"), target="onnxruntime")
    fused = qx.transform(model("if"), target="onnxruntime")
    done = qx.calibrate(qx.insert_qdq(fused.model, fused.matches, INTEGERS), statistics=seen)
    assert pairs(done) == {"activation": 1, "weight": 1}
    assert any("its ranges need samples" in decision.reason for decision in left_in_float(done))


def test_samples_that_can_be_read_only_once_leave_bodies_in_float() -> None:
    done = qx.quantize(model("if"), iter(feeds("if")), target="onnxruntime", config=INTEGERS)
    assert pairs(done) == {"activation": 1, "weight": 1}
    assert any("read only once" in decision.reason for decision in left_in_float(done))


def test_a_body_that_is_not_understood_stays_as_it_is() -> None:
    proto = parse(
        """agraph (float[2,16] x, bool flag) => (float[2,16] y) <float[16,16] w, float[16,16] u> {
        h = MatMul (x, w)
        parts = SequenceConstruct (h, h)
        [choice] y = If (flag) <
            then_branch = yes () => (float[2,16] a) { [inner] m = MatMul (h, u) s = SequenceAt (parts, zero) a = Add (m, s) },
            else_branch = no () => (float[2,16] b) { b = Tanh (h) }
        >
    }""".replace("float[16,16] u>", "float[16,16] u, int64 zero = {0}>")
    )
    samples = feeds("if")
    done = qx.quantize(proto, samples, target="onnxruntime", config=INTEGERS)
    told = {decision.name: decision.reason for decision in left_in_float(done)}
    assert told["choice/then_branch"] == "'parts', which the body reads from outside, is not known to be a tensor"
    assert pairs(done) == {"activation": 1, "weight": 1}
    assert sqnr(run(proto, samples), run(done.to_onnx(), samples)) > 20
    asked = Explainer(proto, qx.get_target("onnxruntime"), config=INTEGERS)
    assert "is not known to be a tensor" in asked.node("inner").answer


def test_rules_of_a_configuration_reach_nodes_in_bodies() -> None:
    config = qx.QuantConfig(keep_slow=True, exclude=("left", "in"))
    done = qx.quantize(model("if"), feeds("if"), target="onnxruntime", config=config)
    assert pairs(done) == {"activation": 1, "weight": 1}
    with pytest.raises(qx.ConfigError, match="lefd"):
        qx.quantize(model("if"), feeds("if"), target="onnxruntime", config=qx.QuantConfig(exclude=("lefd",)))


def test_a_plan_has_the_steps_in_bodies_and_they_can_be_switched_off(tmp_path: Path) -> None:
    plan = qx.make_plan(model("nested"), target="onnxruntime")
    plan["right"].apply = False
    plan.save(tmp_path / "plan.yaml")
    loaded = qx.Plan.load(tmp_path / "plan.yaml")
    assert [step.apply for step in loaded.every_step(fusions=True) if step.nodes[0] in ("left", "right")] == [
        True,
        False,
    ]
    done = qx.quantize(model("nested"), feeds("nested"), plan=loaded, config=INTEGERS)
    assert pairs(done) == {"activation": 2, "weight": 2}


def test_a_second_transform_changes_nothing() -> None:
    fused = qx.transform(model("nested"), target="tensorrt").model
    assert qx.transform(fused, target="tensorrt").model.to_bytes() == fused.to_bytes()


def test_nodes_in_bodies_are_explained_and_counted(tmp_path: Path) -> None:
    asked = Explainer(model("nested"), qx.get_target("onnxruntime"), config=INTEGERS)
    assert "is quantized as part of Linear" in asked.node("left").answer
    assert "a pair stands on 's'" in asked.tensor("s").answer
    with pytest.raises(qx.ModelError, match="no node 'lefd'; did you mean left"):
        asked.node("lefd")
    path = tmp_path / "model.onnx"
    qx.quantize(model("nested"), feeds("nested"), target="onnxruntime", config=INTEGERS).save(path)
    found = inspect(path)
    assert (found.activation_pairs, found.weight_pairs) == (1, 1)
    assert {body.name: (body.activation_pairs, body.weight_pairs) for body in found.inside} == {
        "steps/body": (0, 0),
        "choice/then_branch": (1, 1),
        "choice/else_branch": (1, 1),
    }


def test_a_quantized_body_is_not_quantized_again() -> None:
    done = qx.quantize(
        model("if"), feeds("if"), target="onnxruntime", config=qx.QuantConfig(keep_slow=True, exclude=("in",))
    ).to_onnx()
    again = qx.transform(done, target="onnxruntime")
    placed = qx.insert_qdq(again.model, again.matches, INTEGERS)
    assert pairs(placed) == {"activation": 1, "weight": 1}
    assert any("is quantized already" in decision.reason for decision in placed.decisions)


def test_bodies_are_opened_with_names_for_all_their_nodes() -> None:
    opened = list(open_bodies(qx.Model.read(model("if"))))
    assert [body.name for body in opened] == ["choice/then_branch", "choice/else_branch"]
    names = [node.name for body in opened if body.model for node in body.model.graph.nodes]
    assert names == ["left", "choice/then_branch/Tanh_1", "right", "sum"]


def test_what_bodies_read_is_found_once_for_all_that_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    around = qx.Model.read(model("if"))
    before, opened = around.to_bytes(), [(body.name, body.model) for body in open_bodies(around) if body.model]
    refreshed: list[qx.Model] = []
    monkeypatch.setattr(qx.Model, "refresh_captured", lambda self: refreshed.append(self))
    put_back(around, opened)
    assert len(opened) == 2
    assert [each is around for each in refreshed] == [True]
    assert [len(_graphs(each.graph)) for each in (onnx.load_from_string(before), around.to_proto())] == [3, 3]


def _values(proto: onnx.ModelProto) -> set[str]:
    return {name for graph in _graphs(proto.graph) for node in graph.node for name in node.output}


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(found for each in inner for found in _graphs(each))]
