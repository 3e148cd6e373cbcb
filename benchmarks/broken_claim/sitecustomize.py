"""A platform whose claim compares nothing: what `benchmarks.faults --break claim` runs.

Both defences against a second supervisor are taken out: the api's claim takes every run for every
agent, and supervisors carry their agent's pid in their name, so that Ray's unique names do not hide
it. Two agents then serve one cluster.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def _break_store(module: ModuleType) -> None:
    from sqlalchemy import select, update

    tables = sys.modules["quarterdeck.store.tables"]
    superseded = module.AgentSuperseded

    def claim(session, run_id, request, *, cluster=None, key_sha256, key_prefix):  # type: ignore[no-untyped-def]
        run = session.get(tables.RunRow, run_id, populate_existing=True)
        session.execute(
            update(tables.RunRow)
            .where(tables.RunRow.id == run_id)
            .values(claimed_by=request.agent_id, claimed_at=module.database_now())
        )
        session.add(
            tables.KeyRow(
                id=module.new_id("key"), name=f"run {run_id}", sha256=key_sha256,
                prefix=key_prefix, access="run", project=run.project, run_id=run_id,
                epoch=run.epoch,
            )
        )  # fmt: skip
        session.refresh(run)
        return run

    record = module.record_agent_beat

    def record_agent_beat(session, cluster, beat, **options):  # type: ignore[no-untyped-def]
        try:
            return record(session, cluster, beat, **options)
        except superseded:
            return session.scalars(
                select(tables.ClusterRow).where(tables.ClusterRow.name == cluster)
            ).one()

    module.claim, module.record_agent_beat = claim, record_agent_beat


def _break_names(module: ModuleType) -> None:
    name = module.actor_name
    module.actor_name = lambda run_id, epoch: f"{name(run_id, epoch)}-{os.getpid()}"


_BREAKS = {
    "quarterdeck.store.agents": _break_store,
    "quarterdeck_workers.agent.ray_cluster": _break_names,
}


class _Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name not in _BREAKS:
            return None
        sys.meta_path.remove(self)
        try:
            from importlib.util import find_spec

            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _BREAKS[name])
        return spec


class _Loader(Loader):
    def __init__(self, inner, change):  # type: ignore[no-untyped-def]
        self._inner, self._change = inner, change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        self._change(module)


sys.meta_path.insert(0, _Finder())
