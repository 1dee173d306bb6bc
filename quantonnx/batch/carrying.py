"""A task where its worker is: what is behind URLs is fetched, the worker supervised, results stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from quantonnx.batch.protocol import Outcome, State, Task, Tell
from quantonnx.batch.remote import DATA, is_url, localised, storing
from quantonnx.batch.supervising import supervise
from quantonnx.errors import QuantonnxError


def carry_out(
    task: Task, tell: Tell, *, stopped: Callable[[], bool] = lambda: False, hold: Sequence[int] = ()
) -> list[Outcome]:
    """Runs a task and returns how each entry ended; see `supervise`."""
    finish = storing(task) if task.storage else None
    if not any(is_url(str(place)) for place in (task.model, *map(task.settings.get, DATA))):
        return supervise(task, tell, stopped=stopped, hold=hold, finish=finish)
    with tempfile.TemporaryDirectory(prefix="fetched-", dir=task.scratch) as folder:
        try:
            local = localised(task, Path(folder))
        except QuantonnxError as error:
            failed = [Outcome(order.identity, State.FAILED, reason=str(error)) for order in task.orders]
            for outcome in failed:
                tell(outcome)
            return failed
        return supervise(local, tell, stopped=stopped, hold=hold, finish=finish)
