"""A whole batch: what is done already is kept, the rest is run, and every entry is accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from quantonnx.batch import journal
from quantonnx.batch.engines import Engine, LocalEngine
from quantonnx.batch.expansion import Entry, Job
from quantonnx.batch.journal import Records, read_records
from quantonnx.batch.keys import Keys, output_digest
from quantonnx.batch.protocol import Event, Order, Outcome, State, Task
from quantonnx.batch.remote import fetch, joined, remote_digest, upload
from quantonnx.errors import OutputError, said
from quantonnx.placing import sweep

REPORT = ".report"

_LASTING = frozenset(
    {"ModelError", "DataError", "ConfigError", "PatternError", "PlanError", "TargetError", "CalibrationError"}
)
"""Errors that the same work would end with again; crashes, limits and a full disk may be over next time."""


@dataclass(frozen=True)
class Options:
    """How a batch is run. `module` is what runs as a worker; `retry` does again what failed before for a lasting
    reason; `split` is the number of samples in a part where the calibration of one model is spread over workers. With a
    URL as `storage` results go there, and `out` has no more than what the batch remembers."""

    module: str
    out: Path
    jobs: int = 1
    threads: int | None = None
    report: bool = False
    retry: bool = False
    scheduler: str | None = None
    split: int | None = None
    storage: str = ""


@dataclass(frozen=True)
class Item:
    """One entry of a batch with its key, and how it ended: None before; `kept` where an earlier batch did it."""

    job: Job
    entry: Entry
    key: str
    outcome: Outcome | None = None
    kept: bool = False

    @property
    def identity(self) -> str:
        """What the entry is called in journal and tables."""
        return self.job.identity(self.entry)

    @property
    def failed(self) -> bool:
        """True where it ended without a result."""
        return self.outcome is not None and self.outcome.state is State.FAILED

    @property
    def succeeded(self) -> bool:
        """True where there is a result."""
        return self.outcome is not None and self.outcome.state is State.DONE

    @property
    def output(self) -> str:
        """The path of the result within the folder of results."""
        return f"{self.job.name}/{self.entry.label}.onnx"


def planned(jobs: Sequence[Job], options: Options, records: Records, keys: Keys) -> Iterator[Item]:
    """Yields every entry, with its outcome where an earlier batch has it."""
    for job in jobs:
        for entry in job.entries:
            item = Item(job, entry, _key(keys, job, entry, options))
            known = records.get(item.identity)
            if known is not None and _holds(item, *known, options):
                item = replace(item, outcome=known[1], kept=True)
            yield item


def run_batch(
    jobs: Sequence[Job],
    options: Options,
    *,
    hear: Callable[[Event], None] = lambda _event: None,
    begin: Callable[[list[Item]], None] = lambda _items: None,
    finish: Callable[[list[Item]], None] = lambda _items: None,
    note: Callable[[str], None] = lambda _text: None,
    engine: Callable[[int], Engine] | None = None,
) -> list[Item]:
    """Runs what is not done yet and returns every entry with its outcome.

    `begin` gets the entries before, `hear` all that happens, `finish` the entries at the end, even of an interrupted
    batch, `note` what people are told besides. `engine` makes what runs the workers from the file that is the lock.
    Raises OutputError where another batch is at work on the same folder, which for results behind a URL is known of
    this machine only, and at the end where the journal could not be stored behind the URL.
    """
    with journal.opened(options.out) as (records, scratch, lock):
        copied = joined(options.storage, f"{journal.FOLDER}/{records.path.name}") if options.storage else ""
        if copied:
            fetch(copied, records.path)
        copy = _Copy(records.path, copied, note)
        known = read_records(options.out)
        items = {item.identity: item for item in planned(jobs, options, known, Keys())}
        _sweep(options.out, items.values())
        begin(list(items.values()))

        def tell(event: Event) -> None:
            if isinstance(event, Outcome):
                item = items[event.identity]
                records.add(_journaled(item, event), event)
                items[event.identity] = replace(item, outcome=event)
                copy.store()
            hear(event)

        tasks = list(_tasks(list(items.values()), options, scratch))
        try:
            (engine(lock) if engine else LocalEngine(options.jobs, (lock,))).run(tasks, tell)
        finally:
            finish(list(items.values()))
        copy.check()
        return list(items.values())


class _Copy:
    """The copy of the journal behind a URL, "" for none: where it cannot be stored, the next record tries again."""

    def __init__(self, journal: Path, url: str, note: Callable[[str], None]) -> None:
        self._journal, self._url, self._note = journal, url, note
        self._wrong = ""
        self._noted = False

    def store(self) -> None:
        """Stores it, or notes once that this does not work."""
        if not self._url:
            return
        try:
            upload(self._journal, self._url)
            self._wrong = ""
        except Exception as error:  # every plugin has errors of its own
            self._wrong = said(error)[:300]
            if not self._noted:
                self._note(f"{self._url} cannot be stored: {self._wrong}; it is tried again")
            self._noted = True

    def check(self) -> None:
        """Tries a last time where it is not stored. Raises OutputError."""
        if self._wrong:
            self.store()
        if self._wrong:
            hint = "run the batch again on this machine, which remembers what is done"
            raise OutputError(f"{self._url} cannot be stored: {self._wrong}", hint)


def _key(keys: Keys, job: Job, entry: Entry, options: Options) -> str:
    """The key of an entry, or "" where something cannot be read: its worker says what."""
    with suppress(OSError):
        return keys.key(job, entry, report=options.report)
    return ""


def _journaled(item: Item, outcome: Outcome) -> str:
    """The key of a record: with another limit, what failed may work."""
    limit = item.job.settings.memory_limit
    return item.key if outcome.state is State.DONE or not item.key else f"{item.key} {limit}"


def _holds(item: Item, key: str, outcome: Outcome, options: Options) -> bool:
    """Whether what an earlier batch did is what this one would do."""
    if not item.key or key != _journaled(item, outcome):
        return False
    if outcome.state is State.FAILED:
        return outcome.kind in _LASTING and not options.retry
    if options.storage:
        return _stored(joined(options.storage, item.output)) == outcome.result.get("stored")
    out = options.out / item.output
    report = out.with_suffix(REPORT) / "report.html"
    return output_digest(out) == outcome.digest and (not options.report or report.is_file())


def _stored(url: str) -> str | None:
    with suppress(OSError):
        return remote_digest(url)
    return None


def _tasks(items: Sequence[Item], options: Options, scratch: Path) -> Iterator[Task]:
    """One task for each model, with the targets that are left."""
    left: dict[str, list[Item]] = {}
    for item in items:
        if not item.kept:
            left.setdefault(item.job.name, []).append(item)
    for group in left.values():
        job = group[0].job
        yield Task(
            module=options.module,
            model=job.model,
            settings=job.settings.model_dump(mode="json"),
            orders=tuple(_order(item, options) for item in group),
            scratch=str(scratch.absolute()),
            threads=options.threads,
            memory_limit=job.settings.memory_limit,
            timeout=job.settings.timeout,
            split=options.split,
            storage=options.storage,
            scheduler=options.scheduler,
        )


def _order(item: Item, options: Options) -> Order:
    out = (options.out / item.output).absolute()
    report = str(out.with_suffix(REPORT)) if options.report else ""
    return Order(item.identity, item.entry.target, str(out), report)


def _sweep(out: Path, items: Iterable[Item]) -> None:
    """Removes what a batch that was killed left half-written; its workers are gone, or this one had no lock."""
    for name in {item.job.name for item in items}:
        sweep(out / name)
