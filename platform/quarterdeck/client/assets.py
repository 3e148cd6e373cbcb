"""Versions of models, datasets and tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from quarterdeck.client.errors import NotFound
from quarterdeck.client.paging import collect
from quarterdeck.client.transport import API, Transport
from quarterdeck.specs.resources import AssetVersion
from quarterdeck.specs.warming import ModelWarmth


class Assets:
    """`client.models`, `client.datasets`, `client.tokenizers`."""

    def __init__(
        self,
        transport: Transport,
        project: str,
        noun: Literal["models", "datasets", "tokenizers"],
    ) -> None:
        self._transport = transport
        self._scope = {"project": project}
        self._path = f"{API}/{noun}"

    def list(
        self, *, name: str | None = None, project: str | None = None
    ) -> Sequence[AssetVersion]:
        """All versions, newest first."""
        scope = {"project": project} if project else self._scope
        return collect(self._transport, AssetVersion, self._path, None, name=name, **scope)

    def versions(self, name: str) -> Sequence[AssetVersion]:
        """The versions of one name, newest first, at least one. Raises NotFound."""
        found = collect(self._transport, AssetVersion, f"{self._path}/{name}", None, **self._scope)
        if not found:
            raise NotFound(f"{self._path.rsplit('/', 1)[-1]} has nothing called {name!r}")
        return sorted(found, key=lambda version: version.version, reverse=True)

    def get(self, name: str, version: str | int | None = None) -> AssetVersion:
        """One version by number or alias, the newest when None. Raises NotFound."""
        if version is None:
            return self.versions(name)[0]
        return self._transport.get(
            AssetVersion, f"{self._path}/{name}/versions/{version}", params=self._scope
        )

    def promote(self, name: str, alias: str, version: int) -> AssetVersion:
        """Let an alias mean this version; services that follow the alias roll."""
        response = self._transport.send(
            "PUT", f"{self._path}/{name}/aliases/{alias}", params=self._scope,
            body={"version": version},
        )  # fmt: skip
        return self._transport.read(AssetVersion, response)


class Models(Assets):
    """`client.models`."""

    def __init__(self, transport: Transport, project: str) -> None:
        super().__init__(transport, project, "models")

    def warm(
        self,
        name: str,
        version: str | int,
        *,
        nodes: Sequence[str] = (),
        cluster: str | None = None,
    ) -> ModelWarmth:
        """Bring a version's weights ahead to these nodes (ids or hosts), to those of a cluster,
        else to all; the answer names them. Repeating is harmless. Raises NotFound, Conflict for
        dead nodes, Invalid for a version without weights."""
        body = {"nodes": list(nodes), "cluster": cluster}
        return self._transport.post(
            ModelWarmth, self._warm_path(name, version), params=self._scope, body=body,
            repeatable=True,
        )  # fmt: skip

    def warmth(self, name: str, version: str | int) -> ModelWarmth:
        """How far the weights are, on every node that they were asked for on."""
        return self._transport.get(ModelWarmth, self._warm_path(name, version), params=self._scope)

    def _warm_path(self, name: str, version: str | int) -> str:
        return f"{self._path}/{name}/versions/{version}/warm"
