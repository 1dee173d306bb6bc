"""Layers that give a tensor the values of its codes, so that training sees what the quantized file will compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantonnx.formats import Parameters, TensorFormat
from quantonnx.rounding import Rounding, random_numbers
from quantonnx.sites import Site
from quantonnx.torch.arithmetic import fake_quantized, learned_quantized, steps_of
from quantonnx.torch.range_arithmetic import grouped, ungrouped
from quantonnx.torch.training_numbers import DynamicNumbers, FollowingNumbers, LearnedNumbers, Numbers

AnyNumbers = Numbers | FollowingNumbers | DynamicNumbers
Array = np.ndarray[Any, Any]


class FakeQuantize(nn.Module):
    """Quantizes and dequantizes a tensor with the arithmetic of `quantonnx.formats`, bit for bit.

    It computes in float32, under autocast too, and returns the type that it was given. The gradient passes where a
    value is not clipped. While `observing` and in training mode, a layer with `tracks` shows its tensor to `numbers`;
    without `enabled` the tensor passes as it is. Both are in the state_dict. A weight that is rounded stochastically
    takes the random numbers that its codes in the file are made with: those of `seed`, `name` and `shape`.
    """

    random: Tensor | None

    def __init__(
        self,
        fmt: TensorFormat,
        numbers: AnyNumbers,
        *,
        tracks: bool = False,
        batched: bool = True,
        name: str = "",
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.format, self.numbers, self.tracks, self.batched, self.name = fmt, numbers, tracks, batched, name
        self.enabled, self.observing = True, False
        self._steps = steps_of(fmt)
        random = None
        if fmt.rounding is Rounding.STOCHASTIC:
            random = self._grouped(torch.from_numpy(random_numbers(shape, fmt.seed, name)))
        self.register_buffer("random", random, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` as its codes stand for it, in its own type."""
        tracking = self.observing and self.tracks and self.training and isinstance(self.numbers, Numbers)
        if not self.enabled and not tracking:
            return x
        values = self._grouped(x.to(torch.float32))
        if tracking and isinstance(self.numbers, Numbers):
            self.numbers.observe(values)
        if not self.enabled:
            return x
        result = self._quantized(values)
        if self.format.group_size is not None:
            result = ungrouped(result, self.format, x.shape[self.format.axis or 0])
        return result.to(x.dtype)

    def parameters_of(self, values: Tensor | None = None) -> Parameters:
        """Returns scale and zero point as a file has them; a weight that its numbers follow gives its `values`.

        Raises TypeError for numbers that are found at run time.
        """
        if isinstance(self.numbers, DynamicNumbers):
            raise TypeError(f"{self.name!r} is dynamic, its numbers are found at run time")
        scale, zero_point = self.current(values)
        float_type = str(self.numbers.kind.dtype).removeprefix("torch.")
        return Parameters(
            scale.detach().cpu().numpy().astype(float_type),
            zero_point.detach().cpu().numpy().astype(self.format.dtype),
        )

    @torch.no_grad()
    def current(self, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns scale and zero point as tensors in the shape of `Parameters`; `values` as in `parameters_of`."""
        assert not isinstance(self.numbers, DynamicNumbers)
        if isinstance(self.numbers, Numbers):
            return self.numbers.current()
        assert values is not None
        return self.numbers.of(self._grouped(values.to(torch.float32)))

    def get_extra_state(self) -> Tensor:
        """Returns the two switches, as a tensor so that every kind of checkpoint can hold them."""
        return torch.tensor([self.enabled, self.observing])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the switches from a checkpoint."""
        self.enabled, self.observing = (bool(part) for part in state)

    def extra_repr(self) -> str:
        """Returns what `print(module)` shows."""
        fmt = self.format
        kind = "float8" if fmt.float8 else f"{'' if fmt.signed else 'u'}int{fmt.n_bits}"
        return f"{self.name!r}, {kind}" if self.name else kind

    def _quantized(self, values: Tensor) -> Tensor:
        scale, zero_point = self.numbers(values)
        if isinstance(self.numbers, LearnedNumbers):
            return learned_quantized(values, scale, zero_point, self._steps, self.random, batched=self.batched)
        return fake_quantized(values, scale, zero_point, self._steps, self.random)

    def _grouped(self, x: Tensor) -> Tensor:
        return x if self.format.group_size is None else grouped(x, self.format)


def fake_quantizers(
    sites: Iterable[Site],
    parameters: Mapping[Site, Parameters] | None,
    weights: Mapping[str, Array],
    *,
    learn_scales: bool = False,
    follow_weights: bool = True,
    averaging: float | None = 0.01,
) -> dict[Site, FakeQuantize]:
    """Returns the layer of each site, but for biases that take the product of two scales.

    `weights` are the constants with a site, by tensor. With `learn_scales`, scales (and asymmetric zero points) become
    parameters, but for those that the user fixed. Otherwise those of a weight follow its values, or with
    `follow_weights` off stay what calibration found; `averaging` is the weight of the newest range where the ranges of
    activations are observed, None keeps their extremes. Sites that take the range of one tensor share their numbers.
    """
    maker = _Maker(parameters or {}, weights, learn_scales, follow_weights, averaging)
    wanted = [site for site in sites if site.derived_from is None]
    own = {site.source for site in wanted if site.on_activation and site.source == site.tensor}
    return {site: maker.layer(site, tracks=site.tensor == site.source or site.source not in own) for site in wanted}


class _Maker:
    def __init__(
        self,
        parameters: Mapping[Site, Parameters],
        weights: Mapping[str, Array],
        learn: bool,
        follow: bool,
        averaging: float | None,
    ) -> None:
        self.parameters, self.weights = parameters, weights
        self.learn, self.follow, self.averaging = learn, follow, averaging
        self.shared: dict[object, AnyNumbers] = {}

    def layer(self, site: Site, *, tracks: bool) -> FakeQuantize:
        """Returns the layer of a site; on one tensor, format and way to numbers the numbers are the same object."""
        if not site.on_activation:
            values = torch.as_tensor(np.require(self.weights[site.tensor], requirements="W"))
            shape = tuple(values.shape)
            return FakeQuantize(
                site.format, self._of_weight(site, values), batched=False, name=site.tensor, shape=shape
            )
        key = (site.source, site.format, site.ranging, site.float_type)
        if key not in self.shared:
            self.shared[key] = self._of_activation(site)
        return FakeQuantize(site.format, self.shared[key], tracks=tracks, name=site.tensor)

    def _of_activation(self, site: Site) -> AnyNumbers:
        return DynamicNumbers() if site.ranging.dynamic else self._numbers(site)

    def _of_weight(self, site: Site, values: Tensor) -> AnyNumbers:
        start = self.parameters.get(site) or site.format.parameters(*site.format.extremes(values.cpu().numpy()))
        if self.learn or not self.follow or _is_fixed(site):
            return self._numbers(site, start)
        return FollowingNumbers(site.format, start, values, float_type=site.float_type)

    def _numbers(self, site: Site, start: Parameters | None = None) -> Numbers:
        fixed = _is_fixed(site)
        kind = LearnedNumbers if self.learn and not fixed else Numbers
        return kind(
            site.format,
            start or self.parameters.get(site),
            averaging=self.averaging,
            least=site.ranging.min_range or 0.0,
            fixed=fixed,
            float_type=site.float_type,
        )


def _is_fixed(site: Site) -> bool:
    """True for numbers that the user gave: neither learned nor tracked."""
    return site.ranging.scale is not None or site.ranging.range is not None
