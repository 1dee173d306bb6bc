"""What a folder of results knows of itself: a line for each entry that ended, and a lock while a batch is at work.

Lines are only ever added, and reach the disk before the next entry counts; one that a crash tore is passed over.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from quantonnx.batch.protocol import Outcome
from quantonnx.errors import OutputError

FOLDER, _NAME = ".batch", "journal.jsonl"
_PATIENCE = 3.0
"""Seconds to wait for workers of a batch that was ended to notice it."""


Records = Mapping[str, tuple[str, Outcome]]
"""By entry the digest of all that it was made from, and how it ended."""


def read_records(out: Path) -> dict[str, tuple[str, Outcome]]:
    """Returns the last record of each entry in a folder of results; what is damaged is passed over."""
    path = out / FOLDER / _NAME
    content = path.read_bytes() if path.is_file() else b""
    found = (_record(line) for line in content.splitlines())
    return {record[1].identity: record for record in found if record is not None}


def _record(line: bytes) -> tuple[str, Outcome] | None:
    try:
        values = json.loads(line)
        return str(values["key"]), Outcome.from_dict(values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class Journal:
    """The file of records, opened to add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        if self._file.tell():
            self._file.write(b"\n")  # whatever the last line is, the next one is whole

    def add(self, key: str, outcome: Outcome) -> None:
        """Adds an entry that ended; returns when it is on the disk."""
        line = json.dumps({"key": key, **outcome.to_dict()}, ensure_ascii=True, default=str)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@contextmanager
def opened(out: Path) -> Iterator[tuple[Journal, Path, int]]:
    """Gives the journal of a folder of results, an empty folder for temporary files, and the file that is the lock.

    Raises OutputError where another batch is at work there, or where the folder cannot be written.
    """
    folder = out / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"cannot write into {str(out)!r}: {error.strerror}", "name another folder") from error
    try:
        _take_lock(lock, out)
        yield from _cleaned(folder, lock)
    finally:
        os.close(lock)


def _cleaned(folder: Path, lock: int) -> Iterator[tuple[Journal, Path, int]]:
    scratch = folder / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    journal = Journal(folder / _NAME)
    try:
        yield journal, scratch, lock
    finally:
        journal.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _take_lock(lock: int, out: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise OutputError(
                    f"another batch is at work in {str(out)!r}", "wait for it, or name another folder"
                ) from None
            time.sleep(0.1)
