"""Python's garbage collection while graphs are built.

A graph of onnx-graphsurgeon is all cycles, of nodes and values. While one is built nothing of it is garbage, yet each
full collection walks all that stands so far: a fifth of the time at 20,000 nodes, and the more the larger the model.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pauses the collection of cycles, and leaves it as it was found; also a decorator."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
