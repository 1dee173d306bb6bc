"""Text that may hold anything, such as a name from a file, made fit for a terminal and for JSON.

A control character in a name can move the cursor, set the title of a window or hide what follows; a mark of writing
direction shows a name as another one. None of them leaves the program as it is.
"""

from __future__ import annotations

import json
import re
from typing import Any

_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNSAFE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff{_DIRECTIONS}]")


def printable(text: str) -> str:
    """Returns the text with `\\x1b` and the like in place of control characters; lines and tabs stay."""
    return _UNSAFE.sub(_escaped, text)


def json_text(value: Any, **options: Any) -> str:
    """Returns JSON in Unicode, such characters escaped; `options` are those of `json.dumps`."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
