"""The command line: which commands there are, and one line with an exit code for whatever goes wrong.

Exit codes: 0 done, 1 a check failed, 2 wrong use or bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from quantonnx.commands import configuring
from quantonnx.commands.batching import batch
from quantonnx.commands.checking import check
from quantonnx.commands.converting import convert_encodings
from quantonnx.commands.declaring import command
from quantonnx.commands.demo import demo
from quantonnx.commands.differing import diff
from quantonnx.commands.explaining import explain, targets
from quantonnx.commands.finetuning import finetune
from quantonnx.commands.measuring import calibrate, compare
from quantonnx.commands.models import inspect, plan, transform
from quantonnx.commands.quantizing import quantize
from quantonnx.commands.running import FAILED, INTERRUPTED, complain
from quantonnx.version import version_of

_BROKEN_PIPE = 141
_TERMINATED = 143

app = typer.Typer(
    name="quantonnx",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turns a float ONNX model into a quantized one whose Q/DQ pairs stand where the target's compiler wants them.",
)
for _function in (
    demo,
    quantize,
    finetune,
    batch,
    plan,
    transform,
    calibrate,
    explain,
    inspect,
    compare,
    diff,
    check,
    convert_encodings,
    targets,
):
    app.command()(command(_function))

_config = typer.Typer(help="What a configuration comes to on a model; a file to start from; a schema for editors.")
for _inner in (configuring.show, configuring.init, configuring.schema):
    _config.command()(command(_inner, f"config {_inner.__name__}"))
app.add_typer(_config, name="config", no_args_is_help=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quantonnx {version_of('quantonnx')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; errors go to standard error as one line."""
    try:
        return int(app(list(arguments), prog_name="quantonnx", standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for wrong use, under several names over time
            raise
        message = str(error.format_message())
        complain(message if message else "see quantonnx --help")
        return FAILED


def main() -> None:
    """The `quantonnx` program; ONNX Runtime reports nothing of it, unless ORT_DISABLE_TELEMETRY=0 is set."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is imported
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _BROKEN_PIPE
    if code == INTERRUPTED:
        sys.stderr.flush()
        os._exit(code)  # where exec() was interrupted, Python would end by the signal, without this code
    sys.exit(code)


def _terminate(*_: Any) -> None:
    """Unwinds the stack, so that temporary files go."""
    raise SystemExit(_TERMINATED)


if __name__ == "__main__":
    main()
