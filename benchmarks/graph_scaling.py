"""How planning, placing and explaining grow with the graph: 2,000 and 20,000 nodes, all patterns, against the import.

    python benchmarks/graph_scaling.py

Every figure is CPU time, the best of three, measured in the same run. Planning starts from a model in memory, while
`make_plan` also reads it: the ratio `all` counts both. Wanted: planning costs at most twice the import. `explain` is
all that the command does to explain one node and one tensor: read, plan, fuse, place, look up; `place` and `ask` are
its last two parts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper
from onnx_graphsurgeon.logger import G_LOGGER

from quantonnx import Model, Target, get_target, known_targets, make_plan
from quantonnx.explaining import Explainer
from quantonnx.quantized import insert_qdq
from quantonnx.rewriting import transform

CHANNELS = 2


def chain(nodes: int) -> onnx.ModelProto:
    """Returns a chain of blocks of ten nodes: Conv with BN and Relu, a residual Add, SiLU, Identity."""
    rng = np.random.default_rng(0)
    body: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = "x"
    for block in range(nodes // 10):
        prefix = f"block{block}."
        weights += [_random(prefix + name, rng, CHANNELS, CHANNELS, 1, 1) for name in ("w1", "w2", "w3")]
        weights += [_random(prefix + name, rng, CHANNELS) for name in ("gamma", "beta", "mean", "variance")]
        body += _block(value, prefix)
        value = f"{prefix}out"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, CHANNELS, 4, 4]) for n in ("x", value)]
    graph = helper.make_graph(body, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def best_of(run: Callable[[], object], repeats: int = 3) -> float:
    """Returns the least CPU time of `run` in seconds; all that is measured here runs in one thread."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def explained(proto: onnx.ModelProto, target: Target, nodes: int) -> tuple[float, float, float]:
    """Returns the CPU seconds of placing, of asking about a node and a tensor, and of explaining in all."""
    fused = transform(proto, target=target)
    placing = best_of(lambda: insert_qdq(fused.model, fused.matches), 1)
    prefix = f"block{nodes // 20}."
    made: list[Explainer] = []

    def ask() -> None:
        made[-1].node(f"{prefix}Conv_c2")
        made[-1].tensor(f"{prefix}r1")

    building = best_of(lambda: made.append(Explainer(proto, target)), 1)
    asking = best_of(ask, 1)
    return placing, asking, building + asking


def main() -> None:
    """Prints one row for each target and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2_000, 20_000])
    sizes = parser.parse_args().nodes
    G_LOGGER.severity = G_LOGGER.ERROR
    columns = ("target", "gs import", "read", "read + plan", "plan/import", "all/import", "transform", "place", "ask")
    columns += ("explain", "steps")
    print(f"{'nodes':>8}" + "".join(f"{name:>13}" for name in columns))
    seconds: dict[tuple[str, int], float] = {}
    for nodes in sizes:
        proto = chain(nodes)
        imported = best_of(lambda proto=proto: gs.import_onnx(proto))  # type: ignore[misc]
        reading = best_of(lambda proto=proto: Model.read(proto))  # type: ignore[misc]
        for name in known_targets():
            target = get_target(name)
            planning = best_of(lambda target=target, proto=proto: make_plan(proto, target=target))  # type: ignore[misc]
            fused = best_of(lambda target=target, proto=proto: transform(proto, target=target), 1)  # type: ignore[misc]
            seconds[name, nodes] = planning
            steps = len(make_plan(proto, target=target))
            placing, asking, explaining = explained(proto, target, nodes)
            times = "".join(f"{value:>12.3f}s" for value in (imported, reading, planning))
            ratios = "".join(f"{value / imported:>12.2f}x" for value in (planning - reading, planning))
            print(
                f"{nodes:>8}{name:>13}{times}{ratios}{fused:>12.3f}s{placing:>12.3f}s{asking:>12.3f}s"
                f"{explaining:>12.3f}s{steps:>13}"
            )
    for name in known_targets():
        growth = seconds[name, sizes[-1]] / seconds[name, sizes[0]]
        print(f"{name}: {sizes[-1] / sizes[0]:.0f} times the nodes take {growth:.1f} times as long to plan")


def _block(value: str, prefix: str) -> list[onnx.NodeProto]:
    def node(op: str, inputs: str, output: str, *outer: str) -> onnx.NodeProto:
        names = [*outer, *(prefix + name for name in inputs.split())]
        return helper.make_node(op, names, [prefix + output], name=f"{prefix}{op}_{output}")

    return [
        node("Conv", "w1", "c1", value),
        node("BatchNormalization", "c1 gamma beta mean variance", "n1"),
        node("Relu", "n1", "r1"),
        node("Conv", "r1 w2", "c2"),
        node("Add", "c2", "a", value),
        node("Relu", "a", "r2"),
        node("Conv", "r2 w3", "c3"),
        node("Sigmoid", "c3", "s"),
        node("Mul", "s c3", "m"),
        node("Identity", "m", "out"),
    ]


def _random(name: str, rng: np.random.Generator, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(rng.uniform(0.5, 1.5, shape).astype(np.float32), name)


if __name__ == "__main__":
    main()
