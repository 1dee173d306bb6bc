"""How planning grows with the graph: chains of 2,000 and 20,000 nodes, all patterns, against onnx-graphsurgeon's import.

    python benchmarks/graph_scaling.py

Every figure is the best of three, measured in the same run. Wanted: planning costs at most twice the import, and ten
times the nodes cost about ten times the time.
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

from quantonnx import Model, get_target, known_targets, make_plan
from quantonnx.rewriting import transform

CHANNELS = 2


def chain(nodes: int) -> onnx.ModelProto:
    """Returns a chain of blocks of ten nodes: Conv with BN and Relu, a residual Add, SiLU, pooling of codes, Identity."""
    rng = np.random.default_rng(0)
    body: list[onnx.NodeProto] = []
    weights = [_weight("w", rng, CHANNELS, CHANNELS, 1, 1), *(_weight(n, rng, CHANNELS) for n in ("g", "b", "m"))]
    weights.append(numpy_helper.from_array(np.ones(CHANNELS, np.float32), "v"))
    value = "x"
    for block in range(nodes // 10):
        body += _block(value, f"block{block}.")
        value = f"block{block}.out"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, CHANNELS, 4, 4]) for n in ("x", value)]
    graph = helper.make_graph(body, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def best_of(run: Callable[[], object], repeats: int = 3) -> float:
    """Returns the shortest wall time of `run` in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Prints one row for each target and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2_000, 20_000])
    sizes = parser.parse_args().nodes
    G_LOGGER.severity = G_LOGGER.ERROR
    print(
        f"{'nodes':>8}  {'target':<12} {'gs import':>10} {'read':>8} {'plan':>8} {'plan/import':>12} {'transform':>10} {'steps':>7}"
    )
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
            times = f"{imported:9.3f}s {reading:7.3f}s {planning:7.3f}s {planning / imported:11.2f}x {fused:9.3f}s"
            print(f"{nodes:>8}  {name:<12} {times} {steps:>7}")
    for name in known_targets():
        growth = seconds[name, sizes[-1]] / seconds[name, sizes[0]]
        print(f"{name}: {sizes[-1] / sizes[0]:.0f} times the nodes take {growth:.1f} times as long to plan")


def _block(value: str, prefix: str) -> list[onnx.NodeProto]:
    def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [prefix + output], name=prefix + output, **attributes)

    def own(name: str) -> str:
        return prefix + name

    return [
        node("Conv", [value, "w"], "c1"),
        node("BatchNormalization", [own("c1"), "g", "b", "m", "v"], "n1"),
        node("Relu", [own("n1")], "r1"),
        node("Conv", [own("r1"), "w"], "c2"),
        node("Add", [value, own("c2")], "a"),
        node("Relu", [own("a")], "r2"),
        node("Conv", [own("r2"), "w"], "c3"),
        node("Sigmoid", [own("c3")], "s"),
        node("Mul", [own("s"), own("c3")], "silu"),
        node("Identity", [own("silu")], "out"),
    ]


def _weight(name: str, rng: np.random.Generator, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)


if __name__ == "__main__":
    main()
