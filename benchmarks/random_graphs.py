"""Random graphs through `transform`, `quantize` and `check` for every target: 10,000 of them by default.

Each piece of 100 graphs has a seed of its own, so that a find comes back; `--shrink` makes it small, which takes
minutes. Prints each find and, last, a table of counts; exits with 1 where there is a find.

    python benchmarks/random_graphs.py                       # an hour
    python benchmarks/random_graphs.py --pieces 3 --from 40  # pieces 40, 41, 42
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import graph_laws as laws
import onnx
from graph_samples import Sample, in_a_branch, in_a_loop, samples

from quantonnx.target import known_targets

SIZE = 100
QUANTIZED = 3
"""One graph in so many goes on to `quantize` and `check`, which take most of the time."""

INSIDE = 10
"""One graph in so many is a branch of If, and one the body of a Loop."""

TARGETS = tuple(known_targets())


def main() -> int:
    """Runs the pieces asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", type=int, default=100)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--stages", type=int, default=8, help="the most stages that a graph has")
    parser.add_argument("--shrink", action="store_true")
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    started = time.time()
    for piece in range(asked.first, asked.first + asked.pieces):
        try:
            _piece(piece, asked.stages, counts, shrink=asked.shrink)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            counts["pieces with a find"] += 1
            print(f"piece {piece}: {_told(error)}", flush=True)
        if piece % 5 == 4:
            print(f"{piece + 1} pieces, {time.time() - started:.0f} s: {dict(counts)}", flush=True)
    for name, number in sorted(counts.items()):
        print(f"{name:<40}{number:>9}")
    return bool(counts["pieces with a find"])


def _piece(piece: int, stages: int, counts: Counter[str], *, shrink: bool) -> None:
    @seed(piece)
    @settings(
        max_examples=SIZE,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        report_multiple_bugs=False,
    )
    @given(samples(stages), st.sampled_from(TARGETS), st.sampled_from(sorted(laws.CONFIGS)))
    def graphs(sample: Sample, target: str, config: str) -> None:
        _try(sample, target, config, counts)

    graphs()


def _try(sample: Sample, target: str, config: str, counts: Counter[str]) -> None:
    if sample.seed % INSIDE < 2:
        inside = in_a_loop if sample.seed % INSIDE else in_a_branch
        sample = inside(sample)
        counts[inside.__name__.replace("_", " ")] += 1
    onnx.checker.check_model(sample.proto)
    counts["graphs"] += 1
    counts["operators"] += len(sample.proto.graph.node)
    try:
        known = laws.in_float(sample)
    except laws.NotRunnable:
        counts["left out: ONNX Runtime does not run it"] += 1
        return
    if not known.usable:
        counts["left out: rounding decides"] += 1
        return
    fused = {name: laws.transform_keeps_results(sample, known, name) for name in TARGETS}
    counts["transformed"] += len(TARGETS)
    if sample.seed % QUANTIZED:
        return
    laws.transform_is_done_at_once(fused[target], target)
    pairs = laws.quantize_gives_a_sound_file(sample, known, fused[target], target, config)
    counts["quantized" if pairs else "nothing to quantize"] += 1
    counts["pairs"] += pairs


def _told(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    notes = "\n  ".join(getattr(error, "__notes__", ()))
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {error}\n  {notes}"


if __name__ == "__main__":
    sys.exit(main())
