"""Why a replica failed, in the few words that an operator looks for first. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LONGEST = 300
_CAUSES = (
    ("out of memory", re.compile(r"out of memory|OutOfMemory|oom[- ]?kill|MemoryError", re.I)),
    ("port in use", re.compile(r"address already in use|EADDRINUSE|Errno 98\b", re.I)),
    (
        "model missing",
        re.compile(
            r"(model|weights|safetensors|config\.json|tokenizer)[^\n]{0,200}"
            r"(not found|no such file|does not exist|missing)"
            r"|(not found|no such file|does not exist)[^\n]{0,200}"
            r"(model|weights|safetensors|config\.json|tokenizer)",
            re.I,
        ),
    ),
)


def crash_words(failure: Mapping[str, Any] | None, message: str, reason: str) -> str:
    """One line: the cause where it is a common one, then what the run itself said first."""
    failure = failure or {}
    said = str(failure.get("message") or message or "").strip()
    raised = _raised(str(failure.get("traceback") or ""))
    line = (said or raised or reason).splitlines()[0][:LONGEST] if said or raised else reason
    if raised and raised not in line and not _tells(line):
        line = f"{line}: {raised}"[:LONGEST]
    text = f"{failure.get('blame', '')}\n{said}\n{raised}"
    if known := failure.get("reason"):
        return line if str(known) in line else f"{known} ({line})"[:LONGEST]
    cause = "out of memory" if failure.get("blame") == "memory" else ""
    cause = cause or next((name for name, pattern in _CAUSES if pattern.search(text)), "")
    return f"{cause} ({line})" if cause and cause not in line.lower() else line


def _raised(traceback: str) -> str:
    """The exception's own line: the first one after the frames."""
    frames = False
    for line in traceback.splitlines():
        if line.startswith(("Traceback", "  ")):
            frames = True
        elif frames and line.strip():
            return line.strip()[:LONGEST]
    return ""


def _tells(line: str) -> bool:
    """The message already names an exception."""
    return re.match(r"^[\w.]*(Error|Exception|Exit|Interrupt)\b", line) is not None
