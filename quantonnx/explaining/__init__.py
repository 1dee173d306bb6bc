"""Why something is, or is not, quantized: which pattern claimed it, which almost did, and what would change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from quantonnx.config import QuantConfig
from quantonnx.errors import ModelError
from quantonnx.explaining import nodes, tensors
from quantonnx.explaining.bodies import find_in_closed, views
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
        """Explains a node, of a body too. Raises ModelError for a name that the model does not have."""
        view = self._view_of(name, lambda view: view.nodes)
        if view is not None:
            return nodes.explain(view, view.nodes[name])
        found = find_in_closed(self.original, name, tensors=False)
        if found is None:
            known = [known for view in self._views for known in view.nodes]
            tensor = self._view_of(name, lambda view: view.tensors)
            raise ModelError(
                f"the model has no node {name!r}", "it is a tensor: use --tensor" if tensor else near(name, known)
            )
        return found

    def tensor(self, name: str) -> Explanation:
        """Explains a tensor, of a body too. Raises ModelError for a name that the model does not have."""
        standing = (view for view in self._views if any(site.tensor == name for site in view.sites))
        view = next(standing, None) or self._view_of(name, lambda view: view.tensors)
        if view is not None:
            return tensors.explain(view, view.tensors[name])
        found = find_in_closed(self.original, name, nodes=False)
        if found is None:
            known = [known for view in self._views for known in view.tensors]
            node = self._view_of(name, lambda view: view.nodes)
            raise ModelError(
                f"the model has no tensor {name!r}", "it is a node: use --node" if node else near(name, known)
            )
        return found

    def find(self, name: str) -> Explanation:
        """Explains a node or a tensor, whichever is called that."""
        return self.node(name) if self._view_of(name, lambda view: view.nodes) else self.tensor(name)

    @cached_property
    def _views(self) -> list[View]:
        return list(views(self.original, self.quantized, self.plan))

    def _view_of(self, name: str, known: Callable[[View], Mapping[str, Any]]) -> View | None:
        return next((view for view in self._views if name in known(view)), None)
