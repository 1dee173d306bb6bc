"""The three lines that matter: what became of the model, how near it is to float, and what loses most."""

from __future__ import annotations

from quantonnx.evidence import advice
from quantonnx.report.facts import Facts
from quantonnx.tallying import Comparison


def highlights(facts: Facts) -> tuple[str, str, str]:
    """Returns the three lines, each of which stands for itself."""
    return _made(facts), _near(facts), _worst(facts)


def _made(facts: Facts) -> str:
    matched = [group for group in facts.groups if group.state != "operator"]
    integer = sum(group.state == "integer" for group in matched)
    pairs = sum(site.kind == "activation" for site in facts.sites)
    constants = f"{pairs} pairs and {len(facts.sites) - pairs} quantized constants"
    parts = [f"{integer} of {len(matched)} groups run on integers ({facts.target})" if matched else constants]
    if facts.sizes is not None and facts.sizes[1]:
        parts.append(f"{facts.sizes[0] / facts.sizes[1]:.1f} times smaller")
    if facts.speed is not None and facts.speed.ratio:
        ratio = facts.speed.ratio
        parts.append(f"{1 / ratio:.2f} times as fast" if ratio <= 1 else f"{ratio:.2f} times slower")
    return ", ".join(parts)


def _near(facts: Facts) -> str:
    if facts.comparison is not None:
        return _compared(facts.comparison)
    if facts.evidence is None or not facts.evidence.outputs:
        return "accuracy was not measured: give samples (--eval-data)"
    name, errors = max(facts.evidence.outputs.items(), key=lambda found: found[1].relative)
    return f"worst output {name!r}: {errors.sqnr_db:.1f} dB SQNR against float, on {facts.evidence.samples} samples"


def _compared(comparison: Comparison) -> str:
    name = min(comparison.outputs, key=lambda output: comparison.outputs[output].sqnr_db, default="")
    parts = [f"worst output {name!r}: {comparison.sqnr_db:.1f} dB SQNR against float"]
    if comparison.agreement is not None:
        parts.append(f"top-1 agreement {100 * comparison.agreement:.1f} %")
    if comparison.accuracy is not None and comparison.float_accuracy is not None:
        parts.append(f"accuracy {100 * comparison.float_accuracy:.1f} % to {100 * comparison.accuracy:.1f} %")
    return f"{', '.join(parts)}, on {comparison.samples} samples"


def _worst(facts: Facts) -> str:
    if facts.evidence is None or not facts.evidence.groups:
        return "no group was measured"
    group = facts.evidence.groups[0]
    if not group.isolated.noise:
        return "no group changes its values"
    at = group.at_output
    alone = "" if at is None else f"{at.sqnr_db:.1f} dB at the outputs where only it is quantized, "
    told = f"{alone}{group.share:.0%} of all noise there"
    return f"worst group: {group.pattern} {group.name!r} ({told}): {advice(facts.evidence, group)}"
