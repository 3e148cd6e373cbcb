"""Log lines as text that cannot harm a terminal. Pure.

Programs print anything. Colours are kept for a terminal and end with their line; whatever would
move the cursor, set titles or write to the clipboard is left out; other control characters, and
those that reverse the direction of text, are shown by their codes.
"""

from __future__ import annotations

import re

RESET = "\x1b[0m"
_SEQUENCE = re.compile(
    r"\x1b\[(?P<colour>[0-9;:]*)m"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # any other control sequence
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # title, clipboard, device strings
    r"|\x1b[ -/]*[0-~]"
    r"|\x1b"
)
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Without colours and other escapes: for files and pipes."""
    return _CONTROL.sub(_code, _SEQUENCE.sub("", text))


def for_terminal(text: str) -> str:
    """With colours, which end at the end of the line."""
    parts: list[str] = []
    end = 0
    coloured = False
    for found in _SEQUENCE.finditer(text):
        parts.append(_CONTROL.sub(_code, text[end : found.start()]))
        end = found.end()
        if found["colour"] is not None:
            parts.append(found[0])
            coloured = True
    parts.append(_CONTROL.sub(_code, text[end:]))
    return "".join(parts) + (RESET if coloured else "")


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
