r"""What block-wise reconstruction (BRECQ) would add to AdaRound: a prototype, to see whether it is worth building.

    python benchmarks/block_reconstruction.py MODEL.onnx CALIBRATION.npz EVALUATION.npz [--preset w4a8] \
        [--search gradient] [--samples 64] [--rounds 1] [--iterations 500]

Starts from the codes of the recipe's `adaround` and looks for others under which each block (what stands between narrow
places of the network) comes nearer to the float block's outputs, its inputs being those of the blocks before as they
now are. `gradient` is Adam on rounding variables, as in the paper (Li et al., "BRECQ: Pushing the Limit of
Post-Training Quantization by Block Reconstruction", ICLR 2021); `descent` takes Gauss-Newton steps of one layer after
the other on the error of the block, and rounds each by AdaRound's descent. What would make a block worse on the samples
is not taken. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch.nn import functional
from weight_rounding import Feed, accuracy, outputs, session

import quantonnx as qx
from quantonnx.algorithms.adaround import GAMMA, ZETA, beta_at, descended
from quantonnx.algorithms.grids import Problem, Rounded, moved
from quantonnx.algorithms.second_moments import Moments, damped
from quantonnx.algorithms.weight_layers import WeightLayer, weight_layers
from quantonnx.model import constant
from quantonnx.quantized import QuantizedModel

Array = NDArray[np.generic]
Values = dict[str, torch.Tensor]

AT_ONCE = 8
DAMPING = 0.1
SHARES = (1.0, 0.5, 0.25)
"""Of a Gauss-Newton step, the largest first."""

ACTIVATIONS = ("Clip", "Relu", "HardSwish")


@dataclass(frozen=True)
class Block:
    """Nodes that read one value of those before them, and give one to those behind."""

    nodes: tuple[onnx.NodeProto, ...]
    source: str
    result: str

    def run(self, source: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> Values:
        values: Values = {self.source: source}
        for node in self.nodes:
            read = [values.get(name, constants.get(name)) for name in node.input]
            values[node.output[0]] = computed(node, read)
        return values

    def whole(self, source: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([self.run(part, constants)[self.result] for part in source.split(AT_ONCE)])

    def error(self, source: torch.Tensor, aim: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> float:
        """The share of the aim's square that is error."""
        return float((self.whole(source, constants) - aim).square().sum() / aim.square().sum())


def computed(node: onnx.NodeProto, read: list[torch.Tensor]) -> torch.Tensor:
    attrs = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    x = read[0]
    match node.op_type:
        case "Conv":
            pads, strides = attrs.get("pads", [0] * 4)[:2], attrs.get("strides", 1)
            return functional.conv2d(x, *read[1:], stride=strides, padding=pads, groups=attrs.get("group", 1))
        case "Gemm":
            return functional.linear(x, read[1] if attrs.get("transB") else read[1].T, *read[2:])
        case "Clip":
            return x.clamp(float(read[1]), float(read[2]))
        case "HardSigmoid":
            return (x * attrs.get("alpha", 0.2) + attrs.get("beta", 0.5)).clamp(0, 1)
        case "GlobalAveragePool":
            return x.mean((2, 3), keepdim=True)
        case "Add" | "Mul":
            return x + read[1] if node.op_type == "Add" else x * read[1]
    return {"Relu": torch.relu, "HardSwish": functional.hardswish, "Flatten": lambda value: value.flatten(1)}[
        node.op_type
    ](x)


def blocks_of(graph: onnx.GraphProto) -> Iterator[Block]:
    """Cuts where a single value crosses that no activation follows: behind each inverted bottleneck."""
    nodes = list(graph.node)
    last_read = {name: place for place, node in enumerate(nodes) for name in node.input}
    source, start, alive = graph.input[0].name, 0, set()
    for place, node in enumerate(nodes):
        alive = {name for name in (*alive, *node.output) if last_read.get(name, -1) > place}
        readers = [other.op_type for other in nodes if node.output[0] in other.input]
        linear = node.op_type in ("Add", "Conv") and not set(readers) & set(ACTIVATIONS)
        if (len(alive) == 1 and linear) or place == len(nodes) - 1:
            yield Block(tuple(nodes[start : place + 1]), source, node.output[0])
            source, start = node.output[0], place + 1


class Reconstruction:
    """The constants as AdaRound left them, and as they become."""

    def __init__(self, quantized: QuantizedModel, arguments: argparse.Namespace) -> None:
        assert quantized.reference is not None
        assert quantized.parameters is not None
        self.quantized, self.arguments = quantized, arguments
        self.floats = constants_of(quantized.reference.to_proto())
        self.now = constants_of(quantized.model.to_proto())
        self.layers = {layer.node.name: layer for layer in weight_layers(quantized.model, quantized.weight_sites)[0]}

    def all(self, samples: torch.Tensor) -> None:
        source = aim = samples
        for block in blocks_of(self.quantized.model.to_proto().graph):
            expected, before = block.whole(aim, self.floats), dict(self.now)
            old = block.error(source, expected, self.now)
            getattr(self, self.arguments.search)(block, source, expected)
            new = block.error(source, expected, self.now)
            if new >= old:
                self.now = before
            print(f"  {block.result}: {old:.5f} -> {new:.5f}", flush=True)
            source, aim = block.whole(source, self.now), expected

    def descent(self, block: Block, source: torch.Tensor, aim: torch.Tensor) -> None:
        for _ in range(self.arguments.rounds):
            for node in block.nodes:
                if node.name in self.layers and len(node.input) > 2:
                    self.step(self.layers[node.name], node, block, source, aim)

    def step(
        self, layer: WeightLayer, node: onnx.NodeProto, block: Block, source: torch.Tensor, aim: torch.Tensor
    ) -> None:
        """A Gauss-Newton step on one layer, whose curvature is taken for (E[J²] of each output) · (E[x xᵀ])."""
        moments, slopes, curvature = self.seen(layer, node, block, source, aim)
        weight = layer.matrix(self.now[node.input[1]].numpy().astype(np.float64))
        pull, bias_pull = layer.matrix(slopes[0]), slopes[1].reshape(layer.groups, -1, 1)
        second = damped(moments.second(centred=True), DAMPING)
        ahead = np.linalg.solve(second, (pull - bias_pull * moments.mean[:, None]).swapaxes(1, 2)).swapaxes(1, 2)
        curve = np.maximum(curvature, 1e-3 * curvature.mean()).reshape(bias_pull.shape)
        parameters = self.quantized.parameters[layer.site]
        least = block.error(source, aim, self.now)
        for share in SHARES:
            target = weight - share * ahead / curve
            problem = Problem(layer, weight, target, second, parameters)
            codes = descended(problem, second, problem.plain(), sweeps=20)
            values = moved(problem, Rounded(codes, parameters), np.dtype(np.float32))
            if values is None:
                continue
            change = layer.matrix(values.astype(np.float64)) - weight
            shift = share * bias_pull / curve + change @ moments.mean[:, :, None]
            bias = self.now[node.input[2]].numpy() - shift.ravel()
            trial = {node.input[1]: torch.from_numpy(values), node.input[2]: torch.from_numpy(bias.astype(np.float32))}
            if block.error(source, aim, self.now | trial) < least:
                self.now |= trial
                return

    def seen(
        self, layer: WeightLayer, node: onnx.NodeProto, block: Block, source: torch.Tensor, aim: torch.Tensor
    ) -> tuple[Moments, list[Array], Array]:
        """Moments of the layer's inputs; slopes of the error in weight and bias; E[J²], by random signs."""
        moments = Moments(layer.groups, layer.inputs)
        slopes, curvature = [np.zeros(tuple(self.now[name].shape)) for name in node.input[1:3]], np.zeros(layer.outputs)
        for part, expected in zip(source.split(AT_ONCE), aim.split(AT_ONCE), strict=True):
            own = {name: self.now[name].clone().requires_grad_() for name in node.input[1:3]}
            values = block.run(part, self.now | own)
            found, inner = values[block.result], values[node.output[0]]
            missed = (found - expected).detach()
            each_slope = torch.autograd.grad(found, own.values(), missed, retain_graph=True)
            for total, each in zip(slopes, each_slope, strict=True):
                total += each.numpy()
            signs = torch.randint(0, 2, found.shape) * 2.0 - 1
            (slope,) = torch.autograd.grad(found, inner, signs)
            curvature += slope.square().transpose(0, 1).flatten(1).sum(1).numpy()
            for image in values[node.input[0]].detach().numpy():
                for rows in layer.rows(image[None]):
                    moments.update(rows)
        return moments, [each / moments.rows for each in slopes], curvature / moments.rows

    def gradient(self, block: Block, source: torch.Tensor, aim: torch.Tensor) -> None:
        chosen = [node for node in block.nodes if node.name in self.layers]
        rounding = {node.input[1]: Rounding(self, node) for node in chosen}
        if not rounding:
            return
        names = [node.input[2] for node in chosen if len(node.input) > 2]
        biases = {name: self.now[name].clone().requires_grad_() for name in names}
        groups = [{"params": [each.hidden], "lr": self.arguments.rate} for each in rounding.values()]
        groups += [{"params": [each], "lr": 1e-3 * float(each.detach().std())} for each in biases.values()]
        adam, count = torch.optim.Adam(groups), sum(each.hidden.numel() for each in rounding.values())
        usual = (block.whole(source, self.now) - aim).square().mean()
        for iteration in range(self.arguments.iterations):
            some = torch.randperm(len(source))[: self.arguments.batch]
            own = {name: each.weight(each.up()) for name, each in rounding.items()}
            found = block.run(source[some], self.now | own | biases)[block.result]
            loss = (found - aim[some]).square().mean() / usual
            beta = beta_at(iteration, self.arguments.iterations)
            loss = loss + sum((1 - (2 * each.up() - 1).abs() ** beta).sum() for each in rounding.values()) / count
            adam.zero_grad()
            loss.backward()
            adam.step()
        self.now |= {name: each.weight((each.up() >= 0.5).float()).detach() for name, each in rounding.items()}
        self.now |= {name: each.detach() for name, each in biases.items()}

    def result(self) -> QuantizedModel:
        model = self.quantized.model.copy()
        values = model.tensors()
        for name, value in self.now.items():
            if name in values and not torch.equal(value, self.floats[name]):
                values[name]._values = constant(name, value.numpy())._values
        return replace(self.quantized, model=model)


class Rounding:
    """The rounding variables of one layer: between AdaRound's code and the one beyond the float weight."""

    def __init__(self, run: Reconstruction, node: onnx.NodeProto) -> None:
        layer = run.layers[node.name]
        weight = layer.matrix(run.floats[node.input[1]].numpy().astype(np.float64))
        parameters = run.quantized.parameters[layer.site]
        problem = Problem(layer, weight, weight, np.zeros((layer.groups, 1, 1)), parameters)
        self.scale, zero_point = (self.tensor(layer, each) for each in problem.steps())
        self.low, self.high = layer.site.format.qmin - zero_point, layer.site.format.qmax - zero_point
        code, ideal = (run.now[node.input[1]] / self.scale).round(), run.floats[node.input[1]] / self.scale
        self.floor = torch.where(ideal < code, code - 1, code)
        up = ((ideal - self.floor).clamp(0.01, 0.99) + (code - self.floor)) / 2
        self.hidden = (-torch.log((ZETA - GAMMA) / (up - GAMMA) - 1)).requires_grad_()

    @staticmethod
    def tensor(layer: WeightLayer, matrix: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(layer.tensor(matrix)).astype(np.float32))

    def up(self) -> torch.Tensor:
        return (torch.sigmoid(self.hidden) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def weight(self, up: torch.Tensor) -> torch.Tensor:
        return (self.floor + up).clamp(self.low, self.high) * self.scale


def constants_of(model: onnx.ModelProto) -> Values:
    return {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in model.graph.initializer}


def row(name: str, quantized: QuantizedModel, arrays: Feed, expected: Array, seconds: float) -> str:
    found = outputs(quantized.to_onnx().SerializeToString(), arrays)
    sqnr = 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())
    agree = (found.argmax(-1) == expected.argmax(-1)).mean()
    return f"| {name} | {sqnr:.2f} | {agree:.3f} | {accuracy(found, arrays.get('labels')):.4f} | {seconds:.0f} |"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "evaluation"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--preset", default="w4a8")
    parser.add_argument("--search", choices=["descent", "gradient"], default="descent")
    for name, default in {"samples": 64, "rounds": 1, "iterations": 500, "batch": 16, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=0.01)
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parsed()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    (name,) = (value.name for value in session(str(arguments.model)).get_inputs())
    samples = np.load(arguments.calibration)[name][: arguments.samples]
    arrays = dict(np.load(arguments.evaluation))
    expected = outputs(str(arguments.model), arrays)
    config = qx.QuantConfig(preset=arguments.preset, keep_slow=True, recipe=["adaround"])
    started = time.perf_counter()
    feeds = [{name: sample[None]} for sample in samples]
    quantized = qx.quantize(arguments.model, feeds, target="onnxruntime", config=config, threads=arguments.threads)
    print("| algorithm | SQNR dB | agreement | accuracy | seconds |", "|---" * 5 + "|", sep="\n")
    print(row("adaround", quantized, arrays, expected, time.perf_counter() - started), flush=True)
    started, run = time.perf_counter(), Reconstruction(quantized, arguments)
    run.all(torch.from_numpy(samples))
    print(row(f"blocks, {arguments.search}", run.result(), arrays, expected, time.perf_counter() - started))


if __name__ == "__main__":
    main()
