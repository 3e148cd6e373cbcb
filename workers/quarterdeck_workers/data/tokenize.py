"""From documents to token shards, alone or as one of several ranks.

What lies in which shard depends on the manifests only, so any number of ranks makes the same
files: rank r of n makes the shards r, r + n, r + 2n, ….
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from quarterdeck.artifacts.digests import file_digest
from quarterdeck_workers.data.dataset import (
    SPLITS,
    Manifest,
    Progress,
    SourceFile,
    Split,
    decode,
    no_progress,
    read_documents,
)
from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.shards import Index, Shard, token_dtype
from quarterdeck_workers.data.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    pieces,
    tokenizer_digest,
)
from quarterdeck_workers.models.folders import end_of_text_id

SHARD_BYTES = 16 << 20
_BATCH_CHARACTERS = 4 << 20


@dataclass(frozen=True)
class Source:
    """A registered dataset to tokenize; `split` None means both."""

    manifest: Manifest
    split: Split | None = None
    storage_options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PlannedShard:
    """Which files of which sources become one shard: pairs (index of the source, file)."""

    split: Split
    number: int
    files: tuple[tuple[int, SourceFile], ...]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for _, file in self.files)


@dataclass(frozen=True)
class MadeShard:
    """A shard that a rank wrote; `skipped` counts binary files, which hold no text."""

    split: Split
    number: int
    shard: Shard
    skipped: int


def plan_shards(sources: Sequence[Source], shard_bytes: int = SHARD_BYTES) -> list[PlannedShard]:
    """Deal the files out, in the order of sources and paths, to shards of about `shard_bytes`."""
    planned: list[PlannedShard] = []
    for split in SPLITS:
        files = [
            (number, file)
            for number, source in enumerate(sources)
            if source.split in (None, split)
            for file in source.manifest.of(split)
        ]
        group: list[tuple[int, SourceFile]] = []
        number = size = 0
        for entry in files:
            if group and size + entry[1].size > shard_bytes:
                planned.append(PlannedShard(split, number, tuple(group)))
                group, size, number = [], 0, number + 1
            group.append(entry)
            size += entry[1].size
        if group:
            planned.append(PlannedShard(split, number, tuple(group)))
    return planned


def tokenize(
    sources: Sequence[Source],
    tokenizer_folder: Path,
    folder: Path,
    *,
    rank: int = 0,
    ranks: int = 1,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = no_progress,
) -> list[MadeShard]:
    """Write this rank's shards to `folder/SPLIT/`; `finish` then writes the indexes.

    Progress counts bytes of this rank's files. Raises DataProblem when a file changed or the
    tokenizer has no end-of-text token.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    eos = _end_of_text(tokenizer_folder)
    dtype = token_dtype(tokenizer.get_vocab_size())
    mine = plan_shards(sources, shard_bytes)[rank::ranks]
    total = sum(shard.size for shard in mine)
    made: list[MadeShard] = []
    done = 0
    for planned in mine:
        writer = _ShardWriter(folder / planned.split, planned.number, dtype, eos)
        with writer:
            for texts, size in _batches(sources, planned):
                writer.add(texts, tokenizer)
                done += size
                progress(done, total, f"{planned.split} shard {planned.number}")
        skipped = len(planned.files) - writer.documents
        made.append(MadeShard(planned.split, planned.number, writer.result(), skipped))
    return made


def finish(made: Sequence[MadeShard], tokenizer_folder: Path, folder: Path) -> dict[Split, Index]:
    """Write each split's index from all ranks' shards. Raises DataProblem without any token."""
    if not any(m.shard.tokens for m in made):
        raise DataProblem("no text was found: all selected files are binary or empty")
    tokenizer = load_tokenizer(tokenizer_folder)
    indexes: dict[Split, Index] = {}
    for split in SPLITS:
        parts = sorted((m for m in made if m.split == split), key=lambda m: m.number)
        indexes[split] = Index(
            dtype=token_dtype(tokenizer.get_vocab_size()),
            vocab_size=tokenizer.get_vocab_size(),
            eos_token_id=_end_of_text(tokenizer_folder),
            tokenizer_sha256=tokenizer_digest(tokenizer_folder),
            shards=tuple(m.shard for m in parts),
        )
        indexes[split].save(folder / split)
    return indexes


class _ShardWriter:
    def __init__(self, folder: Path, number: int, dtype: str, eos: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"shard-{number:05d}.bin"
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._eos = eos
        self._starts = [(0, 0)]

    def __enter__(self) -> None:
        self._stream = self._path.open("wb")

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def documents(self) -> int:
        return len(self._starts) - 1

    def add(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        cut = [list(pieces(text)) for text in texts]
        flat = [piece for parts in cut for piece in parts]
        encoded = iter(tokenizer.encode_batch_fast(flat, add_special_tokens=False))
        for text, parts in zip(texts, cut, strict=True):
            ids = [token for _ in parts for token in next(encoded).ids]
            ids.append(self._eos)
            self._stream.write(np.asarray(ids, self._dtype).tobytes())
            tokens, size = self._starts[-1]
            self._starts.append((tokens + len(ids), size + len(text.encode())))

    def result(self) -> Shard:
        tokens, size = self._starts[-1]
        shard = Shard(self._path.name, tokens, size, self.documents, file_digest(self._path))
        np.save(self._path.with_name(shard.documents_file), np.asarray(self._starts, np.int64))
        return shard


def _batches(sources: Sequence[Source], planned: PlannedShard) -> Iterator[tuple[list[str], int]]:
    """Texts of a shard, many at a time (encoding runs in parallel), with their files' sizes."""
    texts: list[str] = []
    characters = size = 0
    for text, file_size in _texts(sources, planned):
        size += file_size
        if text:
            texts.append(text)
            characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield texts, size
            texts, characters, size = [], 0, 0
    if texts or size:
        yield texts, size


def _texts(sources: Sequence[Source], planned: PlannedShard) -> Iterator[tuple[str | None, int]]:
    for number, source in enumerate(sources):
        files = [file for at, file in planned.files if at == number]
        if files:
            for document in read_documents(source.manifest, files, source.storage_options):
                yield decode(document.content), len(document.content)


def _end_of_text(tokenizer_folder: Path) -> int:
    eos: int | None = end_of_text_id(tokenizer_folder)
    if eos is None:
        raise DataProblem(
            f"the tokenizer in {tokenizer_folder.name} names no eos_token: documents need one to "
            f"end with; set it in tokenizer_config.json, e.g. {END_OF_TEXT}"
        )
    return eos
