"""What a job's code raises to say who is to blame, and whom other exceptions blame."""

from __future__ import annotations

import errno
from typing import cast, get_args

from quarterdeck.specs.beats import Blame

_NETWORK_NAMES = frozenset({"DistBackendError", "DistNetworkError", "DistStoreError"})
_NETWORK_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
_MEMORY_NAMES = frozenset({"OutOfMemoryError"})
_MEMORY_WORDS = ("can't allocate memory", "out of memory", "defaultcpuallocator")


class DataError(Exception):
    """The job's input data is missing, damaged or of the wrong form. Blame: data."""


class OutOfMemory(Exception):
    """Host or device memory does not suffice; the message says how much was wanted."""


class CannotStart(Exception):
    """A node could not make ready what a rank needs. It crosses processes with its blame."""

    def __init__(self, message: str, blame: Blame) -> None:
        super().__init__(message, blame)
        self.blame = blame

    def __str__(self) -> str:
        return str(self.args[0])


def blame_of(error: BaseException) -> Blame:
    """Whom an exception blames, looking along its chain of causes.

    An exception may declare it itself by an attribute `blame`.

    `network` is what the healthy ranks of a gang raise when another one dies, so the supervisor
    prefers any other failure that came in the same moment. What says nothing is `unknown`.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        blame = _blame_of_one(current)
        if blame != "unknown":
            return blame
        current = current.__cause__ or current.__context__
    return "unknown"


def _blame_of_one(error: BaseException) -> Blame:
    declared = getattr(error, "blame", None)
    if declared in get_args(Blame):
        return cast(Blame, declared)
    name, text = type(error).__name__, str(error).lower()
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, (OutOfMemory, MemoryError)) or name in _MEMORY_NAMES:
        return "memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "memory"
    if isinstance(error, ConnectionError) or name in _NETWORK_NAMES:
        return "network"
    if isinstance(error, RuntimeError):
        if any(word in text for word in _MEMORY_WORDS):
            return "memory"
        if any(word in text for word in _NETWORK_WORDS):
            return "network"
    return "unknown"
