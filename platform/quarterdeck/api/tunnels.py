"""Meeting place of the two ends of a tunnel: a user's command and the node of a rank.

Both connect here, so neither needs to be reachable. Messages pass through unread and one at a time
in each direction, so a slow end slows the other and nothing piles up.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from anyio import to_thread
from starlette.websockets import WebSocket, WebSocketDisconnect

from quarterdeck.api.problems import ProblemError
from quarterdeck.store.tunnel_queries import WAIT_S

MOST = 200
MOST_OF_ONE_KEY = 32
LARGEST_MESSAGE = 64 * 2**10
LONGEST_S = 24 * 3600.0
_LOOK_S = 1.0
GOING_AWAY, TRY_AGAIN, NORMAL = 1001, 1013, 1000


def token_for(master_key: str, tunnel_id: str) -> str:
    """What opens this one tunnel from the node's side; every replica of the api can tell."""
    code = hmac.new(master_key.encode(), f"tunnel:{tunnel_id}".encode(), hashlib.sha256)
    return f"qdt_{code.hexdigest()}"


@dataclass
class _Meeting:
    user: WebSocket
    joined: asyncio.Future[WebSocket] = field(default_factory=asyncio.Future)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Tunnels:
    """The tunnels of one api process."""

    def __init__(self) -> None:
        self._meetings: dict[str, _Meeting] = {}
        self._by_key: Counter[str] = Counter()

    def check_room(self, key_id: str) -> None:
        """Raise ProblemError `too_many_streams` when all places, or the key's, are taken."""
        if len(self._meetings) >= MOST or self._by_key[key_id] >= MOST_OF_ONE_KEY:
            raise ProblemError(
                "too_many_streams",
                f"{self._by_key[key_id]} tunnels of this key and {len(self._meetings)} in all "
                f"are open; {MOST_OF_ONE_KEY} and {MOST} may be: end one, or repeat later",
                headers={"Retry-After": "5"},
            )

    def holds(self, tunnel_id: str) -> bool:
        """Whether the tunnel's user is connected to this process."""
        return tunnel_id in self._meetings

    async def carry(
        self, tunnel_id: str, key_id: str, user: WebSocket, gone: Callable[[], str]
    ) -> None:
        """Wait for the node, then carry messages until an end leaves. `gone` is called on a
        thread meanwhile and says why the node will not come; empty: it may."""
        meeting = _Meeting(user)
        self._meetings[tunnel_id] = meeting
        self._by_key[key_id] += 1
        try:
            async with asyncio.timeout(WAIT_S):
                why = await _join(meeting, gone)
        except TimeoutError:
            why = f"the rank's node did not connect within {WAIT_S:g} s: is its agent alive?"
            await _close(user, TRY_AGAIN, why)
        else:
            if why:
                await _close(user, NORMAL, why)
            else:
                await _carry(user, meeting.joined.result())
        finally:
            meeting.over.set()
            del self._meetings[tunnel_id]
            self._by_key[key_id] -= 1
            if not self._by_key[key_id]:
                del self._by_key[key_id]

    async def join(self, tunnel_id: str, node: WebSocket) -> None:
        """The node's end: returns when the tunnel is over."""
        meeting = self._meetings.get(tunnel_id)
        if meeting is None or meeting.joined.done():
            await _close(node, NORMAL, "the user has left")
            return
        meeting.joined.set_result(node)
        await meeting.over.wait()


async def _join(meeting: _Meeting, gone: Callable[[], str]) -> str:
    """Return when the node is there; or why it will not come."""
    while not meeting.joined.done():
        await asyncio.wait([meeting.joined], timeout=_LOOK_S)
        if not meeting.joined.done() and (why := await to_thread.run_sync(gone)):
            return why
    return ""


async def _carry(user: WebSocket, node: WebSocket) -> None:
    directions = [
        asyncio.create_task(_pump(user, node), name="tunnel to the node"),
        asyncio.create_task(_pump(node, user), name="tunnel to the user"),
    ]
    try:
        done, _ = await asyncio.wait(
            directions, timeout=LONGEST_S, return_when=asyncio.FIRST_COMPLETED
        )
        reasons = [task.result() for task in done]
        why = reasons[0] if reasons else f"tunnels end after {LONGEST_S:g} s"
    finally:
        for task in directions:
            task.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
    await _close(user, NORMAL, why)
    await _close(node, NORMAL, why)


async def _pump(source: WebSocket, target: WebSocket) -> str:
    """Carry messages one way; answers why it ended."""
    try:
        while True:
            message = await source.receive_bytes()
            if len(message) > LARGEST_MESSAGE:
                return "a message was too large"
            await target.send_bytes(message)
    except WebSocketDisconnect as left:
        return left.reason or "the other end has left"
    except (RuntimeError, KeyError) as error:  # closed meanwhile, or a text message
        return f"the tunnel broke: {error}"


async def _close(end: WebSocket, code: int, why: str) -> None:
    try:
        await end.close(code, why[:120])
    except (RuntimeError, WebSocketDisconnect):
        return  # it has left already
