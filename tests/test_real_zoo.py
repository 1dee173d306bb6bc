"""Placement does not depend on the exporter: both exports of one network get the same sites, compared by structure.

benchmarks/zoo_sites.py compares all networks of the zoo; these are small ones that TorchScript and dynamo write very
differently. Built once in the folder QUANTONNX_CACHE, else in that of benchmarks/fetch_models.py.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from fetch_models import DEFAULT_CACHE  # noqa: E402  (scripts, not a package)
from package_download import Unavailable  # noqa: E402
from zoo_sites import TARGETS, compare  # noqa: E402

CACHE = Path(os.environ.get("QUANTONNX_CACHE", DEFAULT_CACHE))
# what each is there for: chunk as Slice or Split and a head of many joins; channel shuffles of computed shapes and the
# mean that dynamo flattens; attention with a scale on q, and convolutions without a bias that does anything
NETWORKS = {
    "yolo": ("torch", "onnxscript"),
    "shufflenet_v2_x1_0": ("torch", "torchvision", "onnxscript"),
    "whisper": ("torch", "transformers", "onnxscript"),
}


@pytest.mark.real
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_both_exports_get_the_same_sites(name: str, target: str) -> None:
    for package in NETWORKS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{name} is built with {package}, which is not installed (see benchmarks/zoo.py)")
    try:
        ts, dynamo = compare(name, target, CACHE)
    except Unavailable as reason:
        pytest.skip(f"{name}: {reason}")
    assert ts.count(activation=True) > 0
    assert ts.count(activation=False) > 0
    assert {str(site): number for site, number in (ts.sites - dynamo.sites).items()} == {}
    assert {str(site): number for site, number in (dynamo.sites - ts.sites).items()} == {}
