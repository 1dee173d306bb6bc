"""Where a quantized model loses accuracy: errors of every matched group and every pair, in one pass over the data."""

from __future__ import annotations

from quantonnx.evidence.collecting import collect_evidence
from quantonnx.evidence.findings import Errors, Evidence, GroupEvidence, SiteEvidence

__all__ = ["Errors", "Evidence", "GroupEvidence", "SiteEvidence", "collect_evidence"]
