"""Which failure of a gang came first, and who is to blame. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from quarterdeck.specs.beats import Blame, Failure

SETTLE_SECONDS = 1.0
"""After the first sign of failure, how long to listen for one that came before it."""
_FATAL_OF_ITS_OWN = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}

_DISK_FULL = ("No space left on device", "Disk quota exceeded")
"""What the C library says, in everybody's last lines."""
_PORT_TAKEN = ("address already in use", "eaddrinuse")


@dataclass(frozen=True)
class RankFailure:
    """One rank's failure. `at` is Unix seconds, taken where it happened."""

    rank: int | None
    at: float
    blame: Blame
    message: str
    traceback: str = ""
    exit_code: int | None = None
    signal: int | None = None
    explained: bool = False
    """The process said it itself; not only its exit tells."""
    reason: str = ""
    """Its kind, where it is known: see `specs.beats.Failure`."""

    def report(self, stacks: dict[int, str] | None = None) -> Failure:
        """As the control plane hears it."""
        return Failure(
            rank=self.rank, blame=self.blame, message=self.message, traceback=self.traceback,
            exit_code=self.exit_code, signal=self.signal, stacks=stacks or {}, reason=self.reason,
        )  # fmt: skip


def first_failure(failures: Sequence[RankFailure]) -> RankFailure | None:
    """The failure to report.

    When a rank dies the others fail a moment later with network errors, and clocks of machines
    differ; so the earliest failure that is not blamed on the network wins, and only if there is
    none the earliest of all. A failure that the process explained itself wins over the bare exit
    of the same rank.
    """
    if not failures:
        return None
    explained = {failure.rank for failure in failures if failure.explained}
    candidates = [
        failure for failure in failures if failure.explained or failure.rank not in explained
    ]
    return min(candidates, key=lambda failure: (failure.blame == "network", failure.at))


def exit_failure(
    kind: str,
    rank: int,
    at: float,
    *,
    code: int | None,
    number: int | None,
    oom: bool,
    tail: str,
    port: int | None = None,
    filled: str = "",
) -> RankFailure | None:
    """What an exit means that nobody explained; None for a clean one. `number` is a signal,
    `tail` the rank's last output, `port` the one that the rank was told to open for the others;
    `filled` says that the run's own files have filled the disk."""
    users = kind == "command"
    blame: Blame
    if number is not None:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        if number == signal.SIGKILL:
            blame = "memory" if oom else "unknown"
            why = "the kernel ran out of memory" if oom else "nothing recorded says why"
            message = f"rank {rank} was killed by {name}: {why}"
        else:
            blame = "user_code" if users and number in _FATAL_OF_ITS_OWN else "unknown"
            message = f"rank {rank} ended by {name}"
    elif code == 0:
        return None
    elif code is None:
        blame, message = "unknown", f"rank {rank} is gone and left no exit code"
    elif users and filled and any(sign in tail for sign in _DISK_FULL):
        # On another machine it would do the same, to others' harm.
        blame = "user_code"
        message = f"rank {rank} exited with code {code}: no space was left: {filled}"
    elif users and any(sign in tail for sign in _DISK_FULL):
        blame, message = "disk", f"rank {rank} exited with code {code}: no space was left"
    elif port is not None and _port_taken(tail, port):
        blame = "node"
        message = f"rank {rank} exited with code {code}: another program took its port {port}"
    else:
        blame = "user_code" if users else "unknown"
        message = f"rank {rank} exited with code {code}"
    return RankFailure(rank, at, blame, message, traceback=tail, exit_code=code, signal=number)


def _port_taken(tail: str, port: int) -> bool:
    said = any(sign in tail.lower() for sign in _PORT_TAKEN)
    return said and re.search(rf"(?<!\d){port}(?!\d)", tail) is not None
