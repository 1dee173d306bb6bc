"""Where the workers of a batch run: processes on this machine, or those of a cluster, through one interface."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from quantonnx.batch.carrying import carry_out
from quantonnx.batch.protocol import Event, Task, Tell


class Engine(Protocol):
    """What runs tasks: each is supervised where its worker is, and all that happens is told here."""

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """Runs all tasks; returns when all have ended. When it is interrupted, it ends the workers."""


@dataclass(frozen=True)
class LocalEngine:
    """Worker processes of this machine, `jobs` at a time; they hold the files `hold` open."""

    jobs: int
    hold: tuple[int, ...] = ()

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """Runs all tasks; see Engine."""
        stop, lock = threading.Event(), threading.Lock()

        def told(event: Event) -> None:
            with lock:
                tell(event)

        with ThreadPoolExecutor(self.jobs, thread_name_prefix="batch") as pool:
            running = [pool.submit(carry_out, task, told, stopped=stop.is_set, hold=self.hold) for task in tasks]
            try:
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
