"""From the worst group to something to try: what in it loses most, and the setting that is about that."""

from __future__ import annotations

from quantonnx.evidence.findings import Evidence, GroupEvidence, SiteEvidence

_MOSTLY = 0.5
_FEW_STEPS = 3.0
_NEARLY_EXACT = 1e-6


def worst_site(evidence: Evidence, group: GroupEvidence) -> SiteEvidence | None:
    """Returns the pair or the constant of a group that loses most; None where none of them is known."""
    own = [site for site in evidence.sites if site.tensor in group.sites and _belongs(site, group)]
    return max(own, key=lambda site: site.errors.relative, default=None)


def advice(evidence: Evidence, group: GroupEvidence) -> str:
    """Returns in one line what to try for a group: the setting that its worst pair calls for, and how to release it."""
    release = f"--exclude {group.name!r} keeps it in float"
    site = worst_site(evidence, group)
    if site is None or site.errors.relative < _NEARLY_EXACT:
        return release
    return f"{_cause(site)}; {release}"


def _belongs(site: SiteEvidence, group: GroupEvidence) -> bool:
    return site.tensor == group.tensor or site.role == "output" or not set(site.readers).isdisjoint(group.nodes)


def _cause(site: SiteEvidence) -> str:
    name = f"{site.role} {site.tensor!r}"
    if site.role in ("weight", "bias"):
        if site.channels == 1:
            return f"its {name} has one scale for all channels: try per_channel, or more bits"
        return f"its {name} loses most ({site.errors.sqnr_db:.1f} dB): try a recipe for weights, or more bits"
    if site.clipping > _MOSTLY:
        return f"{site.clipping:.0%} of the noise of its {name} is clipping: try --method minmax"
    if site.step_rms < _FEW_STEPS:
        return (
            f"its {name} has a few large values, the others are {site.step_rms:.1f} steps: try --method percentile, "
            "smoothing, or 16 bits"
        )
    return f"its {name} loses most ({site.errors.sqnr_db:.1f} dB): try 16 bits there"
