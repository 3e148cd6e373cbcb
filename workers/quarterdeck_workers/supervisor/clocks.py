"""What the clocks of a gang's machines show, against the supervisor's. Pure.

One exchange tells `there` at some moment between `sent` and `heard` here, so the offset is known
to half of that time (Cristian's algorithm). The tightest exchange counts; it loses weight with
each later one, and a clock that was set shows as an offset that no earlier one allows.
"""

from __future__ import annotations

from dataclasses import replace

from quarterdeck_workers.rank.process import RankNews

_AGEING = 1.3
"""The bound of an exchange grows so much with each later one: clocks drift."""


class HostClock:
    """One machine's clock. Times are Unix seconds."""

    def __init__(self) -> None:
        self.offset = 0.0
        """How far it is ahead, within `error`."""
        self.error = float("inf")

    @property
    def known(self) -> bool:
        """Whether any exchange has come back."""
        return self.error != float("inf")

    def exchange(self, sent: float, there: float, heard: float) -> None:
        """The machine's clock showed `there` between `sent` and `heard` of ours."""
        offset, error = there - (sent + heard) / 2, max(0.0, heard - sent) / 2
        self.error *= _AGEING
        if error <= self.error or abs(offset - self.offset) > error + self.error:
            self.offset, self.error = offset, error

    @property
    def correction(self) -> float:
        """What to take off its times; 0 where it may well be right."""
        return self.offset if self.known and abs(self.offset) > self.error else 0.0

    def corrected(self, news: RankNews) -> RankNews:
        """What a rank there said, in times of ours."""
        ahead = self.correction
        if not ahead:
            return news
        return replace(
            news,
            messages=[
                {**message, "at": float(message["at"]) - ahead} if "at" in message else message
                for message in news.messages
            ],
            lines=[(at - ahead, line) for at, line in news.lines],
            setup_lines=[(at - ahead, line) for at, line in news.setup_lines],
        )
