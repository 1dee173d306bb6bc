"""Where a quantized model loses accuracy: errors of every matched group and every pair, in one pass over the data."""

from __future__ import annotations

from quantonnx.evidence.advice import advice, release, worst_site
from quantonnx.evidence.collecting import collect_evidence
from quantonnx.evidence.files import compare_layers
from quantonnx.evidence.findings import Errors, Evidence, GroupEvidence, SiteEvidence

__all__ = [
    "Errors",
    "Evidence",
    "GroupEvidence",
    "SiteEvidence",
    "advice",
    "collect_evidence",
    "compare_layers",
    "release",
    "worst_site",
]
