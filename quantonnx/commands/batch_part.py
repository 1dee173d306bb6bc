"""The worker process of a split calibration: runs a range of the samples and writes what it saw of them.

`python -m quantonnx.commands.batch_part` reads a part as one line of JSON from standard input; what goes wrong is one
line on standard error.
"""

from __future__ import annotations

import sys
from itertools import chain, islice
from pathlib import Path

from quantonnx.batch.splitting import REFUSED, Part
from quantonnx.commands.batch_options import GivenOptions
from quantonnx.commands.running import FAILED, complain, one_line
from quantonnx.errors import OutputError, QuantonnxError

MODULE = "quantonnx.commands.batch_part"


def main() -> int:
    """Does one part and returns the exit code."""
    try:
        _observe(Part.from_json(sys.stdin.readline()))
    except Exception as error:  # the batch is told why, whatever it is
        complain(one_line(error))
        return REFUSED if isinstance(error, QuantonnxError) and not isinstance(error, OutputError) else FAILED
    return 0


def _observe(part: Part) -> None:
    from quantonnx.model import Model
    from quantonnx.observing import collector_of
    from quantonnx.preparation import Feeding

    model, given = Model.read(part.model), GivenOptions(part.model, part.settings)
    feeding = Feeding(threads=part.threads, memory_limit=part.memory_limit)
    stream = iter(given.samples.open(model))
    first = next(stream)
    with given.libraries.registered(), collector_of(part.watch(model), feeding) as collector:
        collector.open_for(first, part.begun)
        collector.run_all(islice(chain([first], stream), part.start, part.stop))
        collector.collected().save(Path(part.out))


if __name__ == "__main__":
    sys.exit(main())
