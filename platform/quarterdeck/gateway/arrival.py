"""One inference request, from its arrival to its line in the log."""

from __future__ import annotations

from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.asgi import Receive, Scope
from quarterdeck.gateway.bodies import Held
from quarterdeck.gateway.client import Client
from quarterdeck.gateway.directory import Directory
from quarterdeck.gateway.surface import Endpoint


class Arrival:
    """What was asked, of whom, by whom. `began` is on the loop's clock; `fields` are the headers
    by their names, the last of several."""

    __slots__ = (
        "began", "client", "directory", "endpoint", "fields", "held", "receive", "record", "scope",
    )  # fmt: skip

    def __init__(
        self,
        directory: Directory,
        endpoint: Endpoint,
        scope: Scope,
        receive: Receive,
        client: Client,
        request_id: str,
        began: float,
        held: Held,
    ) -> None:
        self.directory = directory
        self.endpoint = endpoint
        self.scope = scope
        self.receive = receive
        self.client = client
        self.began = began
        self.held = held
        self.fields: dict[bytes, bytes] = dict(scope["headers"])
        self.record = Record(request_id, endpoint.path)
