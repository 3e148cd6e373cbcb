"""How the demo speaks: numbered chapters, one live line of progress, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quarterdeck.specs.resources import Job

PLAIN_INTERVAL = 10.0
"""Seconds between lines of progress where the output is no terminal."""


def duration(seconds: float | None) -> str:
    """`42s`, `3m07s`, `1h12m` for people; `-` when unknown."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def progress_line(job: Job) -> str:
    """One line: phase, step, loss, tokens/s, ETA, goodput, as far as they are known."""
    progress = job.progress
    parts = [f"job/{job.name}", job.phase]
    if progress.step is not None:
        total = f"/{progress.steps_total}" if progress.steps_total else ""
        parts.append(f"step {progress.step}{total}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tok/s")
    if progress.eta_seconds is not None and job.phase == "running":
        parts.append(f"ETA {duration(progress.eta_seconds)}")
    if progress.goodput is not None and progress.step is not None:
        parts.append(f"goodput {progress.goodput:.0%}")
    if job.message and progress.step is None:
        parts.append(job.message)
    return " · ".join(parts)


class View:
    """Prints chapters and facts; redraws one status line on a terminal, else prints it at times."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._started = clock()
        self._live: Live | None = None
        self._last = (0.0, "")

    @property
    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return self._clock() - self._started

    def chapter(self, number: int, title: str) -> None:
        """Begin a numbered part."""
        self.settle()
        self._console.print(Text(f"\n[{duration(self.elapsed):>6}] {number}. {title}", "bold"))

    def fact(self, text: str) -> None:
        """A line that stays."""
        self.settle()
        self._console.print(Text(f"         {text}"), soft_wrap=True)

    def progress(self, text: str) -> None:
        """What happens now: a live line on a terminal."""
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, transient=True, auto_refresh=False)
                self._live.start()
            self._live.update(Text(f"         {text}", "cyan"), refresh=True)
            return
        then, before = self._last
        if text != before and self._clock() - then >= PLAIN_INTERVAL:
            self._last = (self._clock(), text)
            self._console.print(Text(f"         {text}"), soft_wrap=True)

    def settle(self) -> None:
        """End the live line, so that what follows stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def write(self, text: str) -> None:
        """A piece of streamed text, without a newline."""
        self.settle()
        self._console.print(Text(text), end="", soft_wrap=True)

    def table(self, title: str, rows: Iterable[tuple[str, str]]) -> None:
        """The closing table of names and values."""
        self.settle()
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, value)
        self._console.print()
        self._console.print(table)
