"""The jobs one after the other, as the supervisor would start them, on a real artifact store."""

from __future__ import annotations

import json
import math
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.beats import OutputAsset
from quarterdeck.specs.protocol import ResolvedAsset, RunOrder
from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.jobs import data_main, dataset_main, tokenizer_main
from quarterdeck_workers.data.loader import DomainSource, TokenLoader
from quarterdeck_workers.data.shards import TokenShards
from quarterdeck_workers.evaluation.jobs import evaluate_main
from quarterdeck_workers.models.folders import export
from quarterdeck_workers.models.hugging_face import to_hugging_face
from quarterdeck_workers.models.initialisation import build_model
from quarterdeck_workers.rank.context import RankContext
from quarterdeck_workers.rank.errors import blame_of

Messages = list[dict[str, Any]]


class Platform:
    """Just enough of the control plane: it remembers versions and resolves references."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ArtifactStore((root / "artifacts").as_uri())
        self.assets: dict[str, ResolvedAsset] = {}
        self.runs = 0

    def order(self, spec: dict[str, Any], inputs: dict[str, list[ResolvedAsset]]) -> RunOrder:
        self.runs += 1
        return RunOrder(
            run_id=f"run-{self.runs:012d}", epoch=1, owner_type="job", owner_id="job-1",
            owner_name=spec["name"], kind=spec["kind"], spec=spec, cluster="local", placements=[],
            inputs=inputs, artifacts_uri=self.store.uri, api_url="", run_key="",
        )  # fmt: skip

    def run(
        self, main: Callable[[RankContext], None], order: RunOrder, ranks: int = 1,
        before: Callable[[socket.socket], None] = lambda _: None,
    ) -> Messages:  # fmt: skip
        """Run all ranks (threads of this process) and answer what they sent, in order of ranks."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        messages: list[Messages] = [[] for _ in range(ranks)]
        failures: list[BaseException] = []

        def rank_main(rank: int) -> None:
            mine, theirs = socket.socketpair()
            context = RankContext(
                order=order, rank=rank, world_size=ranks, local_rank=rank, node_rank=0,
                master_address="127.0.0.1", master_port=port,
                workdir=self.root / order.run_id, _socket=mine,
            )  # fmt: skip
            reader = threading.Thread(target=_collect, args=(theirs, messages[rank]))
            reader.start()
            before(theirs)
            context.start()
            try:
                main(context)
            except BaseException as error:
                failures.append(error)
            finally:
                mine.shutdown(socket.SHUT_RDWR)
                reader.join()
                mine.close()
                theirs.close()

        threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(ranks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return [message for part in messages for message in part]

    def register(self, messages: Messages) -> OutputAsset:
        (output,) = outputs(messages)
        self.assets[output.name] = ResolvedAsset(
            kind=output.kind, name=output.name, version=1, digest=output.digest, uri=output.uri,
            metadata=output.metadata,
        )  # fmt: skip
        return output


def _collect(connection: socket.socket, into: Messages) -> None:
    with connection.makefile("r", encoding="utf-8") as lines:
        into.extend(json.loads(line) for line in lines)


def outputs(messages: Messages) -> list[OutputAsset]:
    return [OutputAsset(**m["asset"]) for m in messages if m["type"] == "output"]


def results(messages: Messages) -> dict[str, Any]:
    return {m["name"]: m["value"] for m in messages if m["type"] == "result"}


def events(messages: Messages) -> list[str]:
    return [m["event"] for m in messages if m["type"] == "event"]


DATASET = {"kind": "dataset", "name": "notes", "held_out": "20%", "include": ["**/*.txt"]}
TOKENIZER = {"kind": "tokenizer", "name": "bpe", "dataset": "notes", "vocabulary": 400}
DATA = {"kind": "data", "name": "tokens", "datasets": "notes", "tokenizer": "job/bpe"}
EVALUATE = {"kind": "evaluate", "name": "score", "model": "tiny", "datasets": "notes#held_out"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A platform with a dataset, a tokenizer, token shards and an untrained model."""
    platform = Platform(tmp_path_factory.mktemp("platform"))
    corpus = platform.root / "corpus"
    corpus.mkdir()
    words = [
        "the",
        "a",
        "ship",
        "sails",
        "over",
        "seas",
        "winds",
        "carry",
        "her",
        "home",
        "again",
        "slowly",
    ]
    for number in range(80):
        chosen = random.Random(number).choices(words, k=60)
        (corpus / f"{number:02d}.txt").write_text(" ".join(chosen) + ".\n")
    (corpus / "noise.txt").write_bytes(b"\0\0")
    platform.register(
        platform.run(dataset_main, platform.order({**DATASET, "uri": corpus.as_uri()}, {}))
    )
    notes = platform.assets["notes"]
    platform.register(platform.run(tokenizer_main, platform.order(TOKENIZER, {"dataset": [notes]})))
    inputs = {"datasets": [notes], "tokenizer": [platform.assets["bpe"]]}
    platform.register(platform.run(data_main, platform.order(DATA, inputs)))
    _add_model(platform)
    return platform


def _add_model(platform: Platform) -> None:
    architecture = Architecture(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    folder = platform.root / "artifacts" / "assets" / "model" / "tiny"
    tokenizer = platform.store.local_path(platform.store.path_of(platform.assets["bpe"].uri))
    assert tokenizer is not None
    size = platform.assets["bpe"].metadata["vocabulary"]
    state = to_hugging_face(
        dict(build_model(architecture, size, seed=0).named_parameters()), architecture
    )
    export(folder, state.items(), architecture, vocab_size=size, tokenizer_folder=tokenizer)
    platform.assets["tiny"] = ResolvedAsset(
        kind="model", name="tiny", version=1, digest="", uri=folder.as_uri(),
        metadata={"sequence_length": 32},
    )  # fmt: skip


def test_a_dataset_version_tells_what_it_holds(platform: Platform) -> None:
    notes = platform.assets["notes"]
    corpus = platform.root / "corpus"
    assert notes.uri == corpus.as_uri() == notes.metadata["uri"]
    assert notes.metadata["files"] == 81
    assert notes.metadata["bytes"] == sum(f.stat().st_size for f in corpus.iterdir())
    assert 0 < notes.metadata["held_out_bytes"] < notes.metadata["bytes"] / 2
    assert platform.store.exists(notes.metadata["manifest"])


def test_published_files_have_their_digests(platform: Platform) -> None:
    inputs = {
        "datasets": [platform.assets["notes"]], "tokenizer": [platform.assets["bpe"]],
    }  # fmt: skip
    messages = platform.run(data_main, platform.order(DATA, inputs))
    (output,) = outputs(messages)
    platform.store.verify_files(output.uri, output.files)
    assert {file.path for file in output.files} == set(
        platform.store.sizes(platform.store.path_of(output.uri))
    )
    assert output.digest == platform.assets["tokens"].digest
    assert "data.binary_files_skipped" in events(messages)


def test_token_shards_train(platform: Platform) -> None:
    tokens = platform.assets["tokens"]
    folder = platform.store.local_path(platform.store.path_of(tokens.uri))
    assert folder is not None
    loader = TokenLoader([DomainSource("notes", folder / "train")], sequence_length=32, seed=1)
    assert loader.batch(range(4)).inputs.shape == (4, 32)
    assert loader.tokens == tokens.metadata["tokens"]["train"]
    assert loader.vocab_size == tokens.metadata["vocab_size"]
    held_out = TokenShards(folder / "held_out")
    assert held_out.index.bytes == tokens.metadata["bytes"]["held_out"]
    assert tokens.metadata["tokenizer"] == {
        "name": "bpe", "version": 1, "uri": platform.assets["bpe"].uri,
    }  # fmt: skip


def test_several_ranks_make_the_same_version(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck_workers.data.jobs.SHARD_BYTES", 2000)
    inputs = {"datasets": [platform.assets["notes"]], "tokenizer": [platform.assets["bpe"]]}
    order = platform.order({**DATA, "ranks": 3}, inputs)
    (output,) = outputs(platform.run(data_main, order, ranks=3))
    platform.store.verify_files(output.uri, output.files)
    assert {"train/shard-00000.bin", "train/shard-00001.bin", "train/shard-00002.bin"} <= {
        file.path for file in output.files
    }
    assert output.metadata["tokens"] == platform.assets["tokens"].metadata["tokens"]


def test_an_evaluation_reports_scores_and_yardsticks(platform: Platform) -> None:
    inputs = {
        "model": [platform.assets["tiny"]],
        "datasets": [platform.assets["notes"].model_copy(update={"split": "held_out"})],
    }
    found = results(platform.run(evaluate_main, platform.order(EVALUATE, inputs)))
    vocabulary = platform.assets["bpe"].metadata["vocabulary"]
    # An untrained model guesses: a perplexity near the number of tokens.
    assert 0.5 * vocabulary < found["perplexity"] < 2 * vocabulary
    expected = found["tokens"] * math.log2(found["perplexity"]) / found["bytes"]
    assert found["bits_per_byte"] == pytest.approx(expected)
    assert found["unigram_bits_per_byte"] < found["bits_per_byte"]
    assert 0 < found["gzip_bits_per_byte"] < 8 and 0 < found["xz_bits_per_byte"] < 8
    assert (found["unigram_from"], found["split"]) == ("train", "held_out")
    assert found["sequence_length"] == 32
    notes = platform.assets["notes"].metadata
    assert found["bytes"] in (notes["held_out_bytes"], notes["held_out_bytes"] - 2)  # binary


def test_texts_and_their_shards_score_alike(platform: Platform) -> None:
    scores = []
    for name in ("notes", "tokens"):
        inputs = {"model": [platform.assets["tiny"]], "datasets": [platform.assets[name]]}
        scores.append(results(platform.run(evaluate_main, platform.order(EVALUATE, inputs))))
    assert scores[0] == scores[1]


def test_metrics_and_amount_are_chosen(platform: Platform) -> None:
    spec = {**EVALUATE, "metrics": ["perplexity"], "max_tokens": 40, "sequence_length": 8}
    inputs = {
        "model": [platform.assets["tiny"]],
        "datasets": [platform.assets["notes"], platform.assets["tokens"]],
    }
    found = results(platform.run(evaluate_main, platform.order(spec, inputs)))
    assert found["notes.sequence_length"] == 8
    assert 40 <= found["tokens.tokens"] < 200
    assert not any("bits_per_byte" in name for name in found)
    assert {"notes.perplexity", "tokens.perplexity"} <= set(found)


def test_a_smaller_vocabulary_is_said(platform: Platform) -> None:
    spec = {**TOKENIZER, "vocabulary": "50k"}
    messages = platform.run(
        tokenizer_main, platform.order(spec, {"dataset": [platform.assets["notes"]]})
    )
    (output,) = outputs(messages)
    assert output.metadata["requested_vocabulary"] == 50_000
    assert results(messages)["vocabulary"] == output.metadata["vocabulary"] < 2000
    assert "tokenizer.smaller" in events(messages)


def test_a_stop_ends_the_job_without_a_version(platform: Platform) -> None:
    def stop(supervisor: socket.socket) -> None:
        supervisor.sendall(b'{"type": "stop", "deadline_seconds": 5}\n')

    def main(context: RankContext) -> None:
        while context.stop_requested is None:
            time.sleep(0.01)
        data_main(context)

    inputs = {"datasets": [platform.assets["notes"]], "tokenizer": [platform.assets["bpe"]]}
    assert outputs(platform.run(main, platform.order(DATA, inputs), before=stop)) == []


def test_changed_data_is_to_blame(platform: Platform, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("first")
    spec = {"kind": "dataset", "name": "shaky", "uri": str(corpus)}
    other = Platform(tmp_path)
    other.register(other.run(dataset_main, other.order(spec, {})))
    (corpus / "a.txt").write_text("second")
    order = other.order(TOKENIZER, {"dataset": [other.assets["shaky"]]})
    with pytest.raises(DataProblem, match="changed since this version") as raised:
        other.run(tokenizer_main, order)
    assert blame_of(raised.value) == "data"


def test_an_empty_held_out_split_is_said(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("only one")
    spec = {"kind": "dataset", "name": "small", "uri": str(tmp_path), "held_out": 0.000001}
    assert "dataset.held_out_empty" in events(platform.run(dataset_main, platform.order(spec, {})))


def test_weights_belong_to_pretraining(platform: Platform) -> None:
    spec = {**DATA, "datasets": [{"name": "notes", "weight": 2}]}
    inputs = {"datasets": [platform.assets["notes"]], "tokenizer": [platform.assets["bpe"]]}
    with pytest.raises(DataProblem, match=r"datasets\[0\] has a weight"):
        platform.run(data_main, platform.order(spec, inputs))


def test_shards_are_no_text_for_a_tokenizer(platform: Platform) -> None:
    order = platform.order(TOKENIZER, {"dataset": [platform.assets["tokens"]]})
    with pytest.raises(DataProblem, match="holds tokens, not files"):
        platform.run(tokenizer_main, order)
