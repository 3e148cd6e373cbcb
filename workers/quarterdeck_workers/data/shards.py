"""Token shards on disk: one folder for each split, read by memory mapping.

`SPLIT/index.json` names the shards in order with dtype, counts and digests;
`SPLIT/shard-00000.bin` holds token ids (little-endian uint16, uint32 for vocabularies beyond
65,536), each document followed by the end-of-text token; `SPLIT/shard-00000.documents.npy` holds
int64 [documents + 1, 2]: where each document begins, in tokens and in bytes of its text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck.artifacts.digests import file_digest
from quarterdeck_workers.data.errors import DataProblem

INDEX = "index.json"
FORMAT = "quarterdeck-tokens"


@dataclass(frozen=True)
class Shard:
    """One file of tokens. `tokens` counts end-of-text tokens too; `bytes` is those of the text."""

    file: str
    tokens: int
    bytes: int
    documents: int
    sha256: str

    @property
    def documents_file(self) -> str:
        return self.file.removesuffix(".bin") + ".documents.npy"


@dataclass(frozen=True)
class Index:
    """All shards of one split."""

    dtype: str
    vocab_size: int
    eos_token_id: int
    tokenizer_sha256: str
    shards: tuple[Shard, ...]

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    def save(self, folder: Path) -> None:
        """Write `index.json` into the split's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {"format": FORMAT, "version": 1, **asdict(self)}
        content |= {"tokens": self.tokens, "bytes": self.bytes, "documents": self.documents}
        (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read a split's folder. Raises DataProblem when it holds no token shards."""
        try:
            content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataProblem(
                f"{folder} holds no token shards: make them by a `data` job with method tokenize"
            ) from error
        if content.get("format") != FORMAT:
            raise DataProblem(f"{folder / INDEX} is not an index of token shards")
        return cls(
            dtype=content["dtype"],
            vocab_size=content["vocab_size"],
            eos_token_id=content["eos_token_id"],
            tokenizer_sha256=content["tokenizer_sha256"],
            shards=tuple(Shard(**shard) for shard in content["shards"]),
        )


def token_dtype(vocab_size: int) -> str:
    """The smallest of uint16 and uint32 that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class TokenShards:
    """The tokens of one split as one long sequence, mapped from disk.

    Raises DataProblem when a file is missing or not as long as the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = Index.load(folder)
        self.starts = [0, *accumulate(shard.tokens for shard in self.index.shards)]
        self._maps = [self._map(shard) for shard in self.index.shards]

    def __len__(self) -> int:
        return self.starts[-1]

    def _map(self, shard: Shard) -> NDArray[Any]:
        path, dtype = self.folder / shard.file, np.dtype(self.index.dtype).newbyteorder("<")
        size = path.stat().st_size if path.is_file() else None
        if size != shard.tokens * dtype.itemsize:
            found = "missing" if size is None else f"{size} bytes long"
            raise DataProblem(
                f"{path} is {found}, not {shard.tokens * dtype.itemsize} bytes: "
                "run the `data` job again"
            )
        if shard.tokens == 0:
            return np.empty(0, dtype)
        return np.memmap(path, dtype=dtype, mode="r")

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` tokens from `start`, across shards. Raises IndexError outside."""
        if start < 0 or start + length > len(self):
            raise IndexError(f"tokens {start} to {start + length} of {len(self)}")
        out = np.empty(length, np.int64)
        shard = int(np.searchsorted(self.starts, start, side="right")) - 1
        filled = 0
        while filled < length:
            offset = start + filled - self.starts[shard]
            part = self._maps[shard][offset : offset + length - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            shard += 1
        return out

    def documents(self) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Every document as (tokens with the final end-of-text, bytes of its text), in order."""
        for shard, tokens in zip(self.index.shards, self._maps, strict=True):
            starts = np.load(self.folder / shard.documents_file)
            for (begin, first), (end, last) in pairwise(starts):
                yield np.asarray(tokens[begin:end], np.int64), int(last - first)

    def verify(self) -> None:
        """Check every shard's digest. Raises DataProblem naming the first that differs."""
        for shard in self.index.shards:
            if file_digest(self.folder / shard.file) != shard.sha256:
                raise DataProblem(
                    f"{self.folder / shard.file} does not have its digest "
                    f"{shard.sha256[:16]}…: run the `data` job again"
                )
