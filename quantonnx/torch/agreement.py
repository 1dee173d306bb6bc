"""Does an exported file give what its module gave: run by ONNX Runtime on the example, and at other batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantonnx.calibration.loading import open_session
from quantonnx.errors import ModelError, said
from quantonnx.model import Model
from quantonnx.torch.dtypes import to_numpy
from quantonnx.torch.examples import Example, Trial

Array = NDArray[Any]

TOLERANCES = {"float16": 2e-2}
"""How far outputs may be apart, of their largest value, in types other than those of `TOLERANCE`."""
TOLERANCE = 1e-4


def require_agreement(model: Model, example: Example, tolerance: float | None = None) -> float:
    """Returns the largest deviation, of an output's largest value. Raises ModelError where one is over the tolerance.

    Of outputs that are not real numbers it is the share of elements that differ.
    """
    session = open_session(model)
    known = {value.name for value in session.get_inputs()}
    worst = 0.0
    for trial in example.trials:
        feed = {name: array for name, array in example.feed(trial.call).items() if name in known}
        try:
            found = session.run(None, feed)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise ModelError(f"ONNX Runtime cannot run the file{_at(trial)}: {said(error)[:300]}") from error
        if len(found) != len(trial.results):
            raise ModelError(f"the file has {len(found)} outputs, the module returns {', '.join(trial.results)}")
        for (name, tensor), array in zip(trial.results.items(), found, strict=True):
            worst = max(worst, _checked(name, to_numpy(tensor), array, tolerance, _at(trial)))
    return worst


def _at(trial: Trial) -> str:
    return f" on {trial.rows} samples" if trial.rows else ""


def _checked(name: str, expected: Array, found: Array, tolerance: float | None, at: str) -> float:
    allowed = TOLERANCES.get(expected.dtype.name, TOLERANCE) if tolerance is None else tolerance
    if found.shape != expected.shape:
        raise ModelError(
            f"output {name!r} has shape {list(found.shape)}{at}, that of the module {list(expected.shape)}"
        )
    apart = deviation(expected, found)
    if not apart <= allowed:
        raise ModelError(f"output {name!r} deviates from the module's by {apart:.2g}{at}, allowed is {allowed:g}")
    return apart


def deviation(expected: Array, found: Array) -> float:
    """Returns the largest difference over the largest value, or, of integers, the share of elements that differ."""
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind != "f":
        return float((expected != found).mean())
    exact, rough = expected.astype(np.float64), found.astype(np.float64)
    same = (exact == rough) | (np.isnan(exact) & np.isnan(rough))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(exact - rough))
    if not np.isfinite(apart).all():
        return float("inf")
    largest = np.abs(exact[np.isfinite(exact)]).max(initial=0.0)
    return float(apart.max() / largest) if apart.max() else 0.0
