"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from quantonnx.decisions import Decision
from quantonnx.printable import printable
from quantonnx.quantized import QuantizedModel
from quantonnx.speed import Speed
from quantonnx.summary import grouped, left_in_float, pattern_counts, site_format, told_by_algorithms
from quantonnx.tallying import Comparison

_SHOWN_NAMES = 3


def table(title: str, *columns: str, rows: Iterable[Iterable[object]], numbers: Iterable[int] = ()) -> Table:
    """Returns a table; `numbers` are the columns to align at the right."""
    made = Table(title=title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    made.show_header = any(columns)
    right = set(numbers)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(printable(str(cell))) for cell in row))
    return made


def placed(quantized: QuantizedModel) -> Table:
    """Returns how often each pattern was applied, with its pairs."""
    rows = [(row.pattern, row.applied, row.activations, row.weights) for row in pattern_counts(quantized)]
    total = ("total", *(sum(row[i] for row in rows) for i in (1, 2, 3)))  # type: ignore[misc]  # columns of numbers
    return table("Placed", "pattern", "applied", "activation pairs", "weights", rows=[*rows, total], numbers=(1, 2, 3))


def sites(quantized: QuantizedModel) -> Table:
    """Returns every site, one a row."""
    rows = [(site.tensor, site_format(site), site.reason) for site in quantized.sites]
    return table("Pairs", "tensor", "format", "why", rows=rows)


def in_float(quantized: QuantizedModel, *, every: bool = False) -> Table | None:
    """Returns what stays in float, by reason or (`every`) by name; None where there is nothing."""
    decisions = left_in_float(quantized)
    if not decisions:
        return None
    if every:
        return table("Left in float", "where", "why", rows=[(decision.name, decision.reason) for decision in decisions])
    return reasons("Left in float", decisions)


def told(quantized: QuantizedModel, *, every: bool = False) -> Table | None:
    """Returns what the steps of the recipe and the calibration tell, by reason or (`every`) by name, or None."""
    decisions = told_by_algorithms(quantized)
    if not decisions:
        return None
    if every:
        return table("Algorithms", "where", "what", rows=[(decision.name, decision.reason) for decision in decisions])
    return reasons("Algorithms", decisions)


def reasons(title: str, decisions: Iterable[Decision]) -> Table:
    """Returns decisions grouped by reason, with a few names each."""
    rows = [(len(group.names), group.reason, some(group.names)) for group in grouped(decisions)]
    return table(title, "count", "why", "where", rows=rows, numbers=(0,))


def some(names: tuple[str, ...]) -> str:
    """Returns the first few of many names."""
    return ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")


def compared(comparison: Comparison) -> Table:
    """Returns how near each output is to the float model's."""
    rows = [
        (name, f"{output.sqnr_db:.1f}", f"{output.cosine:.5f}", f"{output.max_abs:.4g}", percent(output.agreement))
        for name, output in comparison.outputs.items()
    ]
    title = f"Against float, {comparison.samples} samples"
    return table(
        title, "output", "SQNR dB", "cosine", "max |difference|", "top-1 agreement", rows=rows, numbers=(1, 2, 3, 4)
    )


def before_and_after(sizes: tuple[int, int], comparison: Comparison | None, speed: Speed | None) -> Table:
    """Returns size, accuracy and time of both models."""
    rows: list[tuple[str, ...]] = [("size", *(megabytes(size) for size in sizes), f"{sizes[1] / sizes[0]:.2f}×")]
    if comparison is not None and comparison.accuracy is not None and comparison.float_accuracy is not None:
        change = comparison.accuracy - comparison.float_accuracy
        rows.append(
            (
                "accuracy",
                percent(comparison.float_accuracy),
                percent(comparison.accuracy),
                f"{100 * change:+.1f} points",
            )
        )
    if speed is not None:
        rows.append(
            (
                f"time of one run, {speed.threads} thread{'s' * (speed.threads > 1)}",
                f"{speed.float_ms:.3g} ms",
                f"{speed.quantized_ms:.3g} ms",
                f"{speed.ratio:.2f}×",
            )
        )
    return table("Before and after", "", "float", "quantized", "", rows=rows, numbers=(1, 2, 3))


def fine_tuned(before: Comparison, after: Comparison) -> Table:
    """Returns what training was worth."""
    figures: list[tuple[str, str, str, str]] = [
        ("SQNR", "", f"{before.sqnr_db:.1f} dB", f"{after.sqnr_db:.1f} dB"),
        ("top-1 agreement", "", percent(before.agreement), percent(after.agreement)),
        ("accuracy", percent(after.float_accuracy), percent(before.accuracy), percent(after.accuracy)),
    ]
    rows = [row for row in figures if row[3] != percent(None)]
    return table("Training", "", "float", "quantized", "fine-tuned", rows=rows, numbers=(1, 2, 3))


def percent(share: float | None) -> str:
    """Returns a share as a percentage, or a dash for None."""
    return "–" if share is None else f"{100 * share:.1f} %"


def megabytes(size: int) -> str:
    """Returns a number of bytes in MB (10⁶), or kB where it is small."""
    return f"{size / 1e6:.2f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
