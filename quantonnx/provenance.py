"""What made a file, in its own metadata: the tool, and digests of the float model, the configuration and the data.

No times and no paths: the same model, configuration and data give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantonnx.calibration.collected import DataSource
from quantonnx.calibration.methods import Method, RangeMethod
from quantonnx.config import QuantConfig
from quantonnx.formats import Rounding
from quantonnx.sites import Site
from quantonnx.version import version_of

PREFIX = "quantonnx."


@dataclass(frozen=True)
class Fact:
    """One entry of a file's provenance, for a person to read."""

    name: str
    text: str


def describe(
    model: str,
    *,
    target: str | None = None,
    config: QuantConfig | None = None,
    sites: Iterable[Site] = (),
    data: Sequence[DataSource] = (),
    automatic: RangeMethod | None = None,
    trained: bool = False,
) -> dict[str, str]:
    """Returns the metadata of a file that was made from a float model, whose digest is `model`.

    `quantonnx.version`, `.target`, `.model_sha256`, `.config` (canonical JSON of what differs from the defaults) and
    `.config_sha256`; with `sites` the `.method` of ranges that samples showed, and the `.seed` of random rounding; with
    `data` its numbers of samples and digests, in JSON; `.trained` where training changed weights or scales after that.
    """
    sites = list(sites)
    said = None if config is None else canonical(config.model_dump(mode="json", exclude_defaults=True))
    found = {
        "version": version_of(),
        "target": target,
        "model_sha256": model,
        "config": said,
        "config_sha256": None if said is None else hashlib.sha256(said.encode()).hexdigest(),
        "data": described_data(data),
        "method": ", ".join(methods(sites, automatic)),
        "seed": ", ".join(seeds(sites)),
        "trained": "with fake quantization" if trained else None,
    }
    return {f"{PREFIX}{name}": value for name, value in found.items() if value}


def describe_recalibration(
    metadata: Mapping[str, str], model: str, *, method: str, data: Sequence[DataSource]
) -> dict[str, str]:
    """Returns the metadata of a Q/DQ file with new numbers: what it said, the new method and data, and the digest
    `model` of the file that had the old ones."""
    found = {"version": version_of(), "recalibrated_sha256": model, "data": described_data(data), "method": method}
    return {**metadata, **{f"{PREFIX}{name}": value for name, value in found.items()}}


def provenance(metadata: Mapping[str, str]) -> dict[str, str]:
    """Returns what a file says about its making, by key without the prefix."""
    return {key.removeprefix(PREFIX): metadata[key] for key in sorted(metadata) if key.startswith(PREFIX)}


def facts(found: Mapping[str, str]) -> list[Fact]:
    """Returns a file's provenance in the words of a person; keys that are not known are shown as they are."""
    rest = {name: text for name, text in found.items() if name not in ("version", "target", "config_sha256")}
    made_by = f"quantonnx {found.get('version', '?')}"
    if "target" in found:
        made_by += f" for {found['target']}"
    shown = [Fact("made by", made_by)] if found else []
    return shown + [Fact(_WORDS.get(name, name), _readable(name, text)) for name, text in rest.items()]


_WORDS = {
    "model_sha256": "float model",
    "recalibrated_sha256": "numbers before",
    "config": "configuration",
    "data": "calibrated on",
    "method": "method",
    "seed": "seed",
    "trained": "trained",
}


def canonical(value: Any) -> str:
    """Returns the JSON of a value in its one canonical form: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def described_data(data: Sequence[DataSource]) -> str:
    """Returns numbers of samples and digests as JSON, without the names that the data had; "" for none."""
    return canonical([{"samples": source.samples, "sha256": source.digest} for source in data]) if data else ""


def methods(sites: Iterable[Site], automatic: RangeMethod | None = None) -> list[str]:
    """Returns the calibration methods of activations that samples gave a range, in alphabetical order.

    `automatic` is the one that was taken where the method is `auto`.
    """
    found = {site.ranging.method for site in sites if site.on_activation and site.ranging.needs_samples}
    return sorted({str(automatic if automatic and each.kind is Method.AUTO else each) for each in found})


def seeds(sites: Iterable[Site]) -> list[str]:
    """Returns the seeds of stochastic rounding, in their order."""
    formats = (site.format for site in sites if site.format.rounding is Rounding.STOCHASTIC)
    return [str(seed) for seed in sorted({fmt.seed for fmt in formats})]


def _readable(name: str, text: str) -> str:
    if name.endswith("sha256"):
        return f"SHA-256 {text}"
    if name == "data":
        try:
            return "; ".join(f"{part['samples']} samples, SHA-256 {part['sha256']}" for part in json.loads(text))
        except (ValueError, TypeError, KeyError):
            return text
    return text
