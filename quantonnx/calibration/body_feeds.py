"""What the bodies of If, Loop and Scan are fed while the model around them runs: the samples that calibrate them.

The model around runs once for each sample, with the values that a body reads from outside as outputs. A branch of If is
fed by the samples that take it, the body of Loop or Scan once for each iteration, since its states come from the one
before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from numpy.typing import NDArray

from quantonnx.bodies import owner_of
from quantonnx.calibration.feeds import Feed, input_specs
from quantonnx.calibration.loading import first_line, load_session, open_session, prepared
from quantonnx.calibration.samples import Samples
from quantonnx.calibration.sources import Part
from quantonnx.calibration.taps import add_outputs
from quantonnx.errors import DataError
from quantonnx.model import Model

Array = NDArray[Any]


def body_samples(
    around: Model, name: str, body: Model, samples: Iterable[Feed] | None, threads: int | None = None
) -> Samples:
    """Returns the feeds of the body called `name` of `around`, whose own are `samples`: to be read as often as those.

    Raises DataError without samples. Reading raises it where none reaches the body, and where ONNX Runtime cannot run
    the model around, or the body as a model of its own.
    """
    if samples is None:
        raise DataError("its ranges need samples, and there are statistics or a loop in their place")
    feeds, inputs = _Feeds(around, name, body, samples, threads), input_specs(body)
    return Samples(lambda: (Part(feed, f"run {i} of {name}", divisible=False) for i, feed in enumerate(feeds)), inputs)


@dataclass(frozen=True)
class _Feeds:
    around: Model
    name: str
    body: Model
    samples: Iterable[Feed]
    threads: int | None

    def __iter__(self) -> Iterator[Feed]:
        reached = False
        for feed in self._feeds():
            reached = True
            yield feed
        if not reached:
            raise DataError("no sample reaches it")

    def _feeds(self) -> Iterator[Feed]:
        node, attribute = owner_of(self.around, self.name)
        fed = {value.name for value in node.inputs if value.name}
        formal = [info.name for info in node.attrs[attribute].g.input]
        captured = [value.name for value in self.body.graph.inputs if value.name not in formal]
        constants = {name: value for name in fed if isinstance(value := self.around.find(name), gs.Constant)}
        tapped = _Tapped(self.around, sorted((fed | set(captured)) - constants.keys()), self.threads)
        known = {name: self.around.array(value) for name, value in constants.items()}
        step = _Step(self.body, self.threads)
        for sample in self.samples:
            values = known | tapped.run(sample)
            outer = {name: values[name] for name in captured}
            inputs = [values.get(value.name) for value in node.inputs]
            for feed in _FEEDERS[node.op](node, attribute, inputs, formal, step, outer):
                yield outer | feed


class _Tapped:
    """The model around, with some of its values as outputs."""

    def __init__(self, model: Model, names: list[str], threads: int | None) -> None:
        given = {value.name for value in model.graph.inputs}
        self._passed = [name for name in names if name in given]
        self._wanted = [name for name in names if name not in given]
        self._session = self._open(model, threads) if self._wanted else None

    def run(self, sample: Mapping[str, Array]) -> Feed:
        found = {name: np.asarray(sample[name]) for name in self._passed}
        if self._session is not None:
            found |= dict(zip(self._wanted, _run(self._session, self._wanted, sample), strict=True))
        return found

    def _open(self, model: Model, threads: int | None) -> ort.InferenceSession:
        def tap(proto: onnx.ModelProto) -> None:
            add_outputs(proto, self._wanted)

        with ExitStack() as stack:
            return load_session(prepared(model, stack, tap), threads)


class _Step:
    """A body as a model of its own, loaded when the first iteration needs it."""

    def __init__(self, body: Model, threads: int | None) -> None:
        self._body, self._threads = body, threads
        self._names = [value.name for value in body.graph.outputs]
        self._session: ort.InferenceSession | None = None

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """Returns the values of the body's outputs, in their order."""
        if self._session is None:
            self._session = open_session(self._body, threads=self._threads)
        found = dict(zip(unique := list(dict.fromkeys(self._names)), _run(self._session, unique, feed), strict=True))
        return [found[name] for name in self._names]


def _run(session: ort.InferenceSession, names: list[str], feed: Mapping[str, Array]) -> list[Array]:
    known = {item.name for item in session.get_inputs()}
    try:
        return list(session.run(names, {name: value for name, value in feed.items() if name in known}))
    except Exception as error:
        raise DataError(f"ONNX Runtime cannot run what the body reads: {first_line(error)}") from error


def _of_if(
    node: gs.Node, attribute: str, inputs: list[Any], formal: list[str], step: _Step, outer: Feed
) -> Iterator[Feed]:
    taken = "then_branch" if bool(np.asarray(inputs[0]).reshape(-1)[0]) else "else_branch"
    if attribute == taken:
        yield {}


def _of_loop(
    node: gs.Node, attribute: str, inputs: list[Any], formal: list[str], step: _Step, outer: Feed
) -> Iterator[Feed]:
    most = None if inputs[0] is None else int(np.asarray(inputs[0]).reshape(-1)[0])
    going = True if len(inputs) < 2 or inputs[1] is None else bool(np.asarray(inputs[1]).reshape(-1)[0])
    states, count = inputs[2:], 0
    while going and (most is None or count < most):
        feed = dict(zip(formal, [np.asarray(count, np.int64), np.asarray(True), *states], strict=True))
        yield feed
        results = step.run(outer | feed)
        going, states = bool(results[0].reshape(-1)[0]), results[1 : 1 + len(states)]
        count += 1


def _of_scan(
    node: gs.Node, attribute: str, inputs: list[Any], formal: list[str], step: _Step, outer: Feed
) -> Iterator[Feed]:
    scanned = int(node.attrs["num_scan_inputs"])
    states, rows = inputs[: len(inputs) - scanned], inputs[len(inputs) - scanned :]
    axes = list(node.attrs.get("scan_input_axes") or [0] * scanned)
    backwards = list(node.attrs.get("scan_input_directions") or [0] * scanned)
    length = rows[0].shape[axes[0]] if rows else 0
    for index in range(length):
        places = (length - 1 - index if turned else index for turned in backwards)
        slices = [row.take(place, axis) for row, place, axis in zip(rows, places, axes, strict=True)]
        feed = dict(zip(formal, [*states, *slices], strict=True))
        yield feed
        states = step.run(outer | feed)[: len(states)]


_FEEDERS: dict[str, Callable[..., Iterator[Feed]]] = {"If": _of_if, "Loop": _of_loop, "Scan": _of_scan}
