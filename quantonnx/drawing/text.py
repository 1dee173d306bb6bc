"""How wide a text is without a font at hand, and how it is written into XML."""

from __future__ import annotations

import re
import unicodedata
from xml.sax.saxutils import escape, quoteattr

_NARROW = frozenset("iljtfrI.,:;'|!()[]/ -·")
_BROAD = frozenset("mwMW@%—…⋯")
_REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """Returns about how wide a text is in a sans-serif font of this size, rather too wide than too narrow."""
    return sum(_advance(character) for character in text) * size * (1.1 if bold else 1.03)


def _advance(character: str) -> float:
    if character in _NARROW:
        return 0.36
    if character in _BROAD:
        return 0.92
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    return 0.69 if character.isupper() else 0.63


def content(text: str) -> str:
    """Returns a text as the content of an element; characters that XML refuses become U+FFFD."""
    return escape(_REFUSED.sub("\ufffd", text))


def attribute(text: str) -> str:
    """Returns a text as a quoted attribute; characters that XML refuses become U+FFFD."""
    return quoteattr(_REFUSED.sub("\ufffd", text))


def number(value: float) -> str:
    """Returns a coordinate with one decimal at most."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
