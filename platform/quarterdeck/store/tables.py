"""Every table. Importing this module registers all of them with `Base.metadata`."""

from __future__ import annotations

from quarterdeck.store.columns import Base
from quarterdeck.store.tables_access import (
    IdempotencyRow,
    KeyRow,
    ProjectRow,
    SecretRow,
    SettingRow,
)
from quarterdeck.store.tables_fleet import (
    ClusterRow,
    GatewayRow,
    NodeFaultRow,
    NodeRow,
    OrphanRow,
    PoolRow,
    WarmingRow,
)
from quarterdeck.store.tables_logs import LogChunkRow, LogFileRow, OwnerLogsRow
from quarterdeck.store.tables_record import (
    AssetAliasRow,
    AssetInputRow,
    AssetVersionRow,
    CheckpointRow,
    EventRow,
    StepMetricsRow,
    UploadRow,
)
from quarterdeck.store.tables_work import (
    JobEdgeRow,
    JobRow,
    ObservationRow,
    RevisionRow,
    RunRow,
    ServiceRow,
    TunnelRow,
)

__all__ = [
    "AssetAliasRow",
    "AssetInputRow",
    "AssetVersionRow",
    "Base",
    "CheckpointRow",
    "ClusterRow",
    "EventRow",
    "GatewayRow",
    "IdempotencyRow",
    "JobEdgeRow",
    "JobRow",
    "KeyRow",
    "LogChunkRow",
    "LogFileRow",
    "NodeFaultRow",
    "NodeRow",
    "ObservationRow",
    "OrphanRow",
    "OwnerLogsRow",
    "PoolRow",
    "ProjectRow",
    "RevisionRow",
    "RunRow",
    "SecretRow",
    "ServiceRow",
    "SettingRow",
    "StepMetricsRow",
    "TunnelRow",
    "UploadRow",
    "WarmingRow",
]
