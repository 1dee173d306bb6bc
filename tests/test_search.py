"""The search for what to give up, and the choice of method and recipe: culprits are planted, and have to be found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import parse
from onnx import numpy_helper

import quantonnx as qx
from quantonnx import cli
from quantonnx.calibration.methods import parse_method
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.costs import Cost, CostModel
from quantonnx.errors import ConfigError, QuantonnxError
from quantonnx.islands import prices_of_float
from quantonnx.search import Found, Goal, Score, find_config
from quantonnx.search.choosing import MARGIN, Choice, choose_config
from quantonnx.search.emitting import Change, changed, to_yaml
from quantonnx.search.goals import parse_decibels, parse_drop
from quantonnx.search.measuring import Evaluation
from quantonnx.search.searching import shortest
from quantonnx.search.trials import Quantizing, Trials

CHAIN = """g (float[N,32] x) => (float[N,8] scores)
    <float[32,64] first, float[64,64] second, float[64,64] third, float[64,8] last>
    { a = MatMul (x, first) b = MatMul (a, second) c = MatMul (b, third) scores = MatMul (c, last) }"""
OPEN = qx.QuantConfig(keep_slow=True)
KEEP = qx.QuantConfig(keep_slow=True, recipe=[], activation={"calibration_method": "mse"})
Feeds = dict[str, np.ndarray]


@pytest.fixture
def planted() -> onnx.ModelProto:
    """One channel of `a` is 300 times as large as the others, and `b` reads it with small weights."""
    return imbalanced(1 / 300)


@pytest.fixture
def ignored() -> onnx.ModelProto:
    """One channel of `a` is 300 times as large as the others, and `b` does not read it: only activations are hard."""
    return imbalanced(0.0)


def imbalanced(read: float) -> onnx.ModelProto:
    model = parse(CHAIN)
    for name, index, factor in (("first", np.s_[:, 5], 300.0), ("second", np.s_[5], read)):
        tensor = next(each for each in model.graph.initializer if each.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[index] *= factor
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model


@pytest.fixture
def feeds() -> Feeds:
    return {"x": np.random.default_rng(0).standard_normal((48, 32)).astype(np.float32)}


def searched(model: onnx.ModelProto, feeds: Feeds, goal: Goal, **options: Any) -> Found:
    return find_config(model, feeds, **{"goal": goal, "target": "onnxruntime", "config": KEEP} | options)


def names(found: Found) -> list[str]:
    return [change.name for change in found.changes]


# --------------------------------------------------------------------------------------------------- what is given up


def test_the_planted_culprit_is_given_up_alone(planted: onnx.ModelProto, feeds: Feeds) -> None:
    found = searched(planted, feeds, Goal(min_sqnr=30))
    assert found.before.score.sqnr_db < 25
    assert found.reached
    assert found.score.sqnr_db >= 30
    assert names(found) == ["b"]
    assert found.best.float_macs == pytest.approx(64 / (32 + 64 + 64 + 8))
    assert [entry.name for entry in found.config.exclude] == ["b"]


def test_nothing_is_given_up_where_the_bar_is_met(feeds: Feeds) -> None:
    found = searched(parse(CHAIN), feeds, Goal(min_sqnr=20))
    assert found.reached
    assert found.changes == ()
    assert len(found.trials) == 1
    assert found.config == KEEP


def test_a_bar_out_of_reach_gives_the_nearest_and_what_limits_it(planted: onnx.ModelProto, feeds: Feeds) -> None:
    found = searched(planted, feeds, Goal(min_sqnr=150))
    assert not found.reached
    assert "one has to stay in integers" in found.limit
    assert found.score.sqnr_db == max(trial.score.sqnr_db for trial in found.trials)
    assert found.quantized.sites


def test_no_more_is_measured_than_asked_for(planted: onnx.ModelProto, feeds: Feeds) -> None:
    found = searched(planted, feeds, Goal(min_sqnr=150), budget=1)
    assert len(found.trials) == 1
    assert "1 measurements are spent" in found.limit


def test_what_the_bar_does_not_need_is_taken_back(planted: onnx.ModelProto, feeds: Feeds) -> None:
    """Two are needed at first, and one of them turns out to do alone."""

    def told(run: Callable[..., Any], samples: Iterable[Any]) -> float:
        return calls.pop(0)

    calls = [1.0, 0.0, 0.0, 1.0, 1.0]  # the float model, the quantized one, then one configuration each
    found = searched(planted, feeds, Goal(max_drop=0.5, metric=told))
    assert found.reached
    assert [len(trial.given_up) for trial in found.trials] == [0, 1, 2, 1]
    assert len(found.changes) == 1


def test_sixteen_bits_are_taken_where_the_target_has_kernels(ignored: onnx.ModelProto, feeds: Feeds) -> None:
    target = replace(qx.get_target("onnxruntime"), wide=frozenset({"MatMul"}))
    found = searched(ignored, feeds, Goal(min_sqnr=30), target=target)
    assert found.reached
    assert names(found) == ["b"]
    assert found.config.exclude == ()
    assert found.best.float_macs == 0
    wide = [site.tensor for site in found.quantized.activation_sites if site.format.n_bits == 16]
    assert wide == ["a"]


def test_float_is_taken_where_sixteen_bits_do_not_do(ignored: onnx.ModelProto, feeds: Feeds) -> None:
    target = replace(qx.get_target("onnxruntime"), wide=frozenset({"MatMul"}))
    found = searched(ignored, feeds, Goal(min_sqnr=38.2), target=target)
    assert found.reached
    assert found.best.float_macs > 0


def test_each_result_is_the_same(planted: onnx.ModelProto, feeds: Feeds) -> None:
    one, other = (searched(planted, feeds, Goal(min_sqnr=33)) for _ in range(2))
    assert one.to_yaml() == other.to_yaml()
    assert one.quantized.to_onnx() == other.quantized.to_onnx()


def test_what_the_target_does_by_default_is_done_and_pinned(planted: onnx.ModelProto, feeds: Feeds) -> None:
    """Its recipe scales inputs, and its method is found by running the model: both see samples."""
    first = searched(planted, feeds, Goal(min_sqnr=-100), config=OPEN)
    assert first.config == OPEN
    found = searched(planted, feeds, Goal(min_sqnr=first.score.sqnr_db + 1), config=OPEN)
    assert found.reached
    assert found.config.activation is not None
    assert found.config.activation.calibration_method is not None
    again = qx.quantize(planted, feeds, target="onnxruntime", config=found.config)
    assert found.quantized.to_onnx() == again.to_onnx()


def test_a_recipe_is_kept(planted: onnx.ModelProto, feeds: Feeds) -> None:
    config = qx.QuantConfig(keep_slow=True, recipe=["equalize"])
    found = searched(planted, feeds, Goal(min_sqnr=36), config=config)
    assert [step.name for step in found.config.recipe] == ["equalize"]
    again = qx.quantize(planted, feeds, target="onnxruntime", config=found.config)
    assert found.quantized.to_onnx() == again.to_onnx()


def test_a_group_between_integers_costs_more_than_one_that_ends_them() -> None:
    fused = qx.transform(parse(CHAIN), target="onnxruntime")
    matches = [match for _, match in fused.matches.resolve(fused.model)]
    kinds = {node.op for node in fused.model.graph.nodes} | {"QuantizeLinear", "DequantizeLinear"}
    costs = CostModel(dict.fromkeys(kinds, Cost(100, 0, 1.0)), dict.fromkeys(kinds, Cost(100, 0, 1.0)))
    prices = prices_of_float(fused.model, matches, costs, replace(fused.matches.target, costs=costs))
    assert prices[1] > prices[3]


# ------------------------------------------------------------------------------------------------ metrics and the bar


def test_a_function_of_the_user_is_asked(planted: onnx.ModelProto, feeds: Feeds) -> None:
    seen: list[Mapping[str, np.ndarray]] = []

    def nearness(run: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]], samples: Iterable[Any]) -> float:
        outputs = [run(feed) for feed in samples]
        seen.extend(outputs)
        return -float(
            np.mean([np.abs(each["scores"] - want["scores"]).mean() for each, want in zip(outputs, exact, strict=True)])
        )

    exact = [{"scores": each} for each in expected(planted, feeds)]
    first = searched(planted, feeds, Goal(max_drop=1e9, metric=nearness))
    goal = Goal(max_drop=first.score.drop / 3, metric=nearness)
    found = searched(planted, feeds, goal)
    assert set(seen[0]) == {"scores"}
    assert found.reached
    assert names(found) == ["b"]
    assert found.score.metric == "nearness"


def expected(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    from models import run

    return [run(model, {"x": row[None]})["scores"] for row in feeds["x"]]


def test_labels_make_it_accuracy(feeds: Feeds) -> None:
    labels = np.zeros(48, np.int64)
    found = searched(parse(CHAIN), feeds, Goal(max_drop=1.0), labels=labels)
    assert found.score.metric == "accuracy"
    right = np.concatenate(expected(parse(CHAIN), feeds)).argmax(-1) == labels
    assert found.score.exact == pytest.approx(right.mean())


def test_evaluation_data_are_what_counts(planted: onnx.ModelProto, feeds: Feeds) -> None:
    zeros = {"x": np.zeros((3, 32), np.float32)}
    found = searched(planted, feeds, Goal(max_drop=0.0), evaluation=zeros)
    assert found.samples == 3
    assert found.reached


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "no bar"),
        ({"max_drop": -1}, "max_drop"),
        ({"max_drop": math.nan}, "max_drop"),
        ({"min_sqnr": math.inf}, "min_sqnr"),
        ({"max_drop": 0.1, "metric": "sqnr"}, "no drop"),
        ({"max_drop": 0.1, "metric": "acuracy"}, "acuracy"),
    ],
)
def test_a_bar_that_makes_no_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Goal(**settings)


def test_a_metric_that_fails_is_named(feeds: Feeds) -> None:
    def broken(run: Any, samples: Any) -> float:
        raise KeyError("boxes")

    with pytest.raises(QuantonnxError, match="broken fails: KeyError: 'boxes'"):
        searched(parse(CHAIN), feeds, Goal(max_drop=0.1, metric=broken))


def test_accuracy_needs_labels(feeds: Feeds) -> None:
    with pytest.raises(ConfigError, match="labels"):
        searched(parse(CHAIN), feeds, Goal(max_drop=0.1, metric="accuracy"))


@pytest.mark.parametrize(
    ("text", "value"), [("0.5%", 0.005), ("0.005", 0.005), (".5 %", 0.005), ("0", 0.0), ("0.1", 0.1), ("100%", 1.0)]
)
def test_drops_are_read(text: str, value: float) -> None:
    assert parse_drop(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "x", "5", "0.5", "-1%", "0.5%%"])
def test_other_drops_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--max-drop"):
        parse_drop(text)


@pytest.mark.parametrize(("text", "value"), [("30dB", 30.0), ("30", 30.0), ("29.5 db", 29.5)])
def test_decibels_are_read(text: str, value: float) -> None:
    assert parse_decibels(text) == value


def test_a_score_that_was_not_measured_meets_nothing() -> None:
    assert not Goal(min_sqnr=-100).reached(Score("sqnr"))
    assert not Goal(max_drop=1).reached(Score("accuracy", sqnr_db=50))


@pytest.mark.parametrize("longest", [1, 2, 7, 40])
def test_the_shortest_is_found_in_few_steps(longest: int) -> None:
    for needed in range(1, longest + 2):
        for guess in (1, longest // 2, longest, longest + 5):
            asked: list[int] = []
            found = shortest(lambda count: asked.append(count) or count >= needed, longest, guess)  # noqa: B023
            assert found == (needed if needed <= longest else None)
            assert len(asked) <= 2 * math.log2(longest + 1) + 2
            assert all(1 <= count <= longest for count in asked)


# ------------------------------------------------------------------------------------------------- the configuration

CONFIGS = [
    {},
    {"exclude": ["Gemm", {"name": "other", "optional": True}], "keep_slow": True},
    {"preset": "qnn-u16", "op_names": {"n": {"inputs": {0: {"n_bits": 16}}, "states": None}, "re:^x": None}},
    {"recipe": []},
    {"activation": None, "recipe": ["equalize", {"smooth_quant": {"alpha": 0.5}}], "bias": {"dtype": "int32"}},
    {
        "activation": {"calibration_method": "percentile:99.9", "min_range": 1e-5},
        "tensors": {"t: u": {"range": [0, 1]}},
    },
]


@pytest.mark.parametrize("settings", CONFIGS)
def test_text_says_what_the_configuration_says(settings: dict[str, Any], tmp_path: Path) -> None:
    config = qx.QuantConfig(**settings)
    changes = [
        Change("a: b", "why # not"),
        Change("m", "because", {"node": {"inputs": {1: {"n_bits": 16}}}}),
        Change("- no", "colon: here"),
    ]
    (tmp_path / "found.yaml").write_text(to_yaml(config, changes, ["a remark", ""]), encoding="utf-8")
    loaded = qx.QuantConfig.load(tmp_path / "found.yaml")
    assert loaded == changed(config, changes)
    assert [entry.name for entry in loaded.exclude][-2:] == ["a: b", "- no"]
    assert loaded.op_names["node"].inputs[1].n_bits == 16
    assert changed(config, ()) == config
    assert ("recipe" in loaded.model_fields_set) == ("recipe" in settings)


# ---------------------------------------------------------------------------------------------------------- the choice


def placed(model: onnx.ModelProto, config: qx.QuantConfig = OPEN, target: str = "tensorrt") -> qx.QuantizedModel:
    fused = qx.transform(model, target=target)
    return qx.insert_qdq(fused.model, fused.matches, config)


@pytest.fixture
def outliers(feeds: Feeds) -> Feeds:
    """A few wild samples among those that calibrate, and none among those that judge."""
    wild = feeds["x"].copy()
    wild[4::12] *= 60
    return {"x": wild}


def test_the_method_is_chosen_by_held_out_samples(outliers: Feeds) -> None:
    choice = choose_config(placed(parse(CHAIN)), outliers)
    standing = choice.options[0]
    assert choice.chosen.sqnr_db > standing.sqnr_db + MARGIN
    assert choice.config.activation is not None
    assert str(choice.config.activation.calibration_method) in choice.chosen.name
    assert choice.held_out + choice.used == 48
    assert "better than as configured" in choice.reasons[0]


def test_planted_imbalance_chooses_a_recipe(planted: onnx.ModelProto, feeds: Feeds) -> None:
    choice = choose_config(placed(planted), feeds)
    assert [step.name for step in choice.config.recipe][:1] == ["equalize"]


def test_nothing_is_chosen_for_tenths_of_a_decibel(feeds: Feeds) -> None:
    choice = choose_config(placed(parse(CHAIN), target="onnxruntime"), feeds)
    best = max(option.sqnr_db for option in choice.options if not option.note)
    assert choice.chosen.sqnr_db >= choice.options[0].sqnr_db
    assert best - choice.chosen.sqnr_db <= MARGIN


def test_what_was_said_stays(outliers: Feeds) -> None:
    config = qx.QuantConfig(keep_slow=True, activation={"calibration_method": "minmax"}, recipe=["equalize"])
    choice = choose_config(placed(parse(CHAIN), config), outliers)
    assert choice.config.activation == config.activation
    assert choice.config.recipe == config.recipe


def test_without_time_everything_stays(outliers: Feeds) -> None:
    choice = choose_config(placed(parse(CHAIN)), outliers, time_budget=0.0)
    assert choice.config == OPEN
    assert {option.note for option in choice.options[1:]} == {"no time left"}


def test_samples_are_counted_and_not_batches(feeds: Feeds) -> None:
    batches = [{"x": feeds["x"][start : start + 4]} for start in range(0, 48, 4)]
    choice = choose_config(placed(parse(CHAIN)), batches, time_budget=0.0)
    assert (choice.held_out, choice.used) == (12, 36)


def test_few_samples_judge_and_calibrate(feeds: Feeds) -> None:
    choice = choose_config(placed(parse(CHAIN)), {"x": feeds["x"][:3]})
    assert (choice.held_out, choice.used) == (3, 3)


def test_the_choice_is_the_same_each_time(outliers: Feeds) -> None:
    one, other = (choose_config(placed(parse(CHAIN)), outliers) for _ in range(2))
    assert written(one) == written(other)


def written(choice: Choice) -> str:
    return to_yaml(choice.config, (), choice.remarks())


# ---------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def files(planted: onnx.ModelProto, feeds: Feeds, tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(planted.SerializeToString())
    np.save(tmp_path / "calib.npy", feeds["x"])
    evaluation = np.random.default_rng(7).standard_normal((40, 32)).astype(np.float32)
    np.savez(tmp_path / "eval.npz", x=evaluation, labels=np.zeros(40, np.int64))
    return tmp_path


def command(folder: Path, *options: object, out: str = "out.onnx") -> int:
    given = ("quantize", folder / "model.onnx", "-o", folder / out, "-t", "onnxruntime", "--data", folder / "calib.npy")
    return cli.run([*map(str, given), "--no-speed", *map(str, options)])


def test_the_emitted_configuration_gives_the_same_bytes(files: Path, feeds: Feeds) -> None:
    found = files / "found.yaml"
    bar = ("--eval-data", files / "eval.npz", "--min-sqnr", "30dB", "--keep-slow", "--emit-config", found)
    assert command(files, *bar) == 0
    assert "excluded" not in found.read_text()
    assert "- b\n" in found.read_text()
    assert command(files, "--config", found, out="again.onnx") == 0
    assert (files / "out.onnx").read_bytes() == (files / "again.onnx").read_bytes()
    made = qx.quantize(files / "model.onnx", feeds, target="onnxruntime", config=qx.QuantConfig.load(found))
    assert made.to_onnx() == onnx.load(files / "out.onnx")


def test_an_emitted_choice_gives_the_same_bytes(files: Path) -> None:
    found = files / "found.yaml"
    assert command(files, "--auto", "--keep-slow", "--emit-config", found, "--time-budget", "1m") == 0
    assert "# Chosen:" in found.read_text()
    assert command(files, "--config", found, out="again.onnx") == 0
    assert (files / "out.onnx").read_bytes() == (files / "again.onnx").read_bytes()


def test_a_bar_out_of_reach_is_a_failed_check(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(files, "--min-sqnr", "150", "--keep-slow") == 1
    told = capsys.readouterr().err
    assert "less than --min-sqnr 150" in told
    assert "the data that calibrated" in told
    assert (files / "out.onnx").exists()


def test_a_metric_in_a_file(files: Path) -> None:
    (files / "mine.py").write_text(
        "def first(run, samples):\n    return float(next(iter(run(next(iter(samples))).values())).shape[0])\n"
    )
    assert command(files, "--max-drop", "0", "--metric", f"{files / 'mine.py'}:first") == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metric", "agreement"), "no bar"),
        (("--max-drop", "5"), "say 5%, or 500%"),
        (("--max-drop", "1%", "--metric", "nowhere.py:f"), "nowhere.py"),
        (("--max-drop", "1%", "--metric", "f"), "FILE.py:FUNCTION"),
        (("--auto", "--time-budget", "soon"), "--time-budget"),
        (("--auto", "--emit-config", "found.json"), ".yaml"),
        (("--emit-config", "found.yaml"), "nothing to write"),
        (("--time-budget", "1m"), "that of --auto"),
    ],
)
def test_wrong_options_are_one_line(
    options: tuple[str, ...], words: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(files, *options) == 2
    told = capsys.readouterr().err.strip()
    assert words in told
    assert "\n" not in told
    assert not (files / "out.onnx").exists()


# ---------------------------------------------------------------------------------------------------- a real network


@pytest.mark.real
def test_a_trained_network_reaches_a_bar_with_little_in_float(tmp_path: Path) -> None:
    from test_real_models import available

    model = available("fashion_mobilenet_v3")
    data = [np.load(model.parent / f"fashion_mobilenet_v3_{part}.npz") for part in ("calib", "eval")]
    samples, evaluation = ({"image": part["image"][:count]} for part, count in zip(data, (48, 150), strict=True))
    start = find_config(model, samples, goal=Goal(min_sqnr=-100), evaluation=evaluation)
    found = find_config(model, samples, goal=Goal(min_sqnr=start.score.sqnr_db + 1.5), evaluation=evaluation)
    assert found.reached
    assert found.changes
    assert found.best.float_macs - start.best.float_macs <= 0.15
    (tmp_path / "found.yaml").write_text(found.to_yaml(), encoding="utf-8")
    again = qx.quantize(model, samples, config=qx.QuantConfig.load(tmp_path / "found.yaml"))
    assert again.to_onnx() == found.quantized.to_onnx()


def test_the_method_is_not_pinned_where_it_would_turn_activations_on(planted: onnx.ModelProto, feeds: Feeds) -> None:
    rule = {"MatMul": {"inputs": {0: {"n_bits": 8}}}}
    config = qx.QuantConfig(preset="w8", op_types=rule, keep_slow=True)  # type: ignore[arg-type]
    fused = qx.transform(planted, target="onnxruntime")
    placed = qx.insert_qdq(fused.model, fused.matches, config)
    evaluation = Evaluation(planted, open_samples(feeds, input_specs(fused.model)), Goal(min_sqnr=99))
    trials = Trials(Quantizing(placed, feeds), evaluation, 4)
    trials.method = parse_method("mse")
    trials.pin()
    assert trials.config == config
