"""HTTP/1.1 to replicas over kept connections, as cheap as Python can be.

A general client costs several times what everything else here does for a request (measured by
`python -m benchmarks.gateway`), so this one knows only what engines need: POST with a whole body,
answers with a length, in chunks or until the end of the connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from functools import lru_cache
from urllib.parse import urlsplit

from quarterdeck.gateway.answer import Address, Answer, Broken
from quarterdeck.gateway.asgi import Headers

_MOST_IDLE = 256
"""Kept for each address; further ones are closed after their answer."""
LOST_AFTER_S = 15.0
"""A machine that takes no packet for so long is gone: one without power never says that it is."""
_PROBE_S = 5


class Upstream:
    """Connections to all replicas. Times are seconds."""

    def __init__(self, connect_timeout: float, head_timeout: float, idle_seconds: float) -> None:
        # Kept: asking for it is a system call, until Python 3.12.
        self.loop = asyncio.get_running_loop()
        self._connect_timeout = connect_timeout
        self._head_timeout = head_timeout
        self._idle_seconds = idle_seconds
        self._idle: dict[Address, deque[Answer]] = {}

    async def post(
        self, url: str, path: str, headers: Headers, body: bytes, until: float
    ) -> Answer:
        """Send a request; the answer with its head. `until` is on the loop's clock. To be closed.

        A kept connection that ends before a byte of the answer came was closed by an engine that
        was idle: the request is sent once more, over a new one. Raises Broken, TimeoutError.
        """
        address, head = _head(url, path)
        lines = [head]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % len(body))
        lines.append(body)
        request = b"".join(lines)
        answer = self._kept(address, self.loop.time())
        while True:
            again = answer is not None
            if answer is None:
                answer = await self._connect(address, until)
            answer.ask(request, until)
            try:
                while not answer.has_head:
                    await answer.news()
                return answer
            except BaseException as error:
                answer.close()
                if not (again and isinstance(error, Broken) and answer.untouched):
                    raise
                answer = None

    def keep(self, address: Address, answer: Answer) -> bool:
        """Take a connection back; False when there are enough."""
        idle = self._idle.setdefault(address, deque())
        if len(idle) >= _MOST_IDLE:
            return False
        answer.idle_since = self.loop.time()
        idle.append(answer)
        return True

    def forget(self, address: Address, answer: Answer) -> None:
        """A connection is gone."""
        idle = self._idle.get(address)
        if idle is not None:
            if answer in idle:
                idle.remove(answer)
            if not idle:
                del self._idle[address]

    def close(self) -> None:
        """Close everything that is kept."""
        for idle in list(self._idle.values()):
            for answer in list(idle):
                answer.close_now()
        self._idle.clear()

    def _kept(self, address: Address, now: float) -> Answer | None:
        idle = self._idle.get(address)
        while idle:
            answer = idle.pop()  # the one used last: the others may grow old and go
            if answer.usable and now - answer.idle_since < self._idle_seconds:
                return answer
            answer.close_now()
        return None

    async def _connect(self, address: Address, until: float) -> Answer:
        loop = self.loop
        scheme, host, port = address
        context = _tls() if scheme == "https" else None
        try:
            async with asyncio.timeout_at(min(loop.time() + self._connect_timeout, until)):
                transport, answer = await loop.create_connection(
                    lambda: Answer(self, address, loop, self._head_timeout), host, port, ssl=context
                )
        except TimeoutError:
            if loop.time() >= until:
                raise
            raise Broken(f"{host}:{port} took no connection in time") from None
        except OSError as error:
            raise Broken(f"{host}:{port}: {error}") from error
        _notice_loss(transport)
        return answer


def _notice_loss(transport: asyncio.BaseTransport) -> None:
    """Have the kernel break the connection when its machine is lost. An engine that computes or
    hangs is not: its machine acknowledges."""
    connected = transport.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(LOST_AFTER_S * 1000))


@lru_cache(maxsize=4096)
def _head(url: str, path: str) -> tuple[Address, bytes]:
    """Address, and the first lines of a request."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Broken(f"{url!r} is no address of a replica")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    first = f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
    return (parts.scheme, parts.hostname, port), first.encode("latin-1")


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
