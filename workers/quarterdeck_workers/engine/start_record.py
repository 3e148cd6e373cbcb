"""How long the phases of a model's last start on this node took: what the next may expect."""

from __future__ import annotations

import hashlib
import json
import math
import os
from contextlib import suppress
from pathlib import Path

FOLDER = "starts"
_LARGEST = 4096
_KEPT = 500


def record_of(home: Path, *what: str) -> Path:
    """The file for one combination of model, engine and settings."""
    return home / FOLDER / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]}.json"


def last_start(file: Path) -> dict[str, float]:
    """Seconds by phase; empty where nothing (readable) is known."""
    try:
        content = json.loads(file.read_text(encoding="utf-8")[:_LARGEST])
        return {str(name): float(seconds) for name, seconds in content.items()
                if math.isfinite(float(seconds)) and float(seconds) >= 0}  # fmt: skip
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def keep_start(file: Path, seconds: dict[str, float]) -> None:
    """Remember a start; that it cannot be kept harms nobody."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(seconds), encoding="utf-8")
        unfinished.replace(file)
        for old in sorted(file.parent.iterdir(), key=lambda each: each.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)
