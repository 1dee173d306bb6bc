"""How a batch is doing, for people: a table that moves on a terminal, else a line for each entry that ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quantonnx.batch.protocol import Event, Outcome, Progress, State
from quantonnx.batch.running import Item

_REFRESH = 5.0
_LAST = 8
"""Entries that ended last and are still shown."""


@dataclass
class _Running:
    since: float
    progress: Progress


class Board:
    """What is running, what ended, and how many are left."""

    def __init__(self, note: Callable[[str], None], console: Console | None) -> None:
        self._note, self._console = note, console
        self._running: dict[str, _Running] = {}
        self._ended: list[Outcome] = []
        self._total = self._kept = 0
        self._began = time.monotonic()

    def begin(self, items: list[Item]) -> None:
        """Takes note of all entries."""
        self._total, self._kept = len(items), sum(item.kept for item in items)
        if self._kept:
            self._note(f"{self._kept} of {self._total} entries are done already")

    def hear(self, event: Event) -> None:
        """Takes note of what happened."""
        if isinstance(event, Progress):
            known = self._running.get(event.identity)
            self._running[event.identity] = _Running(known.since if known else time.monotonic(), event)
            return
        self._running.pop(event.identity, None)
        self._ended.append(event)
        if self._console is None:
            self._note(f"[{len(self._ended) + self._kept}/{self._total}] {event.identity}: {told(event)}")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the table while something is done, where there is a terminal."""
        if self._console is None:
            yield
            return
        with Live(get_renderable=self._table, console=self._console, refresh_per_second=_REFRESH, transient=True):
            yield

    def _table(self) -> Table:
        failed = sum(outcome.state is State.FAILED for outcome in self._ended)
        done = self._kept + len(self._ended)
        title = f"{done} of {self._total} entries, {failed} failed, {time.monotonic() - self._began:.0f} s"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in ("entry", "stage", "progress", "time"):
            table.add_column(name, no_wrap=True)
        for outcome in self._ended[-_LAST:]:
            table.add_row(Text(outcome.identity), Text(told(outcome)), "", f"{outcome.seconds:.1f} s")
        for identity, running in list(self._running.items()):
            elapsed = time.monotonic() - running.since
            table.add_row(Text(identity), Text(running.progress.stage), _share(running.progress), f"{elapsed:.1f} s")
        return table


def told(outcome: Outcome) -> str:
    """Returns in a few words how an entry ended."""
    if outcome.state is State.FAILED:
        return f"FAILED: {outcome.reason}"
    pairs = outcome.result.get("pairs") or {}
    parts = [
        f"done in {outcome.seconds:.1f} s",
        f"{pairs.get('activation', 0)} pairs, {pairs.get('weight', 0)} weights",
    ]
    decibels = (outcome.result.get("metrics") or {}).get("sqnr_db")
    if decibels is not None:
        parts.append(f"{decibels:.1f} dB")
    return ", ".join(parts)


def _share(progress: Progress) -> str:
    if not progress.done:
        return ""
    return f"{progress.done}/{progress.total}" if progress.total else str(progress.done)
