"""`--ort-extension`: operators that ONNX Runtime does not have itself."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True)
class LibraryOptions:
    """What ONNX Runtime needs besides the model."""

    ort_extension: Annotated[
        list[Path] | None,
        typer.Option(
            "--ort-extension",
            metavar="LIB.so",
            help="A library of custom operators for ONNX Runtime, which runs it: it is code. Repeatable.",
            rich_help_panel="Running",
        ),
    ] = None

    def registered(self) -> AbstractContextManager[None]:
        """Registers the libraries in every session that is opened meanwhile."""
        from quantonnx.calibration.extensions import ort_extensions

        return ort_extensions(*self.ort_extension or ()) if self.ort_extension else nullcontext()


NO_LIBRARIES = LibraryOptions()
