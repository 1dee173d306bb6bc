"""`finetune`: from a float file to a fine-tuned one on one line, what it tells, and how it stops and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import NETWORK, parse

from quantonnx import cli

pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A command that fine-tunes for two epochs, but for where the result goes."""
    rng = np.random.default_rng(0)
    network, data, held = tmp_path / "network.onnx", tmp_path / "data.npz", tmp_path / "eval.npz"
    network.write_bytes(parse(NETWORK).SerializeToString())
    images, labels = rng.standard_normal((56, 3, 8, 8)).astype(np.float32), rng.integers(0, 5, 56)
    np.savez(data, image=images[:32], labels=labels[:32])
    np.savez(held, image=images[32:], labels=labels[32:])
    options = ["--preset", "w4a8", "-t", "onnxruntime", "--keep-slow", "--epochs", "2", "-q"]
    return ["finetune", str(network), "--data", str(data), "--eval-data", str(held), *options]


def result_of(command: list[str], tmp: Path, code: int = 0) -> dict[str, Any]:
    path = tmp / "result.json"
    assert cli.run([*command, "--json", str(path)]) == code
    return dict(json.loads(path.read_text()))


def test_finetune_says_what_it_did(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = result_of([*command, "-o", str(out), "--learning-rate", "0.01"], tmp_path)
    training = result["training"]
    assert training["steps"] == 2 * 4
    assert training["held_out"] == 4
    assert training["after"]["loss"] < training["before"]["loss"]
    assert result["metrics"]["samples"] == result["before"]["samples"] == 24
    assert result["metrics"]["sqnr_db"] != result["before"]["sqnr_db"]
    assert {"calibrate", "compare", "train", "write", "load"} <= set(result["seconds"])
    onnx.checker.check_model(onnx.load(out))


def test_only_weights_biases_and_numbers_differ_from_what_quantize_writes(command: list[str], tmp_path: Path) -> None:
    out, plain = tmp_path / "out.onnx", tmp_path / "plain.onnx"
    assert cli.run([*command, "-o", str(out)]) == 0
    quantize = ["quantize", *command[1:4], *command[6:-3], "-q", "-o", str(plain)]
    assert cli.run(quantize) == 0
    made, expected = onnx.load(out).graph, onnx.load(plain).graph
    assert [(node.op_type, node.name, *node.input, *node.output) for node in made.node] == [
        (node.op_type, node.name, *node.input, *node.output) for node in expected.node
    ]
    assert {(each.name, each.data_type, *each.dims) for each in made.initializer} == {
        (each.name, each.data_type, *each.dims) for each in expected.initializer
    }


def test_interrupting_keeps_the_checkpoint(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from quantonnx.torch.training import Training

    whole, half, checkpoint = tmp_path / "whole.onnx", tmp_path / "half.onnx", tmp_path / "checkpoint.pt"
    assert cli.run([*command, "-o", str(whole)]) == 0
    learn = Training._learn

    def interrupted(training: Training, units: Any) -> None:
        if training.step == 3:
            raise KeyboardInterrupt
        learn(training, units)

    going_on = [*command, "-o", str(half), "--checkpoint", str(checkpoint)]
    with monkeypatch.context() as patch:
        patch.setattr("quantonnx.torch.training._BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr(Training, "_learn", interrupted)
        assert cli.run(going_on) == 130
    assert capsys.readouterr().err == "quantonnx: error: interrupted\n"
    assert checkpoint.exists()
    assert not half.exists()
    assert cli.run(going_on) == 0
    assert half.read_bytes() == whole.read_bytes()


@pytest.fixture
def refusal(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command with more options, which must fail with code 2 and one line, and returns the line."""

    def refuse(*options: object) -> str:
        out = tmp_path / "refused.onnx"
        assert cli.run([*command, "-o", str(out), *map(str, options)]) == 2
        assert not out.exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return refuse


def test_a_checkpoint_of_other_settings_is_refused(
    command: list[str], refusal: Callable[..., str], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    assert cli.run([*command, "-o", str(tmp_path / "out.onnx"), "--checkpoint", str(checkpoint)]) == 0
    assert "seed differs: 0 there, 1 here" in refusal("--checkpoint", checkpoint, "--seed", 1)
    assert "epochs differs: 2 there, 3 here" in refusal("--checkpoint", checkpoint, "--epochs", 3)
    assert "student differs" in refusal("--checkpoint", checkpoint, "--method", "percentile:95")


def test_wrong_use_is_refused(refusal: Callable[..., str], command: list[str], tmp_path: Path) -> None:
    assert "is no checkpoint" in refusal("--checkpoint", command[1])
    assert "given twice" in refusal("--checkpoint", tmp_path / "refused.onnx")
    assert "augment is 'turn'; known are none, flip, shift" in refusal("--augment", "turn")
    assert "minutes is -1.0, expected more than 0" in refusal("--minutes", -1)
    assert "both given" in refusal("--random-data", 3)


def test_no_better_than_before_is_said(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    result = result_of([*command[:-1], "-o", str(out), "--learning-rate", "3"], tmp_path)
    assert result["training"]["best_step"] == 0
    assert "did not come nearer" in capsys.readouterr().err
