"""A report of one quantization: what was done and why, where accuracy is lost, as one page that opens offline.

`facts` has what a report says, `gathering` finds it, `histograms`, `channel_ranges` and `changes` make it small,
`page` and `writing` put it into files.
"""

from __future__ import annotations

from quantonnx.report.facts import Facts
from quantonnx.report.files import gather_file_facts, observe_files
from quantonnx.report.gathering import gather_facts, observe
from quantonnx.report.highlights import highlights
from quantonnx.report.recipe import recipe_changes
from quantonnx.report.writing import check_report, write_report

__all__ = [
    "Facts",
    "check_report",
    "gather_facts",
    "gather_file_facts",
    "highlights",
    "observe",
    "observe_files",
    "recipe_changes",
    "write_report",
]
