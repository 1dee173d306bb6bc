"""One model in a process of its own, watched from outside: whatever it does, it costs no more than one entry.

A worker that crashes, hangs or takes too much memory is ended; what it was at fails, and another goes on with the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from quantonnx.batch.protocol import Order, Outcome, Progress, State, Task, Tell
from quantonnx.batch.watching import end_family, ending, resident_bytes
from quantonnx.placing import sweep
from quantonnx.printable import printable

_EVERY = 0.05
"""Seconds between two looks at a worker."""

_GRACE = 60.0
"""Seconds that a worker may take to start."""

Finish = Callable[[Outcome], Outcome]


def supervise(
    task: Task,
    tell: Tell,
    *,
    stopped: Callable[[], bool] = lambda: False,
    hold: Sequence[int] = (),
    finish: Finish | None = None,
) -> list[Outcome]:
    """Runs a task in worker processes and returns how each entry ended; `tell` hears of it as it comes.

    When `stopped` says so, the worker is ended and the rest has no outcome. `hold` are files that stay open while a
    worker lives; `finish` has the last word on an outcome.
    """
    outcomes: list[Outcome] = []

    def told(outcome: Outcome) -> None:
        last = finish(outcome) if finish is not None else outcome
        outcomes.append(last)
        tell(last)

    while (left := _left(task, outcomes)).orders and not stopped():
        _Watch(left, tell, told, stopped, hold).run()
    return outcomes


def _left(task: Task, outcomes: Sequence[Outcome]) -> Task:
    ended = {outcome.identity for outcome in outcomes}
    return replace(task, orders=tuple(order for order in task.orders if order.identity not in ended))


@dataclass
class _Seen:
    """What is known of a worker: the entry that it is at, since when, and the most memory that it held."""

    order: Order
    since: float
    peak: int = 0


class _Watch:
    """One worker process from its start to its end."""

    def __init__(
        self,
        task: Task,
        tell: Tell,
        told: Callable[[Outcome], None],
        stopped: Callable[[], bool],
        hold: Sequence[int],
    ) -> None:
        self.task, self.tell, self.told, self.stopped, self.hold = task, tell, told, stopped, hold
        self.orders = {order.identity: order for order in task.orders}
        self.seen = _Seen(task.orders[0], time.monotonic())
        self.ended: set[str] = set()
        self.started = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Starts the worker, hears it, and tells what its end means for the entry that it was at."""
        with tempfile.TemporaryDirectory(prefix="worker-", dir=self.task.scratch) as scratch:
            said = Path(scratch) / "stderr"
            with said.open("wb") as errors:
                process, events = _start(self.task, scratch, errors, self.hold)
            hearing = threading.Thread(target=self._hear, args=(events,), daemon=True)
            hearing.start()
            try:
                reason = self._wait(process)
            finally:
                end_family(process)
                assert process.stdin is not None
                with suppress(OSError):
                    process.stdin.close()
                hearing.join()
            if reason is None:
                reason = ending(process.returncode, said.read_text(errors="replace"))
        for order in self.task.orders:
            sweep(Path(order.out).parent, process.pid)
        if self.failure is not None:
            raise self.failure
        if not self.stopped():
            self._close(reason)

    def _wait(self, process: subprocess.Popen[str]) -> str | None:
        """Waits for the end of the worker; returns the limit that it ran into, if any."""
        while process.poll() is None:
            time.sleep(_EVERY)
            if self.stopped() or self.failure is not None:
                return "stopped"
            self.seen.peak = max(self.seen.peak, held := resident_bytes(process.pid))
            limit = self.task.memory_limit
            if limit is not None and held > limit:
                return f"it held {held / 1e6:.0f} MB of memory, over the limit of {limit / 1e6:.0f} MB"
            if self.task.timeout is not None and self._late(self.task.timeout):
                return f"it was still at work after {self.task.timeout:g} s"
        return None

    def _late(self, timeout: float) -> bool:
        return time.monotonic() - self.seen.since > timeout + (0 if self.started else _GRACE)

    def _hear(self, events: IO[str]) -> None:
        with events:
            for line in events:
                try:
                    self._take(json.loads(line))
                except json.JSONDecodeError:  # the last line of a worker that was ended
                    continue
                except BaseException as error:  # such as a full disk: that of the batch, not of the worker
                    self.failure = error
                    return

    def _take(self, event: dict[str, Any]) -> None:
        order = self.orders[event.pop("identity")]
        if "state" in event:
            self.ended.add(order.identity)
            self._tell_end(Outcome.from_dict({"identity": order.identity, **event}))
            return
        if order is not self.seen.order or not self.started:
            self.started = True
            self.seen = _Seen(order, time.monotonic())
        self.tell(Progress(order.identity, **event))

    def _tell_end(self, outcome: Outcome) -> None:
        peak = round(self.seen.peak / 1e6, 1)
        self.told(replace(outcome, reason=printable(outcome.reason), result={**outcome.result, "peak_rss_mb": peak}))

    def _close(self, reason: str) -> None:
        """Where the worker ended before its work did, the entry that it was at has failed."""
        left = [order for order in self.task.orders if order.identity not in self.ended]
        if not left:
            return
        at = self.seen.order if self.seen.order in left else left[0]
        seconds = round(time.monotonic() - self.seen.since, 3)
        self._tell_end(Outcome(at.identity, State.FAILED, seconds, reason))


def _start(task: Task, scratch: str, errors: IO[bytes], hold: Sequence[int]) -> tuple[subprocess.Popen[str], IO[str]]:
    """Starts a worker, whose standard input stays open as long as this process lives, and returns it and its events."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", task.module, str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            pass_fds=(writing, *hold),
            start_new_session=True,
            env={**os.environ, "TMPDIR": scratch},
        )
    finally:
        os.close(writing)
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(task.to_json() + "\n")
        process.stdin.flush()
    return process, os.fdopen(reading, encoding="utf-8")
