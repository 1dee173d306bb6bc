"""Module scopes: which module of the exported network an operator came from, and what crosses a module's boundary.

The dynamo exporter leaves the path of modules in the metadata of each node, the TorchScript exporter in its name
(`/layer1/0/conv1/Conv`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from quantonnx.model import Model

_METADATA = "pkg.torch.onnx.name_scopes"


def dotted(scope: str) -> str:
    """Returns a scope as modules are called: `/layer1/0` is `layer1.0`."""
    return scope.strip("/").replace("/", ".")


def scopes_of(model: Model, node: gs.Node) -> tuple[str, ...]:
    """Returns the scopes that a node is in, the outermost first, with dots; empty where the file does not tell."""
    told = model.node_metadata(node.name).get(_METADATA)
    if told is not None:
        return tuple(dict.fromkeys(path for path in _parsed(told)[:-1] if path))
    return scopes_in(node.name)


def scopes_in(name: str) -> tuple[str, ...]:
    """Returns the scopes that the name of a node tells; empty where it is no path."""
    return tuple(_scopes_in(name)) if name.startswith("/") else ()


def _scopes_in(name: str) -> Iterator[str]:
    """Containers repeat their own name: `/layer1/layer1.0/conv1/Conv` is in layer1, layer1.0 and layer1.0.conv1."""
    path: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
        yield ".".join(path)


def _parsed(told: str) -> list[str]:
    """The exporter writes the representation of a Python list; the last entry is the operator itself."""
    try:
        found = ast.literal_eval(told)
    except Exception:  # what a hostile text makes the parser raise
        return []
    return [path for path in found if isinstance(path, str)] if isinstance(found, list) else []


@dataclass(frozen=True)
class Boundary:
    """What crosses the boundary of a scope, by name, numbered in the order of the nodes: values that it reads from
    outside, and values that it gives."""

    inputs: dict[str, int]
    outputs: dict[str, int]


class Scopes:
    """The scopes of a model's nodes."""

    def __init__(self, model: Model) -> None:
        self._of = {node.name: scopes_of(model, node) for node in model.graph.nodes}
        self._given_in = {out.name: node.name for node in model.graph.nodes for out in node.outputs if out.name}
        self._inside: dict[str, list[gs.Node]] = {}
        for node in model.graph.nodes:
            for scope in self._of[node.name]:
                self._inside.setdefault(scope, []).append(node)
        self._boundaries: dict[str, Boundary] = {}
        self._public = {output.name for output in model.graph.outputs} | model.captured

    @property
    def names(self) -> list[str]:
        """Every scope of the model."""
        return list(self._inside)

    def of(self, node: gs.Node) -> tuple[str, ...]:
        """The scopes that a node is in, the outermost first."""
        return self._of.get(node.name, ())

    def of_giver(self, tensor: str) -> tuple[str, ...]:
        """The scopes of the node that gives a value."""
        return self._of.get(self._given_in.get(tensor, ""), ())

    def enters(self, scope: str, edge_node: gs.Node, value: gs.Tensor) -> bool:
        """True where an edge carries a value into a scope."""
        return scope in self.of(edge_node) and scope not in self.of_giver(value.name)

    def leaves(self, scope: str, value: gs.Tensor) -> bool:
        """True where a value that a scope gives is read outside of it."""
        if scope not in self.of_giver(value.name):
            return False
        return value.name in self._public or any(scope not in self.of(reader) for reader in value.outputs)

    def boundary(self, scope: str) -> Boundary:
        """Returns what crosses the boundary of a scope."""
        if scope not in self._boundaries:
            self._boundaries[scope] = self._found(scope)
        return self._boundaries[scope]

    def _found(self, scope: str) -> Boundary:
        inside = self._inside.get(scope, [])
        read = (value for node in inside for value in node.inputs if _is_value(value))
        inputs = (value.name for value in read if scope not in self.of_giver(value.name))
        given = (value for node in inside for value in node.outputs if value.name)
        outputs = (value.name for value in given if self.leaves(scope, value))
        return Boundary(_numbered(inputs), _numbered(outputs))


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(dict.fromkeys(names))}


def _is_value(value: gs.Tensor) -> bool:
    return isinstance(value, gs.Variable) and bool(value.name)
