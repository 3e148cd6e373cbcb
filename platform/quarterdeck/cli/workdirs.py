"""Folders that documents name become uploads before the documents are sent."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quarterdeck.cli.output import size
from quarterdeck.cli.session import note
from quarterdeck.specs.workdir import Upload, is_local

if TYPE_CHECKING:
    from quarterdeck.client import Client
    from quarterdeck.specs.loading import LoadedDocument

QUIET_SECONDS = 2.0
_REDRAW_SECONDS = 0.2


class Bar:
    """One line on a terminal's stderr (elsewhere one for each tenth) about work that takes long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._drawn = 0.0
        self._tenth = -1
        self.shown = False

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        if now - self._started < QUIET_SECONDS or now - self._drawn < _REDRAW_SECONDS:
            return
        text = f"{what} {size(done)} of {size(total)} ({done / max(1, total):.0%})"
        self._drawn = now
        if sys.stderr.isatty():
            print(f"\r{text}   ", end="", file=sys.stderr, flush=True)
            self.shown = True
        elif (tenth := 10 * done // max(1, total)) != self._tenth:
            self._tenth = tenth
            note(text)

    def end(self) -> None:
        """Leave the line."""
        if self.shown:
            print(file=sys.stderr)


def upload_workdir(
    client: Client, data: Mapping[str, Any], base: Path, *, send: bool = True
) -> dict[str, Any]:
    """The document with its local `workdir` uploaded, and a note of how much it was; with `send`
    false it is only described. `base` is what a relative path starts from."""
    from quarterdeck.client.uploads import describe, list_folder

    workdir = data.get("workdir")
    if data.get("kind") != "command" or not is_local(workdir):
        return dict(data)
    folder = base / Path(str(workdir)).expanduser()
    bar = Bar()
    try:
        if send:
            project = data.get("project")
            found = client.uploads.folder(folder, project=project, progress=bar)
        else:
            found = describe(list_folder(folder), bar)
    finally:
        bar.end()
    if send:
        note(f"workdir {workdir}: {found.files} files, {size(found.size)}")
    return {**data, "workdir": found.model_dump(mode="json")}


def upload_all(
    client: Client, documents: list[LoadedDocument], *, send: bool = True
) -> list[dict[str, Any]]:
    """The data of loaded documents, with uploads; paths are relative to each one's file."""
    return [
        upload_workdir(client, document.data, _base(document.source), send=send)
        for document in documents
    ]


def _base(source: str) -> Path:
    return Path() if source.startswith("<") else Path(source).parent


def source_text(client: Client, project: str, workdir: object, most_lines: int = 40) -> str:
    """Where an upload came from, with the beginning of what was not committed; empty for others."""
    if not isinstance(workdir, Mapping):
        return ""
    upload = Upload.model_validate(workdir)
    at = f" at commit {upload.commit}" if upload.commit else ""
    changed = ", with changes that are not committed" if upload.dirty else ""
    lines = [f"{upload.folder}{at}{changed}", f"{upload.files} files, {size(upload.size)}"]
    if upload.diff:
        text = client.uploads.content(upload.diff, project=project).decode("utf-8", "replace")
        diff = text.splitlines()
        lines += ["", *diff[:most_lines]]
        if len(diff) > most_lines:
            lines.append(f"… {len(diff) - most_lines} more lines: artifact {upload.diff}")
    return "\n".join(lines)
