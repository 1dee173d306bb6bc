"""The node tests that ONNX itself brings: one model for each way to use an operator, with inputs and outputs.

The default run leaves out the modules that take long to make their cases.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from quantonnx.errors import ModelError
from quantonnx.torch import from_onnx
from quantonnx.torch.dtypes import to_torch
from quantonnx.torch.node import Unsupported

SLOW = frozenset(
    {"affinegrid", "attention", "averagepool", "causal_conv_with_state", "flexattention", "image_decoder"}
    | {"linear_attention", "lppool", "maxpool", "negativeloglikelihoodloss", "softmax_cross_entropy_loss"}
)
BY_CHANCE = ("bernoulli", "training_dropout")

UNLIKE = {
    "test_maxunpool_export_with_output_shape": "the data disagree with what the operator's text says",
    "test_resize_downsample_scales_cubic_align_corners": "ONNX Runtime gives what the module gives",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime gives what the module gives",
}
"""Cases that fail, each with its reason."""


@dataclass(frozen=True)
class Case:
    """One model with its data; `operator` is that of its only node, or "" where it has several."""

    name: str
    operator: str
    model: onnx.ModelProto
    data_sets: list[tuple[list[Any], list[Any]]]


@cache
def node_cases(*, everything: bool = False) -> dict[str, list[Case]]:
    """Returns the cases by operator; those of several nodes are under ""."""
    from onnx.backend.test.case import node as package

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(package.__path__):
            if everything or module.name not in SLOW:
                importlib.import_module(f"{package.__name__}.{module.name}")
    found: dict[str, list[Case]] = defaultdict(list)
    for case in package._NodeTestCases:
        nodes = case.model.graph.node
        operator = f"{nodes[0].domain}.{nodes[0].op_type}".lstrip(".") if len(nodes) == 1 else ""
        found[operator].append(Case(case.name, operator, case.model, case.data_sets))
    return found


def outcome(case: Case) -> str:
    """Returns "" where the module computes what the case expects, else what is different, or why it is refused."""
    if case.name in UNLIKE:
        return f"known: {UNLIKE[case.name]}"
    try:
        module = from_onnx(case.model)
        for inputs, outputs in case.data_sets:
            given = module(*map(_tensor, inputs))
            results = given if isinstance(given, tuple) else (given,)
            for expected, found in zip(map(_tensor, outputs), results, strict=True):
                _compare(expected, found, by_chance=any(part in case.name for part in BY_CHANCE))
    except (ModelError, Unsupported) as error:
        return f"refused: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, list) or value is None:
        raise Unsupported("a sequence or nothing as a value")
    return to_torch(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value))


def _compare(expected: torch.Tensor, found: torch.Tensor, *, by_chance: bool) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if by_chance:
        return
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(expected.dtype, 1e-3)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance / 10, equal_nan=True)
