"""Models as files: external data, bad input, and writing whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper, parser

from quantonnx import exporting, scanning
from quantonnx.errors import ModelError, OutputError
from quantonnx.model import Model, constant, deferred
from quantonnx.model_files import external_places
from quantonnx.weights import ExternalValues

CHAIN = """<ir_version: 10, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] y)
<float[4, 4] w = {1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4}, float[1] b = {5}>
{
  a = MatMul(x, w)
  y = Add(a, b)
}"""


def chain() -> ModelProto:
    return parser.parse_model(CHAIN)


def scattered() -> ModelProto:
    """A model with external data in every place that has tensors; each file is called like its place."""

    def fill(tensor: TensorProto, place: str) -> None:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)

    proto = chain()
    fill(proto.graph.initializer[0], "initializer")
    sparse = proto.graph.sparse_initializer.add()
    fill(sparse.values, "values")
    fill(sparse.indices, "indices")
    fill(proto.graph.node.add(op_type="Constant").attribute.add(name="value").t, "constant")
    fill(proto.graph.node.add(op_type="Mine").attribute.add(name="all").tensors.add(), "list")
    branch = proto.graph.node.add(op_type="If").attribute.add(name="then_branch").g
    fill(branch.node.add(op_type="Loop").attribute.add(name="body").g.initializer.add(), "body")
    fill(proto.functions.add(name="f").node.add(op_type="Constant").attribute.add(name="value").t, "function")
    return proto


@pytest.fixture
def outside(tmp_path) -> Path:
    """A model with a 40x40 weight in w.bin beside it, not at the start."""
    proto = chain()
    weight = np.arange(1600, dtype=np.float32).reshape(40, 40)
    (tmp_path / "w.bin").write_bytes(bytes(100) + weight.tobytes() + b"more")
    tensor = TensorProto(name="w", dims=[40, 40], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", 100), ("length", 6400)):
        tensor.external_data.add(key=key, value=str(value))
    proto.graph.initializer[0].CopyFrom(tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


class TestExternalData:
    def test_it_is_found_from_any_working_directory(self, outside, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model = Model.read("model.onnx")
        monkeypatch.chdir("/")
        assert model.array(model.find("w"))[1, 0] == 40
        assert numpy_helper.to_array(model.to_proto().graph.initializer[0])[1, 0] == 40

    def test_every_tensor_is_looked_at_for_it(self, tmp_path):
        path = tmp_path / "model.onnx"
        path.write_bytes(scattered().SerializeToString())
        assert external_places(path) == {"initializer", "values", "indices", "constant", "list", "body", "function"}

    def test_it_is_streamed_to_a_file_of_its_own(self, outside, tmp_path):
        model = Model.read(outside)
        model.with_opset(18).save(tmp_path / "out.onnx", external_data=True)
        written = onnx.load(tmp_path / "out.onnx", load_external_data=False)
        places = {entry.key: entry.value for entry in written.graph.initializer[0].external_data}
        assert places == {"location": "out.onnx.data", "offset": "0", "length": "6400"}
        assert numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[0])[1, 0] == 40
        assert not written.graph.initializer[1].external_data

    def test_a_small_model_is_written_as_one_file(self, outside, tmp_path):
        Model.read(outside).save(tmp_path / "out.onnx")
        assert not (tmp_path / "out.onnx.data").exists()
        onnx.checker.check_model(tmp_path / "out.onnx")

    def test_memory_stays_far_below_the_weights(self, tmp_path):
        script = """if True:
            import resource, sys
            import numpy as np
            from onnx import TensorProto, parser
            from quantonnx.model import Model, deferred
            text = '<ir_version: 10, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Sum(x) }'
            model = Model.read(parser.parse_model(text))
            for i in range(20):
                values = deferred(f'w{i}', (1 << 21,), TensorProto.FLOAT, lambda: np.zeros(1 << 21, np.float32))
                model.graph.nodes[0].inputs.append(values)
            model.save(sys.argv[1], external_data=True)
            again = Model.read(sys.argv[1])
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            again.save(sys.argv[1] + '.2', external_data=True)
            again.save(sys.argv[1] + '.3')
            print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
        """
        command = [sys.executable, "-c", script, str(tmp_path / "m.onnx")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
        assert int(done.stdout) < 40  # MB, of 160

    @pytest.mark.parametrize(
        ("location", "message"),
        [
            ("gone.bin", "'gone.bin' is missing; put it into"),
            ("../w.bin", "outside the model's folder"),
            ("/etc/passwd", "outside the model's folder"),
            ("link.bin", "links to outside the model's folder"),
            ("short.bin", "too short or damaged: 'w' needs bytes 100 to 6500, the file has 3"),
        ],
    )
    def test_what_is_not_there_is_refused(self, outside, tmp_path, location, message):
        (tmp_path / "short.bin").write_bytes(b"abc")
        os.symlink("/etc/passwd", tmp_path / "link.bin")
        proto = onnx.load(outside, load_external_data=False)
        proto.graph.initializer[0].external_data[0].value = location
        outside.write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError, match=message):
            Model.read(outside)

    def test_a_tensor_of_an_attribute_is_taken_in(self, outside, tmp_path):
        proto = onnx.load(outside, load_external_data=False)
        node = proto.graph.node.add(op_type="Constant", output=["w"])
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=proto.graph.initializer[0])
        del proto.graph.initializer[0]
        outside.write_bytes(proto.SerializeToString())
        assert numpy_helper.to_array(Model.read(outside).to_proto().graph.node[2].attribute[0].t)[1, 0] == 40

    def test_a_hub_cache_of_links_is_read(self, outside, tmp_path):
        snapshot = tmp_path / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        for name in ("model.onnx", "w.bin"):
            (snapshot / name).symlink_to(tmp_path / name)
        model = Model.read(snapshot / "model.onnx")
        assert model.array(model.find("w"))[1, 0] == 40

    def test_over_2_gb_goes_outside_by_itself(self, tmp_path, monkeypatch):
        model = Model.read(chain())
        huge = deferred("huge", (1 << 29,), TensorProto.FLOAT, lambda: pytest.fail("computed"))
        model.graph.nodes[1].inputs[1] = huge
        with pytest.raises(ModelError, match=r"takes 2\.1 GB, and one ONNX file holds 2 GB"):
            model.to_bytes()
        monkeypatch.setattr(exporting, "EMBEDDED_LIMIT", 1000)
        model.graph.nodes[1].inputs[1] = constant("large", np.zeros(1000, np.float32))
        model.save(tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx.data").stat().st_size == 4000

    def test_bytes_alone_are_not_enough(self, outside):
        with pytest.raises(ModelError, match=r"in the external file 'w.bin'; pass the model's path"):
            Model.read(outside.read_bytes())


class TestBadFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"hello, this is no model", "is not an ONNX model"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"PK\x03\x04", "zip archive"),
            (chain().SerializeToString()[:-30], "truncated or damaged"),
            (ModelProto(ir_version=8).SerializeToString(), "truncated or damaged"),
        ],
    )
    def test_each_gets_its_own_line(self, tmp_path, content, message):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=message) as caught:
            Model.read(tmp_path / "bad.onnx")
        assert "\n" not in str(caught.value)

    def test_missing_files_and_folders(self, tmp_path):
        with pytest.raises(ModelError, match="there is no file"):
            Model.read(tmp_path / "none.onnx")
        with pytest.raises(ModelError, match="is a folder"):
            Model.read(tmp_path)


class TestSaving:
    def test_the_same_input_gives_the_same_bytes(self, tmp_path):
        data = chain().SerializeToString()
        model = Model.read(data)
        model.save(tmp_path / "a.onnx")
        assert (tmp_path / "a.onnx").read_bytes() == Model.read(data).copy().to_bytes()
        assert model.digest == hashlib.sha256(data).hexdigest()

    def test_one_protobuf_and_the_streamed_bytes_agree(self):
        model = Model.read(chain())
        assert onnx.load_from_string(model.to_bytes()) == model.to_proto()

    def test_an_existing_file_needs_force(self, tmp_path):
        path = tmp_path / "a.onnx"
        path.write_text("precious")
        with pytest.raises(OutputError, match="--force"):
            Model.read(chain()).save(path)
        assert path.read_text() == "precious"
        Model.read(chain()).save(path, force=True)
        onnx.checker.check_model(path)

    def test_the_inputs_own_weights_are_never_overwritten(self, outside, tmp_path):
        (tmp_path / "w.bin").rename(tmp_path / "model.onnx.data")
        proto = onnx.load(outside, load_external_data=False)
        proto.graph.initializer[0].external_data[0].value = "model.onnx.data"
        outside.write_bytes(proto.SerializeToString())
        with pytest.raises(OutputError, match="holds the weights of the input"):
            Model.read(outside).save(outside, force=True, external_data=True)

    @pytest.mark.parametrize("external", [False, True])
    @pytest.mark.parametrize("problem", [KeyboardInterrupt, ModelError("no"), OSError(28, "No space left on device")])
    def test_a_failure_leaves_no_half_file(self, outside, tmp_path, external, problem):
        def fail() -> np.ndarray:
            raise problem

        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        model = Model.read(outside)
        model.graph.nodes[1].inputs[1] = deferred("bad", (1000,), TensorProto.FLOAT, fail)
        with pytest.raises((KeyboardInterrupt, ModelError, OutputError)):
            model.save(tmp_path / "out.onnx", external_data=external)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    @pytest.fixture
    def gone(self) -> int:
        """The number of a process that has ended."""
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        return process.pid

    @pytest.mark.parametrize(
        "name", [".out.onnx.%d.tmp", ".out.onnx.%d.part", ".out.onnx.data.%d.part", ".out.onnx.%d.old"]
    )
    def test_what_a_killed_process_left_is_cleared(self, outside, tmp_path, gone, name):
        before = {path.name for path in tmp_path.iterdir()}
        (tmp_path / (name % gone)).write_text("half")
        Model.read(outside).save(tmp_path / "out.onnx", external_data=True)
        assert {path.name for path in tmp_path.iterdir()} == before | {"out.onnx", "out.onnx.data"}

    def test_what_a_running_process_writes_stays(self, outside, tmp_path):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            part = tmp_path / f".out.onnx.{other.pid}.tmp"
            part.write_text("half")
            Model.read(outside).save(tmp_path / "out.onnx")
            assert part.read_text() == "half"
            other.communicate(b"\n")

    def test_a_process_killed_between_two_moves_left_its_data(self, outside, tmp_path, gone):
        (tmp_path / "out.onnx.data").write_text("whole")
        with pytest.raises(OutputError, match="exists already"):
            Model.read(outside).save(tmp_path / "out.onnx", external_data=True)
        (tmp_path / f".out.onnx.{gone}.part").write_text("whole, and not moved")
        Model.read(outside).save(tmp_path / "out.onnx", external_data=True)
        onnx.load(tmp_path / "out.onnx")

    def test_no_model_is_there_while_its_data_changes(self, outside, tmp_path, monkeypatch):
        out, data = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
        Model.read(outside).save(out, external_data=True)
        move, seen = os.replace, []

        def watched(source, target):
            seen.append((Path(target).name, out.exists(), data.exists()))
            move(source, target)

        monkeypatch.setattr(os, "replace", watched)
        Model.read(outside).save(out, external_data=True, force=True)
        assert seen == [("out.onnx.data", False, False), ("out.onnx", False, True)]

    def test_a_failing_move_puts_everything_back(self, outside, tmp_path, monkeypatch):
        (tmp_path / "out.onnx.data").write_text("old weights")
        (tmp_path / "out.onnx").write_text("old model")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        move = os.replace

        def fail(source, target):
            if Path(target).name == "out.onnx":
                raise OSError(28, "No space left on device")
            move(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match="No space left on device"):
            Model.read(outside).save(tmp_path / "out.onnx", force=True, external_data=True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    @pytest.mark.parametrize(
        ("name", "message"),
        [("none/out.onnx", "No such file"), ("file/out.onnx", "Not a directory"), ("folder", "is a folder")],
    )
    def test_a_place_that_cannot_be_written_is_one_line(self, tmp_path, name, message):
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        with pytest.raises(OutputError, match=message) as caught:
            Model.read(chain()).save(tmp_path / name)
        assert "\n" not in str(caught.value)


class TestLargeFiles:
    """Files that hold their weights inside are read as if the weights were outside, from a size on."""

    @pytest.fixture
    def inside(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setattr(scanning, "LARGE_FILE", 1)
        proto = chain()
        weight = np.arange(1600, dtype=np.float32).reshape(40, 40)
        numbers = TensorProto(name="n", dims=[1600], data_type=TensorProto.FLOAT, float_data=weight.reshape(-1))
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
        proto.graph.initializer.append(numbers)
        proto.graph.node.add(op_type="Identity", input=["n"], output=["z"])
        proto.graph.output.add(name="z")
        proto.graph.doc_string = "kept"
        path = tmp_path / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    def test_weights_stay_on_disk(self, inside):
        model = Model.read(inside)
        values = {name: model.find(name)._values for name in "wn"}
        assert [isinstance(each, ExternalValues) for each in values.values()] == [True, False]
        assert model.array(model.find("w"))[1, 0] == model.array(model.find("n"))[40] == 40

    def test_nothing_else_differs(self, inside):
        scanned, parsed = Model.read(inside), Model.read(inside.read_bytes())
        assert scanned.to_bytes() == parsed.to_bytes()
        assert scanned.digest == parsed.digest == hashlib.sha256(inside.read_bytes()).hexdigest()

    def test_a_name_that_is_not_utf_8_is_read_as_a_small_file_is(self, inside):
        odd = inside.rename(inside.with_name(os.fsdecode(b"\xff.onnx")))
        assert scanning.scan(odd) is None
        assert Model.read(odd).to_bytes() == Model.read(odd.read_bytes()).to_bytes()

    def test_the_file_is_not_overwritten_while_it_is_needed(self, inside):
        with pytest.raises(OutputError, match="holds the weights of the input model"):
            Model.read(inside).save(inside, force=True)

    @pytest.mark.parametrize("cut", [3, 100, 6000, 12_500])
    def test_damage_is_told_as_of_small_files(self, inside, cut):
        damaged = inside.with_name("damaged.onnx")
        damaged.write_bytes(inside.read_bytes()[:cut])
        with pytest.raises(ModelError, match=r"truncated or damaged|is not an ONNX model"):
            Model.read(damaged)

    def test_lengths_beyond_the_file_are_refused(self, inside):
        data = bytearray(inside.read_bytes())
        place = data.index(b"\x4a\x80\x32")  # raw_data of 6400 bytes
        data[place + 2] = 0x7F
        inside.write_bytes(data)
        with pytest.raises(ModelError):
            Model.read(inside).to_bytes()
