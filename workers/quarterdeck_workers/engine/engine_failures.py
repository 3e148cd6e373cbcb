"""Why an engine did not start or ended: one typed reason, and the first traceback. Pure."""

from __future__ import annotations

import re
import signal
from collections import deque
from typing import Literal

from quarterdeck.specs.beats import Blame

FailureReason = Literal[
    "OutOfMemory", "PortInUse", "ModelMissing", "EngineMissing", "BadArguments", "StartTimeout",
    "Unanswered", "Crashed",
]  # fmt: skip
BLAMES: dict[FailureReason, Blame] = {
    "OutOfMemory": "memory",
    "PortInUse": "node",
    "ModelMissing": "data",
    "EngineMissing": "node",
    "BadArguments": "user_code",
    "StartTimeout": "unknown",
    "Unanswered": "user_code",
    "Crashed": "unknown",
}
_HEAD = "Traceback (most recent call last):"
_MOST_TRACEBACK = 400
_TAIL = 60
_NOT_FOUND = 127

_SIGNS: tuple[tuple[FailureReason, re.Pattern[str]], ...] = (
    ("OutOfMemory", re.compile(
        r"out of memory|OutOfMemoryError|can't allocate memory|Cannot allocate memory|"
        r"std::bad_alloc|\bMemoryError\b|No available memory for the cache|"
        r"is larger than the (?:available KV cache memory|maximum number of tokens)|"
        r"Free memory on device .* is less than desired", re.IGNORECASE)),
    ("PortInUse", re.compile(r"address already in use|EADDRINUSE|Errno 98\b", re.IGNORECASE)),
    ("EngineMissing", re.compile(
        r"No module named '?vllm|ModuleNotFoundError: No module named|"
        r"Error while finding module specification for 'vllm|command not found")),
    ("BadArguments", re.compile(
        r"error: unrecognized arguments|error: argument |error: the following arguments|"
        r"error: ambiguous option|validation errors? for \w*Config", re.IGNORECASE)),
    ("ModelMissing", re.compile(
        r"does not appear to have (?:a file|files) named|is not a valid model identifier|"
        r"Repository Not Found|No such file or directory: '[^']*(?:config\.json|tokenizer)|"
        r"Can't load (?:the )?(?:model|config|tokenizer)|Cannot find any model weights|"
        r"FileNotFoundError: model folder")),
)  # fmt: skip


class EngineFailed(Exception):
    """An engine did not start, or is of no use any more."""

    def __init__(self, reason: FailureReason, message: str, output: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.output = output
        """Its first traceback, else its last lines."""

    @property
    def blame(self) -> Blame:
        return BLAMES[self.reason]


class OutputMemory:
    """Keeps of an engine's output what explains an end: the first traceback and the last lines.

    Engines write a mark before each line (`(EngineCore pid=7) ERROR 10:02:03 [core.py:9] …`); it
    is taken off a traceback as far as its head has one.
    """

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._traceback: list[str] = []
        self._mark = 0
        self._open = False
        self.lines = 0

    def add(self, line: str) -> None:
        """The next line, without its end."""
        self.lines += 1
        self.tail.append(line)
        if not self._traceback and _HEAD in line:
            self._mark = line.index(_HEAD)
            self._traceback, self._open = [_HEAD], True
        elif self._open:
            # What has no such mark before it is somebody else's line, unless there is none at all.
            own = line[self._mark :]
            self._traceback.append(own)
            ended = bool(own.strip()) and not own[0].isspace()
            self._open = not ended and len(self._traceback) < _MOST_TRACEBACK

    @property
    def text(self) -> str:
        """The first traceback with its error, else the last lines."""
        return "\n".join(self._traceback or self.tail)

    @property
    def error(self) -> str:
        """The first traceback's last line; empty without one."""
        return self._traceback[-1].strip() if len(self._traceback) > 1 else ""


def why_ended(
    memory: OutputMemory, code: int, *, oom: bool = False, words: str = ""
) -> EngineFailed:
    """What an exit means. `code` is negative for a signal, `oom` says that the kernel has killed
    for memory meanwhile, `words` is when it was: `before it was ready`."""
    reason = _reason(memory, code, oom=oom)
    if code < 0:
        known = -code in set(signal.Signals)
        how = f"was ended by {signal.Signals(-code).name if known else f'signal {-code}'}"
    else:
        how = f"exited with code {code}"
    said = memory.error or next(
        (line.strip() for line in reversed(memory.tail) if line.strip()), ""
    )
    message = f"the engine {how}{' ' + words if words else ''}"
    return EngineFailed(reason, f"{message}: {said[:500]}" if said else message, memory.text)


def _reason(memory: OutputMemory, code: int, *, oom: bool) -> FailureReason:
    if oom and code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "OutOfMemory"
    # The first traceback is the cause; what came after it are often only its consequences.
    for text in (memory.text, "\n".join(memory.tail)):
        for reason, sign in _SIGNS:
            if sign.search(text):
                return reason
    return "EngineMissing" if code == _NOT_FOUND else "Crashed"


def why_raised(error: BaseException, traceback: str) -> EngineFailed:
    """The same for an engine in this very process."""
    if isinstance(error, EngineFailed):
        return error
    reason: FailureReason = "Crashed"
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or _SIGNS[0][1].search(text):
        reason = "OutOfMemory"
    elif isinstance(error, FileNotFoundError):
        reason = "ModelMissing"
    elif isinstance(error, ValueError):
        reason = "BadArguments"
    elif isinstance(error, OSError) and _SIGNS[1][1].search(text):
        reason = "PortInUse"
    elif _SIGNS[-1][1].search(text):
        reason = "ModelMissing"
    return EngineFailed(reason, text, traceback)
