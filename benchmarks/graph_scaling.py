"""How planning, placing and explaining grow with the graph: 2,000 and 20,000 nodes, all patterns, against the import.

    python benchmarks/graph_scaling.py

Every figure is CPU time, the best of three, measured in the same run; `import` is onnx-graphsurgeon's own, of the same
model. `plan` and `explain` are all that the commands do: `plan` reads the model, `explain` reads, plans, fuses and
places it and looks up one node and one tensor. `read` and `place` are parts of them. Wanted: planning costs at most
twice the import, and ten times the nodes ten times as much.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable

import onnx
import onnx_graphsurgeon as gs
from chains import ASKED, KINDS
from onnx_graphsurgeon.logger import G_LOGGER

from quantonnx import Model, Target, get_target, known_targets, make_plan
from quantonnx.explaining import Explainer
from quantonnx.quantized import insert_qdq
from quantonnx.rewriting import transform

SHARED = ("import", "read")
OWN = ("plan", "place", "explain")


def main() -> None:
    """Prints one row for each kind of network, size and target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2_000, 20_000])
    sizes = parser.parse_args().nodes
    G_LOGGER.severity = G_LOGGER.ERROR
    columns = [*SHARED, *OWN, "plan/import", "explain/import"]
    print(f"{'network':<12}{'nodes':>8}{'target':>13}" + "".join(f"{name:>16}" for name in columns))
    for kind in KINDS:
        rows = {nodes: measured(kind, nodes) for nodes in sizes}
        for name in known_targets():
            first, last = rows[sizes[0]][name], rows[sizes[-1]][name]
            growth = ", ".join(f"{step} {last[step] / first[step]:.1f}" for step in (*SHARED, *OWN))
            print(f"{kind} for {name}: {sizes[-1] / sizes[0]:.0f} times the nodes, times as long: {growth}")


def measured(kind: str, nodes: int) -> dict[str, dict[str, float]]:
    """Prints and returns the CPU seconds of each step, by target."""
    proto = KINDS[kind](nodes)
    shared = {"import": best_of(lambda: gs.import_onnx(proto)), "read": best_of(lambda: Model.read(proto))}
    rows: dict[str, dict[str, float]] = {}
    for name in known_targets():
        row = rows[name] = shared | steps(proto, get_target(name), ASKED[kind])
        times = "".join(f"{seconds:>15.3f}s" for seconds in row.values())
        ratios = "".join(f"{row[step] / row['import']:>15.2f}x" for step in ("plan", "explain"))
        print(f"{kind:<12}{nodes:>8}{name:>13}{times}{ratios}", flush=True)
    return rows


def steps(proto: onnx.ModelProto, target: Target, asked: tuple[str, str]) -> dict[str, float]:
    """Returns the CPU seconds of what depends on the target."""
    planning = best_of(lambda: make_plan(proto, target=target))
    fused = transform(proto, target=target)
    placing = best_of(lambda: insert_qdq(fused.model, fused.matches))
    return dict(zip(OWN, (planning, placing, best_of(lambda: explain(proto, target, asked))), strict=True))


def explain(proto: onnx.ModelProto, target: Target, asked: tuple[str, str]) -> None:
    """Does what the command does, for a node and a tensor of the first block."""
    explainer = Explainer(proto, target)
    explainer.node(f"block0.{asked[0]}")
    explainer.tensor(f"block0.{asked[1]}")


def best_of(run: Callable[[], object], repeats: int = 3) -> float:
    """Returns the least CPU time of `run` in seconds; all that is measured here runs in one thread."""
    times = []
    for _ in range(repeats):
        gc.collect()
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


if __name__ == "__main__":
    main()
