"""The rows of a dataset version, cut into shards that any rank can read by itself.

A row is a line of a `.jsonl` file (an object; empty lines are none), or any other file with text
(fields `text` and `path`). Its id is `path:line`, or the path. Cutting depends on the contents and
`shard_rows` only, so every attempt cuts alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quarterdeck_workers.data.dataset import (
    Document,
    Manifest,
    SourceFile,
    Split,
    decode,
    read_documents,
)

_LINES = ".jsonl"


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `end` (from 0, without `end`) of one file."""

    path: str
    start: int
    end: int


@dataclass(frozen=True)
class ShardPlan:
    """One shard: `first` is the number of its first row in the whole dataset."""

    number: int
    first: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        return sum(piece.end - piece.start for piece in self.pieces)


@dataclass(frozen=True)
class Row:
    """One row. `problem` says why it has no fields."""

    id: str
    fields: dict[str, Any]
    problem: str = ""


def rows_of(document: Document) -> list[Row]:
    """The rows of one file; binaries have none."""
    text = decode(document.content)
    if text is None:
        return []
    if not document.path.endswith(_LINES):
        return [Row(document.path, {"text": text, "path": document.path})]
    return [
        _row(f"{document.path}:{number}", line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]


def _row(identity: str, line: str) -> Row:
    try:
        fields = json.loads(line)
    except ValueError as error:
        return Row(identity, {}, f"not JSON: {error}")
    if not isinstance(fields, dict):
        return Row(identity, {}, f"a {type(fields).__name__}, not an object")
    return Row(identity, fields)


def cut(counts: Sequence[tuple[str, int]], shard_rows: int) -> list[ShardPlan]:
    """Shards of at most `shard_rows` rows over files with so many rows each, in order."""
    shards: list[ShardPlan] = []
    pieces: list[Piece] = []
    first = held = 0
    for path, rows in counts:
        start = 0
        while start < rows:
            end = min(rows, start + shard_rows - held)
            pieces.append(Piece(path, start, end))
            held += end - start
            start = end
            if held == shard_rows:
                shards.append(ShardPlan(len(shards), first, tuple(pieces)))
                first, pieces, held = first + held, [], 0
    if pieces:
        shards.append(ShardPlan(len(shards), first, tuple(pieces)))
    return shards


class Rows:
    """Reads shards of one dataset version, keeping the file read last."""

    def __init__(self, manifest: Manifest, split: Split | None) -> None:
        self._manifest = manifest
        self._files: dict[str, SourceFile] = {file.path: file for file in manifest.of(split)}
        self._last: tuple[str, list[Row]] = ("", [])

    def plan(self, shard_rows: int) -> list[ShardPlan]:
        """Read everything once and cut it. Raises DataProblem for changed files."""
        return cut([(path, len(self._read(path))) for path in self._files], shard_rows)

    def of(self, shard: ShardPlan) -> Iterator[Row]:
        """The shard's rows in order. Raises DataProblem for changed files."""
        for piece in shard.pieces:
            yield from self._read(piece.path)[piece.start : piece.end]

    def _read(self, path: str) -> list[Row]:
        if self._last[0] != path:
            (document,) = read_documents(self._manifest, [self._files[path]])
            self._last = (path, rows_of(document))
        return self._last[1]


def encode_plan(shards: Sequence[ShardPlan]) -> str:
    """As ranks hand it to each other."""
    return json.dumps([asdict(shard) for shard in shards])


def decode_plan(text: str) -> list[ShardPlan]:
    """The reverse of `encode_plan`."""
    return [
        ShardPlan(one["number"], one["first"], tuple(Piece(**piece) for piece in one["pieces"]))
        for one in json.loads(text)
    ]
