"""The records of a beat: metrics, logs, checkpoints, outputs and events, each keyed so that a
second arrival changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from quarterdeck.specs.beats import (
    CheckpointManifest,
    LogChunk,
    LogMatch,
    MetricRow,
    OutputAsset,
    RunEvent,
)
from quarterdeck.store.ids import new_id
from quarterdeck.store.inserts import insert_ignoring
from quarterdeck.store.log_keeping import note_written
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import (
    AssetInputRow,
    AssetVersionRow,
    CheckpointRow,
    LogChunkRow,
    NodeRow,
    ProjectRow,
    RunRow,
    StepMetricsRow,
)
from quarterdeck.store.text import clean

MOST_MATCHES = 200
"""Matches of log policies that a run keeps: the newest."""


def add_metrics(session: Session, run: RunRow, rows: Sequence[MetricRow]) -> None:
    """Store a job's metrics by (job, step, epoch); a service has none."""
    if not rows or run.owner_type != "job":
        return
    session.execute(
        insert_ignoring(session, StepMetricsRow, ["job_id", "step", "epoch"]),
        [
            {
                "job_id": run.owner_id,
                "step": row.step,
                "epoch": run.epoch,
                "at": row.at,
                "values": row.values,
            }
            for row in {row.step: row for row in rows}.values()
        ],
    )


def add_logs(session: Session, run: RunRow, chunks: Sequence[LogChunk]) -> None:
    """Store log lines by (run, rank, stream, seq), and note what is in the database now."""
    rows = [
        {
            "run_id": run.id,
            "owner_id": run.owner_id,
            "epoch": run.epoch,
            "rank": chunk.rank,
            "stream": chunk.stream,
            "seq": chunk.seq,
            "first_at": min(at for at, _ in chunk.lines),
            "last_at": max(at for at, _ in chunk.lines),
            "lines": [[at, clean(line)] for at, line in chunk.lines],
            "size": sum(len(line) for _, line in chunk.lines),
        }
        for chunk in chunks
        if chunk.lines
    ]
    if not rows:
        return
    keys = ["run_id", "rank", "stream", "seq"]
    session.execute(insert_ignoring(session, LogChunkRow, keys), rows)
    size = sum(len(line) for chunk in chunks for _, line in chunk.lines)
    note_written(session, run, len(rows), size)


def add_checkpoints(session: Session, run: RunRow, manifests: Sequence[CheckpointManifest]) -> None:
    """Register checkpoints of the run's own epoch; the row is the checkpoint's existence."""
    if run.owner_type != "job":
        return
    for manifest in manifests:
        if manifest.epoch != run.epoch:
            continue
        created = session.scalar(
            insert_ignoring(session, CheckpointRow, ["job_id", "epoch", "step"])
            .values(
                id=new_id("ckpt"),
                job_id=run.owner_id,
                job_name=run.owner_name,
                project=run.project,
                run_id=run.id,
                epoch=run.epoch,
                step=manifest.step,
                uri=manifest.uri,
                size=sum(file.size for file in manifest.files),
                loss=manifest.loss,
                manifest=manifest.model_dump(mode="json"),
            )
            .returning(CheckpointRow.id)
        )
        if created is not None:
            append_event(
                session,
                type="checkpoint.registered",
                subject=f"job/{run.owner_name}",
                subject_id=run.owner_id,
                project=run.project,
                message=f"checkpoint of step {manifest.step} registered",
                actor=f"run/{run.id}",
                data={"checkpoint_id": created, "step": manifest.step, "epoch": run.epoch},
            )


def add_outputs(session: Session, run: RunRow, outputs: Sequence[OutputAsset]) -> None:
    """Publish what the run made as new versions, with the versions that it read."""
    if not outputs:
        return
    # One publisher a project at a time, so that versions have no gaps and no collisions.
    session.execute(select(ProjectRow.name).where(ProjectRow.name == run.project).with_for_update())
    for output in outputs:
        same = (
            AssetVersionRow.project == run.project,
            AssetVersionRow.kind == output.kind,
            AssetVersionRow.name == output.name,
        )
        if session.scalar(
            select(AssetVersionRow.id).where(*same, AssetVersionRow.run_id == run.id)
        ):
            continue
        newest = session.scalar(select(func.max(AssetVersionRow.version)).where(*same)) or 0
        row = AssetVersionRow(
            id=new_id("ver"),
            kind=output.kind,
            name=output.name,
            project=run.project,
            version=newest + 1,
            digest=output.digest,
            uri=output.uri,
            size=output.size,
            files=[file.model_dump(mode="json") for file in output.files],
            details=output.metadata,
            job_id=run.owner_id if run.owner_type == "job" else None,
            run_id=run.id,
        )
        session.add(row)
        session.flush()
        _add_lineage(session, row, run)
        append_event(
            session,
            type=f"{output.kind}.registered",
            subject=f"{output.kind}/{output.name}",
            subject_id=row.id,
            project=run.project,
            message=f"{output.kind}/{output.name}@{row.version} by {run.owner_name}",
            actor=f"run/{run.id}",
            data={"version": row.version, "digest": row.digest, "job_id": row.job_id},
        )


def _add_lineage(session: Session, row: AssetVersionRow, run: RunRow) -> None:
    seen = {
        (asset["kind"], asset["name"], int(asset["version"]))
        for assets in run.inputs.values()
        for asset in assets
    }
    for kind, name, version in sorted(seen):
        session.add(AssetInputRow(asset_id=row.id, kind=kind, name=name, version=version))
    session.flush()


def add_run_events(session: Session, run: RunRow, events: Sequence[RunEvent]) -> None:
    """Store the run's own facts as events of its owner."""
    for event in events:
        append_event(
            session,
            type=event.type,
            subject=f"{run.owner_type}/{run.owner_name}",
            subject_id=run.owner_id,
            project=run.project,
            message=event.message,
            actor=f"run/{run.id}",
            data={
                **event.data,
                "run_id": run.id,
                "epoch": run.epoch,
                "reported_at": event.at.isoformat(),
            },
        )


def add_log_matches(session: Session, run: RunRow, matches: Sequence[LogMatch]) -> None:
    """Keep what log policies found, for the run's end to be judged by, each with an event."""
    if not matches:
        return
    nodes = {placement["node_id"] for placement in run.placements}
    hosts = dict(
        session.execute(select(NodeRow.id, NodeRow.host).where(NodeRow.id.in_(nodes))).all()
    )
    kept = list(run.log_matches or [])
    for match in matches:
        line = clean(match.line, 500)
        where = f"rank {match.rank} on {hosts.get(match.node_id) or match.node_id}"
        append_event(
            session,
            type="log.matched",
            subject=f"{run.owner_type}/{run.owner_name}",
            subject_id=run.owner_id,
            project=run.project,
            message=f"run {run.epoch}, {where}: {match.policy} ({match.verdict}): {line}",
            actor=f"run/{run.id}",
            data={
                **match.model_dump(exclude={"line"}),
                "line": line,
                "run_id": run.id,
                "epoch": run.epoch,
            },
        )
        if match.node_id in nodes:
            kept.append({**match.model_dump(), "line": line})
    run.log_matches = kept[-MOST_MATCHES:]
