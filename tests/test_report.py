"""Reports: the facts are those that were measured, names never become code, and a real browser shows the page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import parse

from quantonnx import QuantConfig, calibrate, cli, demo, insert_qdq, transform
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.decisions import OF_ALGORITHMS, Decider, Decision
from quantonnx.errors import OutputError
from quantonnx.evidence import Evidence, advice, collect_evidence
from quantonnx.preparation import Feeding
from quantonnx.quantized import QuantizedModel
from quantonnx.report import Facts, gather_facts, highlights, observe, page, recipe_changes, write_report
from quantonnx.report.histograms import MOST_BINS, beyond, histogram_of

pytest.importorskip("plotly", reason="plotly is not installed")
pytest.importorskip("jinja2", reason="jinja2 is not installed")

NETWORK = """
    network (float[N,3,8,8] x) => (float[N,8,8,8] y)
    <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2> {
        [first] c1 = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (x, w1, b1)
        [bend] r1 = Relu (c1)
        [second] c2 = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (r1, w2, b2)
        [last] y = Relu (c2)
    }
"""
NORMED = """
    network (float[1,3,8,8] x) => (float[1,8,8,16] y)
    <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8] gain, float[8] shift, float[8,16] matrix> {
        [first] c1 = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (x, w1, b1)
        [bend] r1 = Relu (c1)
        [second] c2 = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (r1, w2, b2)
        [turn] t = Transpose <perm: ints = [0, 2, 3, 1]> (c2)
        [norm] n = LayerNormalization <axis: int = -1> (t, gain, shift)
        [project] y = MatMul (n, matrix)
    }
"""
HOSTILE = "</script><script>alert(1)</script>"
HOSTILE_HTML = "<img src=x onerror=alert(2)>{{7*7}}<!--"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def samples(count: int = 6, name: str = "x") -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [{name: rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def quantized(
    source: onnx.ModelProto | None = None, name: str = "x", **settings: Any
) -> tuple[QuantizedModel, QuantizedModel]:
    """Returns the model before and after calibration."""
    fused = transform(parse(NETWORK) if source is None else source, target="onnxruntime")
    placed = insert_qdq(fused.model, fused.matches, QuantConfig(keep_slow=True, **settings))
    return placed, calibrate(placed, samples(name=name))


@pytest.fixture(scope="module")
def measured() -> tuple[QuantizedModel, Evidence, Facts]:
    placed, calibrated = quantized(activation={"calibration_method": "percentile:99"})
    evidence = collect_evidence(calibrated, samples())
    statistics = observe(calibrated, samples())
    facts = gather_facts(
        calibrated,
        model="float.onnx",
        output="int8.onnx",
        evidence=evidence,
        statistics=statistics,
        before=placed.model,
    )
    return calibrated, evidence, facts


def hostile() -> onnx.ModelProto:
    """Returns the model with names that end a script, or are elements of their own."""
    model = parse(NETWORK)
    renamed = {"x": HOSTILE, "r1": HOSTILE_HTML, "w2": f"w{HOSTILE}"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        node.name = f"{node.name}{HOSTILE}"
    for info in (*model.graph.input, *model.graph.initializer, *model.graph.value_info):
        info.name = renamed.get(info.name, info.name)
    return model


def hostile_page(folder: Path) -> Path:
    placed, calibrated = quantized(hostile(), HOSTILE)
    feeds = samples(name=HOSTILE)
    facts = gather_facts(
        calibrated,
        output=HOSTILE_HTML,
        evidence=collect_evidence(calibrated, feeds),
        statistics=observe(calibrated, feeds),
        before=placed.model,
        notes=[HOSTILE],
    )
    return write_report(folder, facts)


def facts_in(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found.group(1))


def test_the_facts_are_those_of_the_evidence(measured: tuple[QuantizedModel, Evidence, Facts], tmp_path: Path) -> None:
    _, evidence, facts = measured
    write_report(tmp_path, facts)
    written = json.loads((tmp_path / "report.json").read_text())
    assert [group["name"] for group in written["evidence"]["groups"]] == [group.name for group in evidence.groups]
    for known, found in zip(evidence.groups, written["evidence"]["groups"], strict=True):
        assert found["isolated"]["noise"] == known.isolated.noise
        assert found["isolated"]["sqnr_db"] == known.isolated.sqnr_db
        assert found["accumulated"]["cosine"] == known.accumulated.cosine
    for site in written["sites"]:
        if site["evidence"] is not None:
            assert evidence.sites[site["evidence"]].tensor == site["tensor"]
    assert written["highlights"] == list(highlights(facts))


def test_the_page_holds_the_same_facts(measured: tuple[QuantizedModel, Evidence, Facts], tmp_path: Path) -> None:
    html = write_report(tmp_path, measured[2]).read_text()
    assert facts_in(html) == json.loads((tmp_path / "report.json").read_text())


def test_ranges_and_clipped_shares_of_activations(measured: tuple[QuantizedModel, Evidence, Facts]) -> None:
    calibrated, _, facts = measured
    values = np.concatenate([feed["x"].reshape(-1) for feed in samples()])
    site = next(site for site in facts.sites if site.tensor == "x")
    numbers = next(found for key, found in (calibrated.parameters or {}).items() if key.tensor == "x")
    scale, zero = float(numbers.scale), int(numbers.zero_point)
    assert site.ends == pytest.approx(((0 - zero) * scale, (255 - zero) * scale))
    assert site.histogram is not None
    assert sum(site.histogram.counts) == values.size
    assert site.clipped is not None
    clipped = np.mean(values < site.ends[0] - scale / 2), np.mean(values > site.ends[1] + scale / 2)
    assert site.clipped == pytest.approx(clipped, abs=1.5 / values.size)
    assert sum(site.clipped) > 0.004


def test_ranges_of_each_channel_of_a_weight(measured: tuple[QuantizedModel, Evidence, Facts]) -> None:
    calibrated, _, facts = measured
    site = next(site for site in calibrated.weight_sites if "first" in {edge.node for edge in site.edges})
    values = calibrated.model.array(calibrated.model.tensors()[site.tensor])
    found = next(fact.channels for fact in facts.sites if fact.tensor == site.tensor)
    assert found is not None
    assert calibrated.parameters
    assert found.low == pytest.approx(np.minimum(values.min(axis=(1, 2, 3)), 0), rel=1e-5)
    assert found.high == pytest.approx(np.maximum(values.max(axis=(1, 2, 3)), 0), rel=1e-5)
    assert found.range_high == pytest.approx(site.format.qmax * calibrated.parameters[site].scale, rel=1e-5)
    assert found.before == ()


def test_histograms_stay_small_and_keep_every_count() -> None:
    stats = TensorStatistics("t")
    values = np.random.default_rng(0).laplace(size=(3, 5000)).astype(np.float32)
    stats.update(values, 3)
    found = histogram_of(stats)
    assert found is not None
    assert len(found.counts) <= MOST_BINS
    assert sum(found.counts) == values.size
    assert found.start <= values.min()
    assert found.start + found.width * len(found.counts) >= values.max()
    assert beyond(stats, -1.0, 2.0) == pytest.approx((np.mean(values < -1), np.mean(values > 2)), abs=2e-3)


def test_the_method_that_won_is_told() -> None:
    _, calibrated = quantized(activation={"calibration_method": "auto"})
    facts = gather_facts(calibrated)
    assert {site.range for site in facts.sites if site.kind == "activation"} == {f"{calibrated.method}, by auto"}
    assert not any(site.range.startswith("auto") for site in facts.sites)


def test_the_worst_groups_come_with_advice(measured: tuple[QuantizedModel, Evidence, Facts]) -> None:
    _, evidence, facts = measured
    assert facts.to_dict()["advice"] == {group.name: advice(evidence, group) for group in evidence.groups}


def test_each_group_tells_what_decided() -> None:
    _, calibrated = quantized(exclude=("second",))
    groups = {group.name: group for group in gather_facts(calibrated).groups}
    assert groups["r1"].state == "integer"
    assert groups["r1"].decided_by == "the target"
    assert {calibrated.sites[number].tensor for number in groups["r1"].sites} >= {"x"}
    assert groups["y"].state == "float"
    assert groups["y"].decided_by == "the setting `exclude`"


def test_the_recipe_shows_weights_before_and_after() -> None:
    proto = parse(NETWORK)
    weight = next(item for item in proto.graph.initializer if item.name == "w1")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] *= 50
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w1"))
    placed, calibrated = quantized(proto, recipe=["equalize"])
    changes = recipe_changes(placed, calibrated, Feeding(samples()))
    facts = gather_facts(calibrated, before=placed.model, changes=changes)
    change = next(change for change in facts.changes if (change.step, change.node) == ("equalize", "first"))
    assert [step.name for step in facts.recipe] == ["equalize", "calibration", "bias_correction"]
    assert change.spread[1] < change.spread[0] / 3
    assert change.moved > 0.1
    channels = next(site.channels for site in facts.sites if site.tensor == change.tensor)
    assert channels is not None
    assert max(channels.before[1]) == pytest.approx(max(values.max(), 0), rel=1e-4)


def test_steps_of_a_recipe_are_told_apart() -> None:
    placed, calibrated = quantized(parse(NORMED), recipe=["equalize", "smooth_quant"])
    changed = list(recipe_changes(placed, calibrated, Feeding(samples())))
    steps = {change.tensor: change.step for change in changed if change.step != "bias_correction"}
    assert set(steps.values()) == {"equalize", "smooth_quant"}
    assert {change.node for change in changed if change.step == "smooth_quant"} == {"project"}
    assert {change.node for change in changed if change.step == "equalize"} >= {"first", "second"}
    assert any(change.step == "bias_correction" and change.moved > 0 for change in changed)


@pytest.mark.parametrize("decider", sorted(OF_ALGORITHMS, key=lambda decider: decider.name))
def test_whatever_an_algorithm_tells_is_told_once(decider: Decider) -> None:
    _, calibrated = quantized()
    config = QuantConfig(recipe=["equalize", "absorb_biases", "smooth_quant", "scale_inputs", "awq"])
    told = replace(calibrated, decisions=(Decision("r1", "because", decider),), config=config)
    notes = [note for step in gather_facts(told).recipe for note in step.told]
    assert notes == [("r1", "because")]


def test_layers_whose_codes_were_chosen_are_told() -> None:
    placed, calibrated = quantized(recipe=["gptq"])
    changed = list(recipe_changes(placed, calibrated, Feeding(samples())))
    facts = gather_facts(calibrated, before=placed.model, changes=changed)
    assert {layer["node"] for layer in facts.to_dict()["layers"]} == {"first", "second"}
    assert {change.node for change in changed if change.step == "gptq"} == {"first", "second"}


def test_a_report_without_any_samples(tmp_path: Path) -> None:
    _, calibrated = quantized()
    facts = gather_facts(calibrated)
    written = facts_in(write_report(tmp_path / "new", facts).read_text())
    assert written["evidence"] is None
    assert "not measured" in written["highlights"][1]


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_a_missing_package_is_one_line(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(OutputError, match=rf"needs {package}; pip install 'quantonnx\[report\]'"):
        write_report(tmp_path, gather_facts(quantized()[1]))
    assert not list(tmp_path.iterdir())


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    html = hostile_page(tmp_path).read_text()
    own, _ = html.split('<script type="application/json"', 1)
    assert "<script" not in own
    assert "<img" not in own
    assert "alert(1)</script>" not in html.replace("\\u003c", "")
    assert {site["tensor"] for site in facts_in(html)["sites"]} >= {HOSTILE, HOSTILE_HTML}


def test_the_page_asks_for_nothing_outside(measured: tuple[QuantizedModel, Evidence, Facts], tmp_path: Path) -> None:
    html = write_report(tmp_path, measured[2]).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    assert policy.group(1).startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", html.split("plotly.js v")[0])


def test_quantize_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "out.onnx", tmp_path / "report"
    given = ["quantize", str(demo.model_path()), "-o", str(out), "-t", "onnxruntime", "--samples", "8", "--no-speed"]
    assert cli.run([*given, "--data", str(demo.calibration_path()), "--report", str(folder)]) == 0
    written = json.loads((folder / "report.json").read_text())
    assert written["evidence"]["samples"] == written["samples"] == 8
    assert "calibrated" in written["notes"][0]
    assert capsys.readouterr().out.strip().splitlines()[-3:] == written["highlights"]
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "plan.yaml", "summary.json"}


def test_a_report_takes_histograms_from_statistics(tmp_path: Path) -> None:
    given = ["quantize", str(demo.model_path()), "-t", "onnxruntime", "--no-speed", "-q"]
    kept, folder = tmp_path / "kept.npz", tmp_path / "report"
    data = ["--data", str(demo.calibration_path()), "--samples", "4"]
    assert cli.run([*given, *data, "-o", str(tmp_path / "first.onnx"), "--save-statistics", str(kept)]) == 0
    out = ["-o", str(tmp_path / "second.onnx"), "--report", str(folder)]
    assert cli.run([*given, *out, "--statistics", str(kept)]) == 0
    written = json.loads((folder / "report.json").read_text())
    assert written["samples"] == 4
    assert written["evidence"] is None
    assert all(site["histogram"] for site in written["sites"] if site["kind"] == "activation")


def test_compare_writes_a_report_of_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "out.onnx", tmp_path / "report"
    _, calibrated = quantized()
    (tmp_path / "float.onnx").write_bytes(parse(NETWORK).SerializeToString())
    calibrated.save(out)
    np.savez(tmp_path / "x.npz", x=np.concatenate([feed["x"] for feed in samples()]))
    given = ["compare", str(tmp_path / "float.onnx"), str(out), "--data", str(tmp_path / "x.npz")]
    assert cli.run([*given, "--report", str(folder)]) == 2
    assert "without --layers" in capsys.readouterr().err
    assert cli.run([*given, "--layers", "--report", str(folder)]) == 0
    written = facts_in((folder / "report.html").read_text())
    assert written["groups"] == []
    assert {site["tensor"] for site in written["sites"] if site["histogram"]} >= {"x", "r1"}
    assert written["evidence"]["samples"] == 6
    assert [step["name"] for step in written["recipe"]] == ["scale_inputs", "calibration", "bias_correction"]
    assert all(group["blame"] for group in written["evidence"]["groups"])
    shown = capsys.readouterr().out.strip()
    assert shown.splitlines()[-3:] == written["highlights"]
    assert shown.count("--exclude") == written["highlights"][2].count("--exclude")


def test_an_unusable_folder_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    given = ["quantize", str(demo.model_path()), "-o", str(tmp_path / "out.onnx"), "--random-data", "1"]
    assert cli.run([*given, "--report", str(file)]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


@pytest.fixture
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def shown(browser: Any, path: Path) -> tuple[Any, list[str]]:
    """Opens a report offline; what the browser complains about ends up in the list."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-drawn]", timeout=60_000)
    return tab, complaints


@pytest.mark.real
def test_a_browser_shows_selects_and_sorts(
    browser: Any, measured: tuple[QuantizedModel, Evidence, Facts], tmp_path: Path
) -> None:
    tab, complaints = shown(browser, write_report(tmp_path, measured[2]))
    assert tab.locator("#depth .main-svg").count() > 0
    assert tab.locator("#picture .op[class*=' e']").count() > 0
    for number, site in enumerate(measured[2].sites):
        tab.select_option("#site-choice", str(number))
        assert tab.locator("#site-detail h3").text_content() == site.tensor
        bars = tab.locator("#site-plot .bars .point").count()
        assert (bars > 0) == (site.histogram is not None or site.channels is not None)
    order = tab.evaluate("byId('depth').data[0].text")
    assert order == [group.name for group in sorted(measured[1].groups, key=lambda group: group.place)]
    assert tab.evaluate("picture.scale") >= 0.8
    for row in tab.locator("#site-table tbody tr").all():
        cells = row.locator("td").all_text_contents()
        assert (cells[3] == "–") == (cells[1] == "bias")
    tab.click("#site-table th:nth-child(1) button")
    names = tab.locator("#site-table tbody td:first-child").all_text_contents()
    assert names == sorted(names)
    tab.fill("#site-table input", "no such tensor")
    assert tab.locator("#site-table tbody tr").count() == 0
    tab.locator("#picture .op[data-name]").last.click()
    assert tab.locator("#group-detail h3").text_content() == "y"
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert complaints == []


@pytest.mark.real
def test_hostile_names_do_not_run_in_a_browser(browser: Any, tmp_path: Path) -> None:
    tab, complaints = shown(browser, hostile_page(tmp_path))
    for number in range(tab.locator("#site-choice option").count()):
        tab.select_option("#site-choice", str(number))
    for box in tab.locator("#picture .op[data-name]").all():
        box.hover()
        box.click()
    tab.locator("#depth .points .point").first.hover(force=True)
    assert tab.locator("img").count() == 0
    assert HOSTILE_HTML in tab.locator("h1").text_content()
    assert complaints == []
