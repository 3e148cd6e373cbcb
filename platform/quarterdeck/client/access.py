"""Keys, secrets and projects."""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.client.paging import collect
from quarterdeck.client.transport import API, Transport
from quarterdeck.specs.resources import Access, Key, NewKey, Project, SecretInfo
from quarterdeck.specs.tenancy import Isolation


class Keys:
    """`client.keys`. The secret part is shown once, in the answer to `create`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Sequence[Key]:
        """Keys without their secrets."""
        return collect(self._transport, Key, f"{API}/keys", None)

    def create(
        self, name: str, access: Access, *, project: str | None = None,
        cluster: str | None = None, expires_in: float | None = None,
        requests_per_minute: int | None = None, tokens_per_minute: int | None = None,
        streams: int | None = None,
    ) -> NewKey:  # fmt: skip
        """A new key; `expires_in` is in seconds, `project` None reaches every project, `cluster`
        binds a key of access agent to one cluster. Gateways hold it to the limits."""
        body = {
            "name": name, "access": access, "project": project, "cluster": cluster,
            "expires_in": expires_in, "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute, "streams": streams,
        }  # fmt: skip
        chosen = {name: value for name, value in body.items() if value is not None}
        return self._transport.post(NewKey, f"{API}/keys", body=chosen, repeatable=False)

    def revoke(self, key: str) -> None:
        """End a key at once, by its id."""
        self._transport.send("DELETE", f"{API}/keys/{key}")


class Secrets:
    """`client.secrets`: write-only values for jobs."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._scope = {"project": project}

    def list(self) -> Sequence[SecretInfo]:
        """Names and versions, never values."""
        return collect(self._transport, SecretInfo, f"{API}/secrets", None, **self._scope)

    def set(self, name: str, value: str) -> SecretInfo:
        """Create or replace a value."""
        response = self._transport.send(
            "PUT", f"{API}/secrets/{name}", params=self._scope, body={"value": value}
        )
        return self._transport.read(SecretInfo, response)

    def delete(self, name: str) -> None:
        """Forget a value; jobs that name it are refused from now on."""
        self._transport.send("DELETE", f"{API}/secrets/{name}", params=self._scope)


class Projects:
    """`client.projects`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Sequence[Project]:
        """Projects that the key may see."""
        return collect(self._transport, Project, f"{API}/projects", None)

    def create(self, name: str, isolation: Isolation = "shared") -> Project:
        """A new project; with isolation `cluster` its runs use clusters of its own alone."""
        body = {"name": name, "isolation": isolation}
        return self._transport.post(Project, f"{API}/projects", body=body, repeatable=False)

    def isolate(self, name: str, isolation: Isolation) -> Project:
        """Set where what it starts from now on may run."""
        path, body = f"{API}/projects/{name}", {"isolation": isolation}
        return self._transport.read(Project, self._transport.send("PUT", path, body=body))
