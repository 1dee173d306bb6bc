"""Writes a report: report.html and report.json, each whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from quantonnx.errors import OutputError
from quantonnx.placing import into_place
from quantonnx.printable import json_text
from quantonnx.report.facts import Facts
from quantonnx.report.highlights import highlights
from quantonnx.report.page import page, requirements_missing

PAGE, DATA = "report.html", "report.json"


def write_report(folder: str | os.PathLike[str], facts: Facts) -> Path:
    """Writes both files into a folder, which is made where it does not exist, and returns the page's path.

    Files of an earlier report are replaced. Raises OutputError where plotly or jinja2 is not installed, or where the
    folder cannot be written.
    """
    check_report(folder)
    content = {"highlights": list(highlights(facts)), **facts.to_dict()}
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {str(target)!r}: {error.strerror}", "name another one") from error
    html, data = target / PAGE, target / DATA
    with into_place(data, html, force=True, sources=frozenset()) as (data_part, html_part):
        text = json_text(content, allow_nan=False, separators=(",", ":"))
        data_part.write_text(text + "\n", encoding="utf-8", errors="replace")
        html_part.write_text(page(content, facts.picture), encoding="utf-8", errors="replace")
    return html


def check_report(folder: str | os.PathLike[str]) -> None:
    """Raises OutputError, before any work, where a report cannot be written."""
    missing = requirements_missing()
    if missing:
        raise OutputError(f"a report needs {' and '.join(missing)}", "pip install 'quantonnx[report]'")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise OutputError(f"{str(Path(folder))!r} is no folder", "name a folder for the report")
