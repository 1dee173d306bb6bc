"""Bodies of control flow as torch exports them, and those of Silero VAD: quantized, and near float.

The networks are those of benchmarks/control_flow.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import quantonnx as qx
from quantonnx.summary import pairs

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

# pairs on activations and quantized weights for onnxruntime, and least dB
EXPECTED = {"loop": (3, 3, 30.0), "cond": (7, 4, 30.0), "while": (1, 1, 30.0), "silero": (20, 12, 18.0)}


@pytest.mark.real
@pytest.mark.parametrize("name", EXPECTED)
def test_networks_with_control_flow_stay_near_float(name: str) -> None:
    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{name} is built with {package}, which is not installed")
    import control_flow
    import torch
    from package_download import Unavailable

    torch.manual_seed(0)
    try:
        model, feeds = control_flow.NETWORKS[name](np.random.default_rng(0))
    except Unavailable as reason:
        pytest.skip(f"{name}: {reason}")
    done = qx.quantize(model, feeds[:64], target="onnxruntime", config=qx.QuantConfig(keep_slow=True))
    activations, weights, least = EXPECTED[name]
    assert pairs(done) == {"activation": activations, "weight": weights}
    proto = done.to_onnx()
    for optimize in (False, True):
        assert control_flow.sqnr(model, proto, feeds[-16:], optimize=optimize) > least
