"""A small network as exporters write it, with the scopes of its modules in the names of its nodes or in metadata."""

from __future__ import annotations

import numpy as np
import onnx
from models import parse

from quantonnx.calibrating import calibrate
from quantonnx.config import QuantConfig
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import transform
from quantonnx.sites import Site

NET = (
    "agraph (float[1,16,16,16] x) => (float[1,8] y) <float[16,16,3,3] w1, float[16] b1, float[16,16,3,3] w2, "
    "float[16] b2, float[16,32] v1, float[32] d1, float[32,8] v2, float[8] d2> { "
    "c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) r1 = Relu(c1) c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2) a = Add(c2, x) "
    "p = GlobalAveragePool(a) f = Flatten(p) m = MatMul(f, v1) h = Add(m, d1) s = Softmax(h) y = Gemm(s, v2, d2) }"
)
MODULES = {
    "c1": ("block", "conv1", "Conv2d"),
    "r1": ("block", "relu", "ReLU"),
    "c2": ("block", "conv2", "Conv2d"),
    "a": ("block", "", "Block"),
    "p": ("", "pool", "AdaptiveAvgPool2d"),
    "f": ("", "", "Net"),
    "m": ("head", "fc1", "Linear"),
    "h": ("head", "fc1", "Linear"),
    "s": ("head", "softmax", "Softmax"),
    "y": ("head", "fc2", "Linear"),
}


def net(*, dynamo: bool = False) -> onnx.ModelProto:
    """Returns the network: `block` holds conv1, relu and conv2, `head` holds fc1, softmax and fc2."""
    model = parse(NET)
    for node in model.graph.node:
        outer, inner, kind = MODULES[node.output[0]]
        path = [part for part in (outer, inner) if part]
        if dynamo:
            names = ["", *(".".join(path[: i + 1]) for i in range(len(path))), node.output[0]]
            classes = [
                "test.Net",
                *(["test.Block"] if outer else []),
                *([f"torch.nn.modules.x.{kind}"] if inner else []),
            ]
            _describe(node, "pkg.torch.onnx.name_scopes", names)
            _describe(node, "pkg.torch.onnx.class_hierarchy", [*classes, f"aten.{node.op_type.lower()}.default"])
            node.name = f"node_{node.output[0]}"
        else:
            node.name = "/" + "/".join([*path, node.op_type])
    return model


def _describe(node: onnx.NodeProto, key: str, values: list[str]) -> None:
    entry = node.metadata_props.add()
    entry.key, entry.value = key, repr(values)


def placed(config: QuantConfig, target: str = "onnxruntime", *, dynamo: bool = False) -> QuantizedModel:
    """Returns the network with its pairs; nothing is left in float for being slow."""
    fused = transform(net(dynamo=dynamo), target=target)
    return insert_qdq(fused.model, fused.matches, config.model_copy(update={"keep_slow": True}))


def calibrated(quantized: QuantizedModel) -> onnx.ModelProto:
    """Returns the written model."""
    rng = np.random.default_rng(3)
    samples = [{"x": rng.normal(size=(1, 16, 16, 16)).astype(np.float32)} for _ in range(2)]
    return calibrate(quantized, samples).to_onnx()


def on(quantized: QuantizedModel, tensor: str) -> Site:
    """Returns the only site on a tensor."""
    (found,) = [site for site in quantized.sites if site.tensor == tensor]
    return found


def stands(quantized: QuantizedModel) -> set[str]:
    """Returns the tensors with a pair."""
    return {site.tensor for site in quantized.sites}
