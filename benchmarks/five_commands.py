"""Every model there is through `inspect`, `plan`, `transform`, `quantize` and `check`, each in a process of its own.

None may end in a traceback, a crash or a hang, and what `transform` writes may differ from the model by no more than
float rounding. The models are those of the onnx package's test data (see robustness.py) and every .onnx file in the
folders given. Prints counts and every failure; exits with 1 where there is one.

    python benchmarks/five_commands.py                             # the test data: 15 minutes on one core
    python benchmarks/five_commands.py --kinds light simple --targets onnxruntime
    python benchmarks/five_commands.py --kinds --files FOLDER --seconds 1200
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apart import Ending, apart, warm
from robustness import KINDS, difference, examples, run

import quantonnx as qx
from quantonnx.calibration.samples import input_specs, open_samples
from quantonnx.insertion import refuse_quantized

COMMANDS = ("inspect", "plan", "transform", "quantize", "check")
RECORD = "record.jsonl"
MEMORY = 12 << 30

Feed = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A model as a file, and inputs for it where there are some."""

    kind: str
    name: str
    path: Path
    feed: Feed | None = None


def stored(kind: str, folder: Path, every: int) -> Iterator[Subject]:
    """Yields the models of the onnx package as files in `folder`, one after the other."""
    for example in examples(kind, every):
        path = folder / "model.onnx"
        path.write_bytes(example.model.SerializeToString())
        yield Subject(kind, example.name, path, example.feed)


def found(folder: Path) -> Iterator[Subject]:
    for path in sorted(folder.rglob("*.onnx")):
        yield Subject(folder.name, str(path.relative_to(folder)), path)


def five(subject: Subject, target: str, out: Path) -> int:
    """Runs the commands, one after the other, and the comparison; each end is a line of the record."""
    from quantonnx import cli

    with (out / RECORD).open("w") as record:
        for name in COMMANDS:
            code = cli.run(arguments(name, subject.path, target, out))
            record.write(json.dumps({"command": name, "code": code}) + "\n")
            record.flush()
        record.write(json.dumps({"command": "compare", "said": compared(subject, out / "t.onnx")}) + "\n")
    return 0


def arguments(command: str, model: Path, target: str, out: Path) -> list[str]:
    more = {
        "transform": ["-o", str(out / "t.onnx")],
        "quantize": ["-o", str(out / "q.onnx"), "--random-data", "1", "--no-speed"],
    }
    quantized = out / "q.onnx"
    subject = quantized if command == "check" and quantized.is_file() else model
    return [command, str(subject), *([] if command == "inspect" else ["--target", target]), *more.get(command, [])]


def compared(subject: Subject, transformed: Path) -> str:
    """Returns "same", "not runnable" for a model that ONNX Runtime or random data do not fit, or the difference."""
    try:
        feed = subject.feed if subject.feed is not None else random_feed(subject.path)
        first, second = (run(subject.path, feed) for _ in range(2))  # type: ignore[arg-type]  # a path will do
    except Exception:
        return "not runnable"
    if any(difference(*pair) for pair in zip(first, second, strict=True)):
        return "random"
    if not transformed.is_file():
        return "quantized" if is_quantized(subject.path) else "refused, and the model runs"
    after = run(transformed, feed)  # type: ignore[arg-type]
    return next(filter(None, (difference(*pair) for pair in zip(after, first, strict=True))), "same")


def is_quantized(path: Path) -> bool:
    try:
        refuse_quantized(qx.Model.read(path), path.name)
    except qx.ModelError:
        return True
    return False


def random_feed(path: Path) -> Feed:
    return next(iter(open_samples(None, input_specs(qx.Model.read(path)), random=1)))


def outcomes(subject: Subject, ending: Ending, out: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (command, outcome, reason): done, refused, FAILED."""
    lines = (out / RECORD).read_text().splitlines() if (out / RECORD).is_file() else []
    records = [json.loads(line) for line in lines]
    errors = [line for line in ending.text.splitlines() if line.startswith("quantonnx: error: ")]
    broken = [line for line in errors if "error: unexpected" in line]
    for record in records:
        if record["command"] == "compare":
            fine = record["said"] in ("same", "not runnable", "random", "quantized")
            yield "result", record["said"] if fine else "FAILED", "" if fine else record["said"]
        else:
            yield record["command"], "refused" if record["code"] == 2 else "done", ""
    for line in broken:
        yield "any", "FAILED", line
    if ending.problem and not broken:
        ended = (*COMMANDS, "result")[min(len(records), len(COMMANDS))]
        yield ended, "FAILED", f"{ending.problem}: {ending.said[:300]}"


def sweep(subjects: Iterable[Subject], target: str, seconds: float, counts: Counter[tuple[str, ...]]) -> Iterator[str]:
    """Runs everything; yields a line for each failure."""
    for subject in subjects:
        out = Path(tempfile.mkdtemp(prefix="five-commands-"))
        ending = apart(lambda: five(subject, target, out), seconds=seconds, memory=MEMORY)  # noqa: B023  # at once
        for command, outcome, reason in outcomes(subject, ending, out):
            counts[subject.kind, target, command, outcome] += 1
            if outcome == "FAILED":
                yield f"FAILED {target} {subject.kind}/{subject.name}: {command}: {reason}"
        shutil.rmtree(out)


def everything(options: argparse.Namespace, target: str, counts: Counter[tuple[str, ...]]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            yield from sweep(stored(kind, Path(folder), options.every), target, options.seconds, counts)
    for place in options.files:
        yield from sweep(found(place), target, options.seconds, counts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--files", nargs="*", type=Path, default=())
    parser.add_argument("--targets", nargs="+", default=["tensorrt", "onnxruntime"])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    warm()
    counts: Counter[tuple[str, ...]] = Counter()
    with contextlib.suppress(KeyboardInterrupt):  # and what there is so far is told
        for target in options.targets:
            for line in everything(options, target, counts):
                print(line, flush=True)
    for (kind, target, command, outcome), count in sorted(counts.items()):
        print(f"{kind:18} {target:12} {command:10} {outcome:14} {count:5}")
    failures = sum(count for (*_, outcome), count in counts.items() if outcome == "FAILED")
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
