"""Entry point of `batch` jobs: a dataset through replicas of a model to a dataset.

A finished shard is one file in the artifact store, under a name that only its attempt writes. It
counts once rank 0 has registered it with a checkpoint, whose state lists every finished shard; a
resume redoes the others. The version at the end lists one file for each shard of the plan, so
each row is in it exactly once, whatever was written twice.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.batch import BatchSpec
from quarterdeck.specs.beats import CheckpointManifest, OutputAsset
from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.batch.board import Board, DoneShard
from quarterdeck_workers.batch.generate import Generator
from quarterdeck_workers.batch.rows import Rows, ShardPlan, decode_plan, encode_plan
from quarterdeck_workers.data.assets import FILES, folder_of, manifest_of, store_of
from quarterdeck_workers.data.dataset import Manifest, SourceFile
from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.reporting import Stopped, beating, check_stop
from quarterdeck_workers.engine.loading import load
from quarterdeck_workers.rank.context import RankContext

CHECKPOINT_SECONDS = 10.0
"""Finished shards wait at most so long for their registration, …"""
SOONEST_SECONDS, ENOUGH_SHARDS = 2.0, 0.02
"""… or so long once they are this share of all. Each registration lists every one."""
_POLL_SECONDS = 0.2


def batch_main(context: RankContext) -> None:
    """Generate every row's continuation and publish the dataset. Raises DataProblem, DataError."""
    order = context.order
    spec = BatchSpec.model_validate(order.spec)
    models, datasets = order.inputs.get("model", []), order.inputs.get("dataset", [])
    if not models or not datasets:
        raise DataProblem("model, dataset: the order names no version")
    store = store_of(order)
    rows = Rows(manifest_of(datasets[0], store, context.workdir), datasets[0].split)
    board = Board(context)
    try:
        with beating(context):
            if context.rank == 0:
                context.phase("reading the dataset", running=True)
                board.announce(encode_plan(rows.plan(spec.shard_rows)))
            plan = decode_plan(board.plan())
            context.phase(f"loading {models[0].name}@{models[0].version}", running=True)
            device = f"cuda:{context.local_rank}" if torch.cuda.is_available() else "cpu"
            generator = Generator(
                load(folder_of(models[0], store, context.workdir), device=device), spec
            )
    except Stopped:
        return
    work = _Work(context, spec, store, rows, board, plan, generator)
    try:
        work.run()
    except Stopped:
        work.register()
    finally:
        generator.close()


class _Work:
    def __init__(
        self, context: RankContext, spec: BatchSpec, store: ArtifactStore, rows: Rows,
        board: Board, plan: list[ShardPlan], generator: Generator,
    ) -> None:  # fmt: skip
        self._context, self._spec, self._store = context, spec, store
        self._rows, self._board, self._generator = rows, board, generator
        self._plan = plan
        self._total = sum(shard.rows for shard in plan)
        self._done = _resumed(context.order, plan)
        self._before = self._done_rows
        self._pending = [shard for shard in plan if shard.number not in self._done]
        self._open = set(range(len(self._pending)))
        self._registered = self._began = time.monotonic()
        self._fresh = 0

    def run(self) -> None:
        """Take shards until none is left; on rank 0, then wait for the others and publish."""
        while (place := self._board.take()) < len(self._pending):
            self._board.done(place, self._generate(self._pending[place]))
            self._look()
        if self._context.rank != 0:
            return
        while self._open:
            check_stop(self._context)
            self._context.heartbeat()
            self._look()
            time.sleep(_POLL_SECONDS)
        self._publish()

    def _generate(self, shard: ShardPlan) -> DoneShard:
        rows = list(self._rows.of(shard))
        if len(rows) != shard.rows:
            raise DataProblem(f"shard {shard.number} has {len(rows)} rows, planned {shard.rows}")
        lines, bad, tokens = self._generator.rows(rows, shard.first, self._waiting)
        path = (
            f"{_folder(self._context.order)}/{shard.number:06d}-{self._context.order.epoch}.jsonl"
        )
        entry = self._store.put_bytes(("\n".join(lines) + "\n").encode(), path)
        return DoneShard(shard.number, len(lines), path, entry.size, entry.sha256, bad, tokens)

    def _waiting(self) -> None:
        check_stop(self._context)
        self._context.heartbeat()
        self._look()

    # --- rank 0 ----------------------------------------------------------------------------

    @property
    def _done_rows(self) -> int:
        return sum(shard.rows for shard in self._done.values())

    def _look(self) -> None:
        if self._context.rank != 0:
            return
        news = self._board.news(self._open)
        if not news:
            return
        self._open -= news.keys()
        for shard in news.values():
            self._done[shard.number] = shard
            self._fresh += 1
        self._tell()
        waited = time.monotonic() - self._registered
        many = self._fresh >= ENOUGH_SHARDS * len(self._plan)
        if not self._open or waited > (SOONEST_SECONDS if many else CHECKPOINT_SECONDS):
            self.register()

    def _tell(self) -> None:
        rows = self._done_rows
        seconds = max(time.monotonic() - self._began, 1e-9)
        speed = (rows - self._before) / seconds
        tokens = sum(shard.tokens for shard in self._done.values())
        self._context.step(
            rows, {"rows_per_second": speed, "tokens": float(tokens)}, steps_total=self._total,
            eta_seconds=(self._total - rows) / speed if speed > 0 else None,
        )  # fmt: skip

    def register(self) -> None:
        """Make the finished shards last. Only rank 0 knows them."""
        if self._context.rank != 0 or not self._fresh:
            return
        order, started = self._context.order, time.monotonic()
        step = self._done_rows
        path = f"checkpoints/{order.owner_id}/{order.epoch}/{step}"
        state = {"shards": [shard.encode() for shard in self._sorted()], "rows": self._total}
        lines = "".join(f"{shard.sha256}  {shard.path}\n" for shard in self._sorted())
        entry = self._store.put_bytes(lines.encode(), f"{path}/shards.sha256")
        self._context.checkpoint(
            CheckpointManifest(
                step=step, epoch=order.epoch, uri=self._store.uri_of(path), state=state,
                files=[entry.model_copy(update={"path": "shards.sha256"})],
                sample_index=step, save_seconds=time.monotonic() - started,
            )
        )  # fmt: skip
        self._fresh, self._registered = 0, time.monotonic()

    def _sorted(self) -> list[DoneShard]:
        return [self._done[number] for number in sorted(self._done)]

    def _publish(self) -> None:
        order, shards = self._context.order, self._sorted()
        if [shard.number for shard in shards] != [shard.number for shard in self._plan]:
            raise RuntimeError(f"{len(shards)} shards are done of {len(self._plan)}")
        folder, bad = _folder(order), sum(shard.bad for shard in shards)
        uri = self._store.uri_of(folder)
        files = [shard.entry for shard in shards]
        self._store.verify_files(uri, files)
        manifest = Manifest(
            uri, tuple(SourceFile(f.path, f.size, f.sha256, "train") for f in files)
        )
        local = self._context.workdir / "manifest.jsonl"
        local.parent.mkdir(parents=True, exist_ok=True)
        manifest.save(local)
        listed = f"{folder}/manifest-{order.epoch}.jsonl"
        self._store.put_file(local, listed, move=True)
        tokens = sum(shard.tokens for shard in shards)
        self._context.output(
            OutputAsset(
                kind="dataset", name=order.owner_name, digest=manifest.digest, uri=uri,
                size=manifest.bytes_of(), files=files,
                metadata={
                    "format": FILES, "manifest": listed, "uri": uri, "files": len(files),
                    "bytes": manifest.bytes_of(), "rows": self._total, "rows_with_error": bad,
                },
            )
        )  # fmt: skip
        self._context.result("rows", self._total)
        self._context.result("rows_with_error", bad)
        self._context.result("generated_tokens", tokens)


def _folder(order: RunOrder) -> str:
    """One folder for all attempts of a job: their files differ by epoch."""
    return f"assets/dataset/{order.owner_name}/{order.owner_id}"


def _resumed(order: RunOrder, plan: list[ShardPlan]) -> dict[int, DoneShard]:
    """What earlier attempts finished, if the plan still is the same."""
    if order.resume is None:
        return {}
    state: dict[str, Any] = order.resume.manifest.state
    rows = {shard.number: shard.rows for shard in plan}
    done = [DoneShard(**one) for one in state.get("shards", [])]
    if state.get("rows") != sum(rows.values()) or any(
        rows.get(shard.number) != shard.rows for shard in done
    ):
        raise DataProblem(
            "the dataset is cut otherwise than when this job began: submit it as a new job"
        )
    return {shard.number: shard for shard in done}
