"""The table of peers.py: every row of every model, the best of other tools and where quantonnx stands."""

from __future__ import annotations

from collections.abc import Mapping

Row = Mapping[str, object]
OURS = "quantonnx default"
COLUMNS = ("model (float)", "tool", "SQNR dB", "agreement", "result", "time", "integer", "seconds")


def table(results: Mapping[str, Mapping[str, Row]]) -> str:
    """Return all rows as Markdown, the most accurate first, failures last; then one line for each model."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, rows in results.items():
        measured = [row for row, found in rows.items() if "error" not in found]
        measured.sort(key=lambda row: (is_float(rows[row]), -number(rows[row], "sqnr_db")))
        title = f"{name} ({number(rows[measured[0]], 'float'):.3f})" if measured else name
        for row in [*measured, *(row for row in rows if row not in measured)]:
            lines.append(f"| {title} | {bold(row)} | {cells(rows[row])} |")
            title = ""
    standings = [standing(name, rows) for name, rows in results.items()]
    return "\n".join([*lines, "", "Against the best of the others:", "", *filter(None, standings), ""])


LABELS = {"SQNR": "sqnr_db", "agreement": "agreement", "result": "metric"}


def bold(row: str) -> str:
    """Return a row's name; the product stands out."""
    return f"**{row.split()[0]}**" if row == OURS else row.removesuffix(" default")


def cells(row: Row) -> str:
    """Return what follows a row's name."""
    if "error" in row:
        return f"{str(row['error']).replace('|', '/')} | | | | | {number(row, 'seconds'):.0f}"
    share = row.get("integer")
    integer = f"{share:.0%}" if isinstance(share, float) else "–"
    ratio = f"{number(row, 'ratio'):.2f}" if "ratio" in row else ""
    if is_float(row):
        return f"left in float: no Q/DQ in the file | | | {ratio} | | {number(row, 'seconds'):.0f}"
    figures = f"{number(row, 'sqnr_db'):.2f} | {number(row, 'agreement'):.3f} | {number(row, 'metric'):.3f}"
    return f"{figures} | {ratio} | {integer} | {number(row, 'seconds'):.0f}"


def is_float(row: Row) -> bool:
    """Return whether a tool wrote its file without quantizing anything."""
    return row.get("quantizers") == 0


def number(row: Row, key: str) -> float:
    """Return a figure of a row, 0 if it has none."""
    value = row.get(key, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def standing(name: str, rows: Mapping[str, Row]) -> str:
    """Return how quantonnx compares on one model with the others that quantized something."""
    others = {row: found for row, found in rows.items() if row != OURS and "error" not in found and not is_float(found)}
    ours = rows.get(OURS, {})
    if not others or "sqnr_db" not in ours:
        return ""
    if is_float(ours):
        best = max(others, key=lambda row: number(others[row], "sqnr_db"))
        found = f"{best} has {number(others[best], 'sqnr_db'):.1f} dB"
        return f"- {name}: quantonnx leaves all in float; {found}; {fastest(ours, others)}"
    parts = [f"{label} {compared(ours, others, key)}" for label, key in LABELS.items()]
    return f"- {name}: {'; '.join([*parts, fastest(ours, others)])}"


def compared(ours: Row, others: Mapping[str, Row], key: str) -> str:
    """Return our figure, the verdict and the best other figure with its tool."""
    best = max(others, key=lambda row: number(others[row], key))
    mine, theirs = number(ours, key), number(others[best], key)
    digits = 1 if key == "sqnr_db" else 3
    verdict = "ties" if round(mine - theirs, digits) == 0 else "beats" if mine > theirs else "LOSES to"
    return f"{mine:.{digits}f} {verdict} {theirs:.{digits}f} ({best})"


def fastest(ours: Row, others: Mapping[str, Row]) -> str:
    """Return our time and that of the fastest other tool."""
    timed = [row for row in others if "ratio" in others[row]]
    if not timed:
        return "not timed yet"
    best = min(timed, key=lambda row: number(others[row], "ratio"))
    return f"time {number(ours, 'ratio'):.2f}, fastest other {number(others[best], 'ratio'):.2f} ({best})"
