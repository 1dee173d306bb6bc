"""The worker process of a batch: `quantize` for each target of one model, telling how far it is and how each ended.

`python -m quantonnx.commands.batch_worker FD` reads a task as one line of JSON from standard input and writes events as
lines of JSON to the open file FD. When standard input ends, so does the worker: whoever started it is gone.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from quantonnx.batch.protocol import Order, State, Task
from quantonnx.commands.batch_options import GivenOptions
from quantonnx.commands.options import OutOptions
from quantonnx.commands.running import CommonOptions, Run, finite, one_line
from quantonnx.errors import QuantonnxError

if TYPE_CHECKING:
    from quantonnx.observing import Observer, Watch

MODULE = "quantonnx.commands.batch_worker"

_BETWEEN = 0.1
"""Seconds between two words about progress."""

Send = Callable[[dict[str, Any]], None]


def main(descriptor: int) -> None:
    """Does one task."""
    task = Task.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    _limit(task.memory_limit)
    with os.fdopen(descriptor, "w", encoding="utf-8") as events:
        _sender(events, task.orders[0].identity)({"stage": "prepare"})
        settings = GivenOptions(task.model, task.settings)
        observer = _observer(task, settings)
        for order in task.orders:
            _carry_out(task, order, settings, observer, _sender(events, order.identity))


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through sys.stdin, whose lock would be held when Python ends
        pass
    os._exit(1)


def _limit(memory: int | None) -> None:
    """Lets one absurd allocation fail by itself; what is really held is watched from outside."""
    if memory is not None and hasattr(resource, "RLIMIT_DATA"):
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        allowed = 2 * memory if hard == resource.RLIM_INFINITY else min(2 * memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def _sender(events: IO[str], identity: str) -> Send:
    lock = threading.Lock()

    def send(event: dict[str, Any]) -> None:
        with lock:
            events.write(json.dumps({"identity": identity, **finite(event)}, default=str) + "\n")
            events.flush()

    return send


class _ToldRun(Run):
    """A run of `quantize` whose stages and notes are told to the batch."""

    def __init__(self, send: Send, threads: int | None, observer: Observer | None) -> None:
        super().__init__("quantize", CommonOptions(quiet=True))
        self.threads, self.observer = threads, observer
        self._send = send
        self._told = 0.0
        self.result["notes"] = []

    def note(self, text: str) -> None:
        self.result["notes"].append(text)

    @contextmanager
    def _bar(self, title: str) -> Iterator[Callable[[int, int | None], None]]:
        self._send({"stage": title})

        def report(done: int, total: int | None) -> None:
            if time.monotonic() - self._told > _BETWEEN:
                self._told = time.monotonic()
                self._send({"stage": title, "done": done, "total": total})

        yield report


def _carry_out(task: Task, order: Order, settings: GivenOptions, observer: Observer | None, send: Send) -> None:
    started = time.monotonic()
    run = _ToldRun(send, task.threads, observer)
    ended: dict[str, Any] = {"state": State.DONE.value}
    send({"stage": "start"})
    try:
        _quantize(run, order, settings, task.memory_limit)
        ended |= {"result": _facts(run), "digest": _written(Path(order.out))}
    except Exception as error:  # whatever it is, it is the end of this entry alone
        kind = type(error).__name__ if isinstance(error, QuantonnxError) else ""
        ended = {"state": State.FAILED.value, "reason": one_line(error), "kind": kind}
    send({**ended, "seconds": round(time.monotonic() - started, 3)})


def _quantize(run: Run, order: Order, settings: GivenOptions, memory_limit: int | None) -> None:
    from quantonnx.commands.quantizing import quantize
    from quantonnx.commands.remembering import StatisticsOptions
    from quantonnx.commands.searching import SearchOptions

    out = Path(order.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    quantize(
        run,
        settings.model,
        OutOptions(out, force=True, external_data=settings.external_data),
        settings.target(order.target),
        settings.samples,
        StatisticsOptions(),
        settings.numbers,
        SearchOptions(),
        eval_data=settings.evaluation,
        speed=False,
        memory_limit=None if memory_limit is None else str(memory_limit),
        libraries=settings.libraries,
        report=Path(order.report) if order.report else None,
    )


def _facts(run: Run) -> dict[str, Any]:
    """What a summary says of an entry."""
    found = {name: run.result.get(name) for name in ("pairs", "samples", "bytes", "metrics", "seconds", "target")}
    found["metrics"] = {key: value for key, value in run.result["metrics"].items() if key != "outputs"}
    notes = [note for note in run.result["notes"] if not note.endswith(" s)")]
    return {**found, "notes": notes}


def _written(out: Path) -> str:
    from quantonnx.batch.keys import output_digest

    return output_digest(out)


def _observer(task: Task, settings: GivenOptions) -> Observer | None:
    """Returns what runs the samples: once for all targets where there are several, in parts where that is asked for."""
    if not settings.samples.given or (len(task.orders) < 2 and task.split is None):
        return None
    from quantonnx.observing import observe
    from quantonnx.sharing import SharedObservation

    inner = observe if task.split is None else _splitting(task, settings, task.split)
    watches = list(_watches(task, settings)) if len(task.orders) > 1 else []
    return SharedObservation(watches, inner) if len(watches) > 1 else inner


def _splitting(task: Task, settings: GivenOptions, size: int) -> Observer:
    from quantonnx.batch.cluster import parts_on
    from quantonnx.batch.splitting import SplitObserver, run_here
    from quantonnx.commands.batch_part import MODULE as PART

    folder = Path(task.orders[0].out).parent
    folder.mkdir(parents=True, exist_ok=True)
    run_parts = run_here if task.scheduler is None else parts_on(task.scheduler)
    return SplitObserver(PART, size, settings.samples.open, task.settings, folder, run_parts)


def _watches(task: Task, settings: GivenOptions) -> Iterator[Watch]:
    """What each target will have to see; one that cannot be placed says so when its turn comes."""
    from quantonnx.model import Model
    from quantonnx.observing import watch_of
    from quantonnx.quantized import insert_qdq
    from quantonnx.rewriting import transform
    from quantonnx.sharing import worth_it

    with suppress(Exception):
        model, config = Model.read(settings.model), settings.numbers.build()
        if not worth_it(settings.samples.open(model)):
            return
        for order in task.orders:
            with suppress(Exception):
                fused = transform(model, target=settings.target(order.target).choose())
                yield watch_of(insert_qdq(fused.model, fused.matches, config))


if __name__ == "__main__":
    main(int(sys.argv[1]))
