"""Text that both databases accept."""

from __future__ import annotations


def clean(text: str, limit: int = 20_000) -> str:
    """Replace what PostgreSQL's text refuses (NUL, lone surrogates) and cut at `limit` characters,
    saying so: programs print anything."""
    text = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
