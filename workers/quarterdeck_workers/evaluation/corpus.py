"""The texts that a model is scored on, as tokens of its own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from quarterdeck_workers.data.dataset import Manifest, Split, decode, read_documents
from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.shards import TokenShards
from quarterdeck_workers.data.tokenizer import load_tokenizer, pieces, tokenizer_digest

_BATCH = 64


@dataclass(frozen=True)
class ScoredText:
    """One document: its text's UTF-8 bytes, and its tokens with the end-of-text token."""

    content: bytes
    tokens: NDArray[np.int64]


def texts_of_files(
    manifest: Manifest, split: Split | None, tokenizer_folder: Path, eos: int
) -> Iterator[ScoredText]:
    """Every text of a split of registered files; binary ones are left out. Raises DataProblem
    when one changed."""
    tokenizer = load_tokenizer(tokenizer_folder)
    decoded = (decode(d.content) for d in read_documents(manifest, manifest.of(split)))
    texts = (text for text in decoded if text)
    while batch := list(islice(texts, _BATCH)):
        yield from _encode(batch, tokenizer, eos)


def _encode(texts: list[str], tokenizer: Tokenizer, eos: int) -> Iterator[ScoredText]:
    cut = [list(pieces(text)) for text in texts]
    flat = [piece for parts in cut for piece in parts]
    encoded = iter(tokenizer.encode_batch_fast(flat, add_special_tokens=False))
    for text, parts in zip(texts, cut, strict=True):
        ids = [token for _ in parts for token in next(encoded).ids]
        yield ScoredText(text.encode(), np.array([*ids, eos], np.int64))


def texts_of_shards(folder: Path, tokenizer_folder: Path) -> Iterator[ScoredText]:
    """Every document of a folder of token shards.

    Raises DataProblem when another tokenizer made them, or decoding does not give the text back.
    """
    shards = TokenShards(folder)
    if shards.index.tokenizer_sha256 != tokenizer_digest(tokenizer_folder):
        raise DataProblem(
            f"the token shards in {folder} were made by another tokenizer than the model's: "
            "evaluate on the dataset of texts that they were made from"
        )
    tokenizer = load_tokenizer(tokenizer_folder)
    for tokens, size in shards.documents():
        content = tokenizer.decode(tokens[:-1].tolist(), skip_special_tokens=False).encode()
        if len(content) != size:
            raise DataProblem(
                f"a document of {folder} decodes to {len(content)} bytes instead of {size}: "
                "evaluate on the dataset of texts that the shards were made from"
            )
        yield ScoredText(content, tokens)


def limited(texts: Iterable[ScoredText], max_tokens: int | None) -> Iterator[ScoredText]:
    """Whole documents until `max_tokens` are reached, at least one."""
    seen = 0
    for text in texts:
        yield text
        seen += len(text.tokens)
        if max_tokens is not None and seen >= max_tokens:
            return


def limited_bytes(texts: Iterable[ScoredText], limit: int) -> Iterator[NDArray[Any]]:
    """Tokens of whole documents until their texts have `limit` bytes."""
    seen = 0
    for text in texts:
        if seen >= limit:
            return
        yield text.tokens
        seen += len(text.content)
