"""From which commit a folder comes, and what of it is not committed: asked of git, if there is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from quarterdeck.client.folders import Listing

LONGEST_DIFF = 256 * 1024
"""Bytes; the rest is cut and said so."""
_MOST_PATHS = 1000
_SECONDS = 10.0
_CUT = b"\n... [cut: the whole diff is longer]\n"


@dataclass(frozen=True)
class Provenance:
    """`commit` is None outside of repositories. `diff` is of sent files against the commit."""

    commit: str | None = None
    dirty: bool = False
    diff: bytes = b""


def provenance_of(listing: Listing) -> Provenance:
    """What git knows of a folder; nothing where git does not answer within ten seconds."""
    git = shutil.which("git")
    if git is None:
        return Provenance()
    folder = str(listing.folder)

    def ask(*arguments: str) -> bytes:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        return subprocess.run(
            [git, "-C", folder, *arguments], env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=_SECONDS, check=True,
        ).stdout  # fmt: skip

    try:
        commit = ask("rev-parse", "--verify", "HEAD").decode().strip()
        changed = ask("diff", "--name-only", "--relative", "-z", "HEAD", "--", ".")
        fresh = ask("ls-files", "--others", "--exclude-standard", "-z", "--", ".")
        sent = {entry.path for entry in listing.entries}
        names = [name for name in _names(changed) if _shown(name, sent, listing)]
        diff = _diff(ask, names) if names else b""
    except (OSError, subprocess.SubprocessError):
        return Provenance()
    return Provenance(commit, bool(names) or any(name in sent for name in _names(fresh)), diff)


def _names(output: bytes) -> list[str]:
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _shown(name: str, sent: set[str], listing: Listing) -> bool:
    """What was left out of the upload, perhaps because it is secret, is left out of the diff."""
    return name in sent or not os.path.lexists(listing.folder / name)


def _diff(ask: Callable[..., bytes], names: list[str]) -> bytes:
    text = ask(
        "--literal-pathspecs", "diff", "--no-color", "--no-ext-diff", "--no-textconv", "--relative",
        "HEAD", "--", *names[:_MOST_PATHS],
    )  # fmt: skip
    if len(text) > LONGEST_DIFF or len(names) > _MOST_PATHS:
        return text[:LONGEST_DIFF] + _CUT
    return text
