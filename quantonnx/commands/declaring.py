"""From a function to a command: option groups are dataclasses, and every command has the common options."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import typer

from quantonnx.commands.running import CommonOptions, Run


def command(function: Callable[..., int | None], name: str = "") -> Callable[..., None]:
    """Returns what typer takes as the command: the function's parameters, those of its option groups, and the common
    ones. The function itself gets a Run first, and each group as one dataclass. `name` is what results call it."""
    hints = get_type_hints(function, include_extras=True)
    given = [p for p in inspect.signature(function).parameters.values() if p.name != "run"]
    groups = {p.name: hints[p.name] for p in given if dataclasses.is_dataclass(hints[p.name])}
    parameters = [
        parameter
        for p in given
        for parameter in (
            _fields(groups[p.name])
            if p.name in groups
            else [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)]
        )
    ] + _fields(CommonOptions)

    @functools.wraps(function)
    def called(**options: Any) -> None:
        common = _taken(CommonOptions, options)
        built = {name: _taken(group, options) for name, group in groups.items()}
        code = Run(name or function.__name__, common).execute(function, options | built)
        if code:
            raise typer.Exit(code)

    del called.__wrapped__  # or its parameters would be taken for these
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def _taken(group: Any, options: dict[str, Any]) -> Any:
    return group(**{field.name: options.pop(field.name) for field in dataclasses.fields(group)})
