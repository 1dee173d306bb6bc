"""Why something is, or is not, quantized: which pattern claimed it, which almost did, and what would change it."""

from __future__ import annotations

from functools import cached_property

from quantonnx.config import QuantConfig
from quantonnx.errors import ModelError
from quantonnx.explaining import nodes, tensors
from quantonnx.explaining.bodies import find_in_bodies
from quantonnx.explaining.findings import Attempt, Explanation, Verdict
from quantonnx.explaining.view import View
from quantonnx.model import Model
from quantonnx.plan import Plan, near
from quantonnx.quantized import QuantizedModel, insert_qdq
from quantonnx.rewriting import Source, transform
from quantonnx.target import Target

__all__ = ["Attempt", "Explainer", "Explanation", "Verdict"]


class Explainer:
    """One model and one target, planned and placed, to be asked about its nodes and tensors.

    Names are those of the file. Raises what `transform` and `insert_qdq` raise. What calibration decides (branches
    whose ranges do not fit under one scale) is not known here; a note says where it could happen.
    """

    def __init__(
        self, source: Source, target: Target, *, config: QuantConfig | None = None, plan: Plan | None = None
    ) -> None:
        self.original = Model.read(source)
        self.target = target
        fused = transform(self.original, target=target, plan=plan)
        self.plan = fused.plan
        self.quantized: QuantizedModel = insert_qdq(fused.model, fused.matches, config)

    def node(self, name: str) -> Explanation:
        """Explains a node. Raises ModelError for a name that the model does not have."""
        if name in self._view.nodes:
            return nodes.explain(self._view, self._view.nodes[name])
        found = find_in_bodies(self.original, name, tensors=False)
        if found is None:
            hint = "it is a tensor: use --tensor" if name in self._view.tensors else near(name, self._view.nodes)
            raise ModelError(f"the model has no node {name!r}", hint)
        return found

    def tensor(self, name: str) -> Explanation:
        """Explains a tensor. Raises ModelError for a name that the model does not have."""
        if name in self._view.tensors:
            return tensors.explain(self._view, self._view.tensors[name])
        found = find_in_bodies(self.original, name, nodes=False)
        if found is None:
            hint = "it is a node: use --node" if name in self._view.nodes else near(name, self._view.tensors)
            raise ModelError(f"the model has no tensor {name!r}", hint)
        return found

    def find(self, name: str) -> Explanation:
        """Explains a node or a tensor, whichever is called that."""
        return self.node(name) if name in self._view.nodes else self.tensor(name)

    @cached_property
    def _view(self) -> View:
        return View(self.original, self.quantized, self.plan)
