"""Models that commands read and load: is it float still, does it run, do two of them fit into a memory limit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.running import Run
from quantonnx.errors import ModelError

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


def read_float(run: Run, path: Path) -> Model:
    """Reads a model; ModelError where it is quantized already."""
    from quantonnx.insertion import refuse_quantized
    from quantonnx.model import Model

    with run.stage("read", "read") as stage:
        model = Model.read(path)
        stage.detail = f"{path.name}, {len(model.graph.nodes)} operators"
    refuse_quantized(model, path.name)
    return model


def load(run: Run, path: Path, memory_limit: int | None = None, *, foreign: bool = False) -> None:
    """Loads a written model in ONNX Runtime, so that a file that does not run is never handed over: it is removed.

    `foreign` operators, which only another runtime has, may stay.
    """
    from quantonnx.calibration.loading import LARGEST_REARRANGED, NEEDS_EXTENSION
    from quantonnx.calibration.running import check_loads
    from quantonnx.model_files import file_size, files_of

    with run.stage("load", "load") as stage:
        try:
            parts = check_loads(path, memory_limit, bounded=file_size(path) > LARGEST_REARRANGED)
            stage.detail = "ONNX Runtime takes the file" + (f", in {parts} parts" if parts > 1 else "")
        except ModelError as error:
            if foreign and error.hint == NEEDS_EXTENSION:
                stage.detail = f"not tried: {error}"
                return
            for file in files_of(path):
                file.unlink()
            raise


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
