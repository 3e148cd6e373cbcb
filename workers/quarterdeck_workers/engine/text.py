"""From tokens to text while they arrive: whole characters only, and never past a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_OPEN_BYTES = 3  # an unfinished UTF-8 character has at most three bytes
_WINDOW = 32
_OVERLAP = 8


class Detokenizer:
    """Decodes one sequence step by step.

    A token may end inside a character: its bytes decode to replacement characters, of which the
    last three may still turn into something else and are held back. Only a window of the last
    tokens is decoded, so a step costs the same at any length; the window's overlap keeps spaces
    that decoders drop at the start of a text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._emitted = 0

    def push(self, token: int) -> str:
        """The text that has become certain with this token; may be empty."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        certain = len(text)
        while (
            certain > 0 and len(text) - certain < _OPEN_BYTES and text[certain - 1] == REPLACEMENT
        ):
            certain -= 1
        piece = text[self._emitted : certain]
        self._emitted = max(self._emitted, certain)
        if len(self._tokens) > _WINDOW and certain == len(text):
            self._tokens = self._tokens[-_OVERLAP:]
            self._emitted = len(self._decode(self._tokens))
        return piece

    def finish(self) -> str:
        """What is still held back, with replacement characters for unfinished ones."""
        text = self._decode(self._tokens) if self._tokens else ""
        piece = text[self._emitted :]
        self._emitted = len(text)
        return piece


class StopStrings:
    """Cuts a text at the first stop string, wherever token borders fall.

    Text that may be the beginning of a stop string is held back until it is decided.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is safe to show; `stopped` says whether a stop string was found."""
        if not self._stops:
            return text
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            safe, self._held = self._held[: min(found)], ""
            return safe
        keep = max(self._open_length(stop) for stop in self._stops)
        cut = len(self._held) - keep
        safe, self._held = self._held[:cut], self._held[cut:]
        return safe

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        safe, self._held = self._held, ""
        return safe

    def _open_length(self, stop: str) -> int:
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
