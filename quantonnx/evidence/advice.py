"""From the worst group to something to try: what in it loses most, and the setting that is about that."""

from __future__ import annotations

from quantonnx.evidence.findings import Evidence, GroupEvidence, SiteEvidence

_MOSTLY = 0.5
_PEAKED = 20.0
_LITTLE = 0.05


def worst_site(evidence: Evidence, group: GroupEvidence) -> SiteEvidence | None:
    """Returns the pair or the constant of a group that is to blame; None where none of them is known.

    Where it was not measured, it is the one with the largest error of its own, biases aside: one in int32 has the
    product of two scales, and what it loses is their doing.
    """
    own = [site for site in evidence.sites if site.tensor in group.sites and _belongs(site, group)]
    if group.blame:
        return max(own, key=lambda site: group.blame.get(site.tensor, 0.0), default=None)
    own = [site for site in own if site.role != "bias"] or own
    return max(own, key=lambda site: site.errors.relative, default=None)


def release(evidence: Evidence, group: GroupEvidence) -> tuple[str, ...]:
    """Returns the names to exclude so that what a group loses most by goes: its own, and those of the groups for whose
    sake the pair to blame would stay."""
    site = worst_site(evidence, group)
    if site is None or site.tensor not in group.kept:
        return (group.name,)
    others = (other for other in evidence.groups if other is not group)
    if site.tensor == group.tensor:
        return (group.name, *(other.name for other in others if site.tensor in other.sites))
    return (group.name, *(other.name for other in others if other.tensor == site.tensor))


def advice(evidence: Evidence, group: GroupEvidence) -> str:
    """Returns in one line what to try for a group: the setting that its worst pair calls for, and how to release it."""
    names = " ".join(f"--exclude {name!r}" for name in release(evidence, group))
    released = f"{names} {'keeps it' if names.count('--exclude') == 1 else 'keep both sides of that'} in float"
    site = worst_site(evidence, group)
    if site is None or group.blame.get(site.tensor, 1.0) < _LITTLE:
        return released
    blame = f" ({group.blame[site.tensor]:.0%} of its noise)" if site.tensor in group.blame else ""
    return f"{_cause(site, blame)}; {released}"


def _belongs(site: SiteEvidence, group: GroupEvidence) -> bool:
    return site.tensor == group.tensor or site.role == "output" or not set(site.readers).isdisjoint(group.nodes)


def _cause(site: SiteEvidence, blame: str) -> str:
    name = f"{site.role} {site.tensor!r}{blame}"
    if site.role in ("weight", "bias"):
        if site.channels == 1 and site.role == "weight":
            return f"{name} has one scale for all channels: try per_channel, or more bits"
        return f"{name} is rounded to {site.errors.sqnr_db:.1f} dB: try a recipe for weights, or more bits"
    if site.clipping > _MOSTLY:
        return f"{name} is clipped, which makes {site.clipping:.0%} of its noise: try minmax for it"
    if site.peak > _PEAKED:
        return f"{name} has few values that are much larger than all others: try smooth_quant, 16 bits or percentile"
    return f"{name} is rounded to {site.errors.sqnr_db:.1f} dB: try 16 bits there"
