"""Log files: the records of a stretch of one owner's log, compressed, one part for each rank.

A file is a sequence of gzip members, one for each (epoch, rank, stream); a member holds one JSON
array a line: `[transaction, id, seq, [[unix seconds, text], …]]`. Equal records give equal bytes,
so that a file may be written twice.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Sequence

from quarterdeck.artifacts.errors import Corrupt
from quarterdeck.artifacts.store import ArtifactStore
from quarterdeck.specs.log_records import LogPart, LogRecord

FOLDER = "logs"
_LEVEL = 6


def path_of(owner_id: str, records: Sequence[LogRecord]) -> str:
    """The file's path: named by the first and the last record's place in the log."""
    (first_transaction, first), (last_transaction, last) = records[0].key, records[-1].key
    return f"{FOLDER}/{owner_id}/{first_transaction}.{first}-{last_transaction}.{last}.gz"


def encode(records: Iterable[LogRecord]) -> tuple[bytes, list[LogPart]]:
    """The file's content, and where in it each rank's records lie."""
    groups: dict[tuple[int, int, str], list[LogRecord]] = {}
    for record in records:
        groups.setdefault((record.epoch, record.rank, record.stream), []).append(record)
    content, parts = bytearray(), []
    for (epoch, rank, stream), group in sorted(groups.items()):
        text = "".join(
            json.dumps([*record.key, record.seq, record.lines], ensure_ascii=False) + "\n"
            for record in group
        )
        member = gzip.compress(text.encode(), _LEVEL, mtime=0)
        place, size = len(content), len(member)
        parts.append(LogPart(epoch, rank, stream, place, size, group[0].seq, group[-1].seq))
        content += member
    return bytes(content), parts


def read(store: ArtifactStore, path: str, parts: Iterable[LogPart]) -> list[LogRecord]:
    """The records of some parts of a file, in the log's order.

    Raises FileNotFoundError, Corrupt, and what the store raises when it does not answer.
    """
    records: list[LogRecord] = []
    with store.open(path) as stream:
        for part in parts:
            stream.seek(part.offset)
            member = stream.read(part.size)
            try:
                records += _decode(member, part)
            except (zlib.error, EOFError, gzip.BadGzipFile, ValueError) as error:
                raise Corrupt(store.uri_of(path), {f"rank {part.rank}": str(error)}) from error
    return sorted(records, key=lambda record: record.key)


def _decode(member: bytes, part: LogPart) -> Iterable[LogRecord]:
    # Newlines alone end rows: JSON text may hold characters that end lines for `str`.
    for line in gzip.decompress(member).split(b"\n")[:-1]:
        transaction, id_, seq, lines = json.loads(line)
        yield LogRecord((transaction, id_), part.epoch, part.rank, part.stream, seq, lines)
