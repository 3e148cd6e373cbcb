"""One inference request, from its arrival to its line in the log."""

from __future__ import annotations

from collections.abc import Mapping

from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.asgi import Receive, Scope
from quarterdeck.gateway.client import Client
from quarterdeck.gateway.directory import Directory
from quarterdeck.gateway.surface import Endpoint


class Arrival:
    """What was asked, of whom, by whom. `began` is on the loop's clock; `fields` are the headers
    by their names, the last of several."""

    __slots__ = (
        "began", "client", "directory", "endpoint", "fields", "receive", "record", "scope",
    )  # fmt: skip

    def __init__(
        self,
        directory: Directory,
        endpoint: Endpoint,
        scope: Scope,
        fields: Mapping[bytes, bytes],
        receive: Receive,
        client: Client,
        request_id: str,
        began: float,
    ) -> None:
        self.directory = directory
        self.endpoint = endpoint
        self.scope = scope
        self.fields = fields
        self.receive = receive
        self.client = client
        self.record = Record(request_id, endpoint.path)
        self.began = began
