"""Versions of installed packages: that of quantonnx stands in every file that it writes."""

from __future__ import annotations

import importlib.metadata


def version_of(package: str = "quantonnx") -> str:
    """Returns the version of an installed package, or "unknown"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
