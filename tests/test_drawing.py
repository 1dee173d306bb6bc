"""Pictures: what is drawn, where it stands, and that any graph and any name can be drawn."""

from __future__ import annotations

import math
import random
import time
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from models import parse
from onnx import TensorProto, helper

from quantonnx import ModelError, QuantConfig, calibrate, cli, insert_qdq, transform
from quantonnx.demo import calibration_path, model_path
from quantonnx.drawing import draw, draw_before_after
from quantonnx.drawing.columns import wrapped
from quantonnx.drawing.found import found_scene
from quantonnx.drawing.layering import End, Wire
from quantonnx.drawing.layout import Arrangement, Size, arrange
from quantonnx.drawing.picture import Picture, Place, laid_out
from quantonnx.drawing.placed import placed_scene
from quantonnx.drawing.scene import Kind, Region, Scene
from quantonnx.drawing.svg import written
from quantonnx.model import Model
from quantonnx.quantized import QuantizedModel

SVG = "{http://www.w3.org/2000/svg}"
BLOCK = """
    block (float[1,8,6,6] x) => (float[1,8,6,6] y)
    <float[8,8,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2> {
        [first] c1 = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (x, w1, b1)
        [bend] r1 = Relu (c1)
        [second] c2 = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (r1, w2, b2)
        [sum] a = Add (c2, x)
        [last] y = Relu (a)
    }
"""
TARGETS = ("tensorrt", "onnxruntime")


def placed(source: object = None, target: str = "tensorrt") -> QuantizedModel:
    fused = transform(parse(BLOCK) if source is None else source, target=target)  # type: ignore[arg-type]
    return insert_qdq(fused.model, fused.matches)


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def names(svg: str, kind: str) -> list[str]:
    """Returns the names of what is drawn as one kind of box."""
    groups = (group for group in drawn(svg).iter(f"{SVG}g") if "data-name" in group.attrib)
    return [group.get("data-name", "") for group in groups if kind in group.get("class", "").split()]


def box_called(scene: Scene, name: str) -> int:
    return next(n for n, box in enumerate(scene.boxes) if box.key == name and box.kind is Kind.OPERATOR)


def read_by(scene: Scene, source: int) -> set[str]:
    return {scene.boxes[target].key for wire in scene.wires if wire.source == source for target in wire.targets}


def overlap(first: Place, second: Place) -> bool:
    return (
        min(first.x + first.width, second.x + second.width) - max(first.x, second.x) > 0.01
        and min(first.y + first.height, second.y + second.height) - max(first.y, second.y) > 0.01
    )


def assert_well_placed(picture: Picture) -> None:
    """Nothing overlaps, groups hold their members and nothing else, wires end at their boxes, all is on the sheet."""
    scene = picture.scene
    for first, second in combinations(picture.boxes, 2):
        assert not overlap(first, second)
    for number, group in enumerate(picture.groups):
        for box, place in zip(scene.boxes, picture.boxes, strict=True):
            inside = group.x <= place.x and place.x + place.width <= group.x + group.width
            inside = inside and group.y <= place.y and place.y + place.height <= group.y + group.height
            assert inside if box.group == number else box.kind is Kind.PAIR or not overlap(group, place)
    for place in (*picture.boxes, *picture.groups):
        assert all(math.isfinite(value) for value in (place.x, place.y, place.width, place.height))
        assert place.x >= -0.01
        assert place.x + place.width <= picture.size.width + 0.01
        assert place.y + place.height <= picture.size.height + 0.01
    for wire, routes in zip(scene.wires, picture.routes, strict=True):
        ends = [(route[0].x, route[0].start) for route in routes] + [(route[-1].x, route[-1].end) for route in routes]
        assert any(touches(picture.boxes[wire.source], *end, below=True) for end in ends)
        for target in wire.targets:
            assert any(touches(picture.boxes[target], *end, below=False) for end in ends)


def touches(place: Place, x: float, y: float, *, below: bool) -> bool:
    edge = place.y + place.height if below else place.y
    return abs(y - edge) < 0.01 and place.x - 0.01 <= x <= place.x + place.width + 0.01


@pytest.mark.parametrize("target", TARGETS)
def test_every_operator_is_drawn_once_and_every_pair(target: str) -> None:
    quantized = placed(model_path(), target)
    svg = draw(quantized)
    assert sorted(names(svg, "op")) == sorted(node.name for node in quantized.model.graph.nodes)
    assert sorted(names(svg, "pair")) == sorted(site.tensor for site in quantized.activation_sites)
    assert names(svg, "input") == ["image"]
    assert names(svg, "output") == ["logits"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("wrap", [False, True])
def test_boxes_groups_and_wires_are_well_placed(target: str, wrap: bool) -> None:
    assert_well_placed(laid_out(placed_scene(placed(model_path(), target), "demo"), wrap=wrap))


def test_boxes_stand_below_what_they_read() -> None:
    picture = laid_out(placed_scene(placed(model_path()), "demo"))
    for wire in picture.scene.wires:
        giver = picture.boxes[wire.source]
        for target in wire.targets:
            assert picture.boxes[target].y >= giver.y + giver.height


def test_pairs_are_marked_where_the_placement_says() -> None:
    """TensorRT: one pair on x for the Conv and the residual Add, one before the second Conv, none behind it."""
    quantized = placed()
    scene = placed_scene(quantized, "")
    marks = {box.aliases[0]: number for number, box in enumerate(scene.boxes) if box.kind is Kind.PAIR}
    assert {tensor: read_by(scene, mark) for tensor, mark in marks.items()} == {
        site.tensor: {edge.node for edge in site.edges} for site in quantized.activation_sites
    }
    assert read_by(scene, marks["x"]) == {"first", "sum"}
    assert read_by(scene, box_called(scene, "second")) == {"sum"}


def test_a_pair_on_an_output_feeds_every_reader() -> None:
    scene = placed_scene(placed(target="onnxruntime"), "")
    mark = next(n for n, box in enumerate(scene.boxes) if box.kind is Kind.PAIR and box.aliases == ("y",))
    assert read_by(scene, mark) == {"y"}
    assert read_by(scene, box_called(scene, "last")) == {""}  # the mark only


def test_groups_carry_the_name_of_their_pattern() -> None:
    scene = placed_scene(placed(), "")
    held = [{box.key for box in scene.boxes if box.group == number} for number in range(len(scene.groups))]
    assert dict(zip([group.label for group in scene.groups], held, strict=True)) == {
        "ConvBNRelu": {"first", "bend"},
        "ConvBNAddRelu": {"second", "sum", "last"},
    }
    assert ">ConvBNAddRelu</text>" in draw(placed())


def test_float_and_integer_regions_differ() -> None:
    fused = transform(parse(BLOCK), target="tensorrt")
    quantized = insert_qdq(fused.model, fused.matches, QuantConfig(exclude=("second",)))
    scene = placed_scene(quantized, "")
    assert scene.boxes[box_called(scene, "first")].region is Region.INTEGER
    assert scene.boxes[box_called(scene, "second")].region is Region.FLOAT
    assert "stays in float: excluded by 'second'" in scene.boxes[box_called(scene, "second")].tooltip


def test_operators_that_move_codes_and_what_they_feed_are_integer() -> None:
    flat = """
        flat (float[4,8,4,4] x) => (float[4,32] y) <float[16,8,4,4] k, float[16,32] w> {
            [conv] c = Conv (x, k)
            [pool] p = GlobalAveragePool (c)
            [flatten] f = Flatten (p)
            [gemm] y = Gemm (f, w)
        }
    """
    scene = placed_scene(placed(parse(flat)), "")
    assert [scene.boxes[box_called(scene, name)].region for name in ("flatten", "gemm")] == [Region.INTEGER] * 2


def test_a_tooltip_has_the_reason_and_after_calibration_the_numbers() -> None:
    calibrated = calibrate(placed(model_path()), calibration_path(), limit=2)
    titles = [title.text or "" for title in drawn(draw(calibrated)).iter(f"{SVG}title")]
    pairs = [text for text in titles if text.startswith("pair on")]
    assert len(pairs) == len(calibrated.activation_sites)
    assert all("INPUT of " in text or "OUTPUT of " in text for text in pairs)
    assert all("scale " in text and "zero point 0" in text for text in pairs)


def test_boxes_say_kernel_stride_groups_and_weight() -> None:
    graph = """
        net (float[1,8,9,9] x) => (float[1,8,4,4] y) <float[8,1,3,3] w, float[8,4,1,1] v> {
            d = Conv <group = 8, strides: ints = [2, 2]> (x, w)
            g = Conv <group = 2> (d, v)
            y = Softmax <axis = 1> (g)
        }
    """
    texts = ["".join(text.itertext()) for text in drawn(draw(parse(graph))).iter(f"{SVG}text")]
    assert {"Conv 3×3 /2 depthwise", "Conv 1×1 group 2", "Softmax axis 1", "8×1×3×3"} <= set(texts)


@pytest.mark.parametrize("target", TARGETS)
def test_a_written_file_shows_the_pairs_of_its_plan(target: str, tmp_path: Path) -> None:
    """What is found in the file is what the plan showed: the same pairs feed the same operators."""
    calibrated = calibrate(placed(model_path(), target), calibration_path(), limit=2)
    calibrated.save(tmp_path / "written.onnx")
    plan, file = placed_scene(calibrated, ""), found_scene(Model.read(tmp_path / "written.onnx"), "")
    assert marked(plan) == marked(file)
    assert sum(box.codes == "int8" for box in file.boxes) == len(calibrated.weight_sites)
    assert_well_placed(laid_out(file, wrap=True))


def marked(scene: Scene) -> set[tuple[str, frozenset[str]]]:
    return {
        (box.heading, frozenset(read_by(scene, number)))
        for number, box in enumerate(scene.boxes)
        if box.kind is Kind.PAIR
    }


def test_codes_that_pass_an_operator_are_marked_at_both_ends() -> None:
    graph = """
        net (float[1,4,4,4] x) => (float[1,4,2,2] y, uint8[1,4,4,4] q) <float s = {0.1}, uint8 z = {3}> {
            [quantize] q = QuantizeLinear (x, s, z)
            [pool] p = MaxPool <kernel_shape: ints = [3, 3]> (q)
            [back] y = DequantizeLinear (p, s, z)
        }
    """
    scene = found_scene(Model.read(parse(graph)), "")
    assert sorted(box.heading for box in scene.boxes if box.kind is Kind.PAIR) == ["DQ uint8", "Q uint8"]
    assert scene.boxes[box_called(scene, "pool")].region is Region.INTEGER
    assert "scale 0.1" in draw(parse(graph))
    assert "zero point 3" in draw(parse(graph))


def test_around_shows_only_what_is_near() -> None:
    svg = draw(parse(BLOCK), around="second", radius=1)
    assert sorted(names(svg, "op")) == ["bend", "second", "sum"]
    assert len(names(svg, "cut")) == 3  # before bend, the residual, behind sum
    whole = draw(model_path(), around="/blocks/blocks.1/Add_output_0", radius=100)
    assert len(names(whole, "op")) == len(names(draw(model_path()), "op"))


def test_around_finds_folded_nodes_and_keeps_groups_whole() -> None:
    name = "/blocks/blocks.0/bn2/BatchNormalization"
    svg = draw(model_path(), target="tensorrt", around=name, radius=0)
    assert [part.split("/")[-1] for part in sorted(names(svg, "op"))] == ["Add", "Conv", "Relu"]


def test_around_an_unknown_name_suggests_another() -> None:
    with pytest.raises(ModelError, match=r"no node or tensor 'secnd'; did you mean second"):
        draw(parse(BLOCK), around="secnd")


def test_before_and_after_stand_side_by_side() -> None:
    root = drawn(draw_before_after(parse(BLOCK), TARGETS))
    panels = [group for group in root.iter(f"{SVG}g") if group.get("class") == "panel"]
    titles = [panel.find(f"{SVG}text").text for panel in panels]  # type: ignore[union-attr]
    assert titles == ["float model", "for tensorrt", "for onnxruntime"]
    assert draw_before_after(parse(BLOCK), "tensorrt").count('class="panel"') == 2


def test_the_same_model_gives_the_same_text() -> None:
    assert draw(model_path(), target="onnxruntime") == draw(model_path(), target="onnxruntime")


HOSTILE = [
    '<b a="1">&amp;</b>',
    "层/卷积",
    "a\x00b\x1b[31m\x0b",
    "\ud800",
    "-->]]>",
    "🙂" * 30,
    "a" * 5000,
    " ",
    "'\"\n",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_any_name_can_be_drawn(name: str) -> None:
    model = Model.read(parse(BLOCK))
    scene = found_scene(model, name)
    model.graph.nodes[1].name = name
    model.graph.nodes[1].outputs[0].name = f"{name} result"
    svg = draw(model, title=name)
    assert len(names(svg, "op")) == 5
    assert_well_placed(laid_out(scene))
    svg.encode("utf-8")


def graph_of(nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in names] for names in (inputs, outputs)]
    return helper.make_model(helper.make_graph(nodes, "g", *values), opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs"),
    [
        ([], ["x"], ["x"]),
        ([("Relu", "a", "b"), ("Relu", "c", "d")], ["a", "c", "unused"], ["b", "d"]),
        ([("Mul", "a a", "b"), ("Add", "b a", "c")], ["a"], ["b", "c"]),
        ([("Split", "a", "b c"), ("Concat", "c b", "d")], ["a"], ["d"]),
    ],
    ids=["passed through", "apart", "twice", "several results"],
)
def test_odd_graphs_can_be_drawn(nodes: list[tuple[str, str, str]], inputs: list[str], outputs: list[str]) -> None:
    made = [helper.make_node(op, given.split(), results.split(), name=op + results) for op, given, results in nodes]
    scene = found_scene(Model.read(graph_of(made, inputs, outputs)), "")
    assert sum(box.kind is Kind.OPERATOR for box in scene.boxes) == len(nodes)
    assert_well_placed(laid_out(scene, wrap=True))


def test_a_picture_of_nothing_is_a_picture() -> None:
    assert drawn(written([laid_out(Scene("nothing"), wrap=True)])).tag == f"{SVG}svg"


def test_what_a_body_reads_is_joined_to_its_operator() -> None:
    graph = """
        net (bool c, float[2] x) => (float[2] y) {
            [outer] t = Relu (x)
            [choice] y = If (c) <then_branch = g1 () => (float[2] p) { p = Neg (t) },
                                 else_branch = g2 () => (float[2] q) { q = Abs (t) }>
        }
    """
    scene = found_scene(Model.read(parse(graph)), "")
    assert read_by(scene, box_called(scene, "outer")) == {"choice"}


def random_layout(seed: int) -> tuple[list[Size], list[Wire], Arrangement]:
    """A random graph of 70 boxes: wide for odd seeds, and for even ones so tall that it goes on in columns."""
    rng = random.Random(seed)
    count, reach = 70, 70 if seed % 2 else 6
    sizes = [Size(rng.uniform(5, 120), rng.uniform(0, 60)) for _ in range(count)]
    wires = []
    for source in range(count - 1):
        near = range(source + 1, min(count, source + 1 + reach))
        targets = set(rng.sample(near, min(len(near), rng.choice([0, 1, 1, 2, 5]))))
        targets |= set() if seed % 2 else {source + 1}
        wires += [Wire(End(source), tuple(End(target) for target in sorted(targets)))] if targets else []
    return sizes, wires, arrange(sizes, wires)


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs_are_laid_out_without_overlap(seed: int) -> None:
    sizes, wires, plain = random_layout(seed)
    for found in (plain, wrapped(plain, sizes)):
        places = [Place(*at, size.width, size.height) for at, size in zip(found.places, sizes, strict=True)]
        assert not any(overlap(first, second) for first, second in combinations(places, 2))
        for wire in wires:
            for target in wire.targets:
                assert found.layer_of[target.box] > found.layer_of[wire.source.box]
    assert (wrapped(plain, sizes) is plain) == bool(seed % 2)


@pytest.mark.parametrize("seed", range(8))
def test_wires_run_round_the_boxes(seed: int) -> None:
    sizes, _, plain = random_layout(seed)
    for found in (plain, wrapped(plain, sizes)):
        places = [Place(*at, size.width, size.height) for at, size in zip(found.places, sizes, strict=True)]
        for run in found.routes:
            for stretch in (stretch for route in run for stretch in route):
                top, bottom = sorted((stretch.start, stretch.end))  # a wire goes up between columns
                line = Place(stretch.x - 0.02, top, 0.04, bottom - top)
                assert not any(overlap(line, place) for place in places)


def test_chains_are_straight() -> None:
    sizes = [Size(20 + 30 * (n % 3), 20) for n in range(12)]
    found = arrange(sizes, [Wire(End(n), (End(n + 1),)) for n in range(11)])
    middles = [x + size.width / 2 for (x, _), size in zip(found.places, sizes, strict=True)]
    assert max(middles) - min(middles) < 0.01


def test_tall_layouts_go_on_in_columns() -> None:
    sizes = [Size(100, 40)] * 200
    plain = arrange(sizes, [Wire(End(n), (End(n + 1),)) for n in range(199)])
    found = wrapped(plain, sizes)
    assert plain.size.height > 10 * plain.size.width
    assert 0.5 < found.size.width / found.size.height < 3
    for run in found.routes:
        for upper, lower in pairwise(run[0]):
            assert upper.end == lower.start or lower.start > upper.end  # level through the gutter, or on downwards


def chain(count: int) -> onnx.ModelProto:
    """A chain whose every operator also reads the input."""
    nodes = [helper.make_node("Add", [f"v{n}", "v0"], [f"v{n + 1}"], name=f"add{n}") for n in range(count)]
    return graph_of(nodes, ["v0"], [f"v{count}"])


def test_a_value_read_everywhere_does_not_make_it_quadratic() -> None:
    started = time.process_time()
    svg = draw(chain(2000))
    assert time.process_time() - started < 10
    assert len(svg) < 2_000_000
    assert len(names(svg, "op")) == 2000


def test_plan_and_inspect_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, picture = str(tmp_path / "net.onnx"), tmp_path / "net.svg"
    onnx.save(parse(BLOCK), model)
    assert cli.run(["plan", model, "--svg", str(picture), "--around", "sum", "--radius", "1"]) == 0
    assert names(picture.read_text(encoding="utf-8"), "pair")
    assert cli.run(["inspect", model, "--svg", str(picture)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.run(["inspect", model, "--svg", str(picture), "--force"]) == 0
    assert len(names(picture.read_text(encoding="utf-8"), "op")) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--around", "sum"], "--svg"),
        (["--svg", "missing/net.svg"], "does not exist"),
        (["--svg", "net.svg", "--around", "nobody"], "no node or tensor 'nobody'"),
        (["--svg", "net.onnx", "--force"], "given twice"),
    ],
)
def test_wrong_use_of_pictures_is_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(parse(BLOCK), "net.onnx")
    before = Path("net.onnx").read_bytes()
    for command in ("plan", "inspect"):
        assert cli.run([command, "net.onnx", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert Path("net.onnx").read_bytes() == before
    assert not Path("net.svg").exists()


def test_quantized_values_come_out_of_a_picture_unharmed() -> None:
    """Drawing reads scales, nothing else: the model that is drawn stays as it is."""
    model = Model.read(model_path())
    before = model.to_bytes()
    draw(model, target="tensorrt")
    assert model.to_bytes() == before
    assert np.isfinite(calibrate(placed(model_path()), calibration_path(), limit=1).ranges["image"]).all()
