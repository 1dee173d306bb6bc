"""Do two models agree: both run on the same samples, side by side, or one after the other where memory is short."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.feeds import Progress, input_specs, length_of
from quantonnx.calibration.loading import open_session
from quantonnx.calibration.running import outputs_of
from quantonnx.calibration.samples import Samples, open_samples
from quantonnx.calibration.spilling import Spill
from quantonnx.errors import DataError
from quantonnx.memory import memory_limit_of
from quantonnx.model import Model
from quantonnx.tallying import Comparison, Tally

if TYPE_CHECKING:
    import onnxruntime as ort

    from quantonnx.calibration.samples import Feed

Array = NDArray[Any]
Source = str | Path | bytes | Model

_FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16"}


def compare(
    float_source: Source,
    quantized_source: Source,
    samples: Any,
    labels: Array | None = None,
    *,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    memory_limit: int | str | None = None,
) -> Comparison:
    """Runs both models on the same feeds and returns how near the second is to the first.

    `samples` is what `open_samples` takes, `limit` how many of them are used. `labels` are class numbers [N], or
    booleans [N, classes] of the classes that count as right; by default those kept beside the data. `threads` are those
    of each model, half of the processor by default, since both run at once. With a `memory_limit`, that of `calibrate`,
    they run one after the other, and in parts where they do not fit. Raises DataError where there are no samples, or
    where the models or labels do not belong together.
    """
    inputs = () if isinstance(samples, Samples) else input_specs(Model.read(float_source))
    stream = open_samples(samples, inputs, limit=limit)
    labels, total = stream.labels if labels is None else labels, length_of(stream)
    allowed = memory_limit_of(memory_limit)
    if allowed is not None:
        models = Model.read(float_source), Model.read(quantized_source)
        return _compare_apart(models, stream, labels, threads, lambda done: progress and progress(done, total), allowed)
    threads = threads or max(1, (os.cpu_count() or 1) // 2)
    sessions = [open_to_compare(source, threads) for source in (float_source, quantized_source)]
    given = [{value.name for value in session.get_inputs()} for session in sessions]
    pairs = _pairs_of_outputs(given, [[value.name for value in session.get_outputs()] for session in sessions])
    tally = Tally([name for name, _ in pairs], labels)
    with ThreadPoolExecutor(1) as beside:
        for feed in stream:
            waiting = beside.submit(run_sample, sessions[0], [name for name, _ in pairs], feed, tally.samples)
            rough = run_sample(sessions[1], [name for _, name in pairs], feed, tally.samples)
            tally.add(waiting.result(), rough, batch_of(feed))
            if progress is not None:
                progress(tally.samples, total)
    return tally.result()


def open_to_compare(source: Source, threads: int | None = None) -> ort.InferenceSession:
    """Returns a session whose biases are exact in float16 too."""
    return open_session(source, threads=threads, float_biases=_has_float16_scales(source))


def run_sample(session: ort.InferenceSession, outputs: list[str], feed: Feed, position: int) -> list[Any]:
    """Returns the named outputs for one feed, the `position`-th. Raises DataError where it does not run."""
    try:
        return list(session.run(outputs, _with_floats_of(session, feed)))
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        reason = " ".join(str(error).split())
        raise DataError(f"ONNX Runtime cannot run sample {position}: {reason}", "check shapes and types") from error


def _has_float16_scales(source: Source) -> bool:
    nodes = (node for node in Model.read(source).graph.nodes if node.op == "DequantizeLinear")
    return any(node.inputs[1].dtype == np.float16 for node in nodes)


def _with_floats_of(session: ort.InferenceSession, feed: Feed) -> Feed:
    return _cast(feed, {value.name: _FLOATS.get(value.type) for value in session.get_inputs()})


def _cast(feed: Feed, wanted: Mapping[str, str | None]) -> Feed:
    """Casts between float32 and float16, so that versions of one model in both can be compared."""
    return {
        name: array.astype(kind) if (kind := wanted.get(name)) and array.dtype.name in _FLOATS.values() else array
        for name, array in feed.items()
    }


def _pairs_of_outputs(inputs: Sequence[set[str]], outputs: Sequence[list[str]]) -> list[tuple[str, str]]:
    if inputs[0] != inputs[1]:
        shown = [", ".join(sorted(names)) for names in inputs]
        raise DataError(f"the inputs differ: {shown[0]} and {shown[1]}", "compare two versions of one model")
    names = outputs
    common = [(name, name) for name in names[0] if name in names[1]]
    if common:
        return common
    if len(names[0]) != len(names[1]):
        raise DataError(f"the outputs differ: {names[0]} and {names[1]}", "compare two versions of one model")
    return list(zip(*names, strict=True))


def batch_of(feed: Feed) -> int:
    """Returns the number of samples in a feed."""
    first = next(iter(feed.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1


def _compare_apart(
    models: tuple[Model, Model],
    feeds: Iterable[Feed],
    labels: Array | None,
    threads: int | None,
    progress: Callable[[int], None],
    limit: int,
) -> Comparison:
    """Runs one model after the other; samples and the outputs of the first wait on disk."""
    inputs = [[spec.name for spec in input_specs(model)] for model in models]
    outputs = [[value.name for value in model.graph.outputs] for model in models]
    pairs = _pairs_of_outputs([set(names) for names in inputs], outputs)
    tally = Tally([name for name, _ in pairs], labels)
    batches: list[int] = []
    with tempfile.TemporaryDirectory(prefix="quantonnx-") as folder:
        asked, given = Spill(Path(folder) / "samples"), Spill(Path(folder) / "outputs")
        for feed in feeds:
            asked.keep(len(batches), feed)
            batches.append(batch_of(feed))
        waiting = ({name: asked.load(sample, name) for name in inputs[0]} for sample in range(len(batches)))
        for sample, values in enumerate(_outputs(models[0], waiting, threads, limit)):
            given.keep(sample, {name: values[name] for name, _ in pairs})
        waiting = ({name: asked.load(sample, name) for name in inputs[0]} for sample in range(len(batches)))
        for sample, values in enumerate(_outputs(models[1], waiting, threads, limit)):
            exact = [given.load(sample, name) for name, _ in pairs]
            tally.add(exact, [values[name] for _, name in pairs], batches[sample])
            progress(tally.samples)
    return tally.result()


def _outputs(model: Model, feeds: Iterable[Feed], threads: int | None, limit: int) -> Iterator[dict[str, Any]]:
    kinds = {spec.name: spec.dtype.name if spec.dtype.name in _FLOATS.values() else None for spec in input_specs(model)}
    names = [value.name for value in model.graph.outputs]
    exact_biases = _has_float16_scales(model)
    cast = (_cast(feed, kinds) for feed in feeds)
    for values in outputs_of(model, cast, threads=threads, float_biases=exact_biases, memory_limit=limit):
        yield dict(zip(names, values, strict=True))
