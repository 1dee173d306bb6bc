"""Names of models and targets become names of folders and files: short, harmless anywhere, and never two alike."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from quantonnx.errors import ConfigError

_LONGEST = 120
_STRANGE = re.compile(r"[^\w.+=@-]+")
_RESERVED = frozenset({"con", "prn", "aux", "nul", "summary.json", "summary.csv", "summary.html"})


def safe_name(text: str) -> str:
    """Returns a name for a file or folder: what is no letter, digit or one of `.+=@-_` becomes `_`.

    Names that begin with a dot, that some system reserves, or that are too long are changed too, and those carry a
    digest of what they were.
    """
    name = _STRANGE.sub("_", text).strip("_")
    if name.startswith(".") or not name or name.casefold() in _RESERVED or len(name.encode()) > _LONGEST:
        short = name.lstrip(".").encode()[: _LONGEST // 2].decode(errors="ignore")
        return f"{short or 'model'}-{_digest(text)}"
    return name


def distinct_names(wanted: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Returns a safe name for each of `wanted`; where two would be one file on some system, each carries a digest of
    its source. Raises ConfigError where two of one source are called the same."""
    names = [safe_name(text) for text in wanted]
    counts = Counter(name.casefold() for name in names)
    found = [
        f"{name}-{_digest(source)}" if counts[name.casefold()] > 1 else name
        for name, source in zip(names, sources, strict=True)
    ]
    seen: dict[str, str] = {}
    for name, source in zip(found, sources, strict=True):
        if name.casefold() in seen:
            raise ConfigError(f"{source!r} is listed twice", "give each a `name` of its own")
        seen[name.casefold()] = source
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
