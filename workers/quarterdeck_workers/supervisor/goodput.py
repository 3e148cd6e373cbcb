"""Where a gang's time goes: every rank-second held is in exactly one account. Pure.

The ranks of a gang work in lock-step, so one timeline stands for all of them: what a rank tells
books the stretch since the moment booked last, and times the world size gives rank-seconds. The
parts add up to what was held because each stretch is divided, never measured twice.

    productive  steps that are kept (with the agreement and the reports that belong to them)
    checkpoint  writing checkpoints and, at the end, results
    restart     an attempt after the first until its first step, and work that an end threw away
    stalled     between steps without working on one, and what the watchdog calls a stall
    starting    the first attempt until its first step
"""

from __future__ import annotations

from collections import deque

from quarterdeck.specs.beats import RankSeconds

MAX_OPEN_STEPS = 4096
"""More steps since a checkpoint than this are kept as sums."""
SKEW_SECONDS = 5.0
"""A rank's clock that falls back by more than this was set anew."""


class Goodput:
    """The accounts of a gang of `world_size` ranks since `started` (monotonic seconds).

    `resumed` tells an attempt after the first. Of the methods' times, `at` is the clock of the
    rank's machine (only its differences count) and `now` the clock of `started`.
    """

    def __init__(self, world_size: int, started: float, *, resumed: bool = False) -> None:
        self._world_size = world_size
        self._booked_until = started
        self._before_work = "restart" if resumed else "starting"
        self._seconds = dict.fromkeys(RankSeconds.model_fields, 0.0)
        self._open: deque[tuple[int, float]] = deque()
        self._step: int | None = None
        self._working_since: float | None = None
        self._stalled = False
        self._lost = 0.0
        self._ended = False
        self._offsets: dict[int, float] = {}

    # --- booking ---------------------------------------------------------------------------

    def working(self, now: float) -> None:
        """The gang works, whether or not it tells steps."""
        if self._working_since is None:
            self._working_since = max(now, self._booked_until)

    def step(self, rank: int, step: int, seconds: float, *, at: float, now: float) -> None:
        """`step` is done and took `seconds`; 0: all since the step before. The first rank to tell
        of a step speaks for all."""
        if self._ended or (self._step is not None and step <= self._step):
            return
        moment = self._moment(rank, at, now)
        whole = moment - self._booked_until
        if seconds <= 0:
            since = self._booked_until if self._step is not None else self._working_since
            seconds = moment - (since if since is not None else moment)
        work = min(max(seconds, 0.0), whole)
        self._seconds[self._between] += whole - work
        self._booked_until, self._step, self._stalled = moment, step, False
        self._open.append((step, work))
        if len(self._open) > MAX_OPEN_STEPS:
            (_, first), (last, second) = self._open.popleft(), self._open.popleft()
            self._open.appendleft((last, first + second))

    def checkpoint(
        self, rank: int, seconds: float, *, at: float, now: float, kept: int | None = None
    ) -> None:
        """Saving took `seconds`; steps up to `kept` stay whatever comes (None: it failed).

        A save beside the steps costs only what it held them up.
        """
        if self._ended:
            return
        moment = self._moment(rank, at, now)
        whole = moment - self._booked_until
        saving = min(max(seconds, 0.0), whole)
        self._seconds["checkpoint"] += saving
        self._seconds[self._between] += whole - saving
        self._booked_until = moment
        while kept is not None and self._open and self._open[0][0] <= kept:
            self._seconds["productive"] += self._open.popleft()[1]

    def stall(self, now: float) -> None:
        """The watchdog found it standing still: all since the last booking was lost to that."""
        self._seconds["stalled"] += max(0.0, now - self._booked_until)
        self._booked_until = max(now, self._booked_until)
        self._stalled = True

    def end(self, now: float, *, kept: bool) -> None:
        """The slots are free. Unless the work is `kept`, what no checkpoint has is lost."""
        if self._ended:
            return
        account, working, rest = self._tail(now)
        self._seconds[self._before_work] += working - self._booked_until
        open_steps = sum(seconds for _, seconds in self._open)
        if kept:
            self._seconds["productive"] += open_steps
            self._seconds["checkpoint" if self._step is not None else account] += rest
        else:
            lost = open_steps + (rest if account == "productive" else 0.0)
            self._seconds["restart"] += lost
            self._lost += lost
            if account != "productive":
                self._seconds[account] += rest
        self._open.clear()
        self._booked_until, self._ended = max(now, self._booked_until), True

    # --- telling ---------------------------------------------------------------------------

    def accounts(self, now: float) -> RankSeconds:
        """Rank-seconds since the start, as they stand; work under way counts as productive."""
        seconds = dict(self._seconds)
        if not self._ended:
            account, working, rest = self._tail(now)
            seconds[self._before_work] += working - self._booked_until
            seconds[account] += rest
            seconds["productive"] += sum(each for _, each in self._open)
        return RankSeconds.model_validate(
            {name: value * self._world_size for name, value in seconds.items()}
        )

    def unsaved_seconds(self, now: float) -> float:
        """Of the productive rank-seconds, those that a failure now would throw away."""
        if self._ended:
            return 0.0
        account, _, rest = self._tail(now)
        under_way = rest if account == "productive" else 0.0
        return (sum(each for _, each in self._open) + under_way) * self._world_size

    @property
    def lost_seconds(self) -> float:
        """Of the restart rank-seconds, those that this attempt's own end threw away."""
        return self._lost * self._world_size

    @property
    def _between(self) -> str:
        return self._before_work if self._step is None else "stalled"

    def _tail(self, now: float) -> tuple[str, float, float]:
        """What the time since the last booking is: (account, where work began, seconds of it)."""
        now = max(now, self._booked_until)
        if self._stalled:
            return "stalled", self._booked_until, now - self._booked_until
        if self._step is not None:
            return "productive", self._booked_until, now - self._booked_until
        if self._working_since is None:
            return self._before_work, self._booked_until, now - self._booked_until
        began = min(max(self._working_since, self._booked_until), now)
        return "productive", began, now - began

    def _moment(self, rank: int, at: float, now: float) -> float:
        """`at` on the clock of `now`: the fastest message of the rank shows how they differ."""
        offset = min(self._offsets.get(rank, now - at), now - at)
        if at + offset < self._booked_until - SKEW_SECONDS:
            offset = now - at
        self._offsets[rank] = offset
        return max(min(at + offset, now), self._booked_until)
