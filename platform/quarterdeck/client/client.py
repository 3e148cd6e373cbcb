"""`Client`: everything that the REST API does, typed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import httpx

from quarterdeck.client.access import Keys, Projects, Secrets
from quarterdeck.client.array_logs import MemberLine, follow_members, read_members
from quarterdeck.client.assets import Assets, Models
from quarterdeck.client.config import Connection, discover
from quarterdeck.client.errors import QuarterdeckError
from quarterdeck.client.fleet import Checkpoints, Clusters, LogPolicyList, Nodes, Runs
from quarterdeck.client.jobs import ENDED, Jobs
from quarterdeck.client.logs import LogOptions, log_params
from quarterdeck.client.paging import collect
from quarterdeck.client.services import Services
from quarterdeck.client.streams import follow
from quarterdeck.client.transport import API, Params, Transport
from quarterdeck.client.uploads import Uploads
from quarterdeck.specs.reports import DoctorReport, FleetGoodput
from quarterdeck.specs.resources import (
    ApplyRequest,
    ApplyResult,
    Event,
    Job,
    JobPhase,
    Key,
    LogLine,
    Service,
    ServicePhase,
)
from quarterdeck.specs.warming import ModelWarmth

if TYPE_CHECKING:
    from quarterdeck.planner.plan import Plan

STREAM_RETRY_SECONDS = 120.0
POLL_SECONDS = 1.0
REACHED: dict[JobPhase, frozenset[JobPhase]] = {
    "starting": frozenset({"starting", "running", "stopping"}),
    "running": frozenset({"running", "stopping"}),
}
"""Phases in which an earlier one counts as reached, so that a quick job is not missed."""


class WaitExpired(QuarterdeckError):
    """The wait's time is over; `last` is what was seen last."""

    def __init__(self, message: str, last: Job | Service | ModelWarmth) -> None:
        super().__init__(message)
        self.last = last


class Client:
    """A connection to one control plane, for one project.

    `timeout` bounds each request's silence and `retry_seconds` the retries of one operation.
    Every method raises QuarterdeckError subclasses. Use it as a context manager, or `close` it.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 30.0,
        *,
        project: str = "default",
        retry_seconds: float = 5.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.transport = Transport(url, key, timeout, retry_seconds, transport)
        self.project = project
        self.jobs = Jobs(self.transport, project)
        self.services = Services(self.transport, project)
        self.models = Models(self.transport, project)
        self.datasets = Assets(self.transport, project, "datasets")
        self.tokenizers = Assets(self.transport, project, "tokenizers")
        self.runs = Runs(self.transport, project)
        self.checkpoints = Checkpoints(self.transport, project)
        self.clusters = Clusters(self.transport)
        self.nodes = Nodes(self.transport)
        self.log_policies = LogPolicyList(self.transport)
        self.keys = Keys(self.transport)
        self.secrets = Secrets(self.transport, project)
        self.projects = Projects(self.transport)
        self.uploads = Uploads(self.transport, project)

    @classmethod
    def discover(cls, *, project: str | None = None, **options: Any) -> Client:
        """A client for what environment and files name; raises ConfigurationError."""
        found: Connection = discover()
        return cls(found.url, found.key, project=project or found.project, **options)

    @property
    def url(self) -> str:
        return self.transport.url

    def close(self) -> None:
        """Give the connections back."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- documents -------------------------------------------------------------------------

    def apply(
        self,
        documents: Sequence[Mapping[str, Any]],
        *,
        prune: bool = False,
        dry_run: bool = False,
        replace: bool = False,
        force: bool = False,
    ) -> ApplyResult:
        """Make it so, all documents in one transaction; nothing is written when one is wrong."""
        request = ApplyRequest(
            documents=[{"project": self.project, **document} for document in documents],
            prune=prune, dry_run=dry_run, replace=replace, force=force,
        )  # fmt: skip
        return self.transport.post(
            ApplyResult, f"{API}/apply", body=request, repeatable=True,
            headers={"Idempotency-Key": secrets.token_hex(16)},
        )  # fmt: skip

    def submit(self, document: Mapping[str, Any], *, force: bool = False) -> Job:
        """Create one job; see `jobs.submit`."""
        return self.jobs.submit(document, force=force)

    def plan(self, document: Mapping[str, Any]) -> Plan:
        """What a document needs on the hardware: memory, FLOPs, time, money, layouts."""
        from quarterdeck.planner.plan import Plan

        body = {"document": dict(document)}
        return self.transport.post(Plan, f"{API}/plan", body=body, repeatable=True)

    def whoami(self) -> Key:
        """The key in use."""
        return self.transport.get(Key, f"{API}/whoami")

    def ready(self) -> bool:
        """Whether the api answers and its database is migrated; no retries."""
        try:
            return self.transport.send("GET", "/readyz", repeatable=False).is_success
        except QuarterdeckError:
            return False

    # --- waiting and following -------------------------------------------------------------

    def wait(
        self,
        job: str,
        *,
        until: JobPhase | None = None,
        timeout: float | None = None,
        on_change: Callable[[Job], None] | None = None,
    ) -> Job:
        """Wait until a job has ended, or has reached the phase `until`.

        A job that ends otherwise ends the wait too: look at `phase`. Raises WaitExpired after
        `timeout` seconds. `on_change` hears each new state.
        """
        seen: Job | None = None
        deadline = None if timeout is None else self.transport.clock() + timeout
        while True:
            found = self.jobs.get(job)
            job = found.id  # a name could come to mean a newer job
            if on_change is not None and (seen is None or found != seen):
                on_change(found)
            seen = found
            wanted = REACHED.get(until, frozenset({until})) if until else frozenset()
            if found.phase in ENDED or found.phase in wanted:
                return found
            self._pause(deadline, f"job/{found.name} is {found.phase} ({found.reason})", found)

    def wait_for_service(
        self,
        service: str,
        *,
        until: ServicePhase = "ready",
        timeout: float | None = None,
        on_change: Callable[[Service], None] | None = None,
    ) -> Service:
        """Wait until a service is in the phase `until`. Raises WaitExpired."""
        seen: Service | None = None
        deadline = None if timeout is None else self.transport.clock() + timeout
        while True:
            found = self.services.get(service)
            if on_change is not None and (seen is None or found != seen):
                on_change(found)
            seen = found
            if found.phase == until:
                return found
            self._pause(deadline, f"service/{found.name} is {found.phase}", found)

    def wait_for_weights(
        self,
        asked: ModelWarmth,
        *,
        timeout: float | None = None,
        on_change: Callable[[ModelWarmth], None] | None = None,
    ) -> ModelWarmth:
        """Wait until nothing more happens on the nodes of a `models.warm`. Raises WaitExpired.

        They may have failed: look at each node's `state`.
        """
        wanted = {node.node_id for node in asked.nodes}
        deadline = None if timeout is None else self.transport.clock() + timeout
        found = asked
        while True:
            if on_change is not None:
                on_change(found)
            open_ = [node.host for node in found.nodes if not node.ended]
            if not open_:
                return found
            what = f"model/{found.name}@{found.version} is not on {', '.join(open_)} yet"
            self._pause(deadline, what, found)
            found = self.models.warmth(asked.name, asked.version)
            found.nodes = [node for node in found.nodes if node.node_id in wanted]

    def _pause(self, deadline: float | None, state: str, last: Job | Service | ModelWarmth) -> None:
        if deadline is not None and self.transport.clock() + POLL_SECONDS > deadline:
            said = "" if isinstance(last, ModelWarmth) else f": {last.message}"
            raise WaitExpired(f"the wait is over: {state}{said}", last)
        self.transport.sleep(POLL_SECONDS)

    def events(self, *, limit: int | None = None) -> list[Event]:
        """Events of the project, oldest first."""
        return collect(self.transport, Event, f"{API}/events", limit, project=self.project)

    def doctor(self, *, deep: bool = False) -> DoctorReport:
        """Whether the invariants hold; `deep` reads checkpoints' files. Needs an administrator."""
        params: Params = {"deep": deep}
        return self.transport.get(DoctorReport, f"{API}/doctor", params=params, timeout=600.0)

    def goodput(self, *, since: str | None = None, cluster: str | None = None) -> FleetGoodput:
        """Where the rank-seconds of the project's jobs went; `since` is a moment or an age."""
        params: Params = {"project": self.project, "since": since, "cluster": cluster}
        return self.transport.get(FleetGoodput, f"{API}/goodput", params=params)

    def follow_events(
        self,
        subject: str | None = None,
        *,
        last_event_id: str | None = None,
        on_reconnect: Callable[[str], None] | None = None,
    ) -> Iterator[Event]:
        """Events as they come, of the project or of `job/NAME` or `service/NAME`."""
        path = f"{API}/events" if subject is None else f"{_path_of(subject)}/events"
        return follow(
            self.transport, path, Event, {"follow": 1, "project": self.project},
            STREAM_RETRY_SECONDS, on_reconnect, last_event_id,
        )  # fmt: skip

    def follow_logs(
        self,
        subject: str,
        *,
        last_event_id: str | None = None,
        on_reconnect: Callable[[str], None] | None = None,
        **options: Unpack[LogOptions],
    ) -> Iterator[LogLine]:
        """Log lines of `job/NAME` (until it has ended) or `service/NAME` as they come, after the
        one whose `cursor` is `last_event_id`."""
        params: Params = {"follow": 1, "project": self.project, **log_params(options)}
        kind, name = split_subject(subject)

        def ended() -> bool:
            return kind == "job" and self.jobs.get(name).phase in ENDED

        return follow(
            self.transport, f"{_path_of(subject)}/logs", LogLine, params, STREAM_RETRY_SECONDS,
            on_reconnect, last_event_id, finished=ended,
        )  # fmt: skip

    def array_logs(
        self,
        array: str,
        *,
        follow: bool = False,
        on_reconnect: Callable[[str], None] | None = None,
        **options: Unpack[LogOptions],
    ) -> Iterator[MemberLine]:
        """What the members of an array wrote, merged by time, each line with its member's name;
        with `follow` until all have ended."""
        if follow:
            return follow_members(self, array, options, on_reconnect)
        return read_members(self, array, options)


def split_subject(subject: str) -> tuple[Literal["job", "service"], str]:
    """`job/NAME` or `service/NAME`; raises ValueError for anything else."""
    kind, slash, name = subject.partition("/")
    if not slash or not name or kind not in ("job", "service"):
        raise ValueError(f"{subject!r} is not job/NAME or service/NAME")
    return ("job" if kind == "job" else "service"), name


def _path_of(subject: str) -> str:
    kind, name = split_subject(subject)
    return f"{API}/{kind}s/{name}"
