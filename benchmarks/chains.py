"""Chains of equal blocks, as long as one wants: of a convolutional network, and of a transformer as PyTorch's older
exporter writes it, with Constant nodes, shape arithmetic, and layer norm and GELU taken apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, WIDTH, TOKENS, HEADS = 2, 8, 4, 2

Block = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def cnn(nodes: int) -> onnx.ModelProto:
    """Returns blocks of ten nodes: Conv with BN and Relu, a residual Add, SiLU, Identity."""
    return _chain(nodes, [1, CHANNELS, 4, 4], _convolutions)


def transformer(nodes: int) -> onnx.ModelProto:
    """Returns blocks of 72 nodes: layer norm, attention between reshaped heads, a residual Add, a GELU."""
    return _chain(nodes, ["batch", TOKENS, WIDTH], _attention)


KINDS = {"cnn": cnn, "transformer": transformer}

ASKED = {"cnn": ("Conv_c2", "r1"), "transformer": ("MatMul_q1", "gelu")}
"""A node and a tensor of each block to ask about."""


def _chain(
    nodes: int, shape: list[int | str], block: Callable[[str, str, np.random.Generator], Block]
) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    body: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = "x"
    while len(body) < nodes:
        prefix = f"block{len(body)}."
        more, its_weights = block(value, prefix, rng)
        body += more
        weights += its_weights
        value = f"{prefix}out"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", value)]
    graph = helper.make_graph(body, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class _Writer:
    """Nodes of one block; names of its own values get the prefix of the block, `>` stands for what enters it."""

    def __init__(self, entry: str, prefix: str) -> None:
        self.entry, self.prefix = entry, prefix
        self.nodes: list[onnx.NodeProto] = []

    def node(self, op: str, inputs: str, output: str, **attributes: object) -> None:
        names = [self.entry if name == ">" else self.prefix + name for name in inputs.split()]
        name = f"{self.prefix}{op}_{output}"
        self.nodes.append(helper.make_node(op, names, [self.prefix + output], name=name, **attributes))

    def constant(self, output: str, value: float | int | list[int]) -> None:
        kind = np.float32 if isinstance(value, float) else np.int64
        self.node("Constant", "", output, value=numpy_helper.from_array(np.asarray(value, kind)))


def _convolutions(entry: str, prefix: str, rng: np.random.Generator) -> Block:
    write = _Writer(entry, prefix)
    write.node("Conv", "> w1", "c1")
    write.node("BatchNormalization", "c1 gamma beta mean variance", "n1")
    write.node("Relu", "n1", "r1")
    write.node("Conv", "r1 w2", "c2")
    write.node("Add", "c2 >", "a")
    write.node("Relu", "a", "r2")
    write.node("Conv", "r2 w3", "c3")
    write.node("Sigmoid", "c3", "s")
    write.node("Mul", "s c3", "m")
    write.node("Identity", "m", "out")
    weights = [_random(prefix + name, rng, CHANNELS, CHANNELS, 1, 1) for name in ("w1", "w2", "w3")]
    weights += [_random(prefix + name, rng, CHANNELS) for name in ("gamma", "beta", "mean", "variance")]
    return write.nodes, weights


def _attention(entry: str, prefix: str, rng: np.random.Generator) -> Block:
    write = _Writer(entry, prefix)
    _layer_norm(write)
    for head in "qkv":
        _projection(write, head, [0, 2, 3, 1] if head == "k" else [0, 2, 1, 3])
    write.constant("root", float(np.sqrt(WIDTH / HEADS)))
    write.node("MatMul", "q k", "product")
    write.node("Div", "product root", "scaled")
    write.node("Softmax", "scaled", "softmax", axis=-1)
    write.node("MatMul", "softmax v", "heads")
    write.node("Transpose", "heads", "joined", perm=[0, 2, 1, 3])
    _reshape(write, "joined", "flat", [TOKENS, WIDTH])
    write.node("MatMul", "flat wo", "o1")
    write.node("Add", "bo o1", "o")
    write.node("Add", "> o", "residual")
    _gelu(write)
    weights = [_random(prefix + name, rng, WIDTH, WIDTH) for name in ("wq", "wk", "wv", "wo", "wh")]
    weights += [_random(prefix + name, rng, WIDTH) for name in ("bq", "bk", "bv", "bo", "bh", "gamma", "beta")]
    return write.nodes, weights


def _layer_norm(write: _Writer) -> None:
    write.constant("two", 2.0)
    write.constant("epsilon", 1e-5)
    write.node("ReduceMean", ">", "average", axes=[-1])
    write.node("Sub", "> average", "centered")
    write.node("Pow", "centered two", "square")
    write.node("ReduceMean", "square", "variance", axes=[-1])
    write.node("Add", "variance epsilon", "positive")
    write.node("Sqrt", "positive", "deviation")
    write.node("Div", "centered deviation", "normal")
    write.node("Mul", "normal gamma", "stretched")
    write.node("Add", "stretched beta", "norm")


def _projection(write: _Writer, head: str, perm: list[int]) -> None:
    write.node("MatMul", f"norm w{head}", f"{head}1")
    write.node("Add", f"b{head} {head}1", f"{head}2")
    _reshape(write, f"{head}2", f"{head}3", [TOKENS, HEADS, WIDTH // HEADS])
    write.node("Transpose", f"{head}3", head, perm=perm)


def _reshape(write: _Writer, value: str, result: str, sizes: list[int]) -> None:
    """The batch is asked for, the other sizes are put behind it."""
    write.constant(f"{result}_index", 0)
    write.constant(f"{result}_axis", [0])
    write.constant(f"{result}_sizes", sizes)
    write.node("Shape", value, f"{result}_shape")
    write.node("Gather", f"{result}_shape {result}_index", f"{result}_size", axis=0)
    write.node("Unsqueeze", f"{result}_size {result}_axis", f"{result}_batch")
    write.node("Concat", f"{result}_batch {result}_sizes", f"{result}_to", axis=0)
    write.node("Reshape", f"{value} {result}_to", result)


def _gelu(write: _Writer) -> None:
    for name, value in (("sqrt2", float(np.sqrt(2))), ("one", 1.0), ("half", 0.5)):
        write.constant(name, value)
    write.node("MatMul", "residual wh", "h1")
    write.node("Add", "bh h1", "h")
    write.node("Div", "h sqrt2", "g1")
    write.node("Erf", "g1", "g2")
    write.node("Add", "g2 one", "g3")
    write.node("Mul", "h g3", "g4")
    write.node("Mul", "g4 half", "gelu")
    write.node("Add", "residual gelu", "out")


def _random(name: str, rng: np.random.Generator, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(rng.uniform(0.5, 1.5, shape).astype(np.float32), name)
