"""Train a byte-level BPE tokenizer and keep it in Hugging Face's files.

Every byte is a token, so nothing is unknown and decoding gives the text back exactly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
"""Begins and ends documents, and pads."""

_ALPHABET = 256


@dataclass(frozen=True)
class TrainedTokenizer:
    """`vocabulary` counts all tokens; it is below `requested` when the text holds no more pairs."""

    tokenizer: Tokenizer
    requested: int
    vocabulary: int


def train_bpe(
    texts: Iterable[str],
    vocabulary: int,
    special_tokens: Sequence[str] = (),
    *,
    min_frequency: int = 2,
) -> TrainedTokenizer:
    """Learn merges until there are `vocabulary` tokens: 256 bytes, specials, then merges.

    A pair that occurs less than `min_frequency` times is not merged. The result depends on the
    multiset of texts only. Raises ValueError when the vocabulary cannot hold bytes and specials.
    """
    specials = [END_OF_TEXT, *(t for t in dict.fromkeys(special_tokens) if t != END_OF_TEXT)]
    smallest = _ALPHABET + len(specials)
    if vocabulary < smallest:
        raise ValueError(
            f"vocabulary {vocabulary} is too small: 256 bytes and {len(specials)} special tokens "
            f"need {smallest}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=min_frequency,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TrainedTokenizer(tokenizer, vocabulary, tokenizer.get_vocab_size())


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which AutoTokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**9,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a folder's `tokenizer.json` for encoding data: special tokens that stand in a text are
    text, so that no document can forge the end of another.

    Raises FileNotFoundError when there is none.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no tokenizer.json: give a tokenizer's folder")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of the folder's `tokenizer.json`: which tokenizer made tokens."""
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


def pieces(text: str, limit: int = 1 << 20) -> Iterator[str]:
    """A text cut after line ends into pieces of about `limit` characters, which together are it."""
    start = 0
    while len(text) - start > limit:
        end = text.rfind("\n", start, start + limit) + 1
        end = end if end > start else start + limit
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
