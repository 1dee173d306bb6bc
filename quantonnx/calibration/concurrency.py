"""Samples side by side: several run at once, their results are handled in the order of the samples.

ONNX Runtime and numpy both work without Python's lock. Whole samples on a core each waste less than one sample spread
over cores, and the statistics fill what is left; handling in order keeps every result independent of timing.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from numpy.typing import NDArray

Array = NDArray[Any]
Item = tuple[Mapping[str, Array], int]
Task = TypeVar("Task")
Result = TypeVar("Result")

MOST_AT_ONCE = 4
"""Samples in memory at a time: beyond it, further cores work within a sample."""


def cores(threads: int | None) -> int:
    """Return the number of cores to use: `threads`, or those that this process may run on."""
    if threads:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[Task], Result], tasks: Iterable[Task], at_once: int) -> Iterator[Result]:
    """Yield `work(task)` for each task, in order, `at_once` of them running at a time.

    When the reader stops or fails, what has not begun is dropped.
    """
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="calibration")
    running: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(work, task))
            if len(running) > at_once:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Follower:
    """A thread that handles what it is given, in order and at most two behind; its failure is the giver's.

    `SimpleQueue` holds no lock of Python's, which Ctrl-C inside `Queue.put` could leave locked for ever.
    """

    def __init__(self, handle: Callable[[Mapping[str, Array], int], None]) -> None:
        self._handle = handle
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def give(self, item: Item) -> None:
        """Hand over one item; waits while two are unhandled, and raises what an earlier one failed with."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="calibration statistics", daemon=True)
            self._thread.start()
            self._free.put(None)
            self._free.put(None)
        self._raise()
        self._free.get()
        self._queue.put(item)

    def stop(self) -> None:
        """Wait until everything is handled; a failure is raised once."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._raise()

    def _raise(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._handle(*item)
                except BaseException as error:
                    self._failure = error
            self._free.put(None)
