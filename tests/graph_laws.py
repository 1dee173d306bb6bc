"""What must hold for any float model: the laws that random graphs are put to, and how near two results have to be.

Rounding is not one number: a Softmax of large scores or a norm of small differences makes much of it. What a model makes
of inputs that differ by a few units in the last place says how much; results have to be as near as that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from graph_samples import Sample
from growing import Array

import quantonnx as qx
from quantonnx.linting import Severity, lint

Feeds = dict[str, Array]
Results = dict[str, Array]

NUDGE = 3e-6
"""Relative: 25 units in the last place of float32, since rounding happens at every operator and not only at inputs."""

_ALWAYS = ("tensorrt", "onnxruntime", "openvino")

CONFIGS: dict[str, tuple[qx.QuantConfig, tuple[str, ...], float]] = {
    "8 bits": (qx.QuantConfig(keep_slow=True), _ALWAYS, 1.0),
    "float weights": (qx.QuantConfig(keep_slow=True, weight_storage="float"), _ALWAYS, 1.0),
    "weights": (qx.QuantConfig(activation=None), _ALWAYS, 0.3),
    "groups": (qx.QuantConfig(activation=None, weight={"n_bits": 8, "group_size": 4}), _ALWAYS[1:], 0.3),  # type: ignore[arg-type]
    "16-bit weights": (qx.QuantConfig(activation=None, weight={"n_bits": 16}), _ALWAYS[1:], 0.02),  # type: ignore[arg-type]
    "16 bits": (qx.QuantConfig(keep_slow=True, activation={"n_bits": 16}), _ALWAYS[1:2], 0.3),  # type: ignore[arg-type]
}
"""Settings, the targets that take them, and how far from the float model they may be, as a share of the output."""


class NotRunnable(Exception):  # noqa: N818  (nobody's error: such a graph is left out)
    """ONNX Runtime does not run the float model with its optimizations."""


@dataclass(frozen=True)
class Float:
    """What the float model gives, and how far each output may be from it."""

    feeds: list[Feeds]
    results: list[Results]
    slack: Results
    equal: set[bytes] = field(default_factory=set)  # models that are known to give them

    @property
    def usable(self) -> bool:
        """False where an output is not a number, or rounding makes anything of it: then nothing can be said."""
        finite = all(np.isfinite(value).all() for found in self.results for value in found.values())
        largest = {name: max(np.abs(found[name]).max() for found in self.results) for name in self.slack}
        return finite and all(self.slack[name].max() <= 1e-2 * max(largest[name], 1e-3) for name in self.slack)


def run(proto: onnx.ModelProto, feeds: Sequence[Feeds], *, optimized: bool = False) -> list[Results]:
    """Returns the outputs by name under ONNX Runtime, for each feed."""
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def in_float(sample: Sample, count: int = 2) -> Float:
    """Returns the float results of a sample on some feeds; NotRunnable where it does not run with optimizations."""
    feeds = sample.feeds(count)
    try:
        run(sample.proto, feeds[:1], optimized=True)
    except Exception as error:  # a Pad wider than the pool behind it, which ONNX Runtime merges
        raise NotRunnable from error
    rng = np.random.default_rng(sample.seed)
    nudged = [_nudged(rng, feed) for _ in range(2) for feed in feeds]
    found = run(sample.proto, [*feeds, *nudged])
    results, others = found[:count], found[count:]
    slack: Results = {}
    for before, after in zip(results * 2, others, strict=True):
        for name, value in before.items():
            off = np.abs(after[name] - value).max(initial=0.0)
            largest = np.abs(value).max(initial=1e-3)
            slack[name] = np.maximum(slack.get(name, 0.0), 3 * off + 1e-5 * largest)
    return Float(feeds, results, slack)


def transform_keeps_results(sample: Sample, known: Float, target: str) -> qx.Model:
    """A fused model gives the same numbers under the same names."""
    fused = qx.transform(sample.proto, target=target).model
    if (data := fused.to_bytes()) in known.equal:
        return fused
    for expected, found in zip(known.results, run(fused.to_proto(), known.feeds), strict=True):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].shape == value.shape, f"{target}: {name}"
            off = np.abs(found[name] - value).max(initial=0.0)
            assert off <= known.slack[name], f"{target}: {name} is off by {off:.3g}, allowed {known.slack[name]:.3g}"
    known.equal.add(data)
    return fused


def transform_is_done_at_once(fused: qx.Model, target: str) -> None:
    """A second transform changes nothing, unless a convolution has two normalizations behind it: each takes one."""
    if any(node.op == "BatchNormalization" for node in fused.graph.nodes):
        return
    assert qx.transform(fused, target=target).model.to_bytes() == fused.to_bytes(), f"{target}: a second transform"


def quantize_gives_a_sound_file(sample: Sample, known: Float, fused: qx.Model, target: str, config: str) -> int:
    """A file that onnx and ONNX Runtime accept, near the float model, the same twice, with nothing that `check` finds.

    Returns how many pairs it has, those in bodies included.
    """
    settings, targets, far = CONFIGS[config]
    if target not in targets:
        settings, _, far = CONFIGS["8 bits"]
    try:
        made = qx.quantize(sample.proto, known.feeds, target=target, config=settings)
    except qx.PlanError as error:
        assert "no pair was placed" in str(error)  # noqa: PT017
        return 0
    proto = made.to_onnx()
    onnx.checker.check_model(proto)
    if sample.seed % 4 == 0:
        again = qx.quantize(sample.proto, known.feeds, target=target, config=settings)
        assert again.to_model().to_bytes() == made.to_model().to_bytes(), "quantized twice"
    _keeps_names(fused, proto)
    plain = run(proto, known.feeds)
    optimized = run(proto, known.feeds, optimized=True)
    _is_near(known, plain, f"{target}, {config}", far)
    _is_near(known, optimized, f"{target}, {config}, optimized", far)
    pairs = sum(len(part.sites) for part in made.parts)
    errors = [finding for finding in lint(proto, target) if finding.severity is Severity.ERROR] if pairs else []
    assert not errors, errors
    return pairs


def _keeps_names(fused: qx.Model, proto: onnx.ModelProto) -> None:
    left = {(node.name, node.op_type) for node in proto.graph.node}
    assert {(node.name, node.op) for node in fused.graph.nodes} <= left, "a node has lost its name"
    assert [output.name for output in proto.graph.output] == [output.name for output in fused.graph.outputs]


def _is_near(known: Float, found: list[Results], where: str, allowed: float) -> None:
    """The error has less power than the output, by `allowed` squared; over all feeds."""
    for name in known.slack:
        before = np.concatenate([result[name].reshape(-1) for result in known.results]).astype(np.float64)
        after = np.concatenate([result[name].reshape(-1) for result in found]).astype(np.float64)
        assert np.isfinite(after).all(), f"{where}: {name} is not a number"
        error, power = np.sqrt(np.mean((after - before) ** 2)), np.sqrt(np.mean(before**2))
        assert error <= allowed * power + known.slack[name], f"{where}: {name} is off by {error:.3g} of {power:.3g}"


def _nudged(rng: np.random.Generator, feed: Feeds) -> Feeds:
    return {
        name: value if value.dtype.kind == "i" else (value * (1 + NUDGE * rng.normal(size=value.shape))).astype("f4")
        for name, value in feed.items()
    }
