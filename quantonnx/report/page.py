"""The page: one HTML file with its style, its scripts, the facts as JSON and the graph as SVG, all inside.

Names come from a model and may be hostile: the template escapes everything, scripts put names into text nodes only,
and the page allows no script but its own, by their digests, and no network at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from quantonnx.printable import json_text

_REQUIRED = ("plotly", "jinja2")
_PARTS = files("quantonnx.report") / "page_parts"
_SCRIPTS = ("elements.js", "tables.js", "plots.js", "graph.js", "sections.js")
_UNSAFE = {character: f"\\u{ord(character):04x}" for character in "<>&"}


def requirements_missing() -> list[str]:
    """Returns the packages that a page needs and that are not installed."""
    return [name for name in _REQUIRED if find_spec(name) is None]


def page(content: Mapping[str, Any], picture: str) -> str:
    """Returns the page that shows the content of report.json; `picture` is SVG whose texts are escaped."""
    jinja2 = import_module("jinja2")
    scripts = ["\n".join(_part(name) for name in _SCRIPTS), _plotting()]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_part("page.html"))
    safe = jinja2.utils.markupsafe.Markup
    found = template.render(
        facts=content,
        data=safe(json_in_html(content)),
        picture=safe(picture),
        style=safe(_part("page.css")),
        scripts=[safe(script) for script in scripts],
        policy=_policy(scripts),
    )
    return str(found)


def json_in_html(content: Any) -> str:
    """Returns JSON that can stand in a script element: nothing in it ends the element, whatever names hold."""
    text = json_text(content, allow_nan=False, separators=(",", ":"))
    return "".join(_UNSAFE.get(character, character) for character in text)


def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _plotting() -> str:
    """The plotting library as the Python package brings it along."""
    script: str = import_module("plotly.offline").get_plotlyjs()
    return script


def _policy(scripts: list[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
