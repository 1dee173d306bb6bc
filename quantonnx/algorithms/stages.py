"""Where a network is cut so that what stands before a layer may change before the layer sees its inputs.

A stage is a level of layers that do not depend on each other, and what follows them up to the next level. Each runs
once for every sample, so that the whole network is not run again for every layer.
"""

from __future__ import annotations

from collections.abc import Collection

from quantonnx.calibration.cutting import ancestors, cut, reads_of
from quantonnx.calibration.staging import StageModels, Stages
from quantonnx.model import Model


def stages_at(model: Model, layers: Collection[str]) -> Stages:
    """Returns the stages of a fused float model that is cut at the inputs of `layers` (names of nodes).

    The first stage has no layers: it is what comes before any. What no layer depends on is in no stage.
    """
    models = StageModels(model)
    graph, layers = models.proto.graph, set(layers)
    nodes = ancestors(graph.node, {name for node in graph.node if node.name in layers for name in node.output})
    level = dict.fromkeys(models.inputs, 0)
    places = []
    for node in nodes:
        before = max((level.get(name, 0) for name in reads_of(node)), default=0)
        places.append(before + (node.name in layers))
        level.update(dict.fromkeys(node.output, places[-1]))
    return Stages(models, cut(nodes, places, models.inputs, layers=layers))
