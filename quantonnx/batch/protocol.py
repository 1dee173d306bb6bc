"""What a batch and its worker processes tell each other: a task as JSON, events as lines of JSON, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class State(Enum):
    """How an entry ended."""

    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Order:
    """One entry for a worker: the target, and the paths of its results; `report` is "" where none is wanted."""

    identity: str
    target: str
    out: str
    report: str = ""


@dataclass(frozen=True)
class Task:
    """All that a worker has to know: a model, its settings as plain values, and what to make of it.

    `module` is what runs as the worker, `scratch` a folder for temporary files. `threads` are those of one worker;
    `memory_limit` is in bytes and holds for it and what it starts, `timeout` in seconds and holds for each order.
    `split` is the number of samples in a part where calibration is spread, over the cluster at `scheduler` if there is
    one. With a URL as `storage` results go there.
    """

    module: str
    model: str
    settings: Mapping[str, Any]
    orders: tuple[Order, ...]
    scratch: str
    threads: int | None = None
    memory_limit: int | None = None
    timeout: float | None = None
    split: int | None = None
    scheduler: str | None = None
    storage: str = ""

    def to_json(self) -> str:
        """Returns the task as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Returns the task that `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "orders": tuple(Order(**order) for order in values["orders"])})


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("identity", "reason", "kind", "digest"), str),
    "seconds": (int, float),
    "result": Mapping,
}


@dataclass(frozen=True)
class Outcome:
    """How one entry ended: what was made and measured, or why it failed.

    `kind` is the class of the error, "" for an ending that is not an error of ours: a crash, a limit. `digest` is the
    SHA-256 of what was written.
    """

    identity: str
    state: State
    seconds: float = 0.0
    reason: str = ""
    kind: str = ""
    digest: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {**asdict(self), "state": self.state.value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcome:
        """Returns what `to_dict` gave; KeyError, TypeError or ValueError for something else."""
        names = cls.__dataclass_fields__
        known = {name: value for name, value in values.items() if name in names}
        found = cls(**{**known, "state": State(values["state"])})
        strange = next((name for name, kind in _KINDS.items() if not isinstance(getattr(found, name), kind)), None)
        if strange is not None:
            raise TypeError(f"{strange} is {type(getattr(found, strange)).__name__}")
        return found


@dataclass(frozen=True)
class Progress:
    """Where a worker is: the entry, the stage, and how far it has come where that is known."""

    identity: str
    stage: str = ""
    done: int = 0
    total: int | None = None


Event = Progress | Outcome
Tell = Callable[[Event], None]
