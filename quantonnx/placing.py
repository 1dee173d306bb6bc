"""Files appear whole or not at all, several of them together; what a killed process left is cleared by the next one.

Until a file is whole it has a name that starts with a dot and holds the number of the process: `.OUT.123.tmp`, or
`.OUT.123.part` where it is one of several. What `force` replaces is kept as `.OUT.123.old` until all are in place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from quantonnx.errors import OutputError


@contextmanager
def into_place(*targets: Path, force: bool, sources: frozenset[Path]) -> Iterator[list[Path]]:
    """Gives a temporary name beside each target; moves all into place at the end, or none when anything fails.

    The last is the one that needs the others: while they change, it is not there. OutputError for a target that exists
    (unless `force`) or is one of `sources`, which are still to be read, and when the system refuses. Whatever happens,
    no temporary file stays; those of a process that was killed are removed.
    """
    temporary = [_beside(target, os.getpid(), "tmp" if len(targets) == 1 else "part") for target in targets]
    try:
        _clear(targets)
        _refuse(targets, force, sources)
        yield temporary
        _move(list(zip(temporary, targets, strict=True)))
        _drop(_left(targets, "old"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {str(targets[-1])!r}: {reason}", "check the folder and free space") from error
    finally:
        _drop(temporary)


def sweep(folder: Path, process: int | None = None) -> None:
    """Removes what processes that were ended left in a folder, or one of them: half-written files and replaced ones."""
    name = re.compile(rf"\..+\.({process or '[0-9]+'})\.(tmp|part|old)")
    with suppress(OSError):
        _drop([Path(entry) for entry in os.scandir(folder) if name.fullmatch(entry.name) and entry.is_file()])


def _beside(target: Path, process: int, kind: str) -> Path:
    return target.with_name(f".{target.name}.{process}.{kind}")


def _refuse(targets: Iterable[Path], force: bool, sources: frozenset[Path]) -> None:
    for target in targets:
        if target.resolve() in sources:
            raise OutputError(f"{str(target)!r} holds the weights of the input model", "write to another name")
        if target.is_dir():
            raise OutputError(f"{str(target)!r} is a folder", "name a file")
        if target.exists() and not target.is_file():
            raise OutputError(f"{str(target)!r} is a device, not a file", "name a file")
        if target.exists() and not force:
            raise OutputError(f"{str(target)!r} exists already", "use --force (force=True) to replace it")


def _move(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Moves all or none; where there are several, what they replace is out of the way first, the last before others."""
    if len(pairs) == 1:
        os.replace(*pairs[0])
        return
    kept: list[tuple[Path, Path]] = []
    cleared = False
    try:
        for _, target in reversed(pairs):
            if target.exists():
                kept.append((target, _beside(target, os.getpid(), "old")))
                os.rename(*kept[-1])
        cleared = True
        for source, target in pairs:
            os.replace(source, target)
    except BaseException:
        _drop(target for source, target in pairs if cleared and not source.exists())
        for target, old in reversed(kept):
            if old.exists():
                os.rename(old, target)
        raise
    _drop(old for _, old in kept)


def _clear(targets: Sequence[Path]) -> None:
    """Removes what killed processes left, but for what they were to replace.

    A file that needs others and had not yet been moved tells that those, already in place, are theirs.
    """
    for part in _left(targets[-1:], "part"):
        process = int(part.suffixes[-2][1:])
        if not targets[-1].exists():
            _drop(target for target in targets[:-1] if not _beside(target, process, "part").exists())
    _drop(_left(targets, "tmp", "part"))


def _left(targets: Iterable[Path], *kinds: str) -> list[Path]:
    """The files of processes that run no more."""
    found = []
    for target in targets:
        name = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.({'|'.join(kinds)})")
        with suppress(OSError):
            names = [match for entry in os.scandir(target.parent) if (match := name.fullmatch(entry.name))]
            found += [target.with_name(match[0]) for match in names if not _runs(int(match[1]))]
    return found


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _drop(files: Iterable[Path]) -> None:
    for path in files:
        with suppress(OSError):  # a second problem must not hide the first
            path.unlink()
