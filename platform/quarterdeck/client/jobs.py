"""Jobs, their runs, logs, metrics and checkpoints."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Unpack

from quarterdeck.client.logs import PAGE_LINES, LogOptions, log_params
from quarterdeck.client.paging import collect, iterate
from quarterdeck.client.transport import API, Transport
from quarterdeck.specs.reports import JobGoodput
from quarterdeck.specs.resources import (
    Checkpoint,
    Event,
    Job,
    JobPhase,
    LogLine,
    MetricPoint,
    Run,
    Why,
)

ENDED: frozenset[JobPhase] = frozenset({"succeeded", "failed", "cancelled"})


class Jobs:
    """`client.jobs`. A job is named by its id or name; a name means the newest of the project."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._project = project

    def list(
        self,
        *,
        phase: JobPhase | None = None,
        kind: str | None = None,
        name: str | None = None,
        array: str | None = None,
        project: str | None = None,
        all_projects: bool = False,
        limit: int | None = None,
    ) -> Sequence[Job]:
        """Jobs of the client's project (or `project`, or all that the key sees), newest first."""
        return collect(
            self._transport, Job, f"{API}/jobs", limit,
            project=None if all_projects else project or self._project, phase=phase, kind=kind,
            name=name, array=array,
        )  # fmt: skip

    def get(self, job: str) -> Job:
        """One job. Raises NotFound."""
        return self._transport.get(Job, self._path(job), params=self._scope)

    def submit(
        self, document: Mapping[str, Any], *, idempotency_key: str | None = None,
        force: bool = False,
    ) -> Job:  # fmt: skip
        """Create a job. Retries after a lost connection return the first answer.

        Raises Invalid with each wrong field, or with the planner's reasons when it cannot fit
        (unless `force`).
        """
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        return self._transport.post(
            Job, f"{API}/jobs", body={"project": self._project, **document}, headers=headers,
            params={"force": 1 if force else None}, repeatable=True,
        )  # fmt: skip

    def cancel(self, job: str) -> Job:
        """Ask for the end; a running training writes a checkpoint first."""
        return self._act(job, "cancel", repeatable=True)

    def retry(self, job: str) -> Job:
        """A new job like an ended one."""
        return self._act(job, "retry", repeatable=False)

    def suspend(self, job: str) -> Job:
        """Write a checkpoint and free the slots until `resume`."""
        return self._act(job, "suspend", repeatable=True)

    def resume(self, job: str) -> Job:
        """Queue a suspended job again."""
        return self._act(job, "resume", repeatable=True)

    def runs(self, job: str) -> Sequence[Run]:
        """Its attempts, newest first."""
        return collect(self._transport, Run, self._path(job, "runs"), None, **self._scope)

    def events(self, job: str, limit: int | None = None) -> Sequence[Event]:
        """What happened to it, oldest first."""
        return collect(self._transport, Event, self._path(job, "events"), limit, **self._scope)

    def logs(
        self, job: str, *, limit: int | None = None, **options: Unpack[LogOptions]
    ) -> Sequence[LogLine]:
        """Lines of its ranks in order, at most `limit`; for long logs take `iter_logs`."""
        return list(islice(self.iter_logs(job, **options), limit))

    def iter_logs(
        self, job: str, *, after: str | None = None, page: int = PAGE_LINES,
        **options: Unpack[LogOptions],
    ) -> Iterator[LogLine]:  # fmt: skip
        """Lines of its ranks in order, `page` of them in a request, after the one whose `cursor`
        is `after`. An array has none: see `client.array_logs`. Raises Invalid for a search that
        cannot be done."""
        params = {"limit": page, **log_params(options), **self._scope}
        path = self._path(job, "logs")
        return iterate(self._transport, LogLine, path, cursor=after, **params)

    def metrics(
        self, job: str, *, after_step: int | None = None, keys: str | None = None
    ) -> Sequence[MetricPoint]:
        """Metrics per step, superseded ones left out; `keys` is a comma-separated choice."""
        return collect(
            self._transport, MetricPoint, self._path(job, "metrics"), None,
            after_step=after_step, keys=keys, **self._scope,
        )  # fmt: skip

    def checkpoints(self, job: str) -> Sequence[Checkpoint]:
        """Registered checkpoints, newest first."""
        path = self._path(job, "checkpoints")
        return collect(self._transport, Checkpoint, path, None, **self._scope)

    def why(self, job: str) -> Why:
        """Why it is in the state it is in."""
        return self._transport.get(Why, self._path(job, "why"), params=self._scope)

    def goodput(self, job: str) -> JobGoodput:
        """Where its rank-seconds went, and what each incident cost."""
        return self._transport.get(JobGoodput, self._path(job, "goodput"), params=self._scope)

    @property
    def _scope(self) -> dict[str, str]:
        return {"project": self._project}

    def _path(self, job: str, part: str | None = None) -> str:
        return f"{API}/jobs/{job}" + (f"/{part}" if part else "")

    def _act(self, job: str, verb: str, *, repeatable: bool) -> Job:
        return self._transport.post(
            Job, self._path(job, verb), params=self._scope, repeatable=repeatable
        )
