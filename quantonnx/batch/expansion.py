"""From what a person gave, a folder, a glob, a file or a list, to jobs: one model with all its targets."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantonnx.batch.names import distinct_names, safe_name
from quantonnx.batch.remote import find_remote, is_url
from quantonnx.batch.settings import DATA, FILES, EntrySettings, load_batch
from quantonnx.calibration.sources import natural_order
from quantonnx.errors import ConfigError

DEFAULT_TARGET = "tensorrt"
_SPECS = (".yaml", ".yml", ".toml", ".json")
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Entry:
    """One result: the target as the user named it, and what its file is called within the folder of its model."""

    target: str
    label: str


@dataclass(frozen=True)
class Job:
    """One model with all its targets: the path or URL of its file, the name of its folder of results."""

    model: str
    name: str
    settings: EntrySettings
    entries: tuple[Entry, ...]

    def identity(self, entry: Entry) -> str:
        """Returns what an entry is called in journal and tables."""
        return f"{self.name}/{entry.label}"


def expand(source: str, given: EntrySettings, out: Path | str | None = None) -> list[Job]:
    """Returns the jobs of a folder, a glob, an .onnx file, or a YAML, TOML or JSON file with a list of models.

    `given` stands over the defaults of that file, and beneath what it says of one model. Nothing in `out` is taken for
    a model. Raises ConfigError where nothing is found, or where the file makes no sense.
    """
    found = list(_models(source, given, out))
    names = distinct_names([wanted for wanted, _, _ in found], [model for _, model, _ in found])
    return [
        Job(model, name, settings, _entries(settings, model))
        for name, (_, model, settings) in zip(names, found, strict=True)
    ]


def _models(source: str, given: EntrySettings, out: Path | str | None) -> Iterator[tuple[str, str, EntrySettings]]:
    path = Path(source)
    if path.suffix.lower() in _SPECS and not is_url(source):
        yield from _listed(path, given, out)
        return
    for wanted, model in find_models(source, out):
        yield wanted, model, _filled(given, model)


def _listed(path: Path, given: EntrySettings, out: Path | str | None) -> Iterator[tuple[str, str, EntrySettings]]:
    batch = load_batch(path)
    folder = path.absolute().parent
    defaults = given.over(_beside(batch.defaults, folder))
    for item in batch.models:
        settings = _beside(item, folder).over(defaults)
        found = list(find_models(_joined(folder, item.model), out, missing_too=True))
        if item.name is not None and len(found) > 1:
            raise ConfigError(f"{item.model!r} is {len(found)} models, all called {item.name!r}", "list them")
        for wanted, model in found:
            yield item.name or wanted, model, _filled(settings, model)


def find_models(source: str, out: Path | str | None, *, missing_too: bool = False) -> Iterator[tuple[str, str]]:
    """Yields a name and the path of each model in a folder, of a glob, or of a file.

    With `missing_too` a file need not be there: it becomes an entry that fails. Raises ConfigError for nothing.
    """
    path = Path(source)
    if is_url(source):
        yield from (found for found in find_remote(source) if not found[1].startswith(f"{out}/"))
    elif path.is_dir():
        files = _apart((file for file in path.rglob("*.onnx") if not _hidden(file.relative_to(path))), out)
        if not files:
            raise ConfigError(f"the folder {source!r} holds no .onnx file", "name another one")
        yield from ((str(file.relative_to(path).with_suffix("")), str(file)) for file in files)
    elif path.is_file() or (missing_too and not _WILD & set(source)):
        yield path.stem, source
    else:
        yield from _globbed(source, out)


def _globbed(source: str, out: Path | str | None) -> Iterator[tuple[str, str]]:
    matches = [Path(name) for name in glob.glob(source, recursive=True)]
    files = _apart((path for path in matches if path.is_file()), out)
    if not files:
        raise ConfigError(f"{source!r} is no folder, no file, and matches none", "name a folder, a glob or a list")
    root = files[0].parent if len(files) == 1 else Path(os.path.commonpath([file.parent for file in files]))
    yield from ((str(file.relative_to(root).with_suffix("")), str(file)) for file in files)


def _apart(files: Iterator[Path], out: Path | str | None) -> list[Path]:
    """Files in natural order, without what a batch wrote."""
    written = None if out is None else Path(out).resolve()
    return sorted((f for f in files if written is None or written not in f.resolve().parents), key=natural_order)


def _hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)


def _beside(settings: EntrySettings, folder: Path) -> EntrySettings:
    """Settings whose paths are seen from the folder of the file that they stand in."""
    changed: dict[str, Any] = {
        name: _joined(folder, value) for name in FILES if isinstance(value := getattr(settings, name), str)
    }
    if settings.ort_extension is not None:
        changed["ort_extension"] = tuple(_joined(folder, each) for each in settings.ort_extension)
    targets = settings.targets
    if targets is not None:
        changed["targets"] = tuple(_joined(folder, each) if each.endswith(".py") else each for each in targets)
    return settings.model_copy(update=changed)


def _joined(folder: Path, path: str) -> str:
    return path if is_url(path) or path.startswith("{folder}") else str(folder / path)


def _filled(settings: EntrySettings, model: str) -> EntrySettings:
    """Settings whose {folder} and {stem} are those of a model."""
    folder, _, name = model.rpartition("/")
    words = {"{folder}": folder or ".", "{stem}": Path(name).stem}
    changed = {}
    for key in DATA:
        text = getattr(settings, key)
        for word, value in words.items() if text else ():
            text = text.replace(word, value)
        changed[key] = text
    return settings.model_copy(update=changed)


def _entries(settings: EntrySettings, model: str) -> tuple[Entry, ...]:
    targets: Sequence[str] = settings.targets or (DEFAULT_TARGET,)
    labels = [safe_name(Path(target).stem if target.endswith(".py") else target) for target in targets]
    if len({label.casefold() for label in labels}) < len(labels):
        raise ConfigError(f"the targets {', '.join(targets)} of {model!r} have a name twice", "list each once")
    return tuple(Entry(target, label) for target, label in zip(targets, labels, strict=True))
