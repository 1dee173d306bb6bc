from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
from torch_gradient_cases import GRADIENTS, NO_GRADIENT, GradientCase  # noqa: E402
from torch_layer_gradients import LAYERS, NO_LAYER_GRADIENT  # noqa: E402
from torch_node_cases import node_cases, outcome  # noqa: E402

from quantonnx.errors import ModelError  # noqa: E402
from quantonnx.torch import from_onnx  # noqa: E402
from quantonnx.torch.nesting import ADDERS  # noqa: E402
from quantonnx.torch.operators import (  # noqa: E402
    OPERATORS,
    activation,
    attention,
    conversion,
    convolution,
    elementwise,
    generating,
    indexing,
    linear,
    losses,
    normalization,
    padding,
    pooling,
    recurrent,
    reductions,
    regions,
    resizing,
    sampling,
    shaping,
    spectral,
)

torch.set_num_threads(1)
ort.set_default_logger_severity(4)
SAMPLE = 2
PLAIN = (elementwise, conversion, reductions, shaping, indexing, generating)
NETWORK = (activation, attention, convolution, linear, losses, normalization, padding, pooling, recurrent, resizing)
CHECKED = (*PLAIN, *NETWORK, regions, sampling, spectral)
WITHOUT = NO_GRADIENT | NO_LAYER_GRADIENT


def run(model: onnx.ModelProto, feeds: dict) -> list:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def failures(cases) -> dict[str, str]:
    outcomes = {case.name: outcome(case) for case in cases}
    return {name: told for name, told in outcomes.items() if told and not told.startswith(("refused", "known"))}


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_results_are_those_of_the_node_tests(operator):
    cases = node_cases().get(operator, [])
    assert not failures(cases[:: max(1, len(cases) // SAMPLE)])


@pytest.mark.real
def test_results_are_those_of_all_node_tests():
    cases = [case for cases in node_cases(everything=True).values() for case in cases]
    assert not failures(cases)
    passed = [case for case in cases if not outcome(case)]
    assert len(passed) > 1300


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in [*GRADIENTS, *LAYERS]])
def test_gradients_are_those_of_finite_differences(case: GradientCase):
    module = from_onnx(case.model()).double()
    assert torch.autograd.gradcheck(module, case.inputs(), fast_mode=True)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in [*GRADIENTS, *LAYERS]])
def test_results_are_those_of_onnxruntime(case: GradientCase):
    expected = run(case.model(), {name: value.detach().float().numpy() for name, value in case.named().items()})
    found = from_onnx(case.model())(**{name: value.detach().float() for name, value in case.named().items()})
    for one, other in zip(expected, found if isinstance(found, tuple) else (found,), strict=True):
        torch.testing.assert_close(other.detach(), torch.from_numpy(one), rtol=1e-4, atol=1e-5)


def test_nothing_is_made_on_another_device_or_read_back_from_it():
    read = set()
    for case in [*GRADIENTS, *LAYERS][::4]:
        try:
            from_onnx(case.model()).to("meta")(*(value.detach().float().to("meta") for value in case.inputs()))
        except (RuntimeError, NotImplementedError):
            read.add(case.operator)
    assert read <= {"Compress", "MaxRoiPool", "RoiAlign"}  # how many results the first has, its input says


@pytest.mark.parametrize("family", CHECKED, ids=lambda family: family.__name__.rsplit(".")[-1])
def test_every_operator_with_a_gradient_is_checked(family):
    assert {case.operator for case in [*GRADIENTS, *LAYERS]} | WITHOUT >= family.OPERATORS.keys()


def test_all_operators_without_a_translation_are_told_at_once():
    text = """<ir_version: 8, opset_import: ["": 20, "own": 1]>
    two (float[2,2] x) => (float d, float[2,2] y) { d = own.Other (x) y = own.Thing (x) z = own.Thing (y) }"""
    with pytest.raises(ModelError, match=r"no translation for own\.Other at 1 node.*own\.Thing at 2 node"):
        from_onnx(onnx.parser.parse_model(text))


def test_the_table_of_operators_is_whole():
    text = (Path(__file__).parents[1] / "docs" / "torch_operators.md").read_text()
    table = text[text.index("## Operators") :]
    told = {row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ")} - {"operator"}
    assert told == {*OPERATORS, *ADDERS, "BatchNormalization", "Constant", "Shape", "Size"}
