from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from quantonnx.errors import ConfigError  # noqa: E402
from quantonnx.formats import TensorFormat  # noqa: E402
from quantonnx.torch.batch_norm import BatchNormalization  # noqa: E402
from quantonnx.torch.fake_quantization import FakeQuantize  # noqa: E402
from quantonnx.torch.schedule import (  # noqa: E402
    QatSchedule,
    disable_fake_quant,
    disable_observer,
    enable_fake_quant,
    enable_observer,
    freeze_bn_stats,
    unfreeze_bn_stats,
)
from quantonnx.torch.training_numbers import Numbers  # noqa: E402


def pair() -> FakeQuantize:
    fmt = TensorFormat(signed=False, symmetric=False)
    return FakeQuantize(fmt, Numbers(fmt, fmt.parameters(-1.0, 1.0)), tracks=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(pair(), nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), pair()))


def pairs(module) -> list[FakeQuantize]:
    return [layer for layer in module.modules() if isinstance(layer, FakeQuantize)]


def statistics(module):
    return {name: value.clone() for name, value in module.named_buffers() if "running" in name}


def test_the_four_switches_reach_every_layer():
    module = network()
    for switch, name, expected in (
        (disable_fake_quant, "enabled", False),
        (enable_fake_quant, "enabled", True),
        (enable_observer, "observing", True),
        (disable_observer, "observing", False),
    ):
        switch(module)
        assert [getattr(layer, name) for layer in pairs(module)] == [expected, expected]


def test_frozen_statistics_stay_also_after_train():
    module, x = network(), torch.randn(4, 3, 5, 5)
    freeze_bn_stats(module)
    module.train()
    before = statistics(module)
    result = module(x)
    assert all(torch.equal(value, before[name]) for name, value in statistics(module).items())
    assert torch.equal(result, copy.deepcopy(module).train()(x))
    torch.testing.assert_close(result, module.eval()(x))
    unfreeze_bn_stats(module.train())
    module(x)
    assert not any(torch.equal(value, before[name]) for name, value in statistics(module).items() if "mean" in name)


def test_layers_of_onnx_graphs_freeze():
    layer = BatchNormalization(1e-5, 0.1)
    freeze_bn_stats(nn.Sequential(layer))
    assert layer.frozen
    unfreeze_bn_stats(layer)
    assert not layer.frozen


def test_a_schedule_switches_at_its_steps():
    module = network()
    schedule = QatSchedule(module, observer_steps=3, fake_quant_start=2, freeze_at=4)
    seen = []
    for _ in range(6):
        layer = pairs(module)[0]
        module.train()(torch.randn(2, 3, 4, 4))
        seen.append((layer.observing, layer.enabled, module[2][0].training))
        schedule.step()
    assert [observing for observing, _, _ in seen] == [True, True, True, False, False, False]
    assert [enabled for _, enabled, _ in seen] == [False, False, True, True, True, True]
    assert [training for _, _, training in seen] == [True, True, True, True, False, False]


def test_what_is_switched_by_hand_stays_until_the_next_number():
    module = network()
    schedule = QatSchedule(module, observer_steps=2)
    disable_fake_quant(module)
    schedule.step()
    assert not pairs(module)[0].enabled
    schedule.step()
    assert pairs(module)[0].enabled


def test_a_schedule_resumes():
    schedule = QatSchedule(network(), observer_steps=3, fake_quant_start=2, freeze_at=4)
    for _ in range(5):
        schedule.step()
    stored = io.BytesIO()
    torch.save(schedule.state_dict(), stored)
    stored.seek(0)
    module = network()
    resumed = QatSchedule(module, observer_steps=3, fake_quant_start=2, freeze_at=4)
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    assert resumed.steps == 5
    assert [(layer.observing, layer.enabled) for layer in pairs(module)] == [(False, True)] * 2
    assert not module[2][0].training


@pytest.mark.parametrize("wrong", [{"observer_steps": -1}, {"fake_quant_start": 1.5}, {"freeze_at": True}])
def test_a_number_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is .*; expected a number of steps"):
        QatSchedule(network(), **wrong)
