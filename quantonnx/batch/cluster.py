"""The workers of a batch on a Dask cluster: the same supervised processes, started by each Dask worker on its machine.

A task is a line of JSON and an outcome plain values. Paths of models, data and results must mean the same on every
machine, or be URLs; quantonnx is installed there in the same version.
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from quantonnx.batch.carrying import carry_out
from quantonnx.batch.protocol import Event, Outcome, Progress, State, Task, Tell
from quantonnx.batch.splitting import Ended, Part, RunParts, run_part
from quantonnx.errors import ConfigError
from quantonnx.version import version_of

_PATIENCE = 15
"""Seconds that a scheduler may take to answer."""


@dataclass(frozen=True)
class ClusterEngine:
    """The workers of the Dask cluster whose scheduler is at `address`: a model for each of their threads."""

    address: str

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """Runs all tasks; see Engine. Raises ConfigError where no scheduler answers."""
        once = _Once(tell)
        with connected(self.address) as client:
            topic = f"quantonnx-{uuid.uuid4()}"
            client.subscribe_topic(topic, lambda message: once.tell(_event(message[1]["event"])))
            running = {
                client.submit(_supervised, task.to_json(), topic, key=f"{topic}-{number}"): task
                for number, task in enumerate(tasks)
            }
            try:
                for future in _dask().as_completed(list(running), loop=client.loop):
                    for outcome in _outcomes(future, running[future]):
                        once.tell(outcome)
            finally:
                client.cancel(list(running), force=True)
                client.unsubscribe_topic(topic)


class _Once:
    """Tells each event from one thread at a time, and each outcome once: it comes as news and as a result."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._ended: set[str] = set()

    def tell(self, event: Event) -> None:
        with self._lock:
            if event.identity in self._ended:
                return
            self._tell(event)
            if isinstance(event, Outcome):
                self._ended.add(event.identity)


def _dask() -> Any:
    try:
        import distributed
    except ImportError:
        raise ConfigError("--scheduler needs Dask", "pip install 'quantonnx[distributed]'") from None
    return distributed


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Gives a client of the cluster. Raises ConfigError where there is none, or where it has another quantonnx."""
    try:
        client = _dask().Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {address!r}", "start one with `dask scheduler`") from error
    with client:
        for worker, version in client.run(version_of).items():
            if version != version_of():
                here = f"the worker {worker} has quantonnx {version}, this is {version_of()}"
                raise ConfigError(here, "install the same version everywhere")
        yield client


def _supervised(text: str, topic: str) -> list[dict[str, Any]]:
    """What a Dask worker runs: a task in processes of its own, on one thread each."""
    worker = _dask().get_worker()
    key = worker.get_current_task()

    def stopped() -> bool:
        found = worker.state.tasks.get(key)
        return found is None or found.state == "cancelled"

    def tell(event: Event) -> None:
        plain = event.to_dict() if isinstance(event, Outcome) else asdict(event)
        worker.log_event(topic, {"event": plain})

    with tempfile.TemporaryDirectory(prefix="quantonnx-") as scratch:
        task = replace(Task.from_json(text), scratch=scratch, threads=1)
        if task.split is not None:
            _dask().secede()  # the parts that it waits for need the threads
        return [outcome.to_dict() for outcome in carry_out(task, tell, stopped=stopped)]


def parts_on(address: str) -> RunParts:
    """Returns what runs the parts of a calibration on the workers of a cluster."""

    def run(parts: list[Part]) -> Iterator[Ended]:
        with connected(address) as client:
            running = [client.submit(run_part, part.to_json(), pure=False) for part in parts]
            for future in _dask().as_completed(running, loop=client.loop):
                error = future.exception()
                yield future.result() if error is None else Ended(" ".join(str(error).split())[:300])

    return run


def _event(values: dict[str, Any]) -> Event:
    return Outcome.from_dict(values) if "state" in values else Progress(**values)


def _outcomes(future: Any, task: Task) -> list[Outcome]:
    """How the entries of a task ended; all that is not known failed where Dask gave the task up."""
    error = future.exception()
    if error is None:
        return [Outcome.from_dict(values) for values in future.result()]
    reason = f"the cluster gave it up: {' '.join(str(error).split())[:300]}"
    return [Outcome(order.identity, State.FAILED, reason=reason) for order in task.orders]
