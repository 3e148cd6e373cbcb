"""Entry points of the jobs `dataset`, `tokenizer` and `data`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from quarterdeck.specs.beats import FileEntry, OutputAsset
from quarterdeck.specs.kinds import DatasetSpec, DataSpec, TokenizerSpec
from quarterdeck.specs.protocol import ResolvedAsset
from quarterdeck_workers.data.assets import (
    FILES,
    TOKENS,
    folder_of,
    manifest_of,
    output_asset,
    output_path,
    store_of,
)
from quarterdeck_workers.data.dataset import Manifest, decode, read_documents, scan
from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.reporting import Reporter, Stopped, beating, check_stop
from quarterdeck_workers.data.shards import Index, Shard
from quarterdeck_workers.data.tokenize import SHARD_BYTES, MadeShard, Source, finish, tokenize
from quarterdeck_workers.data.tokenizer import save_tokenizer, train_bpe
from quarterdeck_workers.rank.context import RankContext

_MEETING = timedelta(minutes=5)
_POLL_EVERY = 0.5


def dataset_main(context: RankContext) -> None:
    """Scan a URI and publish the dataset version. Raises DataProblem."""
    order = context.order
    spec = DatasetSpec.model_validate(order.spec)
    store = store_of(order)
    context.phase(f"scanning {spec.uri}", running=True)
    try:
        manifest = scan(
            spec.uri, include=spec.include, exclude=spec.exclude, held_out=spec.held_out,
            progress=Reporter(context, "reading files"),
        )  # fmt: skip
    except Stopped:
        return
    held_out = manifest.of("held_out")
    if spec.held_out > 0 and not held_out:
        context.event(
            "dataset.held_out_empty",
            f"held_out {spec.held_out:.2%} of {len(manifest.files)} files chose none: the split "
            "is by whole files; use a larger share or more, smaller files",
        )
    local = context.workdir / "manifest.jsonl"
    local.parent.mkdir(parents=True, exist_ok=True)
    manifest.save(local)
    path = f"{output_path(order, 'dataset')}/manifest.jsonl"
    store.put_file(local, path, move=True)
    context.output(
        OutputAsset(
            kind="dataset",
            name=order.owner_name,
            digest=manifest.digest,
            uri=spec.uri,
            size=manifest.bytes_of(),
            metadata={
                "format": FILES,
                "files": len(manifest.files),
                "bytes": manifest.bytes_of(),
                "held_out_files": len(held_out),
                "held_out_bytes": manifest.bytes_of("held_out"),
                "held_out": spec.held_out,
                "uri": spec.uri,
                "manifest": path,
            },
        )
    )


def tokenizer_main(context: RankContext) -> None:
    """Train a tokenizer on a dataset's training split and publish it. Raises DataProblem."""
    order = context.order
    spec = TokenizerSpec.model_validate(order.spec)
    store = store_of(order)
    asset = _one(order.inputs.get("dataset", []), "dataset")
    manifest = manifest_of(asset, store, context.workdir)
    folder = context.workdir / "tokenizer"
    try:
        with beating(context):
            trained = train_bpe(
                _training_texts(context, manifest, asset), spec.vocabulary, spec.special_tokens
            )
    except Stopped:
        return
    if trained.vocabulary < trained.requested:
        context.event(
            "tokenizer.smaller",
            f"the text holds no more repeated pairs: {trained.vocabulary} tokens instead of "
            f"{trained.requested}",
            vocabulary=trained.vocabulary, requested=trained.requested,
        )  # fmt: skip
    save_tokenizer(trained.tokenizer, folder)
    path = output_path(order, "tokenizer")
    store.delete_prefix(path)
    files = store.put_folder(folder, path, move=True)
    metadata: dict[str, Any] = {
        "method": spec.method,
        "vocabulary": trained.vocabulary,
        "requested_vocabulary": trained.requested,
        "dataset": _reference(asset),
    }
    context.output(output_asset(order, store, "tokenizer", files, metadata))
    context.result("vocabulary", trained.vocabulary)


def _training_texts(
    context: RankContext, manifest: Manifest, asset: ResolvedAsset
) -> Iterator[str]:
    files = manifest.of(asset.split or "train")
    total = sum(file.size for file in files)
    if not files:
        raise DataProblem(
            f"the {asset.split or 'train'} split of dataset {asset.name} is empty: choose a "
            "smaller held_out share"
        )
    report, done = Reporter(context, "reading text"), 0
    for document in read_documents(manifest, files):
        text = decode(document.content)
        if text is not None:
            yield text
        done += len(document.content)
        report(done, total, document.path)
    context.phase("merging pairs", running=True)


def data_main(context: RankContext) -> None:
    """Tokenize datasets into shards and publish them as a dataset version. Raises DataProblem."""
    order = context.order
    spec = DataSpec.model_validate(order.spec)
    for number, wanted in enumerate(spec.datasets):
        if wanted.weight is not None or wanted.passes is not None:
            raise DataProblem(
                f"datasets[{number}] has a weight or passes, which tokenizing does not use: make "
                "one `data` job for each domain and weigh them in the pretrain job's datasets"
            )
    store = store_of(order)
    assets = order.inputs.get("datasets", [])
    made_by = _one(order.inputs.get("tokenizer", []), "tokenizer")
    tokenizer = folder_of(made_by, store, context.workdir)
    sources = [Source(manifest_of(a, store, context.workdir), a.split) for a in assets]
    local = context.workdir / f"tokens-{context.rank}"
    try:
        meeting = _Meeting(context) if context.world_size > 1 else None
        made = tokenize(
            sources, tokenizer, local, rank=context.rank, ranks=context.world_size,
            shard_bytes=SHARD_BYTES, progress=Reporter(context, "tokenizing"),
        )  # fmt: skip
        path = output_path(order, "dataset")
        entries = store.put_folder(local, path, move=True) if made else []
        if meeting is not None:
            made, entries = meeting.gather(made, entries)
    except Stopped:
        return
    if context.rank != 0:
        return
    indexes = finish(made, tokenizer, local)
    entries += store.put_folder(local, path, move=True)
    shutil.rmtree(local, ignore_errors=True)
    skipped = sum(shard.skipped for shard in made)
    if skipped:
        context.event(
            "data.binary_files_skipped", f"{skipped} files hold no text and were left out"
        )
    metadata = _token_metadata(indexes, made_by, assets)
    context.output(output_asset(order, store, "dataset", entries, metadata))
    context.result("tokens", {split: index.tokens for split, index in indexes.items()})


def _token_metadata(
    indexes: dict[Any, Index], tokenizer: ResolvedAsset, sources: Sequence[ResolvedAsset]
) -> dict[str, Any]:
    train = indexes["train"]
    return {
        "format": TOKENS,
        "tokens": {split: index.tokens for split, index in indexes.items()},
        "bytes": {split: index.bytes for split, index in indexes.items()},
        "documents": {split: index.documents for split, index in indexes.items()},
        "dtype": train.dtype,
        "vocab_size": train.vocab_size,
        "tokenizer": {**_reference(tokenizer), "uri": tokenizer.uri},
        "datasets": [_reference(source) for source in sources],
    }


class _Meeting:
    """Where the ranks of a `data` job tell rank 0 what they made."""

    def __init__(self, context: RankContext) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._context = context
        self._board = TCPStore(
            context.master_address, context.master_port, context.world_size,
            is_master=context.rank == 0, timeout=_MEETING,
        )  # fmt: skip

    def gather(
        self, made: list[MadeShard], entries: list[FileEntry]
    ) -> tuple[list[MadeShard], list[FileEntry]]:
        """All ranks' shards and files on rank 0; the rank's own elsewhere. Raises Stopped."""
        content = {
            "made": [asdict(shard) for shard in made],
            "entries": [entry.model_dump() for entry in entries],
        }
        self._board.set(str(self._context.rank), json.dumps(content))
        if self._context.rank != 0:
            return made, entries
        keys = [str(rank) for rank in range(self._context.world_size)]
        self._context.phase("waiting for the other ranks", running=True)
        while not self._board.check(keys):
            check_stop(self._context)
            self._context.heartbeat()
            time.sleep(_POLL_EVERY)
        parts = [json.loads(self._board.get(key)) for key in keys]
        all_made = [
            MadeShard(m["split"], m["number"], Shard(**m["shard"]), m["skipped"])
            for part in parts
            for m in part["made"]
        ]
        return all_made, [FileEntry(**entry) for part in parts for entry in part["entries"]]


def _one(assets: Sequence[ResolvedAsset], field: str) -> ResolvedAsset:
    if not assets:
        raise DataProblem(f"{field}: the order names no version to read")
    return assets[0]


def _reference(asset: ResolvedAsset) -> dict[str, Any]:
    return {"name": asset.name, "version": asset.version}
