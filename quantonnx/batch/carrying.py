"""A task where its worker is: what is behind URLs is fetched, the worker supervised, results stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from quantonnx.batch.protocol import Outcome, State, Task, Tell
from quantonnx.batch.remote import is_url, localised, storing
from quantonnx.batch.settings import DATA
from quantonnx.batch.supervising import Finish, supervise
from quantonnx.errors import said


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
        except Exception as error:  # whatever a plugin raises, it costs this model alone
            reason = said(error)
            failed = [Outcome(order.identity, State.FAILED, reason=reason) for order in task.orders]
            for outcome in failed:
                tell(outcome)
            return failed
        named = _renaming(task.model, local.model, finish)
        return supervise(local, tell, stopped=stopped, hold=hold, finish=named)


def _renaming(url: str, copy: str, finish: Finish | None) -> Finish:
    """What calls a model by its URL where an error names the copy."""

    def rename(outcome: Outcome) -> Outcome:
        named = replace(outcome, reason=outcome.reason.replace(copy, url))
        return finish(named) if finish is not None else named

    return rename
