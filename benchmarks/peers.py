"""Every tool that turns a float ONNX file into a quantized one, on the same models and samples, judged by one measure.

    python benchmarks/peers.py --cache .cache [--only TOOL...] [--models NAME...] [--redo]

Each tool lives in its own virtual environment under CACHE/peers, made here from the package index; a tool that does not
install, or fails on a model, has its reason in its row. 8-bit weights and activations, each tool's own defaults.
Results are kept in CACHE/peers/results.json, so that only what is missing is run; --redo runs what is asked for anew.
Times are against float in ONNX Runtime on one thread, one sample, all files of a model in turns.
The models are those of fetch_models.py, and the network that `quantonnx.demo` ships.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnxruntime as ort
from fetch_models import DEFAULT_CACHE, fetch
from package_download import Unavailable
from peers_child import Limits, run_child, shortened
from peers_table import table

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "quantonnx" / "demo"
INSTALL_SECONDS = 900
SAMPLES = 64
OPSET = 17


@dataclass(frozen=True)
class Tool:
    """A tool: what pip installs for it (nothing: this interpreter has it), and the settings to try."""

    requirements: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("default",)


TOOLS = {
    "quantonnx": Tool(),
    "nncf": Tool(("nncf==3.4.0", "onnx", "onnxruntime"), ("default", "mixed")),
    "onnxsim": Tool(("onnxsim==0.8.1", "onnxruntime"), ("minmax", "auto")),
    "quark": Tool(("amd-quark==0.13", "onnxruntime", "torch==2.13.0"), ("A8W8", "U8S8_AAWS")),
    "aimet": Tool(("aimet-onnx==2.42.0",)),
    "modelopt": Tool(("nvidia-modelopt[onnx]==0.47.0",), ("entropy", "max")),
    "quantize_static": Tool(variants=("MinMax-U8S8", "MinMax-S8S8", "Percentile-U8S8", "Entropy-U8S8")),
}


@dataclass(frozen=True)
class Case:
    """A model with its samples: names in the cache (or whole paths), and what a tool may want to be told."""

    model: Path
    calibration: str | Path
    evaluation: str | Path
    fetched: tuple[str, ...] = ()
    transformer: bool = False
    opset: int = 0  # the model is first converted to it


def trained(name: str, *, transformer: bool = False, opset: int = 0) -> Case:
    """Return the case of a model whose data bear its name."""
    return Case(Path(f"{name}.onnx"), f"{name}_calib.npz", f"{name}_eval.npz", (name,), transformer, opset)


def photographs(name: str, network: str) -> Case:
    """Return the case of an ImageNet model, exported as torch.onnx.export does by default."""
    data = (f"photos_{network}_calib.npz", f"photos_{network}_eval.npz")
    return Case(Path(f"{name}_folded.onnx"), *data, (f"{name}_folded", "photos"))


CASES = {
    "fashion_residual": Case(DEMO / "model.onnx", DEMO / "calibration.npz", DEMO / "evaluation.npz"),
    "fashion_mobilenet_v3": trained("fashion_mobilenet_v3"),
    "fashion_vit": trained("fashion_vit", transformer=True),
    "mobilenet_v2": photographs("mobilenet_v2", "mobilenet"),
    "efficientnet_lite0": photographs("efficientnet_lite0", "efficientnet"),
    "minilm_r8": trained("minilm_r8", transformer=True),
    "ppocr_rec": trained("ppocr_rec"),
    "ppocr_rec_opset17": trained("ppocr_rec", opset=OPSET),
}


@dataclass
class Bench:
    """The folders, the limits of a child, and the results so far."""

    cache: Path
    limits: Limits
    results: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.cache / "peers"

    def load(self) -> None:
        path = self.folder / "results.json"
        self.results = json.loads(path.read_text()) if path.exists() else {}

    def save(self) -> None:
        partial = self.folder / "results.partial"
        partial.write_text(json.dumps(self.results, indent=1) + "\n")
        os.replace(partial, self.folder / "results.json")
        (self.folder / "table.md").write_text(table(self.results))

    def interpreter(self, name: str) -> str | Path:
        """Return the Python that holds a tool, or the reason why there is none as a RuntimeError."""
        tool = TOOLS[name]
        if not tool.requirements:
            return sys.executable
        home = self.folder / "venvs" / name
        python = home / "bin" / "python"
        if (home / "installed").exists():
            return python
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *tool.requirements]
        done = run_child(install, Limits(INSTALL_SECONDS, self.limits.gigabytes))
        if done.error:
            raise RuntimeError(f"does not install: {done.error}")
        (home / "installed").touch()
        return python

    def paths(self, case: Case) -> tuple[Path, Path, Path]:
        """Return the model, calibration and evaluation files of a case, fetched if need be."""
        for name in case.fetched:
            fetch(name, self.cache)
        model, *data = (self.cache / path for path in (case.model, case.calibration, case.evaluation))
        return self.converted(model, case.opset) if case.opset else model, *data

    def converted(self, model: Path, opset: int) -> Path:
        """Return a model at a newer opset."""
        path = self.folder / f"{model.stem}_opset{opset}.onnx"
        if not path.exists():
            onnx.save(onnx.version_converter.convert_version(onnx.load(model), opset), path)
        return path

    def quantize(self, name: str, variant: str, case: Case, out: Path) -> dict[str, object]:
        """Return the row of a tool, without its latency."""
        model, calibration, evaluation = self.paths(case)
        try:
            python = self.interpreter(name)
        except RuntimeError as reason:
            return {"error": str(reason)}
        own = shutil.copyfile(model, out.with_suffix(".float.onnx"))  # one tool writes shapes into the file it is given
        started = time.perf_counter()
        made = [python, HERE / "peers_runners.py", name, variant, own, calibration, out, "--samples", SAMPLES]
        done = run_child([*made, *(["--transformer"] if case.transformer else [])], self.limits, out.parent)
        seconds = time.perf_counter() - started
        own.unlink()
        if done.error or not out.exists():
            return {"error": done.error or "writes no file", "seconds": seconds}
        judged = run_child([sys.executable, HERE / "peers_measure.py", "quality", model, evaluation, out], self.limits)
        if judged.error:
            return {"error": f"a file that ONNX Runtime does not run: {judged.error}", "seconds": seconds}
        return json.loads(judged.output) | json.loads(done.output) | {"seconds": seconds}

    def time(self, name: str, case: Case) -> None:
        """Time all files of a model in turns, and put the ratios into its rows."""
        model, _, evaluation = self.paths(case)
        rows = {row: found for row, found in self.results[name].items() if "error" not in found}
        files = [self.file(name, row) for row in rows]
        done = run_child([sys.executable, HERE / "peers_measure.py", "latency", model, evaluation, *files], self.limits)
        if done.error:
            print(f"{name}: no latencies: {done.error}", flush=True)
            return
        exact, *times = json.loads(done.output)
        for found, milliseconds in zip(rows.values(), times, strict=True):
            found.update(ratio=milliseconds / exact, milliseconds=milliseconds)

    def file(self, case: str, row: str) -> Path:
        """Return where a row's quantized model is."""
        return self.folder / "models" / case / f"{row.replace(' ', '-')}.onnx"


def measure(bench: Bench, name: str, tools: list[str], *, redo: bool, again: bool) -> None:
    """Fill in the rows of one model."""
    rows = bench.results.setdefault(name, {})
    wanted = [(tool, variant) for tool in tools for variant in TOOLS[tool].variants]
    new = again
    for tool, variant in wanted:
        row = f"{tool} {variant}"
        if row in rows and not redo:
            continue
        out = bench.file(name, row)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.unlink(missing_ok=True)
        rows[row] = bench.quantize(tool, variant, CASES[name], out)
        new = True
        bench.save()
        print(f"{name} {row}: {shortened(json.dumps(rows[row]), 200)}", flush=True)
    if new:
        bench.time(name, CASES[name])
        bench.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    for option, known, each in (("--only", TOOLS, "TOOL"), ("--models", CASES, "NAME")):
        parser.add_argument(option, nargs="+", choices=known, default=list(known), metavar=each, help=", ".join(known))
    parser.add_argument("--redo", action="store_true")
    parser.add_argument("--time-again", action="store_true", help="time the files that are there once more")
    parser.add_argument("--seconds", type=int, default=300, help="limit of one tool on one model")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="limit of its memory")
    given = parser.parse_args()
    bench = Bench(given.cache.resolve(), Limits(given.seconds, given.gigabytes))
    bench.folder.mkdir(parents=True, exist_ok=True)
    bench.load()
    for name in given.models:
        try:
            measure(bench, name, given.only, redo=given.redo, again=given.time_again)
        except Unavailable as reason:
            print(f"{name}: not available: {reason}", flush=True)
    print(table(bench.results), f"onnxruntime {ort.__version__}", sep="\n")


if __name__ == "__main__":
    main()
