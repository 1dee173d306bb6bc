"""What an entry was made from, as one digest: the model with its external data, samples, settings, target, versions.

The same key means the same bytes, so work whose key is known is not done again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from quantonnx.batch.expansion import Entry, Job
from quantonnx.batch.remote import is_url, remote_digest
from quantonnx.batch.settings import FILES
from quantonnx.model_files import external_files
from quantonnx.provenance import canonical
from quantonnx.version import version_of

_PACKAGES = ("quantonnx", "numpy", "onnx", "onnxruntime", "onnx-graphsurgeon")
_WITHOUT = frozenset({"targets", "memory_limit", "timeout"})
"""Settings that change nothing of what is written."""


class Keys:
    """The keys of entries; a file that several of them share is read once."""

    def __init__(self) -> None:
        self._digest, self._model = cache(path_digest), cache(model_digest)

    def key(self, job: Job, entry: Entry, *, report: bool) -> str:
        """Returns the SHA-256 of all that an entry is made from. Raises OSError for what cannot be read."""
        settings = job.settings.model_dump(mode="json", exclude=set(_WITHOUT), exclude_none=True)
        files = {name: self._digest(settings[name]) for name in FILES if isinstance(settings.get(name), str)}
        libraries = [self._digest(path) for path in settings.pop("ort_extension", ())]
        target = self._digest(entry.target) if entry.target.endswith(".py") else entry.target
        content = {
            "model": self._model(job.model),
            "settings": settings | files,
            "target": target,
            "libraries": libraries,
            "report": report,
            "versions": {name: version_of(name) for name in _PACKAGES},
        }
        return hashlib.sha256(canonical(content).encode()).hexdigest()


def model_digest(path: str) -> str:
    """Returns the SHA-256 of a model and of its external data."""
    if is_url(path):
        return remote_digest(path)
    file = Path(path)
    digest = hashlib.sha256(_hashed(file))
    for other in external_files(file):
        digest.update(f"\0{other.name}\0".encode(errors="surrogateescape") + _hashed(other))
    return digest.hexdigest()


def path_digest(path: str) -> str:
    """Returns the SHA-256 of a file, or of all files of a folder with their names."""
    if is_url(path):
        return remote_digest(path)
    root = Path(path)
    if not root.is_dir():
        return _hashed(root).hex()
    digest = hashlib.sha256()
    for file in _files(root):
        name = file.relative_to(root).as_posix()
        digest.update(f"{name}\0".encode(errors="surrogateescape") + _hashed(file))
    return digest.hexdigest()


def output_digest(path: Path) -> str:
    """Returns the SHA-256 of a written model and of its weights beside it; "" where it is not there."""
    parts = [path, path.with_name(path.name + ".data")]
    digest = hashlib.sha256()
    for part in parts:
        if part.is_file():
            digest.update(_hashed(part))
        elif part is path:
            return ""
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in sorted(os.walk(root)):
        yield from (Path(folder) / name for name in sorted(names) if (Path(folder) / name).is_file())


def _hashed(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
