"""A target: the compiler that will run the model, as its patterns, formats and rules.

A target is data. What it adds to the patterns are the positions that its compiler wants (`Pattern.with_points`), the
integer formats that it takes, and a few rules, each of which answers with a reason that people can read.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import ModuleType

import onnx

from quantonnx.costs import CostModel
from quantonnx.declarations import operators
from quantonnx.errors import PatternError, QuantonnxError, TargetError
from quantonnx.formats import TensorFormat
from quantonnx.pattern import Conversion, Pattern, Role
from quantonnx.plan import near

Rule = Callable[[Pattern], str | None]
"""Asks whether a match should stay in float: the reason, or None."""

Patterns = tuple[type[Pattern], ...]


class BiasKind(Enum):
    """How a target takes the bias of a quantized operator."""

    FLOAT = "float"
    INT32 = "int32"


@dataclass(frozen=True)
class FormatRequest:
    """A format that a configuration asks for, for a role at an ONNX operator.

    `activation` is the format of the activation that a weight meets there, None where that stays in float;
    `channel_axis` is that of the weight's output channels, where the pattern knows it. With `dynamic` the scale of the
    activation is found at run time.
    """

    format: TensorFormat
    role: Role
    operator: str
    activation: TensorFormat | None = None
    dynamic: bool = False
    channel_axis: int | None = None


@dataclass(frozen=True)
class Target:
    """One compiler. `patterns` are tried longest match first; `glue` are those that are quantized only where every
    input already comes from a quantized operator, because on their own they would cost more than they gain; so are
    the matches that `memory_bound` names.

    `method` chooses ranges of activations where the user does not, `recipe` names the algorithms that come before;
    `known_ranges` are those of the results of operators that need no samples. `refuses` says why a format that a user
    asks for does not exist on the target, and what to use instead.

    `float_types` are the element types, as numpy names them, whose operators become integer ones.

    `same_scale` operators compute on codes when both sides share one scale; a pair before a `transparent` operator
    serves the operator after it as well; the inputs of a `one_scale` operator take the scale of its claimed result.
    `costs` decide which operators are worth their conversions; operators in `float_only` have no integer kernel, and
    those in `wide` have one for activations of 16 bits too.
    """

    name: str
    description: str
    conversions: Patterns
    patterns: Patterns
    activation: TensorFormat
    weight: TensorFormat
    bias: BiasKind
    method: str = "minmax"
    recipe: tuple[str, ...] = ()
    float_types: frozenset[str] = frozenset({"float32"})
    glue: frozenset[str] = frozenset()
    memory_bound: Callable[[Pattern], bool] = field(default=lambda found: False)
    rules: tuple[Rule, ...] = ()
    refuses: Callable[[FormatRequest], str | None] = field(default=lambda request: None)
    known_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    same_scale: frozenset[str] = frozenset()
    transparent: frozenset[str] = frozenset()
    one_scale: frozenset[str] = frozenset()
    costs: CostModel | None = None
    float_only: frozenset[str] = frozenset({"LSTM", "GRU", "RNN"})
    wide: frozenset[str] = frozenset()
    names: dict[str, type[Pattern]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._check()
        self.names.update({pattern.__name__: pattern for pattern in reversed(self.conversions + self.patterns)})

    def _check(self) -> None:
        """Raises TargetError for what is no pattern, stands in the wrong list, or is there twice."""
        seen: dict[str, str] = {}
        for where in ("conversions", "patterns"):
            for index, pattern in enumerate(getattr(self, where)):
                place = f"target {self.name}: {where}[{index}]"
                if not isinstance(pattern, type) or not issubclass(pattern, Pattern):
                    hint = "put a * before a tuple of patterns" if isinstance(pattern, tuple) else "list classes"
                    raise TargetError(f"{place} is {_shown(pattern)}, expected a Pattern", hint)
                if issubclass(pattern, Conversion) != (where == "conversions"):
                    hint = "a Conversion belongs into conversions, every other Pattern into patterns"
                    raise TargetError(f"{place} is {pattern.__name__}", hint)
                if pattern.__name__ in seen:
                    twin = seen[pattern.__name__]
                    raise TargetError(f"{place} is called {pattern.__name__}, as {twin} is", "rename or remove one")
                seen[pattern.__name__] = f"{where}[{index}]"

    def with_patterns(self, patterns: Patterns) -> Target:
        """Returns the target with more patterns, tried before its own; one of a shipped name takes its place."""
        names = {pattern.__name__ for pattern in patterns}
        if len(names) < len(patterns):
            raise PatternError("two patterns have the same name", "rename one")
        own = [pattern for pattern in self.conversions + self.patterns if pattern.__name__ not in names]
        every = (*patterns, *own)
        return replace(
            self,
            conversions=tuple(pattern for pattern in every if issubclass(pattern, Conversion)),
            patterns=tuple(pattern for pattern in every if not issubclass(pattern, Conversion)),
        )


def get_target(target: str | Path | Target) -> Target:
    """Returns a target by its name, or from a Python file that ends in `target = Target(...)`."""
    if isinstance(target, Target):
        return target
    known = known_targets()
    if str(target) in known:
        return known[str(target)]
    if str(target).endswith(".py"):
        return _load_target(target)
    hint = near(str(target), known) or f"known targets: {', '.join(known)}"
    raise TargetError(f"unknown target {str(target)!r}", f"{hint} (or give a .py file)")


def named_target(name: str) -> Target:
    """Returns a shipped target by the name that a plan or a model tells: never a file, which would be code to run."""
    if name in known_targets():
        return known_targets()[name]
    hint = "a target file is code: give it yourself, as --target" if name.endswith(".py") else "give it as --target"
    raise TargetError(f"{name!r} is no target that comes with quantonnx", hint)


def _load_target(path: str | Path) -> Target:
    module = load_module(path)
    found = getattr(module, "target", None)
    if not isinstance(found, Target):
        only_patterns = found is None and hasattr(module, "patterns")
        hint = "it has patterns: give it as --patterns" if only_patterns else "end the file with `target = Target(...)`"
        raise TargetError(f"{path} defines no target{'' if found is None else f', `target` is {_shown(found)}'}", hint)
    for pattern in found.patterns + found.conversions:
        _refuse_unknown_operators(pattern)
    return found


def _shown(value: object) -> str:
    return value.__name__ if isinstance(value, type) else f"a {type(value).__name__}"


def known_targets() -> dict[str, Target]:
    """Returns the shipped targets by name."""
    from quantonnx.patterns.targets import onnxruntime, openvino, tensorrt

    return {module.target.name: module.target for module in (tensorrt, onnxruntime, openvino)}


def load_patterns(path: str | Path) -> Patterns:
    """Returns the `patterns` tuple of a user's pattern file."""
    module = load_module(path)
    found, as_target = getattr(module, "patterns", None), isinstance(getattr(module, "target", None), Target)
    if not isinstance(found, tuple) or not all(isinstance(p, type) and issubclass(p, Pattern) for p in found):
        hint = "end the file with `patterns = (MyPattern, ...)`"
        raise PatternError(f"{path} defines no patterns", "it has a target: give it as --target" if as_target else hint)
    for pattern in found:
        _refuse_unknown_operators(pattern)
    return found


def _refuse_unknown_operators(pattern: type[Pattern]) -> None:
    if pattern.__module__.startswith("quantonnx."):
        return  # shipped patterns also name operators that only a runtime has
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    for domain, name in sorted(operators(pattern.root)):
        if not domain and name not in known:
            raise PatternError(
                f"pattern {pattern.__name__} names op.{name}, which ONNX does not have", near(name, known)
            )


def load_module(path: str | Path) -> ModuleType:
    """Runs a user's Python file and returns its module; what it raises comes back as one line with the place."""
    path = Path(path)
    if not path.is_file():
        raise PatternError(f"{path} does not exist", "give the path of a Python file")
    spec = importlib.util.spec_from_file_location(f"quantonnx_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PatternError(f"{path} cannot be loaded", "give the path of a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # a dataclass in the file looks there for its module
    try:
        spec.loader.exec_module(module)
    except QuantonnxError:
        raise
    except Exception as error:
        where = _line_of(error, path)
        raise PatternError(f"{path}{where} fails: {type(error).__name__}: {error}", "mend that line") from error
    return module


def _line_of(error: Exception, path: Path) -> str:
    """Where in a file an error came from, as `, line 12`."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute() or frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
