"""The command `convert-encodings`: the numbers of quantized tensors from one tool's file to another's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantonnx.commands.options import check_out
from quantonnx.commands.running import Run, write_text
from quantonnx.compat.kinds import WRITABLE, Kind
from quantonnx.errors import ConfigError

if TYPE_CHECKING:
    from quantonnx.compat.encodings import Encoding


def convert_encodings(
    run: Run,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="A model with Q/DQ pairs, a TensorRT calibration cache, AIMET/QNN encodings, or a range cache or "
            "TensorQuantOverrides of ONNX Runtime, recognised from its content.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The file to write.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help=f"{', '.join(WRITABLE)}.")],
    force: Annotated[bool, typer.Option("--force", help="Replace OUT where it exists.")] = False,
) -> None:
    """Write scales and ranges of a model, or of another tool's file, in the format of another tool, or as settings."""
    from quantonnx.commands.tables import reasons, table
    from quantonnx.compat.files import read_encodings, write_encodings

    if to not in WRITABLE:
        raise ConfigError(f"--to is {to!r}", f"expected one of {', '.join(WRITABLE)}")
    check_out(out, force=force)
    run.result |= {"model": str(source), "output": str(out), "to": to}
    with run.stage("read", "read") as stage:
        found = read_encodings(source)
        encodings = found.contents.encodings
        stage.detail = f"{len(encodings)} tensors in {source} ({found.kind})"
    with run.stage("write", "write") as stage:
        written = write_encodings(encodings, Kind(to))
        write_text(out, written.text, force=force)
        stage.detail = str(out)
    left = (*found.contents.left, *written.left)
    counts = _counts(encodings)
    run.result |= {"from": found.kind.value, "tensors": counts}
    run.result["left_out"] = [{"name": decision.name, "reason": decision.reason} for decision in left]
    run.show(table("Tensors", "", "count", rows=counts.items(), numbers=(1,)))
    if left:
        run.show("", reasons("Not as it was", left))


def _counts(encodings: tuple[Encoding, ...]) -> dict[str, int]:
    constants = sum(encoding.parameter for encoding in encodings)
    return {"activations": len(encodings) - constants, "constants": constants}
