"""Distillation: a student comes nearer to its teacher, stops and goes on bit for bit, and is never left worse."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import parse

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

import quantonnx as qx  # noqa: E402
from quantonnx.calibration.feeds import InputSpec  # noqa: E402
from quantonnx.calibration.samples import open_samples  # noqa: E402
from quantonnx.errors import ConfigError, DataError, ModelError, OutputError  # noqa: E402
from quantonnx.torch import augmenting, batches, from_onnx, prepare_qat  # noqa: E402
from quantonnx.torch.distillation import distill  # noqa: E402
from quantonnx.torch.objectives import normalised_error, output_loss  # noqa: E402

torch.set_num_threads(1)


class Network(torch.nn.Module):
    """Two layers; `step` is what its weights are rounded to, with straight-through gradients."""

    input_names = ("image",)

    def __init__(self, step: float = 0.0, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = torch.nn.Linear(12, 16), torch.nn.Linear(16, classes)
        self.noise = torch.nn.Dropout(0.3)
        self.step = step

    def forward(self, image: Any) -> Any:
        return self.collect((), image)[0]

    def collect(self, names: Any, image: Any) -> Any:
        hidden = torch.relu(self.rounded(self.first, image.flatten(1)))
        found = self.noise(self.rounded(self.last, hidden))
        return found, {name: {"hidden": hidden}[name] for name in names}

    def rounded(self, layer: Any, x: Any) -> Any:
        weight = layer.weight
        if self.step:
            weight = weight + ((weight / self.step).round() * self.step - weight).detach()
        return torch.nn.functional.linear(x, weight, layer.bias)


def samples(count: int = 48) -> Any:
    rng = np.random.default_rng(0)
    inputs = (InputSpec("image", np.dtype(np.float32), ("N", 3, 2, 2)),)
    return open_samples(rng.standard_normal((count, 3, 2, 2)).astype(np.float32), inputs)


def state(module: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_student_comes_nearer() -> None:
    student, teacher = Network(0.25), Network()
    report = distill(student, teacher, samples(), epochs=20, blocks=["hidden"], learning_rate=0.01)
    assert report.after.sqnr_db > report.before.sqnr_db + 2
    assert report.after.loss < report.before.loss
    assert report.steps == 20 * 6
    assert report.held_out == 6
    assert not report.trained_on
    assert len(report.losses) == 8
    assert report.losses[-1] < report.losses[0]


def test_the_teacher_stays_as_it_is_and_so_does_the_generator() -> None:
    student, teacher = Network(0.25), Network()
    before, random = state(teacher), torch.get_rng_state()
    student.train()
    distill(student, teacher, samples(), steps=3)
    assert equal(before, state(teacher))
    assert torch.equal(random, torch.get_rng_state())
    assert student.noise.training


def test_the_result_is_never_worse_than_the_start() -> None:
    student, teacher = Network(0.25), Network()
    before = state(student)
    report = distill(student, teacher, samples(), epochs=2, learning_rate=5.0, bias_rate=5.0, clip=100.0)
    assert report.best_step == 0
    assert report.after == report.before
    assert equal(before, state(student))


def test_infinite_losses_end_it_with_the_best_weights() -> None:
    student = Network(0.25)
    before = state(student)
    report = distill(student, Network(), samples(), epochs=2, learning_rate=1e30, bias_rate=1e30)
    assert report.diverged
    assert report.steps < 12
    assert equal(before, state(student))


class StoppedError(Exception):
    pass


def stop_at(step: int) -> Callable[[int, int | None], None]:
    def progress(done: int, _total: int | None) -> None:
        if done == step:
            raise StoppedError

    return progress


@pytest.mark.parametrize("way", ["none", "shift"])
@pytest.mark.parametrize("kept", [True, False])
def test_training_goes_on_as_if_it_had_never_stopped(
    kept: bool, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantonnx.torch.training._BETWEEN_CHECKPOINTS", 0.0)
    images = [feed["image"] for feed in samples()]
    dataset = [(torch.from_numpy(image[0]), 1) for image in images]
    data = samples() if kept else torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)  # type: ignore[arg-type]
    options: dict[str, Any] = {"epochs": 4, "augment": way, "blocks": ["hidden"]}
    whole, halves, teacher = Network(0.25), Network(0.25), Network()
    expected = distill(whole, teacher, data, **options)
    file = tmp_path / "half.pt"
    for step in (9, 14):
        with pytest.raises(StoppedError):
            distill(Network(0.25), teacher, data, checkpoint=file, progress=stop_at(step), **options)
    found = distill(halves, teacher, data, checkpoint=file, **options)
    assert equal(state(whole), state(halves))
    assert (found.losses, found.after, found.best_step) == (expected.losses, expected.after, expected.best_step)
    again = distill(Network(0.25), teacher, data, checkpoint=file, progress=stop_at(-1), **options)
    assert again == found
    assert [path.name for path in tmp_path.iterdir()] == ["half.pt"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": Network(0.5)}, None),
        ({"teacher": Network(classes=6), "student": Network(0.25, 6)}, "student differs"),
        ({"learning_rate": 0.02}, "learning_rate differs: 0.01 there, 0.02 here"),
        ({"epochs": 3}, "epochs differs: 2 there, 3 here"),
        ({"loader": samples(40)}, "data differs"),
    ],
)
def test_a_checkpoint_of_other_work_is_refused(changes: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    given: dict[str, Any] = {"student": Network(0.25), "teacher": Network(), "loader": samples(), "epochs": 2}
    given |= {"learning_rate": 0.01, "checkpoint": file}
    distill(**{**given, "student": copy.deepcopy(given["student"])})
    if said is None:  # what a step rounds to is no state
        return
    with pytest.raises(ConfigError, match=said) as refused:
        distill(**{**given, **changes})
    assert "\n" not in str(refused.value)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    file, touched = tmp_path / "checkpoint.pt", tmp_path / "touched"
    torch.save({"format": "quantonnx fine-tuning 1", "state": Hostile(touched)}, file)
    with pytest.raises(ConfigError, match="is no checkpoint"):
        distill(Network(0.25), Network(), samples(), epochs=1, checkpoint=file)
    assert not touched.exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 half", pickle.dumps([1, 2]), b"\x08\x07onnx"])
def test_another_file_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is no checkpoint of a fine-tuning"):
        distill(Network(0.25), Network(), samples(), epochs=1, checkpoint=file)
    assert file.read_bytes() == content


def test_a_checkpoint_without_its_parts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    distill(Network(0.25), Network(), samples(), epochs=1, checkpoint=file)
    whole = torch.load(file, weights_only=True)
    del whole["state"]["best"]
    torch.save(whole, file)
    with pytest.raises(ConfigError, match="is no checkpoint"):
        distill(Network(0.25), Network(), samples(), epochs=1, checkpoint=file)


def test_a_checkpoint_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        distill(Network(0.25), Network(), samples(), epochs=1, checkpoint=tmp_path / "none" / "checkpoint.pt")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"epoch": 3}, "epochs"),
        ({"epochs": 0}, "expected more than 0"),
        ({"learning_rate": -1.0}, "0 or more"),
        ({"optimizer": "lion"}, "known are adamw, sgd"),
        ({"augment": "rotate"}, "known are none, flip, shift"),
        ({"warm_up": 1.5}, "between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        distill(Network(0.25), Network(), samples(), **setting)


def test_batches_in_many_forms() -> None:
    image = torch.randn(4, 3, 2, 2)
    for loader in (
        [image, image],
        [(image, torch.zeros(4))],
        [{"image": image, "label": torch.zeros(4)}],
        (item for item in [image]),
        torch.utils.data.DataLoader(image, batch_size=2),
    ):
        assert distill(Network(0.25), Network(), loader, steps=1).steps == 1
    for wrong, said in (
        ([], "no samples"),
        (3, "are a int"),
        ([{"picture": image}], "no 'image'"),
        (iter([]), "no samples"),
    ):
        with pytest.raises(DataError, match=said):
            distill(Network(0.25), Network(), wrong, steps=1)


def test_evaluation_data_is_what_is_measured_on() -> None:
    report = distill(Network(0.25), Network(), samples(), evaluation=samples(20), epochs=1)
    assert report.held_out == 20
    assert report.steps == 6


def test_the_clock_ends_it() -> None:
    report = distill(Network(0.25), Network(), samples(), minutes=0.01)
    assert 0.5 < report.seconds < 5
    assert report.steps > 1


def test_what_a_teacher_said_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    teacher = Network()
    teacher.register_forward_hook(lambda *_: asked.append(1))
    expected = Network(0.25), Network(0.25)
    distill(expected[0], teacher, samples(), epochs=3)
    remembered = len(asked)
    monkeypatch.setattr("quantonnx.torch.viewing.LARGEST_REMEMBERED", 10)
    distill(expected[1], teacher, samples(), epochs=3)
    assert remembered == 1 + 1 + 42  # what is held out, how large answers are, one for each sample
    assert len(asked) - remembered == 1 + 1 + 3 * 6
    for name, value in state(expected[0]).items():
        torch.testing.assert_close(value, state(expected[1])[name])


def test_samples_that_are_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LARGEST_KEPT", 100)
    with pytest.raises(DataError, match="give a DataLoader"):
        distill(Network(0.25), Network(), samples(), epochs=1)


def test_a_fixed_batch_is_not_joined() -> None:
    inputs = (InputSpec("image", np.dtype(np.float32), (1, 3, 2, 2)),)
    data = open_samples(np.random.default_rng(0).standard_normal((24, 3, 2, 2)).astype(np.float32), inputs)

    class One(Network):
        def forward(self, image: Any) -> Any:
            assert len(image) == 1
            return super().forward(image)

    report = distill(One(0.25), One(), data, epochs=4, learning_rate=0.01)
    assert report.steps == 4 * 3
    assert report.after.loss < report.before.loss


def test_scores_and_values_have_their_losses() -> None:
    scores = torch.randn(6, 10)
    shifted = output_loss([scores + 1], [scores], 1.0)
    torch.testing.assert_close(shifted, normalised_error(scores + 1, scores))  # a softmax does not see it
    soft = scores.softmax(-1)
    found, wanted = output_loss([soft], [scores.softmax(-1)], 1.0), torch.tensor(0.0)
    torch.testing.assert_close(found, wanted)
    boxes = torch.randn(2, 4, 8)
    torch.testing.assert_close(output_loss([0 * boxes], [boxes], 1.0), torch.tensor(1.0))


def test_a_network_of_integers_teaches_nothing() -> None:
    class Best(Network):
        def forward(self, image: Any) -> Any:
            return super().forward(image).argmax(-1)

    with pytest.raises(ModelError, match="no output is a floating-point one"):
        distill(Best(0.25), Best(), samples(), epochs=None, steps=None)


def test_images_are_mirrored_and_moved() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8).expand(200, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    flipped = augmenting.augmented((image,), "flip", generator)[0]
    same = (flipped == image).flatten(1).all(1)
    mirrored = (flipped == image.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 60 < int(same.sum()) < 140
    moved = augmenting.augmented((image,), "shift", generator)[0]
    assert moved.shape == image.shape
    assert len({tuple(each.flatten().tolist()) for each in moved}) == 2 * 3 * 3
    mixed = augmenting.augmented((torch.rand(50, 3, 8, 8, generator=generator),), "mix", generator)[0]
    assert mixed.shape == (50, 3, 8, 8)
    assert 0 <= mixed.min() <= mixed.max() <= 1
    tokens = torch.ones(2, 5, dtype=torch.int64)
    assert augmenting.augmented({"ids": tokens}, "shift", generator)["ids"] is tokens


class Endless(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Samples without a length, each with noise of its own."""

    def __iter__(self) -> Any:
        for feed in samples(20):
            image = torch.from_numpy(feed["image"][0])
            yield image + 0.01 * torch.randn_like(image)


def test_a_loader_that_does_not_tell_its_length_trains() -> None:
    student, teacher = Network(0.25), Network()
    start = state(student)
    report = distill(
        student, teacher, torch.utils.data.DataLoader(Endless(), batch_size=4), epochs=6, learning_rate=0.01
    )
    assert report.steps == 30
    assert report.best_step > 0
    assert not equal(start, state(student))


@pytest.mark.parametrize("step", [3, 5, 7])
def test_a_loader_at_random_goes_on_too(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantonnx.torch.training._BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr("quantonnx.torch.training._CHECKPOINTS_PART", float("inf"))
    loader = torch.utils.data.DataLoader(Endless(), batch_size=4)
    given = {"steps": 12, "learning_rate": 0.01}
    once, again = Network(0.25), Network(0.25)
    distill(once, Network(), loader, **given)
    with pytest.raises(StoppedError):
        distill(again, Network(), loader, checkpoint=tmp_path / "c.pt", progress=stop_at(step), **given)
    again = Network(0.25)
    distill(again, Network(), loader, checkpoint=tmp_path / "c.pt", **given)
    assert equal(state(once), state(again))


def test_values_that_a_recipe_rescaled_do_not_count() -> None:
    text = """chain (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[8,4,1,1] a, float[8,8,1,1] b, float[4,8,1,1] c> {
        p = Conv (x, a) q = Relu (p) r = Conv (q, b) s = Relu (r) y = Conv (s, c)
    }"""
    proto = parse(text)
    images = np.random.default_rng(0).standard_normal((8, 4, 8, 8)).astype(np.float32)
    for recipe, blocks in (([], ("p", "r")), (["equalize"], ())):
        config = qx.QuantConfig(preset="w4a8", keep_slow=True, recipe=recipe)
        student = prepare_qat(qx.quantize(proto, images, target="onnxruntime", config=config))
        assert distill(student, from_onnx(proto), images, steps=1).blocks == blocks


def test_interrupting_saves_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, again, teacher = Network(0.25), Network(0.25), Network()
    distill(once, teacher, samples(), steps=12)
    monkeypatch.setattr(Network, "collect", interrupted_at(Network.collect, 40))
    with pytest.raises(KeyboardInterrupt):
        distill(again, teacher, samples(), steps=12, checkpoint=tmp_path / "c.pt")
    monkeypatch.undo()
    again = Network(0.25)
    report = distill(again, teacher, samples(), steps=12, checkpoint=tmp_path / "c.pt", progress=stop_at(1))
    assert report.steps == 12
    assert equal(state(once), state(again))


def interrupted_at(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return function(*arguments)

    return counted
