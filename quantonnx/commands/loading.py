"""Whether a written file runs, and whether two files may be loaded at once within a memory limit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantonnx.commands.running import Run

MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        metavar="SIZE",
        help="Memory that this process may take, such as 4GB: what does not fit runs in parts, activations on disk.",
        rich_help_panel="Samples",
    ),
]


def load(run: Run, path: Path, memory_limit: int | None = None) -> None:
    """Loads a written model in ONNX Runtime, so that a file that does not run is never handed over in silence."""
    from quantonnx.calibration.loading import LARGEST_REARRANGED
    from quantonnx.calibration.running import check_loads
    from quantonnx.model_files import file_size

    with run.stage("load", "load") as stage:
        parts = check_loads(path, memory_limit, bounded=file_size(path) > LARGEST_REARRANGED)
        stage.detail = "ONNX Runtime takes the file" + (f", in {parts} parts" if parts > 1 else "")


def fit_together(run: Run, exact: Path, rough: Path, memory_limit: int) -> bool:
    """True where both models may be loaded at once; where not, a line says that layers and times are not measured."""
    from quantonnx.calibration.parts import in_one_piece
    from quantonnx.memory import in_words, room
    from quantonnx.model import Model

    needed, left = sum(in_one_piece(Model.read(path)) for path in (exact, rough)), room(memory_limit)
    if needed > left:
        run.note(
            f"layers and times are not measured: both models at once need about {in_words(needed)}, and the memory "
            f"limit leaves {in_words(left)}"
        )
    return needed <= left
