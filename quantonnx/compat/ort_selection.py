"""Which operators a call of quantize_static chooses, as the matches that stay in float."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from quantonnx.errors import ConfigError
from quantonnx.model import Model
from quantonnx.plan import near
from quantonnx.rewriting import Matches

_ONLY_THERE = frozenset({"EmbedLayerNormalization"})
"""Operators of ONNX Runtime's own that its lists of quantizable types name."""


class Selection:
    """The operators to quantize: those named by `nodes` and `op_types`, all where they are empty, without `exclude`.

    Raises ConfigError for a name that no operator of the model has, and for a type that does not exist.
    """

    def __init__(
        self,
        model: Model,
        nodes: Iterable[str],
        op_types: Iterable[str],
        exclude: Iterable[str],
        *,
        constant_matmuls: bool,
    ) -> None:
        self.nodes, self.op_types, self.exclude = frozenset(nodes), frozenset(op_types), tuple(exclude)
        self._types = {str(node.name): str(node.op) for node in model.graph.nodes}
        self._check("nodes_to_quantize", self.nodes)
        self._check("nodes_to_exclude", self.exclude)
        self._check_types()
        self._left = {node.name for node in model.graph.nodes if constant_matmuls and _is_product(node)}

    @property
    def says_which(self) -> bool:
        """True where operators are chosen by name or type."""
        return bool(self.nodes or self.op_types)

    def exclusions(self, matches: Matches, model: Model) -> list[dict[str, Any]]:
        """Returns the entries of `exclude`: what is named, and the result of each match without a chosen operator."""
        named = [*self.exclude, *sorted(self._left)]
        left = self._not_chosen(matches, model) if self.says_which else ()
        return [{"name": name, "optional": True} for name in (*named, *left)]

    def _not_chosen(self, matches: Matches, model: Model) -> Iterator[str]:
        """A match is chosen by any of its operators: a Conv takes its Relu along."""
        for step, match in matches.resolve(model):
            names = {*step.nodes, *(node.name for node in match.nodes)}
            types = {self._types[name] for name in names & self._types.keys()} | {node.op for node in match.nodes}
            if (self.nodes and self.nodes.isdisjoint(names)) or (self.op_types and self.op_types.isdisjoint(types)):
                yield step.output

    def _check(self, where: str, names: Collection[str]) -> None:
        unknown = next((name for name in names if name not in self._types), None)
        if unknown is not None:
            raise ConfigError(f"{where}: no operator of the model is called {unknown!r}", near(unknown, self._types))

    def _check_types(self) -> None:
        there = set(self._types.values())
        known = there | _ONLY_THERE | {schema.name for schema in onnx.defs.get_all_schemas()}
        unknown = next((name for name in sorted(self.op_types) if name not in known), None)
        if unknown is not None:
            raise ConfigError(f"op_types_to_quantize: {unknown!r} is no operator", near(unknown, known))
        if self.op_types and there.isdisjoint(self.op_types):
            listed = ", ".join(sorted(self.op_types))
            raise ConfigError(f"op_types_to_quantize: the model has no {listed}", f"it has {', '.join(sorted(there))}")


def _is_product(node: gs.Node) -> bool:
    return node.op == "MatMul" and len(node.inputs) == 2 and not isinstance(node.inputs[1], gs.Constant)
