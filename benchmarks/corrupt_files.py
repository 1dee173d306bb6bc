"""Damaged files through every reader: valid ones with bits flipped, ends cut, parts spliced, lengths absurd.

Each is read, or refused with one of quantonnx's own errors in one line; no crash, no more than 10 seconds of the
processor, and no more than 1 GB of address space beyond the file. Models go through `inspect`, `plan`, `transform` and
the writer. Prints counts and every failure with the seed that makes it again; exits with 1 where there is one.

    python benchmarks/corrupt_files.py                       # 10,000 files: some minutes
    python benchmarks/corrupt_files.py --count 500 --kinds npz png
    python benchmarks/corrupt_files.py --kinds onnx --only 1234 --keep /tmp/found
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from apart import apart, warm
from graph_damage import restructured
from specimens import Specimen, specimens

from quantonnx.errors import QuantonnxError

COUNT = 10_000
SECONDS = 10.0
SLEEPING = 6
"""So many times that by the clock: other programs may have the processor."""

MEMORY = 1 << 30
CHUNK = 40
RECORD = "record.jsonl"

Random = np.random.Generator
Mutation = Callable[[bytearray, Random], None]


def flip(data: bytearray, random: Random) -> None:
    for place in random.integers(0, len(data), random.integers(1, 17)):
        data[place] ^= 1 << int(random.integers(7))


def cut(data: bytearray, random: Random) -> None:
    del data[int(random.integers(len(data))) :]


def drop(data: bytearray, random: Random) -> None:
    start, size = int(random.integers(len(data))), int(random.integers(1, 65))
    del data[start : start + size]


def splice(data: bytearray, random: Random) -> None:
    """Puts a part of the file at another place of it."""
    start, size, place = (int(random.integers(1, len(data) + 1)) for _ in range(3))
    part = data[start : start + min(size, 4096)]
    data[place : place + len(part) * int(random.integers(2))] = part


def repeat(data: bytearray, random: Random) -> None:
    start, size = int(random.integers(len(data))), int(random.integers(1, 65))
    data[start:start] = data[start : start + size] * int(random.integers(2, 200))


def lengthen(data: bytearray, random: Random) -> None:
    """Writes what could be a length: the largest and smallest numbers of 1 to 10 bytes."""
    numbers = (b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x00" * 4, b"\xff" * 9 + b"\x01", b"\x80" * 9 + b"\x00", b"\x7f" * 2)
    found = numbers[random.integers(len(numbers))]
    place = int(random.integers(len(data)))
    data[place : place + len(found)] = found


def reword(data: bytearray, random: Random) -> None:
    """Replaces a number, a quotation mark or a bracket by something else that a text may hold."""
    places = [place for place, byte in enumerate(data[:20000]) if byte in b"0123456789\"'[]{}:,-."]
    words = (
        b"9" * 400,
        b"-1",
        b"1e999",
        b"nan",
        b"null",
        b"[" * 3000,
        b"{",
        b"!!bool x",
        b"&a [*a]",
        b"\xff",
        b"",
        b"\x1b",
    )
    if places:
        place = places[random.integers(len(places))]
        data[place : place + 1] = words[random.integers(len(words))]


BINARY: tuple[Mutation, ...] = (flip, flip, flip, cut, drop, splice, repeat, lengthen, lengthen, lengthen)
TEXT: tuple[Mutation, ...] = (flip, cut, drop, splice, repeat, lengthen, reword, reword, reword, reword)


def damaged(content: bytes, seed: int, *, structure: bool = False) -> bytes:
    """Returns the content with one to three mutations, mostly one, the same for the same seed."""
    random = np.random.default_rng(seed)
    if structure:
        return restructured(content, random)
    data = bytearray(content)
    mutations = TEXT if content.isascii() else BINARY
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        if data:
            mutations[random.integers(len(mutations))](data, random)
    return bytes(data)


@dataclass(frozen=True)
class Finding:
    """What became of one file."""

    kind: str
    seed: int
    outcome: str
    reason: str = ""


def read(specimen: Specimen, seed: int, folder: Path) -> tuple[str, str]:
    """Reads a damaged copy of the specimen; returns (read, refused or FAILED, why)."""
    for name, content in specimen.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == specimen.damaged:
            content = specimen.packed(damaged(content, seed, structure=specimen.structure))
        path.write_bytes(content)
    try:
        specimen.read(folder)
    except QuantonnxError as error:
        return ("FAILED", f"two lines: {error!r}") if "\n" in str(error) else ("refused", str(error))
    except Exception as error:
        return "FAILED", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return "read", ""


def read_all(tasks: Sequence[tuple[Specimen, int]], folder: Path) -> int:
    """Reads files one after the other, in this process; each gets the whole time."""
    with (folder / RECORD).open("a") as record:
        for specimen, seed in tasks:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, SLEEPING * SECONDS)
            with tempfile.TemporaryDirectory(dir=folder) as own:
                record.write(json.dumps(read(specimen, seed, Path(own))) + "\n")
            record.flush()
    return 0


def findings(tasks: Sequence[tuple[Specimen, int]]) -> Iterator[Finding]:
    """Reads files in processes of their own; one that ends its process is a failure, and the next begins another."""
    waiting = list(tasks)
    while waiting:
        chunk = waiting[:CHUNK]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ending = apart(lambda: read_all(chunk, folder), seconds=SLEEPING * SECONDS, memory=MEMORY)  # noqa: B023  # at once
            lines = (folder / RECORD).read_text().splitlines() if (folder / RECORD).is_file() else []
        for (specimen, seed), line in zip(chunk, lines, strict=False):
            outcome, reason = json.loads(line)
            yield Finding(specimen.kind, seed, outcome, reason)
        done = len(lines)
        if done < len(chunk):
            specimen, seed = chunk[done]
            yield Finding(specimen.kind, seed, "FAILED", f"{ending.problem or ending.code}: {ending.said[:300]}")
            done += 1
        waiting = waiting[done:]


def chosen(kinds: Iterable[str], count: int, only: int | None) -> list[tuple[Specimen, int]]:
    """Returns what to read: each kind as often, each file of a kind in turns."""
    every = [item for item in specimens() if not kinds or item.kind in set(kinds)]
    if only is not None:
        return [(every[only % len(every)], only)]
    return [(every[seed % len(every)], seed) for seed in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--kinds", nargs="*", default=())
    parser.add_argument("--only", type=int, help="one seed; give the same --kinds")
    parser.add_argument("--keep", type=Path, help="where to put the files of --only")
    options = parser.parse_args()
    tasks = chosen(options.kinds, options.count, options.only)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        print(read(*tasks[0], options.keep))
        return 0
    warm()
    counts: Counter[tuple[str, str]] = Counter()
    for found in findings(tasks):
        counts[found.kind, found.outcome] += 1
        if found.outcome == "FAILED":
            print(f"FAILED {found.kind} seed {found.seed}: {found.reason}", flush=True)
    for (kind, outcome), count in sorted(counts.items()):
        print(f"{kind:14} {outcome:8} {count:6}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{sum(counts.values())} files; the largest process held {peak:.0f} MB")
    failures = sum(count for (_, outcome), count in counts.items() if outcome == "FAILED")
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
