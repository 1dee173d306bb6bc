"""From evidence to action: the configuration that meets a bar on accuracy and leaves the least in float."""

from __future__ import annotations

from quantonnx.search.goals import Goal, Score
from quantonnx.search.searching import Found, find_config

__all__ = ["Found", "Goal", "Score", "find_config"]
