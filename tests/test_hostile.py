"""Files that no exporter writes: each is handled, or refused in one line, by every command; never a wrong result."""

from __future__ import annotations

import json
import pickle
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hostile_models as given
import numpy as np
import onnx
import pytest
import typer
from hostile_models import CONVOLUTION, MATMUL, Build, changed, external, initializer, input_shape, renamed, text
from models import assert_same_results, feeds_of, run

from quantonnx import cli

COMMANDS = {
    "i": ("inspect", "model.onnx"),
    "p": ("plan", "model.onnx"),
    "t": ("transform", "model.onnx", "-o", "t.onnx"),
    "q": ("quantize", "model.onnx", "-o", "q.onnx", "--random-data", "2", "--no-speed"),
    "c": ("check", "model.onnx"),
}
ALL = "iptqc"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
ESCAPES = "a/b c\u00e9\u202e[red]\x1b[31m\x07\r<b>&\"'\x9b31m</script>"
WEIGHTS = {"location": "w.bin"}


class Case(NamedTuple):
    """A model, the commands that are done with it, and what the others say."""

    name: str
    build: Build
    done: str = ALL
    said: str = ""


CASES = [
    Case("external data in the folder above", external({"location": "../w.bin"}), "", "outside the model's folder"),
    Case("external data at an absolute path", external({"location": "/etc/passwd"}), "", "outside the model's folder"),
    Case(
        "a link to a file outside", external(WEIGHTS, beside=given.link("w.bin", "/etc/passwd")), "", "links to outside"
    ),
    Case("a link to a device", external(WEIGHTS, beside=given.link("w.bin", "/dev/zero")), "", "links to outside"),
    Case("a link to itself", external(WEIGHTS, beside=given.link("w.bin", "w.bin")), "", "which is no file"),
    Case(
        "a folder that is a link",
        external({"location": "sub/w.bin"}, beside=given.linked_folder),
        "",
        "links to outside",
    ),
    Case("a hard link", external(WEIGHTS, beside=given.hard_link)),
    Case("a pipe", external(WEIGHTS, beside=given.pipe), "", "is missing"),
    Case("the folder itself", external({"location": "."}), "", "is missing"),
    Case("no location", external({}), "", "outside the model's folder"),
    Case("a location with a NUL", external({"location": "w\0.bin"}), "", "which is no file"),
    Case("a location of 5000 letters", external({"location": "w" * 5000}), "", "which is no file"),
    Case("a location with escapes", external({"location": ESCAPES}), "", "\\x1b"),
    Case("the model as its own data", external({"location": "model.onnx"}, dims=(2, 2)), "ipc"),
    Case("a negative offset", external({**WEIGHTS, "offset": "-4"}), "", "damaged"),
    Case("an offset beyond the end", external({**WEIGHTS, "offset": "4"}), "", "too short"),
    Case("an offset of 70 bits", external({**WEIGHTS, "offset": str(1 << 70)}), "", "too short"),
    Case("an offset in words", external({**WEIGHTS, "offset": "much"}), "", "is no number"),
    Case("an offset of 5000 digits", external({**WEIGHTS, "offset": "9" * 5000}), "", "is no number"),
    Case("a negative length", external({**WEIGHTS, "length": "-5"}), "", "damaged"),
    Case("a length of 70 bits", external({**WEIGHTS, "length": str(1 << 70)}), "", "damaged"),
    Case("absurd dimensions outside", external(WEIGHTS, dims=(1 << 62, 4)), "", "too short"),
    Case("negative dimensions outside", external(WEIGHTS, dims=(-64, 64)), "", "has the shape [-64, 64]"),
    Case("absurd dimensions", initializer(dims=[1 << 40, 1 << 20]), "", "holds 16384 bytes, expected 46116860184273"),
    Case("negative dimensions", initializer(dims=[-64, 64]), "", "has the shape [-64, 64]"),
    Case("two negative dimensions", initializer(dims=[-64, -64]), "", "has the shape"),
    Case("a row too few", initializer(dims=[63, 64]), "", "holds 16384 bytes, expected 16128"),
    Case("100 dimensions", initializer(dims=[1] * 98 + [64, 64]), "iptc", "dimensions"),
    Case("no element type", initializer(data_type=0), "", "no element type"),
    Case("an unknown element type", initializer(data_type=77), "", "is unknown to onnx"),
    Case("bytes of strings", initializer(data_type=8), "", "holds 16384 bytes"),
    Case("no data", initializer(raw_data=None), "", "holds 0 numbers in float_data, expected 4096"),
    Case("five numbers", initializer(raw_data=None, float_data=[1.0] * 5), "", "holds 5 numbers"),
    Case("data twice", initializer(float_data=[1.0] * 4096)),
    Case("weights that are NaN", initializer(raw_data=b"\xff" * 16384), "iptc", "holds NaN"),
    Case("an input of 2^46 numbers", input_shape(1 << 40, 64), "iptc", "too large for random data; give data"),
    Case("an input of 2^63 rows", input_shape((1 << 63) - 1, 64), "iptc", "too large for random data"),
    Case("an input of -1 rows", input_shape(-1, 64)),
    Case("an input of no rows", input_shape(0, 64), "iptc", "invalid dimensions for input: x"),
    Case(
        "a cycle",
        text("g (float[1] x) => (float[1] y) { a = Add(x, b)  b = Relu(a)  y = Relu(b) }"),
        "i",
        "has a cycle",
    ),
    Case("a node that reads itself", text("g (float[1] x) => (float[1] y) { y = Add(x, y) }"), "i", "has a cycle"),
    Case(
        "a value given twice", text("g (float[1] x) => (float[1] y) { y = Relu(x)  y = Exp(x) }"), "", "more than once"
    ),
    Case(
        "an initializer twice",
        changed(MATMUL, lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "",
        "once",
    ),
    Case("an input twice", changed(MATMUL, lambda m: m.graph.input.append(m.graph.input[0]))),
    Case("an output twice", changed(MATMUL, lambda m: m.graph.output.append(m.graph.output[0]))),
    Case("a node's name twice", changed(CONVOLUTION, lambda m: [setattr(node, "name", "n") for node in m.graph.node])),
    Case(
        "an attribute twice",
        changed(CONVOLUTION, lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0])),
    ),
    Case("two opsets", changed(MATMUL, lambda m: m.opset_import.add(domain="", version=11)), "", "the opsets [11, 17]"),
    Case("no opset", changed(MATMUL, lambda m: m.ClearField("opset_import"))),
    Case("opset 0", changed(MATMUL, lambda m: setattr(m.opset_import[0], "version", 0)), "", "the file names opset"),
    Case("opset -1", changed(MATMUL, lambda m: setattr(m.opset_import[0], "version", -1)), "", "the file names opset"),
    Case("opset 1", changed(MATMUL, lambda m: setattr(m.opset_import[0], "version", 1))),
    Case(
        "opset 999", changed(MATMUL, lambda m: setattr(m.opset_import[0], "version", 999)), "ipc", "ONNX Runtime cannot"
    ),
    Case(
        "opset 2^62",
        changed(MATMUL, lambda m: setattr(m.opset_import[0], "version", 1 << 62)),
        "",
        "the file names opset",
    ),
    Case("format 0", changed(MATMUL, lambda m: setattr(m, "ir_version", 0))),
    Case("format 99", changed(MATMUL, lambda m: setattr(m, "ir_version", 99))),
    Case("names with slashes", renamed({"c": "a/b/../c", "y": "/y", "w": "../../w", "x": "x y"})),
    Case(
        "names in other scripts", renamed({"c": "caf\u00e9 \U0001f600", "y": "\u202ey", "w": "w\u0301", "x": "\u4e2d"})
    ),
    Case("names of control characters", renamed({"c": "c\x1b[31m\x07", "y": "y\n\r\t", "w": "w\x9b31m", "x": "x\x00"})),
    Case("names of markup", renamed({"c": "[/bold]", "y": "[red]<b>&", "w": "{w}", "x": "%s"})),
    Case("names of 100,000 letters", renamed({"c": "c" * 100000, "w": "w" * 100000})),
    Case("escapes everywhere", given.named_everything(ESCAPES), "iptc", "--ort-extension"),
    Case("If in If, 20 deep", given.nested(20), "iptc", "no pair was placed"),
    Case("If in If, 1000 deep", given.deep_bytes(1000), "", "truncated or damaged"),
    Case("1000 nodes backwards", given.chain(1000), "iptc", "no pair was placed"),
    Case("functions in a circle", given.recursive_function, "", "must not be recursive"),
    Case("functions that explode", given.exploding_functions, "", "stand for 1,073,741,824 nodes"),
    Case("a large function called often", given.copied_function, "", "stand for 1.6 GB"),
    Case(
        "an empty batch",
        text("g (float[0,3,8,8] x) => (y) <float[4,3,3,3] w> { y = Conv(x, w) }"),
        "iptc",
        "dimensions",
    ),
    Case("no filters", text("g (float[1,3,8,8] x) => (y) <float[0,3,3,3] w> { y = Conv(x, w) }")),
    Case("no shapes", changed(CONVOLUTION, given.without_shapes), "iptc", "give data"),
    Case("no types", changed(CONVOLUTION, given.without_types), "ipc"),
    Case(
        "all dimensions open",
        text("g (float[A,B,C,D] x) => (y) <float[4,3,3,3] w> { y = Conv(x, w) }"),
        "iptc",
        "channels",
    ),
    Case(
        "an optional",
        text(
            "g (optional(float[1,64]) x) => (float[1,64] y) <float[64,64] w> { a = OptionalGetElement(x) y = MatMul(a, w) }",
            opset=18,
        ),
        "iptc",
        "give data",
    ),
    Case(
        "a sequence",
        text(
            "g (seq(float[1,64]) x) => (float[1,64] y) <float[64,64] w, int64 i = {0}> { a = SequenceAt(x, i) y = MatMul(a, w) }"
        ),
        "iptc",
        "give data",
    ),
    Case(
        "a sequence comes out",
        text(
            "g (float[1,64] x) => (seq(float[1,64]) y) <float[64,64] w> { a = MatMul(x, w) y = SequenceConstruct(a, x) }"
        ),
    ),
    Case("a map", changed(MATMUL, lambda m: m.graph.input[0].type.map_type.SetInParent()), "ipc"),
    Case(
        "a custom operator",
        text(
            "g (float[1,64] x) => (float[1,64] y) <float[64,64] w> { a = own.Thing(x) y = MatMul(a, w) }", domain="own"
        ),
        "iptc",
        "--ort-extension",
    ),
    Case("initializers as inputs", changed(CONVOLUTION, given.also_inputs)),
    Case("a sparse initializer", given.sparse([64, 64], [0, 65], [1, 2])),
    Case("sparse, a place outside", given.sparse([64, 64], [0, 5000], [1, 2]), "ipc", "cannot be read"),
    Case("sparse, a negative place", given.sparse([64, 64], [-1, 5], [1, 2]), "ipc", "cannot be read"),
    Case("sparse, places too few", given.sparse([64, 64], [0], [1, 2]), "ipc", "cannot be read"),
    Case("sparse, 2^62 zeros", given.sparse([1 << 31, 1 << 31], [0, 5], [1, 2]), "", "as a dense tensor"),
    Case("sparse, 17 GB of zeros", given.sparse([1 << 16, 1 << 16], [0, 5], [1, 2]), "", "17.2 GB as a dense tensor"),
    Case("a training graph", changed(CONVOLUTION, given.training)),
    Case("an attribute of no known kind", given.attribute_of_unknown_kind, "ipc", "ONNX Runtime cannot load"),
    Case("fields that ONNX does not have", given.unknown_fields),
    Case("an empty graph", changed(MATMUL, lambda m: m.graph.Clear()), "", "truncated or damaged"),
    Case("no nodes", text("g (float[1] x) => (float[1] x) { }"), "iptc", "no pair was placed"),
    Case("no inputs", text("g () => (y) <float[64,64] w> { y = MatMul(w, w) }"), "iptc"),
    Case("strings", text("g (string[2] x) => (string[2] y) { y = Identity(x) }"), "iptc", "no pair was placed"),
    Case(
        "strings beside",
        text(
            "g (float[1,64] x, string[1] s) => (float[1,64] y, string[1] t) <float[64,64] w> { y = MatMul(x, w) t = Identity(s) }"
        ),
    ),
    Case(
        "an input that nothing reads",
        text("g (float[1,64] x, float[3] z) => (float[1,64] y) <float[64,64] w> { y = MatMul(x, w) }"),
    ),
    Case(
        "a constant of 4 TB",
        text(
            "g (float[1,1000000] x) => (y) <int64[2] s = {1000000, 1000000}> { a = ConstantOfShape(s) y = MatMul(x, a) }"
        ),
        "iptc",
        "no pair was placed",
    ),
    Case(
        "a range of 8 TB",
        text(
            "g (float[1,1] x) => (y) <int64 a = {0}, int64 b = {1000000000000}, int64 c = {1}> { r = Range(a, b, c) q = Cast<to=1>(r) y = Add(x, q) }"
        ),
        "iptc",
        "no pair was placed",
    ),
    Case(
        "a constant repeated to 4 TB",
        text(
            "g (float[1,1000000] x) => (y) <float[1,1] w, int64[2] s = {1000000, 1000000}> { a = Tile(w, s) y = MatMul(x, a) }"
        ),
        "iptc",
        "no pair was placed",
    ),
    Case(
        "absurd pads",
        text(
            "g (float[1,3,8,8] x) => (y) <float[4,3,3,3] w> { y = Conv<pads=[1000000000,1000000000,1000000000,1000000000]>(x, w) }"
        ),
        "iptc",
        "ONNX Runtime cannot run",
    ),
    Case(
        "absurd strides",
        text(
            "g (float[1,3,8,8] x) => (y) <float[4,3,3,3] w> { y = Conv<strides=[-1,0], dilations=[0,0], group=0>(x, w) }"
        ),
        "ipc",
        "ONNX Runtime cannot",
    ),
    Case(
        "a convolution of nothing",
        changed(CONVOLUTION, lambda m: m.graph.node[0].ClearField("input")),
        "",
        "has 0 inputs, expected 2 to 3",
    ),
    Case(
        "a convolution of 53 operands",
        changed(CONVOLUTION, lambda m: m.graph.node[0].input.extend(["x"] * 50)),
        "",
        "has 53 inputs",
    ),
    Case(
        "a permutation out of range",
        text("g (float[1,64] x) => (y) <float[64,64] w> { a = Transpose<perm=[5,7]>(x) y = MatMul(a, w) }"),
        "ipc",
        "ONNX Runtime cannot",
    ),
    Case(
        "an axis out of range",
        text(
            "g (float[1,64] x) => (y) <float[64,64] w> { a = MatMul(x, w) b = Softmax<axis=99>(a) y = Concat<axis=-77>(a, b) }"
        ),
        "ipc",
        "ONNX Runtime cannot",
    ),
    Case("no operator", changed(MATMUL, lambda m: m.graph.node[0].ClearField("op_type")), "ipc"),
    Case(
        "an output that nothing gives",
        changed(CONVOLUTION, lambda m: m.graph.node[1].ClearField("output")),
        "",
        "has 0 outputs",
    ),
    Case(
        "an output without a name",
        changed(MATMUL, lambda m: m.graph.output[0].ClearField("name")),
        "",
        "given by no node",
    ),
]


@pytest.fixture(autouse=True)
def _built_once(monkeypatch: pytest.MonkeyPatch, program: object) -> None:
    monkeypatch.setattr(cli, "app", program)


@pytest.fixture(scope="module")
def program() -> Iterator[object]:
    """The program with its options parsed: typer does it anew at each call, which takes longer than the command."""
    return typer.main.get_command(cli.app)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "in"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def said(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Runs a command and returns its code, its output and the one line of its error; nothing in it is a control."""
    code = cli.run(arguments)
    out, err = capfd.readouterr()
    assert not CONTROL.search(out + err)
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("quantonnx: error: ")]
    assert len(errors) == (code == 2), err
    assert "unexpected" not in err
    return code, out, "".join(errors)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_command_does_it_or_refuses_it(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case.build(folder)
    before = {path.name: path.lstat() for path in folder.iterdir()}
    done, lines = "", []
    for letter, arguments in COMMANDS.items():
        code, _, line = said(capfd, *arguments)
        done += letter if code < 2 else ""
        lines += [line] if line else []
    assert done == case.done, lines
    assert all(case.said in line for line in lines), lines
    written = {"t.onnx"} & {"t.onnx" if "t" in done else ""} | {"q.onnx"} & {"q.onnx" if "q" in done else ""}
    assert {path.name for path in folder.iterdir()} == set(before) | written
    if "t" in done:
        gives_the_same(folder)


def gives_the_same(folder: Path) -> None:
    """Asserts that what `transform` wrote computes what the model does, where ONNX Runtime runs that."""
    try:
        before = onnx.load(folder / "model.onnx")
        assert all(0 < dim.dim_value < 1000 for info in before.graph.input for dim in info.type.tensor_type.shape.dim)
        results = run(before, feeds_of(before)).values()
        assert all(isinstance(value, np.ndarray) and value.dtype.kind == "f" for value in results)
    except Exception:
        return
    assert_same_results(before, onnx.load(folder / "t.onnx"))


@pytest.fixture
def named(folder: Path) -> Path:
    """A folder with a model whose every name is ESCAPES, in operators that all runtimes have."""
    build = renamed({"c": ESCAPES, "x": f"x{ESCAPES}", "y": f"y{ESCAPES}", "w": f"w{ESCAPES}", "b": f"b{ESCAPES}"})
    build(folder)
    return folder


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_names_stay_names_in_every_output(named: Path, target: str, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--random-data", "2", "--no-speed", "--report", "report", "--json", "-", "-v", "--target", target)
    code, out, _ = said(capfd, "quantize", "model.onnx", "-o", "q.onnx", *options)
    assert code == 0
    assert any(site["tensor"] == f"w{ESCAPES}" for site in json.loads(out)["sites"])
    assert said(capfd, "plan", "model.onnx", "--svg", "plan.svg", "-o", "plan.yaml")[0] == 0
    assert said(capfd, "explain", "model.onnx", "--tensor", f"x{ESCAPES}")[0] == 0
    assert said(capfd, "check", "q.onnx", "-v")[0] < 2
    ElementTree.parse(named / "plan.svg")
    for file in ("plan.svg", "report/report.html", "report/report.json", "report/summary.json", "plan.yaml"):
        assert not re.search("[\x1b\x07]", (named / file).read_text(encoding="utf-8")), file
    page = (named / "report" / "report.html").read_text(encoding="utf-8")
    assert "<b>&" not in page
    assert "\"'\x9b31m</script>" not in page
    assert said(capfd, "quantize", "model.onnx", "-o", "p.onnx", "--plan", "plan.yaml", *options[:3])[0] == 0


def test_a_plan_is_carried_out_whatever_names_it_has(named: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, "plan", "model.onnx", "-o", "plan.yaml")[0] == 0
    assert said(capfd, "transform", "model.onnx", "-o", "t.onnx", "--plan", "plan.yaml")[0] == 0
    gives_the_same(named)


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("executed"),)


DATA = {
    "data.npy": lambda path: np.save(path, np.array([Trap()], object), allow_pickle=True),
    "data.npz": lambda path: np.savez(path, x=np.array([Trap()], object)),
    "data.pkl": lambda path: path.write_bytes(pickle.dumps(Trap())),
    "plain.npy": lambda path: path.write_bytes(pickle.dumps(Trap())),
    "dtype.npy": lambda path: path.write_bytes(npy("{'descr': exec('x'), 'fortran_order': False, 'shape': (1,)}")),
}
SETTINGS = "a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [executed]]\n"


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize("name", DATA)
def test_no_data_file_is_executed(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text(CONVOLUTION)(folder)
    DATA[name](folder / name)
    for option in ("--data", "--statistics"):
        code, _, line = said(capfd, "quantize", "model.onnx", "-o", "q.onnx", option, name)
        assert code == 2
        assert name in line
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("option", ["--config", "--plan"])
def test_no_settings_are_executed(option: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text(CONVOLUTION)(folder)
    (folder / "file.yaml").write_text(SETTINGS)
    code, _, line = said(capfd, "quantize", "model.onnx", "-o", "q.onnx", "--random-data", "2", option, "file.yaml")
    assert code == 2
    assert "file.yaml" in line
    assert not (folder / "executed").exists()


def test_a_picture_of_another_format_is_not_given_to_other_programs(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    text(CONVOLUTION)(folder)
    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile.load", lambda *_: (folder / "executed").touch())
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    )
    code, _, line = said(capfd, "quantize", "model.onnx", "-o", "q.onnx", "--data", "photos")
    assert code == 2
    assert "a.png" in line
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("option", ["--patterns", "--target", "--ort-extension"])
def test_the_help_says_what_is_code(option: str, capfd: pytest.CaptureFixture[str]) -> None:
    cli.run(["quantize", "--help"])
    words = " ".join(re.sub("[│╭╰─╮╯]", " ", capfd.readouterr().out).split())
    described = words[words.index(f" {option} ") :].split(" --")[1]
    assert "code" in described


class TestCustomOperators:
    GRAPH = """g (float[1,64] x) => (float[1,64] y) <float[64,64] w>
        { p, n = ai.onnx.contrib.NegPos(x)  a = Add(p, n)  y = MatMul(a, w) }"""

    @pytest.fixture
    def library(self, folder: Path) -> str:
        found = pytest.importorskip("onnxruntime_extensions", reason="no library of custom operators is installed")
        text(self.GRAPH, domain="ai.onnx.contrib")(folder)
        return str(found.get_library_path())

    @pytest.mark.parametrize(
        "more",
        [
            ("quantize", "model.onnx", "-o", "again.onnx", "--target", "onnxruntime", "--no-speed"),
            ("transform", "model.onnx", "-o", "t.onnx"),
            ("compare", "model.onnx", "q.onnx", "--layers"),
            ("calibrate", "q.onnx", "-o", "again.onnx"),
            pytest.param(("check", "q.onnx", "--run", "--target", "onnxruntime"), marks=pytest.mark.real),
            pytest.param(("compare", "model.onnx", "q.onnx", "--speed"), marks=pytest.mark.real),
        ],
        ids=" ".join,
    )
    def test_the_library_is_there_in_every_session(
        self, more: tuple[str, ...], library: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with_it = ("--ort-extension", library)
        data = ("--random-data", "2")
        if "q.onnx" in more:
            assert said(capfd, *COMMANDS["q"], "--target", "onnxruntime", *with_it)[0] == 0
        assert said(capfd, *more, *(() if more[0] in ("check", "transform") else data), *with_it)[0] == 0

    def test_without_it_the_line_says_what_to_do(self, library: str, capfd: pytest.CaptureFixture[str]) -> None:
        code, _, line = said(capfd, "quantize", "model.onnx", "-o", "q.onnx", "--random-data", "2")
        assert code == 2
        assert "--ort-extension" in line

    @pytest.mark.parametrize(
        ("content", "message"), [(None, "there is no library"), (b"text", "cannot load the library")]
    )
    def test_a_library_that_is_none(
        self, content: bytes | None, message: str, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        text(CONVOLUTION)(folder)
        if content is not None:
            (folder / "lib.so").write_bytes(content)
        line = said(capfd, *COMMANDS["q"], "--ort-extension", "lib.so")[2]
        assert message in line


def test_what_onnx_runtime_does_not_take_is_not_left(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text("g (float[1,64] x) => (y) <float[64,64] w> { a = Softmax<axis=9>(x) y = MatMul(a, w) }")(folder)
    for more in ((), ("--external-data",)):
        assert said(capfd, *COMMANDS["t"], *more)[0] == 2
        assert [path.name for path in folder.iterdir()] == ["model.onnx"]


@pytest.fixture
def code(folder: Path) -> Path:
    """A target file that says when it is run."""
    lines = (
        "from pathlib import Path\nPath('executed').touch()\nfrom quantonnx.patterns.targets.tensorrt import target\n"
    )
    (folder / "code.py").write_text(lines)
    return folder


def test_a_plan_does_not_choose_code(code: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text(CONVOLUTION)(code)
    assert said(capfd, "plan", "model.onnx", "-o", "plan.yaml")[0] == 0
    plan = (code / "plan.yaml").read_text()
    (code / "plan.yaml").write_text(plan.replace("target: tensorrt", "target: code.py"))
    line = said(capfd, "transform", "model.onnx", "-o", "t.onnx", "--plan", "plan.yaml")[2]
    assert "give it yourself, as --target" in line
    assert not (code / "executed").exists()


def test_a_model_does_not_choose_code(code: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text(CONVOLUTION)(code)
    assert said(capfd, *COMMANDS["q"])[0] == 0
    quantized = onnx.load(code / "q.onnx")
    for entry in quantized.metadata_props:
        entry.value = entry.value.replace("tensorrt", "code.py")
    onnx.save(quantized, code / "q.onnx")
    line = said(capfd, "compare", "model.onnx", "q.onnx", "--random-data", "1", "--layers")[2]
    assert "was made for 'code.py'" in line
    assert not (code / "executed").exists()
