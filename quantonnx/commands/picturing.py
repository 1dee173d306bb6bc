"""The options of commands that can draw: where the picture goes, and which part of the model is in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.options import check_out
from quantonnx.commands.running import Run, write_text
from quantonnx.errors import ConfigError

if TYPE_CHECKING:
    from quantonnx.model import Model
    from quantonnx.plan import Plan
    from quantonnx.target import Target

_PICTURE = "Picture"


@dataclass(frozen=True)
class PictureOptions:
    """Whether to draw, where to, and what."""

    svg: Annotated[
        Path | None,
        typer.Option("--svg", metavar="FILE.svg", help="Draw the graph.", rich_help_panel=_PICTURE),
    ] = None
    around: Annotated[
        str | None,
        typer.Option(
            "--around", metavar="NAME", help="Draw only what is near this node or tensor.", rich_help_panel=_PICTURE
        ),
    ] = None
    radius: Annotated[
        int,
        typer.Option("--radius", metavar="N", min=0, help="How many operators are near.", rich_help_panel=_PICTURE),
    ] = 3
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False

    def check(self) -> None:
        """Raises OutputError, before any work, where the picture cannot be written, ConfigError where there is none."""
        if self.svg is not None:
            check_out(self.svg, force=self.force)
        elif self.around is not None:
            raise ConfigError("--around has no picture to narrow down", "give --svg FILE too")

    def save(
        self, run: Run, model: Model, title: str, *, target: Target | None = None, plan: Plan | None = None
    ) -> None:
        """Draws the model, or what the target will get of it, where a picture was asked for."""
        if self.svg is None:
            return
        from quantonnx.drawing import draw

        with run.stage("draw", "draw") as stage:
            text = draw(model, target=target, plan=plan, around=self.around, radius=self.radius, title=title)
            write_text(self.svg, text, force=self.force)
            stage.detail = str(self.svg)
        run.result["picture"] = str(self.svg)
