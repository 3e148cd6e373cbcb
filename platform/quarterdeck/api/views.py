"""From rows of the store to what the api answers with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from quarterdeck.lifecycle.chains import StepFacts
from quarterdeck.specs import resources as r
from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.base import Message
from quarterdeck.specs.node_facts import NodeFault, SharedSlot, SlotHolder
from quarterdeck.specs.pool_status import PoolStatus
from quarterdeck.specs.tenancy import Tenancy
from quarterdeck.store.asset_queries import Lineage
from quarterdeck.store.dead_nodes import Held, Part, left_of
from quarterdeck.store.fleet_queries import Capacity
from quarterdeck.store.job_queries import JobSums
from quarterdeck.store.tables import (
    AssetVersionRow,
    CheckpointRow,
    ClusterRow,
    EventRow,
    JobRow,
    KeyRow,
    NodeFaultRow,
    NodeRow,
    PoolRow,
    ProjectRow,
    RunRow,
    SecretRow,
    ServiceRow,
    StepMetricsRow,
)


def job_view(row: JobRow, sums: JobSums) -> r.Job:
    """A job with what other tables know of it."""
    held = sums.held_seconds
    return r.Job.model_validate(
        {
            **_columns(row, r.Job),
            "progress": {
                "step": row.step,
                "steps_total": row.steps_total,
                "eta_seconds": row.eta_seconds,
                "loss": _finite(row.loss),
                "tokens_per_second": _finite(row.tokens_per_second),
                "goodput": min(1.0, sums.productive_seconds / held) if held else None,
            },
            "attempts": sums.attempts,
            "outputs": list(sums.outputs),
            "members": dict(sums.members),
        }
    )


def run_view(row: RunRow) -> r.Run:
    """A run as people see it."""
    return r.Run.model_validate(
        {
            **_columns(row, r.Run),
            "message": row.message or row.reported_message,
            "reads": sorted({_read(one) for found in row.inputs.values() for one in found}),
        }
    )


def _read(asset: Mapping[str, Any]) -> str:
    if not asset["version"]:
        return str(asset["uri"])
    return f"{asset['kind']}/{asset['name']}@{asset['version']}"


def service_view(
    row: ServiceRow, replicas: Sequence[RunRow], steps: Sequence[StepFacts] = ()
) -> r.Service:
    """A service with its replicas, or with its `steps`."""
    return r.Service.model_validate(
        {
            **_columns(row, r.Service),
            "model": row.spec.get("model"),
            "steps": [_step(step) for step in steps],
            "replicas": [_replica(run) for run in replicas],
        }
    )


def _step(step: StepFacts) -> r.ServiceStep:
    return r.ServiceStep(
        role=step.role, service=step.service, ready=step.takes_requests, message=step.words
    )


def _replica(run: RunRow) -> r.Replica:
    endpoint = run.endpoint or {}
    return r.Replica(
        run_id=run.id,
        epoch=run.epoch,
        revision=run.revision or 1,
        phase=run.phase,
        reason=run.reason,
        message=run.message or run.reported_message,
        url=endpoint.get("url"),
        node_id=run.placements[0]["node_id"] if run.placements else None,
        created_at=run.created_at,
    )


def event_view(row: EventRow) -> r.Event:
    return r.Event.model_validate(_columns(row, r.Event))


def metrics_view(row: StepMetricsRow, keys: Sequence[str] | None) -> r.MetricPoint:
    """One step's metrics, of which `keys` are wanted (None: all). JSON has no number for NaN and
    infinity: such values are left out."""
    values = {
        key: value
        for key, value in row.values.items()
        if (keys is None or key in keys) and math.isfinite(float(value))
    }
    return r.MetricPoint.model_validate(
        {"step": row.step, "epoch": row.epoch, "at": row.at, "values": values}
    )


def checkpoint_view(row: CheckpointRow) -> r.Checkpoint:
    manifest = {**row.manifest, "loss": _finite(row.loss)}
    columns = _columns(row, r.Checkpoint)
    return r.Checkpoint.model_validate({**columns, "loss": _finite(row.loss), "manifest": manifest})


def asset_view(row: AssetVersionRow, lineage: Lineage) -> r.AssetVersion:
    return r.AssetVersion.model_validate(
        {
            **_columns(row, r.AssetVersion),
            "metadata": row.details,
            "aliases": list(lineage.aliases),
            "inputs": list(lineage.inputs),
        }
    )


def cluster_view(row: ClusterRow, capacity: Capacity, pool: PoolRow | None = None) -> r.Cluster:
    return r.Cluster.model_validate(
        {
            **_columns(row, r.Cluster),
            "slots": capacity.slots,
            "slots_free": capacity.free if row.phase == "connected" else 0,
            "slots_shared": capacity.shared,
            "shared_free": capacity.parts_free / WHOLE if row.phase == "connected" else 0.0,
            "nodes": capacity.nodes,
            "project": (pool.project if pool is not None else None) or row.project,
            "pool": _pool_view(pool) if pool is not None else None,
        }
    )


def _pool_view(row: PoolRow) -> PoolStatus:
    groups = []
    for group in row.groups:
        seen = {
            name: value
            for name, value in (row.sizes.get(group["name"]) or {}).items()
            if name in ("wanted", "here", "coming", "constraint", "bound_by", "trouble")
        }
        groups.append({**group, **seen})
    return PoolStatus.model_validate({**_columns(row, PoolStatus), "groups": groups})


def node_view(row: NodeRow, held: Held | None, faults: Sequence[NodeFaultRow] = ()) -> r.Node:
    """A node with what runs hold of it and how it failed them."""
    held = held or Held()
    open_ = row.phase == "alive" and not row.cordoned and not row.quarantined
    free = max(0, row.slots - held.slots) if open_ else 0
    return r.Node.model_validate(
        {
            **_columns(row, r.Node),
            "versions": row.versions or {},
            "topology": row.place,
            "slots_free": free,
            "shared_slots": [_shared_slot(*one) for one in sorted(held.shared.items())],
            "quarantined_runs": [asdict(run) for run in held.quarantined],
            "faults": [_columns(fault, NodeFault) for fault in faults[:20]],
        }
    )


def _shared_slot(number: int, parts: Sequence[Part]) -> SharedSlot:
    holders = [
        SlotHolder(run_id=one.run_id, owner=one.owner, share=one.share / WHOLE) for one in parts
    ]
    return SharedSlot(number=number, free=max(left_of(parts), 0) / WHOLE, holders=holders)


def key_view(row: KeyRow) -> r.Key:
    return r.Key.model_validate(_columns(row, r.Key))


def project_view(row: ProjectRow, tenancy: Tenancy) -> r.Project:
    return r.Project.model_validate(
        {**_columns(row, r.Project), "clusters": tenancy.owned_by(row.name)}
    )


def secret_view(row: SecretRow) -> r.SecretInfo:
    return r.SecretInfo.model_validate(_columns(row, r.SecretInfo))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _columns(row: object, view: type[Message]) -> dict[str, object]:
    """The fields of `view` that the row has columns for."""
    return {
        name: getattr(row, name)
        for name in view.model_fields
        if name != "metadata" and hasattr(row, name)
    }
