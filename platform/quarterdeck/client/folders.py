"""Which files of a folder are sent: all that its ignore files leave, at every depth.

The rules are git's: in each folder `.quarterdeckignore`, where there is none `.gitignore`; the last
pattern that matches decides, deeper files come later, and nothing below an ignored folder returns.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from quarterdeck.artifacts import Entry
from quarterdeck.client.errors import QuarterdeckError

IGNORE_FILES = (".quarterdeckignore", ".gitignore")
NEVER = frozenset({".git", ".quarterdeck", "__pycache__"})
"""Never sent: history, the platform's own keys, and what Python makes again."""
MOST_BYTES = 2**30
MOST_FILES = 100_000
_SUM_SECONDS = 10.0
"""After the bound is passed, how long to go on adding up, so that the message names the largest."""
_NAMED = 5


class FolderRefused(QuarterdeckError):
    """The folder cannot be sent; the message says why and what to do."""


@dataclass(frozen=True)
class _Rules:
    """The ignore file of one folder, asked with paths relative to the root of the walk."""

    spec: GitIgnoreSpec
    strip: int = 0
    """Characters of the path down to a folder inside the root."""
    prefix: str = ""
    """The root's path below a folder outside of it."""

    def says(self, path: str) -> bool | None:
        """True for ignored, False for kept, None where no pattern matches."""
        return self.spec.check_file(self.prefix + path[self.strip :]).include


@dataclass
class Listing:
    """The files of a folder that are sent."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)


def list_folder(
    folder: Path,
    *,
    most_bytes: int = MOST_BYTES,
    most_files: int = MOST_FILES,
    clock: Callable[[], float] = time.monotonic,
) -> Listing:
    """Find what is sent of `folder`. Raises FolderRefused with a remedy for a missing folder, one
    that is too large, and links that leave it."""
    if not folder.is_dir():
        raise FolderRefused(f"workdir {str(folder)!r} is no folder: name an existing one")
    walk = _Walk(folder.resolve(), most_bytes, most_files, clock)
    walk.visit("", _rules_above(walk.root))
    walk.check()
    return Listing(walk.root, sorted(walk.entries, key=lambda entry: entry.path))


class _Walk:
    def __init__(
        self, root: Path, most_bytes: int, most_files: int, clock: Callable[[], float]
    ) -> None:
        self.root = root
        self.entries: list[Entry] = []
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._clock = clock
        self._bytes = 0
        self._files = 0
        self._by_folder: Counter[str] = Counter()
        self._over_since: float | None = None

    def visit(self, below: str, rules: list[_Rules]) -> None:
        """Take in the folder `below` (empty, or with a slash at its end)."""
        spec = _spec_in(self.root / below)
        rules = [*rules, _Rules(spec, strip=len(below))] if spec is not None else rules
        for entry in sorted(os.scandir(self.root / below), key=lambda one: one.name):
            if entry.name in NEVER or self._given_up():
                continue
            path = below + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if _ignored(path + "/" if is_folder else path, rules):
                continue
            if is_folder:
                self.visit(path + "/", rules)
            else:
                self._take(path, entry)

    def _take(self, path: str, entry: os.DirEntry[str]) -> None:
        if entry.is_symlink():
            self.entries.append(Entry(path, link=self._link(path)))
            return
        about = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(about.st_mode):
            return  # sockets and pipes are no content; git leaves them out too
        self._bytes += about.st_size
        self._files += 1
        for depth in range(1, 3):
            parts = path.split("/")
            if len(parts) > depth:
                self._by_folder["/".join(parts[:depth]) + "/"] += about.st_size
        if len(path.split("/")) == 1:
            self._by_folder[path] += about.st_size
        if self._over() and self._over_since is None:
            self._over_since = self._clock()
        if self._over_since is None:
            executable = bool(about.st_mode & stat.S_IXUSR)
            self.entries.append(Entry(path, about.st_size, executable))

    def _link(self, path: str) -> str:
        target = str((self.root / path).readlink())
        try:
            inside = (self.root / path).resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # a circle of links
            inside = False
        if not inside or target.startswith("/"):
            raise FolderRefused(
                f"the link {path} -> {target} leaves the folder, and the machines do not have what "
                f"it points to: add it to {IGNORE_FILES[0]}, or put the files themselves there"
            )
        return target

    def _over(self) -> bool:
        return self._bytes > self._most_bytes or self._files > self._most_files

    def _given_up(self) -> bool:
        since = self._over_since
        return since is not None and self._clock() - since > _SUM_SECONDS

    def check(self) -> None:
        if not self._over():
            return
        largest = [
            f"{name} {human_size(size)}" for name, size in self._by_folder.most_common(_NAMED)
        ]
        more = " at least" if self._given_up() else ""
        raise FolderRefused(
            f"workdir {self.root} has{more} {human_size(self._bytes)} in {self._files:,} files, "
            f"more than {human_size(self._most_bytes)} or {self._most_files:,} files. Largest: "
            f"{', '.join(largest)}. Add what the job does not need to {IGNORE_FILES[0]}, register "
            "data as a dataset, or give a folder that the machines have (workdir: file:///…)"
        )


def _ignored(path: str, rules: list[_Rules]) -> bool:
    for one in reversed(rules):
        said = one.says(path)
        if said is not None:
            return said
    return False


def _spec_in(folder: Path) -> GitIgnoreSpec | None:
    for name in IGNORE_FILES:
        try:
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, IsADirectoryError):
            continue
        except OSError as error:
            raise FolderRefused(f"{folder / name} cannot be read: {error.strerror}") from error
        return GitIgnoreSpec.from_lines(text.splitlines())
    return None


def _rules_above(root: Path) -> list[_Rules]:
    """Ignore files between the repository's root and the folder, the highest first."""
    found: list[_Rules] = []
    for folder in (root, *root.parents):
        spec = _spec_in(folder) if folder != root else None
        if spec is not None:
            prefix = root.relative_to(folder).as_posix() + "/"
            # Whoever names an ignored folder wants it.
            if not spec.check_file(prefix).include:
                found.insert(0, _Rules(spec, prefix=prefix))
        if (folder / ".git").exists():
            return found
    return []  # in no repository: folders above have no say


def human_size(size: int) -> str:
    """Bytes for people: `3.4 MiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
