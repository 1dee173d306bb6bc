"""The picture in the README: one residual block of the demo network, in float and as two targets will get it.

python benchmarks/draw_readme.py [--out docs/placement.svg]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
from onnx.utils import Extractor

from quantonnx.demo import model_path
from quantonnx.drawing import draw_before_after

FIRST, LAST = "/stem/stem.3/MaxPool_output_0", "/blocks/blocks.0/relu_1/Relu_output_0"
TARGETS = ("tensorrt", "onnxruntime")


def block() -> onnx.ModelProto:
    """Returns the first residual block, its input called x and its output y."""
    model = onnx.shape_inference.infer_shapes(onnx.load(model_path()))
    part = Extractor(model).extract_model([FIRST], [LAST])
    names = {FIRST: "x", LAST: "y"}
    for node in part.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for value in (*part.graph.input, *part.graph.output):
        value.name = names[value.name]
    return part


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "placement.svg")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(draw_before_after(block(), TARGETS), encoding="utf-8")
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
