"""Models, data and results behind URLs: copied here before the work, and stored whole after it, by fsspec's plugins."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from quantonnx.batch.protocol import Outcome, State, Task
from quantonnx.batch.settings import DATA
from quantonnx.errors import ConfigError, DataError, QuantonnxError, said
from quantonnx.model_files import external_places

_STAMPS = (
    "ETag",
    "etag",
    "md5",
    "sha256",
    "mtime",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "created",
)
_BLOCK = 1 << 20
_MOST_PLACES = 1000


def is_url(text: str) -> bool:
    """Returns whether this is a URL, not a path."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.replace("+", "").isalnum()


def opened(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL and the path on it. Raises ConfigError where fsspec or its plugin is missing."""
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(url)
    except ImportError as error:
        told = " ".join(str(error).split())
        raise ConfigError(
            f"{url!r} cannot be opened: {told}", "pip install 'quantonnx[remote]' and the plugin"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{url!r} cannot be opened: {' '.join(str(error).split())}") from None
    return files, str(path)


def joined(url: str, name: str) -> str:
    """Returns the URL of something below another."""
    return f"{url.rstrip('/')}/{name}"


def find_remote(url: str) -> Iterator[tuple[str, str]]:
    """Yields a name and the URL of the model, of each in a folder, or of each that a glob finds."""
    files, path = opened(url)
    wild = any(sign in path for sign in "*?[")
    if not wild and not (path.endswith("/") or _is_folder(files, path)):
        yield PurePosixPath(unquote(path)).stem, url
        return
    found = sorted(files.glob(path) if wild else files.find(path))
    root = path.partition("*")[0].rpartition("/")[0] if wild else path.rstrip("/")
    for each in found:
        if str(each).endswith(".onnx"):
            below = PurePosixPath(str(each).removeprefix(root).lstrip("/"))
            yield str(below.with_suffix("")), files.unstrip_protocol(each)


def remote_digest(url: str) -> str:
    """Returns what changes when a file or folder behind a URL does: its stamps where it has any, else its content."""
    files, path = opened(url)
    try:
        below = sorted(files.find(path)) if _is_folder(files, path) else [path]
        digest = hashlib.sha256()
        for each in below:
            digest.update(f"{each}\0{_stamp(files, each)}\0".encode())
    except FileNotFoundError as error:
        raise OSError(f"{url} does not exist") from error
    return digest.hexdigest()


def localised(task: Task, folder: Path) -> Task:
    """Returns a task whose model and data are copies in a folder where they were URLs. Raises DataError."""
    settings = dict(task.settings)
    for name in DATA:
        if isinstance(url := settings.get(name), str) and is_url(url):
            settings[name] = str(_fetched(url, folder / name))
    model = str(_fetched_model(task.model, folder / "model")) if is_url(task.model) else task.model
    return replace(task, model=model, settings=settings)


def storing(task: Task) -> Callable[[Outcome], Outcome]:
    """Returns what stores the results of an entry behind the task's URL, whole, and says how it went."""
    orders = {order.identity: order for order in task.orders}

    def store(outcome: Outcome) -> Outcome:
        if outcome.state is State.FAILED:
            return outcome
        order = orders[outcome.identity]
        out, place = Path(order.out), joined(task.storage, f"{outcome.identity}.onnx")
        try:
            beside = out.with_name(out.name + ".data")
            if beside.is_file():
                upload(beside, f"{place}.data")
            if order.report:
                for file in Path(order.report).iterdir():
                    upload(file, joined(task.storage, f"{outcome.identity}.report/{file.name}"))
            upload(out, place)
            stored = {"stored": remote_digest(place), "reported": bool(order.report)}
            return replace(outcome, result={**outcome.result, **stored})
        except Exception as error:  # every plugin has errors of its own
            reason = f"{place} cannot be stored: {' '.join(str(error).split())[:300]}"
            return Outcome(outcome.identity, State.FAILED, outcome.seconds, reason)
        finally:
            shutil.rmtree(out.parent, ignore_errors=True)

    return store


def fetch(url: str, file: Path) -> None:
    """Copies what is behind a URL into a file, where there is anything."""
    files, path = opened(url)
    if files.exists(path):
        files.get_file(path, str(file))


def upload(file: Path, url: str) -> None:
    """Stores a file behind a URL: where files appear while they are written, under another name first."""
    files, path = opened(url)
    files.makedirs(path.rpartition("/")[0], exist_ok=True)
    if "file" in files.protocol or "local" in files.protocol:
        hidden = f"{path.rpartition('/')[0]}/.{file.name}.part"
        files.put_file(str(file), hidden)
        Path(hidden).replace(path)
        return
    files.put_file(str(file), path)


def _fetched_model(url: str, folder: Path) -> Path:
    """A copy of a model and of the external data that it names within its own folder."""
    file = _fetched(url, folder)
    for place in _places(file):
        if place and not PurePosixPath(place).is_absolute() and ".." not in PurePosixPath(place).parts:
            _fetched(joined(url.rpartition("/")[0], place), folder, place)
    return file


def _places(file: Path) -> list[str]:
    try:
        return sorted(external_places(file))[:_MOST_PLACES]
    except Exception:  # a damaged model: who reads it says so
        return []


def _fetched(url: str, folder: Path, name: str = "") -> Path:
    files, path = opened(url)
    target = folder / (name or PurePosixPath(unquote(path)).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if _is_folder(files, path):
            files.get(path.rstrip("/") + "/", str(target) + "/", recursive=True)
        else:
            files.get_file(path, str(target))
    except QuantonnxError:
        raise
    except Exception as error:  # every plugin has errors of its own
        told = said(error)
        raise DataError(f"{url} cannot be read: {told[:300]}") from error
    return target


def _is_folder(files: Any, path: str) -> bool:
    return bool(files.isdir(path)) and not files.isfile(path)


def _stamp(files: Any, path: str) -> str:
    found = files.info(path)
    stamps = [f"{name}={found[name]}" for name in _STAMPS if found.get(name) is not None]
    if stamps:
        return f"{found.get('size')} {stamps}"
    digest = hashlib.sha256()
    with files.open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
