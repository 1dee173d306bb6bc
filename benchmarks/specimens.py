"""Valid files of every kind that quantonnx reads, small, with what reads each: what corrupt_files.py damages."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser
from PIL import Image

import quantonnx as qx
from quantonnx.calibration.samples import Samples, input_specs, open_samples
from quantonnx.compat.files import read_encodings, write_encodings
from quantonnx.compat.kinds import Kind
from quantonnx.config import QuantConfig, load_settings
from quantonnx.demo import calibration_path, model_path
from quantonnx.inspecting import inspect
from quantonnx.linting import lint
from quantonnx.plan import Plan

CONTROL_FLOW = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,64] x, bool c) => (float[1,64] y)
<float[64,64] w> {
  a = MatMul(x, w)
  y = If (c) <then_branch = t () => (float[1,64] r) { r = Relu(a) },
              else_branch = e () => (float[1,64] s) { s = Exp(a) }>
}"""
FUNCTIONS = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[1,64] x) => (float[1,64] y) { y = own.F(x) }
<domain: "own", opset_import: ["" : 17]> F (a) => (b) { m = Relu(a)  b = Sigmoid(m) }"""
CONFIGURATION = """activation: {n_bits: 8, symmetric: true, calibration_method: percentile}
weight: {n_bits: 8, per_channel: true}
op_types:
  Conv: {inputs: {1: {n_bits: 4}}}
fixed: {x: {scale: 0.5, zero_point: 0}}
exclude: [Softmax]
"""
TOML = 'exclude = ["Softmax"]\n[activation]\nn_bits = 8\nsymmetric = true\n[weight]\nn_bits = 8\nper_channel = true\n'
JSON = '{"activation": {"n_bits": 8, "symmetric": true}, "weight": {"n_bits": 8}, "exclude": ["Softmax"]}\n'
ENCODINGS = (Kind.TENSORRT, Kind.AIMET_0_6_1, Kind.AIMET_1_0_0, Kind.AIMET_2_0_0, Kind.ORT_RANGES, Kind.ORT_OVERRIDES)


@dataclass(frozen=True)
class Specimen:
    """Files by name, which of them to damage, and what reads them all from a folder.

    `packed` makes the file of the damaged bytes: a damaged array in an archive whose checksum is right. With
    `structure`, a model is damaged field by field, so that protobuf still reads it.
    """

    kind: str
    damaged: str
    files: Mapping[str, bytes]
    read: Callable[[Path], object]
    packed: Callable[[bytes], bytes] = bytes
    structure: bool = False


@cache
def specimens() -> tuple[Specimen, ...]:
    """Returns every specimen; those that need ONNX Runtime are made in another process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, name], check=True, stdout=subprocess.DEVNULL)
        made = {path.name: path.read_bytes() for path in folder.iterdir()}
    return (*_models(made), *_data(made), *_images(), *_settings(made), *_encodings(made))


def make(folder: Path) -> None:
    """Writes what a quantization writes."""
    samples = str(calibration_path())
    fused = qx.transform(model_path(), target="tensorrt")
    statistics = qx.collect_statistics(fused.model, samples)
    statistics.save(folder / "statistics.npz")
    quantized = qx.quantize(model_path(), samples, target="tensorrt")
    quantized.save(folder / "q.onnx")
    qx.make_plan(model_path()).save(folder / "plan.yaml")
    fused.model.save(folder / "outside.onnx", external_data=True)
    found = list(read_encodings(folder / "q.onnx").contents.encodings)
    for kind in ENCODINGS:
        try:
            text = write_encodings(found, kind).text
        except qx.OutputError:  # weights per channel have no place in some
            text = write_encodings([item for item in found if not item.parameter], kind).text
        (folder / f"{kind.value}.txt").write_text(text)


def _models(made: Mapping[str, bytes]) -> Iterator[Specimen]:
    plain = {"demo": model_path().read_bytes(), "quantized": made["q.onnx"]}
    plain |= {f"text{i}": _parsed(text) for i, text in enumerate((CONTROL_FLOW, FUNCTIONS))} | {"sparse": _sparse()}
    for name, content in plain.items():
        read = _linted if name == "quantized" else _through
        yield Specimen("onnx", "model.onnx", {"model.onnx": content}, read)
        for _ in range(4):
            yield Specimen("onnx graph", "model.onnx", {"model.onnx": content}, read, structure=True)
    outside = {"outside.onnx": made["outside.onnx"], "outside.onnx.data": made["outside.onnx.data"]}
    for name in outside:
        yield Specimen("external data", name, outside, partial(_through, name="outside.onnx"))


def _data(made: Mapping[str, bytes]) -> Iterator[Specimen]:
    values = np.random.default_rng(0).standard_normal((4, 1, 28, 28)).astype(np.float32)
    for save in (np.savez, np.savez_compressed):
        yield Specimen(
            "npz", "data.npz", {"data.npz": _saved(save, values)}, lambda folder: _drain(folder / "data.npz")
        )
    for array in (values, np.asfortranarray(values)):
        yield Specimen(
            "npy", "data.npy", {"data.npy": _saved(np.save, array)}, lambda folder: _drain(folder / "data.npy")
        )
    tensor = numpy_helper.from_array(values[:1], "x").SerializeToString()
    yield Specimen(
        "pb", "set/test_data_set_0/input_0.pb", {"set/test_data_set_0/input_0.pb": tensor}, lambda f: _drain(f / "set")
    )
    array = {"data.npz": _saved(np.save, values)}
    yield Specimen(
        "npz array", "data.npz", array, lambda f: _drain(f / "data.npz"), lambda inner: _zipped({"x.npy": inner})
    )
    yield from _statistics(made["statistics.npz"])


def _statistics(content: bytes) -> Iterator[Specimen]:
    name = "statistics.npz"

    def read(folder: Path) -> None:
        qx.Statistics.load(folder / name).merged(qx.Statistics.load(folder / name))

    yield Specimen("statistics", name, {name: content}, read)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    for member, inner in members.items():
        rest = {other: data for other, data in members.items() if other != member}
        packed = partial(_with, rest, member)
        yield Specimen("statistics array", name, {name: inner}, read, packed)


def _with(rest: Mapping[str, bytes], member: str, inner: bytes) -> bytes:
    return _zipped({**rest, member: inner})


def _zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _images() -> Iterator[Specimen]:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    for suffix, form in (("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("bmp", "BMP")):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        name = f"photos/a.{suffix}"
        yield Specimen(suffix, name, {name: file.getvalue()}, lambda folder: _drain(folder / "photos"))
        if form == "PNG":
            yield Specimen("png chunks", name, {name: file.getvalue()}, lambda f: _drain(f / "photos"), _checked)


def _checked(content: bytes) -> bytes:
    """Returns a PNG with right checksums, as far as its chunks can be followed."""
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + size
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big") if end + 4 <= len(data) else b""
        place = end + 4
    return bytes(data)


def _settings(made: Mapping[str, bytes]) -> Iterator[Specimen]:
    for suffix, text in (("yaml", CONFIGURATION), ("toml", TOML), ("json", JSON)):
        name = f"config.{suffix}"
        yield Specimen(f"config {suffix}", name, {name: text.encode()}, partial(_configure, name=name))
    yield Specimen("plan", "plan.yaml", {"plan.yaml": made["plan.yaml"]}, _follow)


def _encodings(made: Mapping[str, bytes]) -> Iterator[Specimen]:
    for kind in ENCODINGS:
        name = f"{kind.value}.txt"
        yield Specimen("encodings", name, {name: made[name]}, partial(_convert, name=name))


def _through(folder: Path, name: str = "model.onnx") -> None:
    """What every command does with a model before it needs ONNX Runtime, and the writer."""
    inspect(folder / name)
    plan = qx.make_plan(folder / name)
    fused = qx.transform(folder / name, plan=plan)
    placed = qx.insert_qdq(fused.model, fused.matches)
    placed.model.save(folder / "out.onnx", force=True, external_data=True)


def _linted(folder: Path) -> None:
    inspect(folder / "model.onnx")
    lint(qx.Model.read(folder / "model.onnx"), qx.get_target("tensorrt"))


def _drain(path: Path) -> None:
    for _ in _open(path):
        pass


def _open(path: Path) -> Samples:
    return open_samples(path, input_specs(_demo()))


@cache
def _demo() -> qx.Model:
    return qx.Model.read(model_path())


def _configure(folder: Path, name: str) -> None:
    QuantConfig(**load_settings(folder / name))


def _follow(folder: Path) -> None:
    qx.transform(_demo(), plan=Plan.load(folder / "plan.yaml"))


def _convert(folder: Path, name: str) -> None:
    write_encodings(read_encodings(folder / name).contents.encodings, Kind.CONFIG)


def _parsed(text: str) -> bytes:
    model = parser.parse_model(text)
    if not model.functions:
        weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def _sparse() -> bytes:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,64] x) => (float[1,64] y) { y = MatMul(x, w) }"""
    model = parser.parse_model(text)
    values = numpy_helper.from_array(np.ones(64, np.float32), "w")
    places = numpy_helper.from_array(np.arange(64, dtype=np.int64), "w_places")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [64, 64]))
    return bytes(model.SerializeToString())


def _saved(save: Callable[..., None], array: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
