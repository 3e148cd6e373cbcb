"""The few calls of Kubernetes that pools need, as plain JSON, each with a bound in time.

Outside a cluster the kubeconfig is read (`KUBECONFIG`, `~/.kube/config`), inside the service
account that the pod has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

from quarterdeck.cluster.provider import ProviderError, Reason

CONNECT_SECONDS = 3.05
READ_SECONDS = 10.0
PAGE = 500
"""Objects in one answer of a list."""
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_JSON_PATCH = "application/json-patch+json"


class Kubernetes:
    """One API server. Every call raises ProviderError."""

    def __init__(self, configuration: client.Configuration) -> None:
        configuration.retries = urllib3.Retry(total=0)
        self._client = client.ApiClient(configuration)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def get(self, path: str) -> dict[str, Any]:
        """One object."""
        return self._call("GET", path)

    def each(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """Every object of a list. One page of them is held at a time."""
        following = ""
        while True:
            asked = {**query, "limit": str(PAGE)}
            if following:
                asked["continue"] = following
            answer = self._call("GET", path, query=asked)
            following = (answer.get("metadata") or {}).get("continue") or ""
            yield from answer.pop("items", None) or ()
            if not following:
                return

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A new object."""
        return self._call("POST", path, body=body)

    def patch(self, path: str, operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A JSON patch: all operations or none."""
        return self._call("PATCH", path, body=operations, content=_JSON_PATCH)

    def delete(self, path: str, body: Mapping[str, Any]) -> None:
        """Delete with these options."""
        self._call("DELETE", path, body=body)

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        request = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(
                *request, _request_timeout=(CONNECT_SECONDS, READ_SECONDS)
            )
            data = answer.read()
        except client.ApiException as error:
            raise ProviderError("KubernetesUnreachable", _first_line(error)) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            message = f"{self._client.configuration.host} does not answer: {_first_line(error)}"
            raise ProviderError("KubernetesUnreachable", message) from error
        if not 200 <= answer.status < 300:
            raise _refusal(answer.status, method, path, data)
        found = json.loads(data) if data else {}
        return found if isinstance(found, dict) else {}


def connect(kubeconfig: Path | None = None) -> Kubernetes:
    """The API server of `kubeconfig`, else of this pod's service account, else of the usual
    kubeconfig. Raises ProviderError where there is none."""
    configuration = client.Configuration()
    try:
        if kubeconfig is None and _inside():
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(
                config_file=str(kubeconfig) if kubeconfig else None,
                client_configuration=configuration,
                persist_config=False,
            )
    except Exception as error:  # no file, no YAML, no context of the name: all the same to us
        raise ProviderError(
            "NoCredentials",
            f"{_first_line(error)}: name a kubeconfig by KUBECONFIG, or run the controller in a "
            "pod with a service account",
        ) from error
    return Kubernetes(configuration)


def _inside() -> bool:
    return (
        "KUBERNETES_SERVICE_HOST" in os.environ
        and "KUBECONFIG" not in os.environ
        and _SERVICE_ACCOUNT.exists()
    )


def _refusal(status: int, method: str, path: str, data: bytes | None) -> ProviderError:
    try:
        said = str(json.loads(data or b"")["message"])
    except (ValueError, KeyError, TypeError):
        said = f"{method} {path} was answered with {status}"
    said = said.strip().splitlines()[0][:1000] if said.strip() else str(status)
    reasons: dict[int, Reason] = {401: "Forbidden", 403: "Forbidden", 404: "NotFound"}
    if status == 409:
        return ProviderError("Conflict", said)
    if status == 429 or status >= 500:
        return ProviderError("KubernetesUnreachable", f"{status}: {said}")
    return ProviderError(reasons.get(status, "Refused"), said)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__
