"""The `quantonnx` program: what makes Ctrl-C one line also while everything else is still being imported."""

from __future__ import annotations

import os

_INTERRUPTED = 130


def main() -> None:
    """Imports the command line and runs it."""
    try:
        from quantonnx.cli import main as run
    except KeyboardInterrupt:
        os.write(2, b"quantonnx: error: interrupted\n")
        os._exit(_INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
