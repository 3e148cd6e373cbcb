"""Places for requests: a waiting room for each service, and waking those it lets in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from quarterdeck.gateway.errors import ApiError, unavailable
from quarterdeck.routing.admission import Ticket, WaitingRoom
from quarterdeck.specs.gateway_snapshot import GatewaySnapshot, ServiceRoute

_RETRY_SECONDS = 1


class Admission:
    """The waiting rooms of one gateway. `clock` gives seconds that never go back; `asleep` hears of
    each request for a service that wakes and has no replica."""

    def __init__(
        self,
        clock: Callable[[], float],
        random: Random,
        asleep: Callable[[ServiceRoute], None] = lambda route: None,
    ) -> None:
        self._clock = clock
        self._asleep = asleep
        self._random = random
        self._rooms: dict[tuple[str, str], WaitingRoom] = {}
        self._places: dict[Ticket, asyncio.Future[None]] = {}

    def waiting(self, route: ServiceRoute) -> int:
        """How many requests of a service wait now."""
        return self.waiting_of(route.project, route.name)

    def waiting_of(self, project: str, service: str) -> int:
        """As `waiting`, by name."""
        room = self._rooms.get((project, service))
        return room.waiting if room else 0

    def apply(self, snapshot: GatewaySnapshot) -> None:
        """Take the replicas of a new snapshot into account; more of them let more in."""
        live = {(route.project, route.name): route for route in snapshot.services}
        for key, room in list(self._rooms.items()):
            route = live.get(key)
            if route is not None:
                room.capacity, room.room = capacity(route), route.max_waiting
                self._wake(room)
            elif not room.in_flight and not room.waiting:
                del self._rooms[key]

    def at_once(self, route: ServiceRoute) -> WaitingRoom | None:
        """Take one of the service's places, to be given back by `leave`; None where a request
        would have to wait or be refused: see `enter`."""
        if route.wakes and not able_replicas(route):
            return None
        room = self._room(route)
        return room if room.goes() else None

    async def enter(
        self, route: ServiceRoute, priority: int, left: float = float("inf")
    ) -> tuple[WaitingRoom, float]:
        """Take one of the service's places, to be given back by `leave`, and the seconds that it
        took to get it. Whoever asks has `left` seconds for it.

        Raises ApiError 429 when nobody more may wait, 503 when none came free in time.
        """
        room = self._room(route)
        began = self._clock()
        longest = route.max_wait
        if route.wakes and not able_replicas(route):
            self._asleep(route)
            longest = max(route.max_wake, longest)
        longest = max(0.0, min(longest, left))
        answer = room.offer(priority, began + longest, self._random.random)
        if answer.evicted is not None:
            self._refuse(answer.evicted, route)
        if answer.verdict in ("shed", "full"):
            raise _crowded(route, room.waiting)
        if answer.ticket is None:
            return room, 0.0
        await self._wait(room, answer.ticket, route, longest)
        return room, self._clock() - began

    def leave(self, room: WaitingRoom) -> None:
        """Give a place back."""
        room.in_flight -= 1
        if room.waiting:
            self._wake(room)

    async def _wait(
        self, room: WaitingRoom, ticket: Ticket, route: ServiceRoute, longest: float
    ) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._places[ticket] = place
        try:
            async with asyncio.timeout(max(0.0, ticket.deadline - self._clock())):
                await place
        except TimeoutError:
            if place.done() and not place.cancelled() and place.exception() is None:
                return  # let in at the very moment
            room.give_up(ticket)
            raise unavailable(
                f"service {route.name!r} had no place for this request within "
                f"{longest:g} s: {room.in_flight} are under way, {room.waiting} wait",
                "waited_too_long",
                _RETRY_SECONDS,
            ) from None
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                room.leave()  # it was let in and will not come
                self._wake(room)
            room.give_up(ticket)
            raise
        finally:
            self._places.pop(ticket, None)

    def _room(self, route: ServiceRoute) -> WaitingRoom:
        room = self._rooms.get((route.project, route.name))
        if room is None:
            room = WaitingRoom(route.max_waiting, capacity(route))
            self._rooms[route.project, route.name] = room
        return room

    def _wake(self, room: WaitingRoom) -> None:
        for ticket in room.let_in():
            place = self._places.get(ticket)
            if place is not None and not place.done():
                place.set_result(None)
            else:
                room.leave()

    def _refuse(self, ticket: Ticket, route: ServiceRoute) -> None:
        place = self._places.get(ticket)
        if place is not None and not place.done():
            place.set_exception(_crowded(route, self.waiting(route)))


def capacity(route: ServiceRoute) -> int:
    """How many requests a service takes at once: of the replicas that take traffic.

    With none ready it is that of one, so that the reason why it cannot answer is told at once
    instead of after a wait; but for a service that wakes requests wait.
    """
    return route.concurrency * max(0 if route.wakes else 1, able_replicas(route))


def able_replicas(route: ServiceRoute) -> int:
    """Replicas that take traffic."""
    return sum(endpoint.ready and not endpoint.draining for endpoint in route.endpoints)


def _crowded(route: ServiceRoute, waiting: int) -> ApiError:
    return ApiError(
        429,
        f"service {route.name!r} has {waiting} requests waiting, and no room for one of this "
        "priority: try again in a moment",
        code="too_many_waiting",
        type_="server_error",
        retry_after=_RETRY_SECONDS,
    )
