"""A command that is stopped at random moments: killed, interrupted, aborted, with a full disk, its data taken away.

After each: no input has changed, every output that has its final name is whole, an orderly end leaves nothing else in
any folder, and the next run finishes the work with the same bytes and clears what the stopped one left. Prints a table
of counts and every violation; exits with 1 where there is one.

    python benchmarks/faults.py                      # 300 stops of `quantize`
    python benchmarks/faults.py --count 50 --faults kill disk
    python benchmarks/faults.py --command batch FOLDER -o {out} --json {out}/summary.json
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
from apart import warm

from quantonnx import program
from quantonnx.demo import calibration_path, model_path

COMMAND = (
    *("quantize", "{in}/model.onnx", "-o", "{out}/q.onnx", "--data", "{in}/data.npz", "--samples", "8", "--no-speed"),
    *("--save-statistics", "{out}/statistics.npz", "--json", "{out}/result.json"),
)
MORE = ((), ("--external-data",), ("--external-data", "--report", "{out}/report"))
VARYING = frozenset({"result.json", "report/report.json", "report/report.html", "report/summary.json"})
"""Outputs that hold times, and are whole where they can be parsed."""

DISK = 1 << 20
LONGEST = 120.0
"""Seconds after which a run hangs."""

FOREIGN = frozenset({".ses"})
"""What ONNX Runtime itself puts into the folder of temporary files."""


@dataclass
class Place:
    """Folders of one trial: inputs, outputs (perhaps on a small disk of its own), temporary files."""

    root: Path
    command: Sequence[str]
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.root / "out"

    def arguments(self, more: Sequence[str] = ()) -> list[str]:
        words = (*self.command, *more)
        return [word.replace("{in}", str(self.root / "in")).replace("{out}", str(self.out)) for word in words]

    def start(self, more: Sequence[str], *, aborting: int | None = None, limit: int = 0) -> Running:
        """Starts the command in a fork of this process, which has imported everything already."""
        return Running(lambda: run_here(self.arguments(more), aborting, limit), self.root / "tmp")


class Running:
    """A process that runs a function; what it prints is kept."""

    def __init__(self, function: Callable[[], None], temporary: Path) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # as long as this object
        self._status: int | None = None
        self.number = os.fork()
        if self.number:
            return
        try:
            os.dup2(self._output.fileno(), 1)
            os.dup2(self._output.fileno(), 2)
            sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", errors="replace") for number in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
            os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
            function()
        except SystemExit as ended:
            _leave(int(ended.code or 0))
        except BaseException:
            traceback.print_exc()
        _leave(70)

    def wait(self, seconds: float) -> bool:
        """Waits that long, or until the process has ended, which it returns."""
        until = time.perf_counter() + seconds
        while self._status is None:
            ended, status = os.waitpid(self.number, os.WNOHANG)
            if ended:
                self._status = status
            elif time.perf_counter() > until:
                return False
            else:
                time.sleep(0.002)
        return True

    def send(self, number: signal.Signals) -> None:
        if self._status is None:
            os.kill(self.number, number)

    def end(self) -> tuple[int, str]:
        """Returns its exit code, negative for a signal, and what it printed; one that hangs is an error."""
        if not self.wait(LONGEST):
            self.send(signal.SIGKILL)
            raise RuntimeError("a run hangs")
        self._output.seek(0)
        return os.waitstatus_to_exitcode(self._status or 0), self._output.read().decode(errors="replace")


def _leave(code: int) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def run_here(arguments: Sequence[str], aborting: int | None, limit: int) -> None:
    """Runs the program in this process; after `aborting` runs of a model, the runtime ends it."""
    if limit:
        small_files(limit)
    if aborting is not None:
        Aborting.left = aborting
        onnxruntime.InferenceSession = Aborting
    sys.argv[1:] = arguments
    program.main()


class Aborting:
    """A session that ends the process at one of its runs."""

    left = 0
    real = onnxruntime.InferenceSession

    def __init__(self, *given: Any, **named: Any) -> None:
        self._session = Aborting.real(*given, **named)

    def run(self, *given: Any, **named: Any) -> Any:
        Aborting.left -= 1
        if Aborting.left < 0:
            os.abort()
        return self._session.run(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def small_files(limit: int) -> None:
    """Lets no file grow beyond `limit`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def contents(folder: Path) -> dict[str, str]:
    """Returns the digest of every file by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stop_by(number: signal.Signals) -> Callable[[Place, Sequence[str], float, random.Random], tuple[int, str]]:
    def stop(place: Place, more: Sequence[str], longest: float, chance: random.Random) -> tuple[int, str]:
        process = place.start(more)
        process.wait(chance.uniform(0, longest))
        process.send(number)
        return process.end()

    return stop


def abort(place: Place, more: Sequence[str], longest: float, chance: random.Random) -> tuple[int, str]:
    """The runtime ends the process."""
    return place.start(more, aborting=chance.randrange(60)).end()


def fill(place: Place, more: Sequence[str], longest: float, chance: random.Random) -> tuple[int, str]:
    """The disk is full: a real small one where this user may mount it, else no file may grow."""
    limit = int(DISK * chance.random() ** 2) + 4096
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={limit}", "tmpfs", str(place.out)], check=False, capture_output=True
    ).returncode
    ended = place.start(more, limit=0 if mounted else limit).end()
    if mounted:
        with tempfile.TemporaryDirectory() as aside:
            shutil.copytree(place.out, aside, dirs_exist_ok=True)
            subprocess.run(["umount", str(place.out)], check=True)
            shutil.copytree(aside, place.out, dirs_exist_ok=True)
    return ended


def lose(place: Place, more: Sequence[str], longest: float, chance: random.Random) -> tuple[int, str]:
    """The data becomes shorter while it is read."""
    data = place.root / "in" / "data.npz"
    kept = data.read_bytes()
    process = place.start(more)
    process.wait(chance.uniform(0, longest))
    os.truncate(data, chance.randrange(len(kept)))
    ended = process.end()
    data.write_bytes(kept)
    return ended


FAULTS: Mapping[str, Callable[[Place, Sequence[str], float, random.Random], tuple[int, str]]] = {
    "kill": stop_by(signal.SIGKILL),
    "interrupt": stop_by(signal.SIGINT),
    "terminate": stop_by(signal.SIGTERM),
    "abort": abort,
    "disk": fill,
    "data": lose,
}
ORDERLY = {"interrupt": (0, 130), "terminate": (0, 143), "disk": (0, 2), "data": (0, 2)}
"""Exit codes of those that the program itself ends; at any time it may have been done already."""


def violations(name: str, place: Place, ended: tuple[int, str], whole: Mapping[str, str]) -> Iterator[str]:
    """Yields what is wrong after a stop."""
    code, errors = ended
    if contents(place.root / "in") != place.inputs:
        yield "an input has changed"
    found = contents(place.out)
    for path, digest in found.items():
        if path in whole and not is_whole(place.out / path, path, digest, whole):
            yield f"{path} is not whole"
    if "q.onnx" in found and "q.onnx.data" in whole and "q.onnx.data" not in found:
        yield "q.onnx is there without its data"
    if name not in ORDERLY:
        return
    if code not in ORDERLY[name]:
        yield f"exit code {code}: {errors[-300:]!r}"
    if "Traceback" in errors:
        yield f"a traceback: {errors[-300:]!r}"
    if litter := sorted(set(found) - set(whole)) + sorted(set(contents(place.root / "tmp")) - FOREIGN):
        yield f"left behind: {litter}"


def is_whole(path: Path, name: str, digest: str, whole: Mapping[str, str]) -> bool:
    if name not in VARYING:
        return digest == whole[name]
    if path.suffix == ".html":
        return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)


def completed(place: Place, more: Sequence[str], whole: Mapping[str, str]) -> Iterator[str]:
    """Runs to the end, and yields what that does not mend."""
    code, errors = place.start([*more, "--force"]).end()
    if code:
        yield f"the next run ended with {code}: {errors[-300:]!r}"
        return
    found = contents(place.out)
    if set(found) != set(whole):
        yield f"after the next run: {sorted(set(found) ^ set(whole))}"
    for path in sorted(set(found) & set(whole)):
        if not is_whole(place.out / path, path, found[path], whole):
            yield f"after the next run, {path} is not whole"


def prepared(root: Path, command: Sequence[str]) -> Place:
    for name in ("in", "out", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(model_path(), root / "in" / "model.onnx")
    shutil.copy(calibration_path(), root / "in" / "data.npz")
    return Place(root, command, contents(root / "in"))


def trial(name: str, command: Sequence[str], more: Sequence[str], seed: int, clean: Clean) -> list[str]:
    """Stops one run, looks, and runs again; some begin over the outputs of an earlier run."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        place = prepared(Path(folder), command)
        again = chance.random() < 0.3 and name != "disk"
        if again:
            shutil.copytree(clean.folder, place.out, dirs_exist_ok=True)
        ended = FAULTS[name](place, [*more, *(["--force"] if again else [])], clean.seconds, chance)
        return [*violations(name, place, ended, clean.files), *completed(place, more, clean.files)]


@dataclass(frozen=True)
class Clean:
    """What an undisturbed run writes, where it is, and how long it takes."""

    folder: Path
    files: Mapping[str, str]
    seconds: float


def undisturbed(root: Path, command: Sequence[str], more: Sequence[str]) -> Clean:
    place = prepared(root, command)
    started = time.perf_counter()
    code, errors = place.start(more).end()
    if code:
        raise RuntimeError(errors)
    return Clean(place.out, contents(place.out), time.perf_counter() - started)


def stress(
    count: int, faults: Sequence[str], command: Sequence[str], variants: Sequence[Sequence[str]], seed: int = 0
) -> Iterator[tuple[str, list[str]]]:
    """Yields, for each stop, its fault and what was wrong afterwards."""
    with tempfile.TemporaryDirectory(prefix="faults-clean-") as folder:
        clean = [undisturbed(Path(folder, str(i)), command, more) for i, more in enumerate(variants)]
        for index in range(count):
            name, variant = faults[index % len(faults)], index // len(faults) % len(variants)
            yield name, trial(name, command, variants[variant], seed + index, clean[variant])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", nargs=argparse.REMAINDER, help="another command line; must be the last option")
    options = parser.parse_args()
    warm()
    command, variants = (options.command, [()]) if options.command else (COMMAND, MORE)
    counts: Counter[tuple[str, bool]] = Counter()
    with contextlib.suppress(KeyboardInterrupt):  # and what there is so far is told
        for index, (name, wrong) in enumerate(stress(options.count, options.faults, command, variants, options.seed)):
            counts[name, bool(wrong)] += 1
            for line in wrong:
                print(f"{name} {index}: {line}", flush=True)
    for (name, wrong), number in sorted(counts.items()):
        print(f"{name:10} {'VIOLATED' if wrong else 'fine':9} {number:4}")
    return 1 if any(wrong for _, wrong in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
