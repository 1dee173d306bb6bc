"""Training that was stopped goes on from a file: written whole or not at all, refused where it belongs to other work.

What is in such a file is read without running anything of it (`weights_only`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from quantonnx.errors import ConfigError, OutputError, said
from quantonnx.placing import into_place

_FORMAT = "quantonnx fine-tuning 1"
_HINT = "name another file, or delete this one to start anew"

State = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A file to go on from. `identity` says in plain values what it belongs to: settings, and digests of models and
    data; a file in which one of them differs is refused."""

    path: Path
    identity: Mapping[str, Any]

    def save(self, state: State) -> None:
        """Writes the state (tensors, numbers, texts, and lists and dictionaries of them) atomically."""
        whole = {"format": _FORMAT, "identity": dict(self.identity), "state": state}
        if not self.path.parent.is_dir():
            raise OutputError(f"the folder {str(self.path.parent)!r} does not exist", "create it first")
        with into_place(self.path, force=True, sources=frozenset()) as (temporary,):
            torch.save(whole, temporary)

    def load(self) -> State | None:
        """Returns the state, None where there is no file; ConfigError for one that belongs to something else."""
        if not self.path.exists():
            return None
        whole = self._read()
        if not isinstance(whole, dict) or whole.get("format") != _FORMAT or not isinstance(whole.get("state"), dict):
            self.refuse()
        self._compare(whole.get("identity"))
        return dict(whole["state"])

    def _read(self) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is odd about another file
                return torch.load(self.path, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:
            self.refuse(error)

    def refuse(self, error: Exception | None = None) -> NoReturn:
        """Raises ConfigError for a file that holds something else, or half of it."""
        reason = f": {said(error).split('. ')[0][:120]}" if error else ""
        raise ConfigError(f"{str(self.path)!r} is no checkpoint of a fine-tuning{reason}", _HINT) from error

    def _compare(self, found: Any) -> None:
        found = found if isinstance(found, dict) else {}
        for name, wanted in self.identity.items():
            if found.get(name) != wanted:
                told = "" if _is_digest(wanted) else f": {found.get(name)!r} there, {wanted!r} here"
                raise ConfigError(
                    f"the checkpoint {str(self.path)!r} is of other work, its {name} differs{told}", _HINT
                )


def digest_of(module: nn.Module) -> str:
    """Returns a digest of the names and values of a module's parameters and buffers."""
    return digest_of_tensors(module.state_dict().items())


def digest_of_tensors(tensors: Iterable[tuple[str, Any]]) -> str:
    """Returns a digest of named tensors, in their order; what is no tensor counts by its text."""
    digest = hashlib.sha256()
    for name, value in tensors:
        if not isinstance(value, Tensor):
            digest.update(f"{name} {value!r}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("sha256:")
