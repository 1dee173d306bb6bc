"""Whether a written file runs, and whether two files may be loaded at once within a memory limit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.running import Run

if TYPE_CHECKING:
    from quantonnx.model import Model

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
    from quantonnx.inspecting import file_size

    with run.stage("load", "load") as stage:
        parts = check_loads(path, memory_limit, bounded=file_size(path) > LARGEST_REARRANGED)
        stage.detail = "ONNX Runtime takes the file" + (f", in {parts} parts" if parts > 1 else "")


def tell_parts(run: Run, model: Model, memory_limit: int | None) -> None:
    """Says that a model is going to run in parts, and what it would take not to."""
    from quantonnx.calibration.parts import in_one_piece
    from quantonnx.memory import in_words, room

    needed = 0 if memory_limit is None else in_one_piece(model)
    if memory_limit is not None and needed > room(memory_limit):
        run.note(
            f"the model takes about {in_words(needed)} of memory in one piece: within {in_words(memory_limit)} it runs "
            f"in parts, and activations wait in {tempfile.gettempdir()!r}"
        )


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
