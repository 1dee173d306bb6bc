"""Parameters and buffers under their ONNX names: `features.0.weight` is the weight of the module `features.0`."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


class Scope(nn.Module):
    """A place in the tree of names."""


class States:
    """The tensors of a graph, in a tree of modules as their names have it.

    A name that no tree can have (`a..b`, or `a` beside `a.b`) has slashes in the place of its dots.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.paths: dict[str, tuple[str, str]] = {}

    def add(self, name: str, tensor: Tensor, *, trained: bool) -> None:
        """Registers a tensor: a parameter where it is trained, else a buffer."""
        scope, leaf = self._place(name)
        where = self.root.get_submodule(scope)
        if trained:
            where.register_parameter(leaf, nn.Parameter(tensor))
        else:
            where.register_buffer(leaf, tensor)
        self.paths[name] = scope, leaf

    def add_layer(self, name: str, layer: nn.Module) -> str:
        """Registers a layer and returns its path."""
        scope, leaf = self._place(name)
        self.root.get_submodule(scope).add_module(leaf, layer)
        return f"{scope}.{leaf}".lstrip(".")

    def _place(self, name: str) -> tuple[str, str]:
        *scopes, leaf = name.split(".")
        where, path = self.root, []
        for piece in scopes:
            inner = where._modules.get(piece)
            if inner is None and (not piece or hasattr(where, piece)):
                return self._flat(name)
            if inner is None:
                inner = Scope()
                where.add_module(piece, inner)
            where = inner
            path.append(piece)
        free = leaf and not hasattr(where, leaf)
        return (".".join(path), leaf) if free else self._flat(name)

    def _flat(self, name: str) -> tuple[str, str]:
        flat = name.replace(".", "/") or "_"
        while hasattr(self.root, flat):
            flat += "_"
        return "", flat


def tensors_at(root: nn.Module, paths: dict[str, tuple[str, str]]) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a module, or of a replica of it, by their ONNX names."""
    for name, (scope, leaf) in paths.items():
        where = root
        for piece in scope.split(".") if scope else ():
            where = where._modules[piece]  # type: ignore[assignment]
        yield name, getattr(where, leaf)
