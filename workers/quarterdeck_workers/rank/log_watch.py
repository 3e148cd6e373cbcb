"""Log policies at the source: every line is looked at, also those that later bounds leave out.

Pure; time is an argument. The cost is bounded: a line counts up to LONGEST_LINE characters, a
rank up to LINES_PER_SECOND lines a second, and a policy that has matched often enough rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quarterdeck.specs.log_policies import LONGEST_LINE, OrderedPolicy, matcher

LINES_PER_SECOND = 20_000
MATCHES_OF_POLICY = 3
"""The newest matter at the end, but the first tell what happened: so many a minute."""
_MINUTE = 60.0
_SHOWN = 500
_BYTES = 4 * LONGEST_LINE


@dataclass(frozen=True)
class Match:
    """A line that a policy knows."""

    policy: OrderedPolicy
    line: str
    at: float


class LogWatch:
    """Output in, matches out. Patterns that this machine's version does not take are left out."""

    def __init__(self, policies: Sequence[OrderedPolicy]) -> None:
        self._policies = []
        for policy in policies:
            try:
                self._policies.append((policy, matcher(policy.pattern)))
            except ValueError:
                continue
        self._rest = b""
        self._second = 0
        self._lines = 0
        self._told: dict[str, tuple[int, int]] = {}

    def feed(self, data: bytes, at: float) -> list[Match]:
        """Take output that arrived at `at` (Unix seconds), in pieces of any size."""
        if not self._policies:
            return []
        if int(at) != self._second:
            self._second, self._lines = int(at), 0
        *whole, rest = data.split(b"\n")
        found: list[Match] = []
        for part in whole:
            line, self._rest = self._rest + part, b""
            self._look(line[:_BYTES].decode("utf-8", "replace"), at, found)
        self._rest = (self._rest + rest)[:_BYTES]
        return found

    def close(self, at: float) -> list[Match]:
        """The stream has ended: a last line without its end counts too."""
        return self.feed(b"\n", at) if self._rest else []

    def read(self, text: str, at: float) -> list[Match]:
        """Look at text that is not part of the output, e.g. a traceback."""
        found: list[Match] = []
        for line in text.splitlines()[-200:]:
            self._look(line, at, found)
        return found

    def _look(self, line: str, at: float, found: list[Match]) -> None:
        self._lines += 1
        if self._lines > LINES_PER_SECOND:
            return
        line = line[:LONGEST_LINE]
        for policy, matches in self._policies:
            if not matches(line):
                continue
            minute, count = self._told.get(policy.name, (-1, 0))
            now = int(at // _MINUTE)
            count = count + 1 if minute == now else 1
            self._told[policy.name] = (now, count)
            if count <= MATCHES_OF_POLICY:
                found.append(Match(policy, line.strip()[:_SHOWN], at))
            return
