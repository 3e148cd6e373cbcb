"""Glob patterns over relative paths: `**` crosses folders, `*` and `?` stay inside one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|[^*?\[]+|\[")


@lru_cache(maxsize=256)
def glob_expression(pattern: str) -> re.Pattern[str]:
    """The regular expression of a glob; `**/*.py` finds `a.py` as well as `b/c/a.py`."""
    parts: list[str] = []
    for token in _TOKEN.findall(pattern):
        if token == "**/":
            parts.append("(?:.*/)?")
        elif token == "**":
            parts.append(".*")
        elif token == "*":
            parts.append("[^/]*")
        elif token == "?":
            parts.append("[^/]")
        elif len(token) > 2 and token[0] == "[" and token[-1] == "]":
            inside = token[1:-1].replace("\\", r"\\")
            parts.append(f"[^/{inside[1:]}]" if inside[0] == "!" else f"[{inside}]")
        else:
            parts.append(re.escape(token))
    return re.compile("".join(parts), re.DOTALL)


def selected(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a relative path matches one of `include` and none of `exclude`."""
    return any(glob_expression(p).fullmatch(path) for p in include) and not any(
        glob_expression(p).fullmatch(path) for p in exclude
    )
