"""Draw a recorded run as an SVG picture: `python tools/picture.py LOG SVG`.

LOG is what `quarterdeck demo` printed; nothing is added, only repeated lines are thinned.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

KEEP_EVERY = 6
"""Of the lines of live progress, one in so many stays."""

FONT_FACE = re.compile(r"@font-face \{.*?\}\n", re.DOTALL)
"""Fonts that a viewer would fetch from elsewhere: its own monospace does."""


def chosen(lines: list[str]) -> list[str]:
    """The lines to show: from `ready` to the table's end, progress thinned."""
    start = next((n for n, line in enumerate(lines) if line.startswith("ready ")), 0)
    end = next((n for n, line in enumerate(lines) if line.startswith("└")), len(lines) - 1)
    shown, progress = [], 0
    for line in lines[start : end + 1]:
        if "· running · step" in line:
            progress += 1
            if progress % KEEP_EVERY:
                continue
        shown.append(line)
    return shown


def styled(line: str) -> Text:
    """A line with the colour of what it tells."""
    style = ""
    if line.startswith("["):
        style = "bold"
    elif "kill -9" in line:
        style = "bold red"
    elif "resumed" in line or "succeeded" in line or "ready" in line or "greedy" in line:
        style = "green"
    elif "· running ·" in line:
        style = "cyan"
    return Text(line, style)


def main() -> None:
    log, target = Path(sys.argv[1]), Path(sys.argv[2])
    console = Console(record=True, width=104, file=io.StringIO())
    for line in chosen(log.read_text(encoding="utf-8").splitlines()):
        console.print(styled(line))
    picture = console.export_svg(title="quarterdeck demo")
    target.write_text(re.sub(FONT_FACE, "", picture), encoding="utf-8")


if __name__ == "__main__":
    main()
