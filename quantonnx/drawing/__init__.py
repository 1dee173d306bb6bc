"""Before/after pictures: what a model is, and what a target will get of it, as SVG text.

`scene` has what is in a picture, `placed` and `found` make scenes from a plan and from a file, `layering`, `layout`,
`columns` and `picture` find the coordinates, `svg` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantonnx.config import QuantConfig
from quantonnx.drawing.found import found_scene
from quantonnx.drawing.picture import laid_out
from quantonnx.drawing.placed import placed_scene
from quantonnx.drawing.scene import Scene
from quantonnx.drawing.svg import written
from quantonnx.model import Model
from quantonnx.plan import Plan
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import Source, transform
from quantonnx.target import Target

__all__ = ["draw", "draw_before_after"]

RADIUS = 3


def draw(
    source: Source | QuantizedModel,
    *,
    target: str | Path | Target | None = None,
    plan: Plan | None = None,
    config: QuantConfig | None = None,
    around: str | None = None,
    radius: int = RADIUS,
    title: str = "",
) -> str:
    """Returns a picture of a model as SVG text; `title` stands above it.

    With `target` or `plan` it shows what the target will get: fused groups and Q/DQ pairs; so does a QuantizedModel.
    Without, it shows the model as it stands, pairs included. `around` is a node or tensor, `radius` how many operators
    away from it are shown. Raises ModelError for a name that is not there, and what reading and planning raise.
    """
    scene = _scene(source, target, plan, config)
    scene = replace(scene, title=title) if title else scene
    return written([laid_out(scene if around is None else scene.around(around, radius), wrap=True)])


def draw_before_after(
    source: Source,
    target: str | Path | Target | Sequence[str | Path | Target] = "tensorrt",
    *,
    config: QuantConfig | None = None,
    around: str | None = None,
    radius: int = RADIUS,
) -> str:
    """Returns a picture of a float model and, beside it, of what one target or each of several will get.

    Raises what `draw` raises.
    """
    targets = [target] if isinstance(target, (str, Path, Target)) else list(target)
    model = Model.read(source)
    scenes = [found_scene(model, "float model"), *(_scene(model, chosen, None, config) for chosen in targets)]
    shown = scenes if around is None else [scene.around(around, radius) for scene in scenes]
    return written([laid_out(scene) for scene in shown])


def _scene(
    source: Source | QuantizedModel, target: str | Path | Target | None, plan: Plan | None, config: QuantConfig | None
) -> Scene:
    if isinstance(source, QuantizedModel):
        return placed_scene(source, f"for {source.matches.target.name}")
    name = Path(source).name if isinstance(source, (str, Path)) else ""
    model = Model.read(source)
    if target is None and plan is None:
        return found_scene(model, name or model.graph.name or "model")
    fused = transform(model, target=target, plan=plan)
    placed = insert_qdq(fused.model, fused.matches, config)
    return placed_scene(placed, f"{name} for {placed.matches.target.name}".strip())
