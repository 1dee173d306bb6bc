"""Coverage-guided damage: atheris changes the files that specimens.py makes, and watches which code they reach.

Whatever is not one of quantonnx's own errors, or takes over 10 seconds or 1 GB, stops the run; atheris then writes the
input into the working directory. Needs `pip install atheris`.

    python benchmarks/fuzz_readers.py KIND [options of libFuzzer]
    python benchmarks/fuzz_readers.py onnx -runs=100000 -max_len=20000
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["quantonnx"]):
    from specimens import Specimen, specimens

    from quantonnx.errors import QuantonnxError

LIMITS = ("-timeout=10", "-rss_limit_mb=2048")


def once(specimen: Specimen, content: bytes, folder: Path) -> None:
    """Reads the specimen with other content in place of what may be damaged."""
    for name, kept in specimen.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(specimen.packed(content) if name == specimen.damaged else kept)
    try:
        specimen.read(folder)
    except QuantonnxError as error:
        if "\n" in str(error):
            raise RuntimeError(f"two lines: {error!r}") from error


def main() -> None:
    kind, *options = sys.argv[1:] or [""]
    chosen = [item for item in specimens() if item.kind == kind and not item.structure]
    if not chosen:
        sys.exit(f"known kinds: {', '.join(dict.fromkeys(item.kind for item in specimens()))}")
    with tempfile.TemporaryDirectory() as name:
        corpus, folder = Path(name, "corpus"), Path(name, "files")
        corpus.mkdir()
        for index, item in enumerate(chosen):
            (corpus / str(index)).write_bytes(item.files[item.damaged])
        atheris.Setup([sys.argv[0], str(corpus), *LIMITS, *options], lambda content: once(chosen[0], content, folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
