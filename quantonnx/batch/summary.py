"""What became of every entry, for machines and for people: summary.json, summary.csv, and summary.html with links."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from quantonnx.batch.protocol import State
from quantonnx.batch.remote import joined, upload
from quantonnx.batch.running import REPORT, Item
from quantonnx.errors import OutputError, said
from quantonnx.placing import into_place
from quantonnx.version import version_of

COLUMNS = (
    "entry",
    "model",
    "target",
    "state",
    "seconds",
    "activation_pairs",
    "weights",
    "float_bytes",
    "bytes",
    "sqnr_db",
    "cosine",
    "agreement",
    "float_accuracy",
    "accuracy",
    "peak_rss_mb",
    "output",
    "report",
    "reason",
)
_MEASURED = ("sqnr_db", "cosine", "agreement", "float_accuracy", "accuracy")


def row(item: Item, out: Path) -> dict[str, Any]:
    """Returns what there is to say about an entry, by the names in COLUMNS; state is done, kept, failed or open."""
    outcome = item.outcome
    found: dict[str, Any] = {
        "entry": item.identity,
        "model": item.job.model,
        "target": item.entry.target,
        "state": state(item),
    }
    if outcome is None:
        return found
    found |= {"seconds": outcome.seconds, "reason": outcome.reason, "peak_rss_mb": outcome.result.get("peak_rss_mb")}
    if outcome.state is State.FAILED:
        return found
    report = str(Path(item.output).with_suffix(REPORT) / "report.html")
    pairs, sizes, metrics = (outcome.result.get(name) or {} for name in ("pairs", "bytes", "metrics"))
    return {
        **found,
        "activation_pairs": pairs.get("activation"),
        "weights": pairs.get("weight"),
        "float_bytes": sizes.get("float"),
        "bytes": sizes.get("quantized"),
        **{name: _finite(metrics.get(name)) for name in _MEASURED},
        "output": item.output,
        "report": report if outcome.result.get("reported") or (out / report).is_file() else None,
        "sha256": outcome.digest,
        "notes": list(outcome.result.get("notes") or ()),
    }


def state(item: Item) -> str:
    """Returns in a word what became of an entry."""
    if item.outcome is None:
        return "open"
    if item.failed:
        return "failed"
    return "kept" if item.kept else "done"


def counts(items: Iterable[Item]) -> dict[str, int]:
    """Returns how many entries were done, kept from before, failed, and are open."""
    found = dict.fromkeys(("done", "kept", "failed", "open"), 0)
    for item in items:
        found[state(item)] += 1
    return found


def write_summary(items: Sequence[Item], out: Path, storage: str = "") -> None:
    """Writes the three files, whole or not at all, and stores them behind a URL where there is one."""
    rows = [row(item, out) for item in items]
    content = {"command": "batch", "quantonnx": version_of(), "counts": counts(items), "entries": rows}
    texts = {
        "summary.json": json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n",
        "summary.csv": _csv(rows),
        "summary.html": _html(rows, counts(items)),
    }
    targets = [out / name for name in texts]
    with into_place(*targets, force=True, sources=frozenset()) as parts:
        for part, text in zip(parts, texts.values(), strict=True):
            part.write_text(text, encoding="utf-8", errors="replace")
    for target in targets if storage else ():
        try:
            upload(target, joined(storage, target.name))
        except Exception as error:  # every plugin has errors of its own
            told = said(error)[:300]
            raise OutputError(f"{joined(storage, target.name)} cannot be stored: {told}", f"it is in {out}") from error


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>quantonnx batch</title><style>
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #ccc; vertical-align: top; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
tr.failed {{ background: #fbe3e3; }}
</style></head><body><h1>quantonnx batch</h1><p>{counts}</p>
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></body></html>
"""
_HEADS = ("entry", "state", "time", "pairs", "weights", "size", "SQNR", "agreement", "accuracy", "what happened")


def _html(rows: Iterable[Mapping[str, Any]], found: Mapping[str, int]) -> str:
    head = "".join(f"<th>{name}</th>" for name in _HEADS)
    told = ", ".join(f"{number} {name}" for name, number in found.items() if number)
    return _PAGE.format(counts=told, head=head, body="\n".join(map(_html_row, rows)))


def _html_row(found: Mapping[str, Any]) -> str:
    name = escape(str(found["entry"]))
    if found.get("report"):
        name = f'<a href="{quote(found["report"])}">{name}</a>'
    numbers = (
        _shown(found.get("seconds"), "{:.1f} s"),
        _shown(found.get("activation_pairs"), "{}"),
        _shown(found.get("weights"), "{}"),
        _size(found),
        _shown(found.get("sqnr_db"), "{:.1f} dB"),
        _shown(found.get("agreement"), "{:.1%}"),
        _accuracy(found),
    )
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    told = escape("; ".join(filter(None, (found.get("reason"), *found.get("notes", ())))))
    return f'<tr class="{found["state"]}"><td>{name}</td><td>{found["state"]}</td>{cells}<td>{told}</td></tr>'


def _shown(value: Any, form: str) -> str:
    return "" if value is None else escape(form.format(value))


def _size(found: Mapping[str, Any]) -> str:
    before, after = found.get("float_bytes"), found.get("bytes")
    return "" if not before or after is None else f"{before / 1e6:.2f} → {after / 1e6:.2f} MB"


def _accuracy(found: Mapping[str, Any]) -> str:
    before, after = found.get("float_accuracy"), found.get("accuracy")
    return "" if before is None or after is None else f"{before:.1%} → {after:.1%}"
