"""The outputs of a model over samples: in one piece where that fits into memory, else part after part."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from quantonnx.calibration.loading import FLOAT_BIASES, first_line, is_large, load_session, open_session
from quantonnx.calibration.parts import Watched, parts_of
from quantonnx.calibration.staging import Stages, Stream
from quantonnx.errors import DataError
from quantonnx.model import Model

Array = NDArray[Any]
Feed = Mapping[str, Array]


def outputs_of(
    model: Model,
    feeds: Iterable[Feed],
    *,
    threads: int | None = None,
    float_biases: bool = False,
    memory_limit: int | None = None,
) -> Iterator[list[Any]]:
    """Yields the outputs of a model for each feed; `float_biases` is that of `open_session`.

    In parts, the first outputs come when all feeds are through. Raises ModelError for a model that ONNX Runtime does
    not load, or of which one operator alone does not fit into `memory_limit`, DataError for a feed that does not run.
    """
    parts = None
    if memory_limit is not None:
        rest = iter(feeds)
        first = list(islice(rest, 1))
        feeds = chain(first, rest)
        parts = _parts(model, first[0], memory_limit) if first else None
    if parts is not None:
        yield from _through(model, parts, feeds, threads, float_biases=float_biases)
        return
    session = open_session(model, threads=threads, float_biases=float_biases)
    for position, feed in enumerate(feeds):
        try:
            yield list(session.run(None, dict(feed)))
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise DataError(f"ONNX Runtime cannot run sample {position}: {first_line(error)}") from error


def check_loads(path: Path, memory_limit: int | None, *, bounded: bool) -> int:
    """Opens a file in ONNX Runtime, and returns in how many parts. Raises ModelError where it does not load.

    `bounded` is that of `load_session`.
    """
    load = partial(load_session, threads=None, bounded=bounded)
    parts = None if memory_limit is None else _parts(Model.read(path), {}, memory_limit)
    if parts is None:
        load(path)
        return 1
    for part in parts:
        parts.models.open(part, {}, {}, load)
    return len(parts)


def _parts(model: Model, feed: Feed, memory_limit: int) -> Stages | None:
    shapes = {name: value.shape for name, value in feed.items()}
    return parts_of(Watched(model, lambda proto: None, shapes, tuple, kept=True), memory_limit)


def _through(
    model: Model, parts: Stages, feeds: Iterable[Feed], threads: int | None, *, float_biases: bool
) -> Iterator[list[Any]]:
    disabled = FLOAT_BIASES if float_biases else ()
    with tempfile.TemporaryDirectory(prefix="quantonnx-") as name:
        folder = Path(name) / "values"
        stream = Stream(parts, folder, feeds, threads, bounded=is_large(model), disabled=disabled)
        for part in parts:
            stream.advance(part, {})
        for sample in range(stream.samples):
            yield [
                model.array(value) if isinstance(value, gs.Constant) else stream.value(sample, value.name)
                for value in model.graph.outputs
            ]
