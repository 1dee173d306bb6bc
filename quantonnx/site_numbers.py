"""Scale and zero point of every site: activations from statistics, weights from values, biases from both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from quantonnx.calibration.methods import Method, RangeMethod
from quantonnx.calibration.ranges import choose_range
from quantonnx.calibration.statistics import TensorStatistics
from quantonnx.calibration.weight_ranges import least_error_range
from quantonnx.errors import CalibrationError, ConfigError
from quantonnx.formats import Parameters, ScaleType, TensorFormat
from quantonnx.insertion import INT32_MAX
from quantonnx.method_choice import FALLBACK
from quantonnx.model import Model
from quantonnx.ranging import Ranging
from quantonnx.sites import Site

Key = tuple[str, TensorFormat, Ranging]


class SiteNumbers:
    """The numbers of sites as they are found: `parameters` by site, `ranges` by the tensor that samples showed.

    `automatic` finds ranges where the method is `auto`; `constants` are numbers of constants that were found before,
    and takes up those that are found.
    """

    def __init__(
        self,
        model: Model,
        statistics: Mapping[str, TensorStatistics],
        automatic: RangeMethod = FALLBACK,
        constants: dict[Site, Parameters] | None = None,
    ) -> None:
        self.model = model
        self.automatic = automatic
        self._constants: dict[Site, Parameters] = {} if constants is None else constants
        self.statistics = statistics
        self.tensors = model.tensors()
        self.parameters: dict[Site, Parameters] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self._found: dict[tuple[str, TensorFormat, Ranging], tuple[float, float]] = {}
        self._by_key: dict[Key, Site] = {}

    @classmethod
    def of(cls, model: Model, parameters: Mapping[Site, Parameters]) -> SiteNumbers:
        """Returns the numbers that sites have already."""
        numbers = cls(model, {})
        for site, found in parameters.items():
            numbers._keep(site, found)
        return numbers

    def activation(self, site: Site) -> None:
        """Chooses a range, or takes what the user fixed."""
        self._keep(site, self._fixed(site) or site.format.parameters(*self._range(site), site.float_type))

    def constant(self, site: Site) -> None:
        """Takes the range of the values, or that of least error, per channel or group where the format says so."""
        if site not in self._constants:
            self._constants[site] = self._fixed(site) or self._of_values(site)
        self._keep(site, self._constants[site])

    def widen_for_bias(self, site: Site) -> None:
        """Raises the scale of weight channels so far that the bias fits into int32; only near-dead ones need it."""
        weight, needed = self.least_for_bias(site)
        numbers = self.parameters[weight]
        if np.any(needed > numbers.scale):
            self.parameters[weight] = Parameters(raised(numbers.scale, needed, weight.format), numbers.zero_point)

    def least_for_bias(self, site: Site) -> tuple[Site, np.ndarray[Any, Any]]:
        """Returns the site of the weight beside a bias, and the least scales with which the bias fits into int32."""
        activation, weight = self._origins(site)
        least = np.abs(self._values(site).astype(np.float64)) / (float(activation.scale) * (INT32_MAX // 2))
        return weight, least if self.parameters[weight].scale.ndim else least.max(initial=0.0)

    def bias(self, site: Site) -> None:
        """Gives the bias the product of the two scales, zero point 0."""
        activation, weight = self._origins(site)
        size = self.tensors[site.tensor].shape[0]
        scale = np.asarray(activation.scale * self.parameters[weight].scale, np.float32)
        self.parameters[site] = Parameters(np.broadcast_to(scale, (size,)).copy(), np.zeros(size, np.int32))

    def _of_values(self, site: Site) -> Parameters:
        low, high = site.ranging.range or self._extent(site)
        least = low + np.float32(site.ranging.min_range or 0)
        return site.format.parameters(low, np.maximum(high, least), site.float_type)

    def _extent(self, site: Site) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        values = self._values(site)
        if site.ranging.method.kind is Method.MSE:
            return least_error_range(values, site.format)
        return site.format.extremes(values)

    def _keep(self, site: Site, numbers: Parameters) -> None:
        self.parameters[site] = numbers
        self._by_key.setdefault((site.tensor, site.format, site.ranging), site)

    def _origins(self, site: Site) -> tuple[Parameters, Site]:
        assert site.derived_from is not None
        origin = site.derived_from
        activation = self._by_key[origin.activation, origin.activation_format, origin.activation_ranging]
        weight = self._by_key[origin.weight, origin.weight_format, origin.weight_ranging]
        return self.parameters[activation], weight

    def _range(self, site: Site) -> tuple[float, float]:
        key = (site.source, site.format, site.ranging)
        if key not in self._found:
            self._found[key] = site.ranging.widened(*self._chosen(site))
        self.ranges.setdefault(site.source, self._found[key])
        return self._found[key]

    def _chosen(self, site: Site) -> tuple[float, float]:
        if site.ranging.range is not None:
            return site.ranging.range
        if site.source not in self.statistics:
            raise CalibrationError(f"{site.source!r} saw no data", "check that the samples reach it")
        method = site.ranging.method
        method = self.automatic if method.kind is Method.AUTO else method
        return choose_range(self.statistics[site.source], method, site.format)

    def _values(self, site: Site) -> np.ndarray[Any, Any]:
        value: gs.Constant = self.tensors[site.tensor]
        values = self.model.array(value)
        if not np.isfinite(values).all():
            raise CalibrationError(f"{site.tensor!r} holds NaN or infinity", "mend the model, or exclude its operator")
        return values

    def _fixed(self, site: Site) -> Parameters | None:
        if site.ranging.scale is None:
            return None
        where, fmt = site.rules[-1] if site.rules else site.source, site.format
        scale, zero_point = np.asarray(site.ranging.scale, np.float64), np.asarray(site.ranging.zero_point or 0)
        self._check_shape(site, where, scale, zero_point)
        if fmt.float8 and zero_point.any():
            raise ConfigError(f"{where}: {site.tensor!r} has a zero point, and float8 has none", "leave it out")
        if not fmt.float8 and not ((fmt.qmin <= zero_point) & (zero_point <= fmt.qmax)).all():
            found = f"{where}: {site.tensor!r} has zero point {site.ranging.zero_point}"
            raise ConfigError(found, f"its codes are {fmt.qmin} to {fmt.qmax}")
        if fmt.symmetric and fmt.signed and zero_point.any():
            found = f"{where}: {site.tensor!r} has zero point {site.ranging.zero_point}, its format is symmetric"
            raise ConfigError(found, "use 0")
        with np.errstate(over="ignore"):
            stored = scale.astype(site.float_type)
        if not ((stored > 0) & (stored < np.inf)).all():
            lost = f"{where}: {site.tensor!r} has scale {site.ranging.scale}, which {site.float_type} cannot hold"
            raise ConfigError(lost, "give another one")
        return Parameters(stored, np.broadcast_to(zero_point, scale.shape).astype(fmt.dtype))

    def _check_shape(
        self, site: Site, where: str, scale: np.ndarray[Any, Any], zero_point: np.ndarray[Any, Any]
    ) -> None:
        fmt, shape = site.format, self.tensors[site.tensor].shape
        if fmt.group_size:
            raise ConfigError(f"{where}: {site.tensor!r} has scales per group", "say `per_channel` beside `scale`")
        wanted = () if fmt.axis is None else (shape[fmt.axis],)
        if scale.shape not in ((), wanted) or (fmt.axis is None and scale.shape):
            expected = f"expected {wanted[0]} numbers" if wanted else "expected one number"
            raise ConfigError(f"{where}: {site.tensor!r} has {scale.size} scales", expected)
        if zero_point.shape not in ((), scale.shape):
            expected = f"expected one, or {scale.size}" if scale.shape else "expected one"
            raise ConfigError(f"{where}: {site.tensor!r} has {zero_point.size} zero points", expected)


def raised(scale: np.ndarray[Any, Any], least: np.ndarray[Any, Any], fmt: TensorFormat) -> np.ndarray[Any, Any]:
    """Returns scales of the same kind, where `least` is more the next greater ones."""
    if fmt.scale_type is ScaleType.POWER_OF_TWO:
        least = np.exp2(np.ceil(np.log2(np.maximum(least, np.finfo(np.float32).tiny))))
    elif fmt.scale_type is ScaleType.FLOAT16:
        least = np.nextafter(least.astype(np.float16), np.float16(np.inf)).astype(np.float32)
    return np.asarray(np.maximum(scale, least), np.float32)
