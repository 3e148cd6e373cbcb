"""Tokenizer files, token shards and batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.data.dataset import Manifest, scan
from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.loader import DomainSource, TokenLoader
from quarterdeck_workers.data.shards import TokenShards, token_dtype
from quarterdeck_workers.data.tokenize import Source, finish, plan_shards, tokenize
from quarterdeck_workers.data.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    save_tokenizer,
    train_bpe,
)
from quarterdeck_workers.models.folders import export
from quarterdeck_workers.models.hugging_face import to_hugging_face
from quarterdeck_workers.models.initialisation import build_model

TEXTS = [f"Document {n}: höher, schneller, 更快。\n" * (n % 7 + 1) for n in range(60)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("corpus")
    for number, text in enumerate(TEXTS):
        (folder / f"{number:03d}.txt").write_text(text)
    (folder / "forged.txt").write_text(f"one{END_OF_TEXT}two")
    (folder / "binary.bin").write_bytes(b"\0\1\2")
    return scan(str(folder), held_out=0.2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_bpe(TEXTS, 400).tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def tokens(corpus: Manifest, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    made = tokenize([Source(corpus)], tokenizer, folder, shard_bytes=2000)
    finish(made, tokenizer, folder)
    return folder


def test_transformers_opens_the_tokenizer(tokenizer: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(tokenizer)
    ours = load_tokenizer(tokenizer)
    for text in (*TEXTS[:5], "Unseen: ☃ \t  x\n\n y"):
        assert theirs(text).input_ids == ours.encode(text).ids
        assert theirs.decode(theirs(text).input_ids) == text
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.pad_token_id == 0


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2", "mistral"])
def test_the_tokenizer_keeps_its_meaning_beside_a_model(
    tokenizer: Path, tmp_path: Path, model_type: str
) -> None:
    """Loaders may pick a tokenizer class by the model's type: ids must not change by that."""
    fields = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "qkv_bias": model_type in ("qwen2", "gpt2"),
    }  # fmt: skip
    if model_type == "gpt2":
        fields |= {
            "position_embedding": "learned", "norm": "layernorm", "activation": "gelu",
            "attention_output_bias": True, "mlp_bias": True,
        }  # fmt: skip
    architecture = Architecture(model_type=model_type, **fields)
    state = to_hugging_face(
        dict(build_model(architecture, 400, seed=0).named_parameters()), architecture
    )
    export(tmp_path, state.items(), architecture, vocab_size=400, tokenizer_folder=tokenizer)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == model_type
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tokenizer)
    text = "  two  spaces, höher 更快。\n\n\tx"
    assert theirs(text).input_ids == ours.encode(text).ids
    assert theirs.decode(theirs(text).input_ids) == text
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 0


def test_shards_hold_every_document_once(corpus: Manifest, tokenizer: Path, tokens: Path) -> None:
    ours, root = load_tokenizer(tokenizer), Path(corpus.uri)
    for split in ("train", "held_out"):
        shards = TokenShards(tokens / split)
        shards.verify()
        assert len(shards.index.shards) > (1 if split == "train" else 0)
        texts = []
        for ids, size in shards.documents():
            assert ids[-1] == shards.index.eos_token_id
            text = ours.decode(ids[:-1].tolist(), skip_special_tokens=False)
            assert len(text.encode()) == size
            texts.append(text)
        files = [f for f in corpus.of(split) if f.path != "binary.bin"]
        assert texts == [(root / f.path).read_text() for f in files]
        assert shards.index.bytes == sum(f.size for f in files)
        assert shards.index.documents == len(files)
        assert len(shards) == shards.index.tokens


def test_no_document_forges_the_end_of_another(tokens: Path) -> None:
    for split in ("train", "held_out"):
        shards = TokenShards(tokens / split)
        everything = shards.read(0, len(shards))
        assert (everything == 0).sum() == shards.index.documents


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_writes_the_same_files(
    corpus: Manifest, tokenizer: Path, tokens: Path, tmp_path: Path, ranks: int
) -> None:
    made = [
        shard
        for rank in range(ranks)
        for shard in tokenize(
            [Source(corpus)], tokenizer, tmp_path, rank=rank, ranks=ranks, shard_bytes=2000
        )
    ]
    finish(made, tokenizer, tmp_path)
    for file in tokens.rglob("*"):
        if file.is_file():
            assert (tmp_path / file.relative_to(tokens)).read_bytes() == file.read_bytes()


def test_a_source_may_be_one_split(corpus: Manifest) -> None:
    planned = plan_shards([Source(corpus, "held_out"), Source(corpus, "train")], 10**9)
    assert [(p.split, len(p.files)) for p in planned] == [
        ("train", len(corpus.of("train"))), ("held_out", len(corpus.of("held_out"))),
    ]  # fmt: skip


def test_binaries_are_counted(corpus: Manifest, tokenizer: Path, tmp_path: Path) -> None:
    made = tokenize([Source(corpus)], tokenizer, tmp_path)
    assert sum(m.skipped for m in made) == 1


def test_reading_crosses_shards(tokens: Path) -> None:
    shards = TokenShards(tokens / "train")
    whole = shards.read(0, len(shards))
    border = shards.starts[1]
    np.testing.assert_array_equal(shards.read(border - 5, 10), whole[border - 5 : border + 5])
    with pytest.raises(IndexError):
        shards.read(len(shards) - 1, 2)


def test_batches_are_windows_with_their_successors(tokens: Path) -> None:
    loader = TokenLoader(
        [DomainSource("a", tokens / "train", 3.0), DomainSource("b", tokens / "held_out", 1.0)],
        sequence_length=16, seed=4,
    )  # fmt: skip
    batch = loader.batch(range(40, 60))
    assert batch.inputs.shape == batch.targets.shape == (20, 16)
    assert (batch.inputs[:, 1:] == batch.targets[:, :-1]).all()
    assert batch.domains.tolist().count(0) == 15
    for row, index in enumerate(range(40, 60)):
        sample = loader.order.sample(index)
        source = loader.shards[sample.domain].read(sample.window * 16, 17)
        assert batch.inputs[row].tolist() == source[:-1].tolist()
        assert int(batch.targets[row, -1]) == source[-1]
        assert int(batch.domains[row]) == sample.domain


def test_a_pass_predicts_every_token_once(tokens: Path) -> None:
    loader = TokenLoader(
        [DomainSource("a", tokens / "train", passes=1)], sequence_length=16, seed=4
    )
    available = loader.order.available
    assert available == (len(loader.shards[0]) - 1) // 16
    seen = np.sort(loader.batch(range(available)).targets.numpy().ravel())
    expected = np.sort(loader.shards[0].read(1, available * 16))
    np.testing.assert_array_equal(seen, expected)


def test_damage_is_named(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(DataProblem, match="holds no token shards"):
        TokenShards(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (tokens / "train").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    path = copy / "shard-00001.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataProblem, match=r"shard-00001\.bin does not have its digest"):
        TokenShards(copy).verify()
    path.write_bytes(content[:-2])
    with pytest.raises(DataProblem, match=r"shard-00001\.bin is .* run the `data` job again"):
        TokenShards(copy)


def test_domains_of_different_tokenizers_are_refused(
    corpus: Manifest, tokens: Path, tmp_path: Path
) -> None:
    save_tokenizer(train_bpe(TEXTS, 300).tokenizer, tmp_path / "other")
    made = tokenize([Source(corpus)], tmp_path / "other", tmp_path / "tokens")
    finish(made, tmp_path / "other", tmp_path / "tokens")
    sources = [
        DomainSource("a", tokens / "train"), DomainSource("b", tmp_path / "tokens" / "train"),
    ]  # fmt: skip
    with pytest.raises(DataProblem, match="different tokenizers"):
        TokenLoader(sources, sequence_length=16, seed=0)


def test_large_vocabularies_take_four_bytes() -> None:
    assert (token_dtype(65_536), token_dtype(65_537)) == ("uint16", "uint32")


def test_a_tokenizer_without_an_end_is_refused(corpus: Manifest, tmp_path: Path) -> None:
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataProblem, match="names no eos_token"):
        tokenize([Source(corpus)], tmp_path, tmp_path / "out")
