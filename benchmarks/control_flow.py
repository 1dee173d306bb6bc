"""Networks with If, Loop and Scan: how near to float they stay when their bodies are quantized too.

Torch exports of a scripted loop, of torch.cond and of while_loop, and Silero VAD, whose branches hold a whole network
for each sampling rate. Random weights (but for Silero's) and random inputs; speech is a buzz with pauses.

    python benchmarks/control_flow.py              # all: a minute
    python benchmarks/control_flow.py loop cond
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import torch
from fetch_models import DEFAULT_CACHE
from package_download import member, wheel

import quantonnx as qx
from quantonnx.calibration.loading import open_session
from quantonnx.summary import pairs

Feed = dict[str, Any]
Network = tuple[onnx.ModelProto, list[Feed]]

TARGETS = ("tensorrt", "onnxruntime", "openvino")
CONFIGS = {"int8": qx.QuantConfig(keep_slow=True), "weights": qx.QuantConfig(activation=None)}
CALIBRATE, EVALUATE = 64, 16
SILERO = "1a153a22f450"
"""Where the digest of Silero's file starts."""


class Recurrent(torch.nn.Module):
    """A plain recurrent network, as a Python loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.state = torch.nn.Linear(32, 64), torch.nn.Linear(64, 64)
        self.output = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(x.shape[0], 64)
        for step in range(x.shape[1]):
            state = torch.tanh(self.input(x[:, step]) + self.state(state))
        return self.output(state)


class Branches(torch.nn.Module):
    """One of two convolutions, as an input says."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.wide, self.narrow = torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.Conv2d(16, 32, 1)
        self.head = torch.nn.Linear(32, 10)

    def forward(self, x: torch.Tensor, flag: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cond(flag, lambda x: torch.relu(self.wide(x)), lambda x: torch.relu(self.narrow(x)), (x,))
        return self.head(x.mean((2, 3)))


class Repeated(torch.nn.Module):
    """A layer as often as an input says."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(32, 32)

    def forward(self, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        from torch._higher_order_ops.while_loop import while_loop

        def body(i: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return i + 1, torch.tanh(self.layer(x))

        return while_loop(lambda i, x: i < times, body, (torch.zeros((), dtype=torch.int64), x))[1]


def _random(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.normal(size=shape).astype(np.float32)


def loop(rng: np.random.Generator) -> Network:
    """A scripted loop by the TorchScript exporter, over 5 to 8 steps."""
    buffer = io.BytesIO()
    axes = {"x": {0: "batch", 1: "time"}}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes, "opset_version": 17}
    torch.onnx.export(torch.jit.script(Recurrent()), (torch.randn(2, 5, 32),), buffer, dynamo=False, **names)
    return onnx.load_from_string(buffer.getvalue()), [
        {"x": _random(rng, 2, 5 + i % 4, 32)} for i in range(CALIBRATE + EVALUATE)
    ]


def cond(rng: np.random.Generator) -> Network:
    """torch.cond by the dynamo exporter."""
    model = _dynamo(Branches(), torch.randn(1, 3, 16, 16), torch.tensor(True))
    return model, [
        {"x": _random(rng, 1, 3, 16, 16), "flag": np.asarray(i % 2 == 0)} for i in range(CALIBRATE + EVALUATE)
    ]


def repeated(rng: np.random.Generator) -> Network:
    """while_loop by the dynamo exporter, 1 to 4 times."""
    model = _dynamo(Repeated(), torch.randn(2, 32), torch.tensor(3))
    return model, [{"x": _random(rng, 2, 32), "times": np.asarray(i % 4 + 1)} for i in range(CALIBRATE + EVALUATE)]


def silero(rng: np.random.Generator) -> Network:
    """Silero VAD: an If around two networks, with Ifs in them."""
    archive = wheel("silero-vad==6.2.3", DEFAULT_CACHE)
    model = onnx.load(member(archive, "silero_vad/data/silero_vad.onnx", sha256=SILERO))
    feeds = []
    for i in range(CALIBRATE + EVALUATE):
        rate, length = (16000, 576) if i % 2 else (8000, 288)
        state = 0.3 * _random(rng, 2, 1, 128)
        feeds.append({"input": _buzz(rng, rate, length)[None], "state": state, "sr": np.asarray(rate)})
    return model, feeds


def _buzz(rng: np.random.Generator, rate: int, length: int) -> np.ndarray[Any, Any]:
    time, pitch = np.arange(length) / rate, rng.uniform(80, 300)
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
    loud = np.clip(np.sin(2 * np.pi * rng.uniform(1, 4) * time + rng.uniform(0, 6)), 0, 1)
    return (0.1 * tone * loud + 0.01 * rng.normal(size=length)).astype(np.float32)


def _dynamo(network: torch.nn.Module, *example: torch.Tensor) -> onnx.ModelProto:
    return torch.onnx.export(network, example, dynamo=True, verbose=False).model_proto


NETWORKS: dict[str, Callable[[np.random.Generator], Network]] = {
    "loop": loop,
    "cond": cond,
    "while": repeated,
    "silero": silero,
}


def measured(model: onnx.ModelProto, feeds: list[Feed], target: str, config: str) -> Iterator[tuple[str, Any]]:
    """Yield what a row of the table has: pairs, worst output's SQNR without and with optimizations, bytes."""
    done = qx.quantize(model, feeds[:CALIBRATE], target=target, config=CONFIGS[config])
    proto = done.to_onnx()
    onnx.checker.check_model(proto)
    counts = pairs(done)
    yield "pairs", f"{counts['activation']} + {counts['weight']}"
    for name, optimize in (("plain", False), ("optimized", True)):
        yield name, sqnr(model, proto, feeds[-EVALUATE:], optimize=optimize)
    yield "size", proto.ByteSize() / model.ByteSize()


def sqnr(model: onnx.ModelProto, other: onnx.ModelProto, feeds: list[Feed], *, optimize: bool) -> float:
    """Return the SQNR in dB of the worst output, over all feeds."""
    sessions = (open_session(model, threads=1), open_session(other, threads=1, optimize=optimize))
    expected, found = ([session.run(None, feed) for feed in feeds] for session in sessions)
    ratios = []
    for before, after in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        exact = np.concatenate([value.reshape(-1) for value in before]).astype(np.float64)
        noise = exact - np.concatenate([value.reshape(-1) for value in after])
        ratios.append(10 * np.log10((exact**2).sum() / max((noise**2).sum(), 1e-30)))
    return float(min(ratios))


def main(names: list[str]) -> int:
    """Prints the table."""
    warnings.simplefilter("ignore")
    print("| network | target | | pairs + weights | SQNR dB | optimized | size |\n|---|---|---|---|---|---|---|")
    for name in names:
        torch.manual_seed(0)
        model, feeds = NETWORKS[name](np.random.default_rng(0))
        for target in TARGETS:
            for config in CONFIGS:
                row = dict(measured(model, feeds, target, config))
                near = f"{row['plain']:.1f} | {row['optimized']:.1f}"
                print(f"| {name} | {target} | {config} | {row['pairs']} | {near} | {row['size']:.2f}× |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(NETWORKS)))
