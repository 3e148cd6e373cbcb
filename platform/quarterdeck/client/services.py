"""Services: models behind a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Unpack

from quarterdeck.client.logs import PAGE_LINES, LogOptions, log_params
from quarterdeck.client.paging import collect, iterate
from quarterdeck.client.transport import API, Transport
from quarterdeck.specs.resources import Event, LogLine, Service, Why
from quarterdeck.specs.rollout_status import Revision, RolloutStatus


class Services:
    """`client.services`. A service is named by its id or name."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._scope = {"project": project}

    def list(self, *, project: str | None = None, limit: int | None = None) -> Sequence[Service]:
        """Services of the project."""
        scope = {"project": project} if project else self._scope
        return collect(self._transport, Service, f"{API}/services", limit, **scope)

    def get(self, service: str) -> Service:
        """One service. Raises NotFound."""
        return self._transport.get(Service, f"{API}/services/{service}", params=self._scope)

    def update(self, service: str, document: Mapping[str, Any]) -> Service:
        """Replace its spec as it is now. Raises StaleETag when somebody changed it meanwhile."""
        path = f"{API}/services/{service}"
        current = self._transport.send("GET", path, params=self._scope)
        headers = {"If-Match": current.headers.get("ETag", "*")}
        response = self._transport.send(
            "PUT", path, params=self._scope, body=document, headers=headers, repeatable=False
        )
        return self._transport.read(Service, response)

    def scale(self, service: str, replicas: int) -> Service:
        """Wish for a number of replicas; 0 stops serving."""
        return self._transport.post(
            Service, f"{API}/services/{service}/scale", params=self._scope,
            body={"replicas": replicas}, repeatable=True,
        )  # fmt: skip

    def rollout(self, service: str) -> RolloutStatus:
        """Where its rollout stands."""
        return self._transport.get(
            RolloutStatus, f"{API}/services/{service}/rollout", params=self._scope
        )

    def pause(self, service: str) -> RolloutStatus:
        """Let its rollout go no further. Raises Conflict unless one is under way."""
        return self._steer(service, "pause", None)

    def resume(self, service: str) -> RolloutStatus:
        """Let its rollout go on, or try again what was rolled back. Raises Conflict."""
        return self._steer(service, "resume", None)

    def undo(self, service: str, to: int | None = None) -> RolloutStatus:
        """Go back to revision `to`, else to the one that served before. Raises Conflict."""
        return self._steer(service, "undo", {"to": to})

    def _steer(self, service: str, action: str, body: dict[str, Any] | None) -> RolloutStatus:
        return self._transport.post(
            RolloutStatus, f"{API}/services/{service}/rollout/{action}", params=self._scope,
            body=body,
        )  # fmt: skip

    def revisions(self, service: str, limit: int | None = None) -> Sequence[Revision]:
        """Its revisions, newest first."""
        path = f"{API}/services/{service}/revisions"
        return collect(self._transport, Revision, path, limit, **self._scope)

    def delete(self, service: str) -> None:
        """Drain and stop its replicas, then forget it."""
        self._transport.send("DELETE", f"{API}/services/{service}", params=self._scope)

    def events(self, service: str, limit: int | None = None) -> Sequence[Event]:
        """What happened to it, oldest first."""
        path = f"{API}/services/{service}/events"
        return collect(self._transport, Event, path, limit, **self._scope)

    def logs(
        self, service: str, *, limit: int | None = None, **options: Unpack[LogOptions]
    ) -> Sequence[LogLine]:
        """Lines of its engines in order, at most `limit`; for long logs take `iter_logs`."""
        return list(islice(self.iter_logs(service, **options), limit))

    def iter_logs(self, service: str, **options: Unpack[LogOptions]) -> Iterator[LogLine]:
        """Lines of its engines in order, fetched as they are needed. Raises Invalid for a search
        that cannot be done."""
        params = {"limit": PAGE_LINES, **log_params(options), **self._scope}
        return iterate(self._transport, LogLine, f"{API}/services/{service}/logs", **params)

    def why(self, service: str) -> Why:
        """Why it is in the state it is in."""
        return self._transport.get(Why, f"{API}/services/{service}/why", params=self._scope)
