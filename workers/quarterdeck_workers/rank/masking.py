"""Secrets in what programs say become `***` before it leaves the node. Pure.

Each value is looked for as it is, line by line where it has several, in base64 (at each of the
three ways in which it can lie in a longer text), percent-encoded, and as JSON and Python write it.
What a program transforms otherwise (reversed, in hexadecimal, encrypted) is not found.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST = 4
"""Characters. Shorter values would mask half of everything."""
_SHORTEST_PART = 8
"""Of what is only a part of a value: a line of it, or its base64 inside a longer text."""
_WRAPPED = 76
"""Columns of a line that the tool base64 writes."""


class Masker:
    """Knows the secrets of a run; without any it changes nothing."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        self._forms = sorted((form.encode() for form in forms), key=len, reverse=True)
        pattern = b"|".join(re.escape(form) for form in self._forms)
        self._pattern = re.compile(pattern) if self._forms else None
        self._longest = len(self._forms[0]) if self._forms else 0

    def text(self, text: str) -> str:
        """A complete text, masked."""
        if self._pattern is None:
            return text
        data = text.encode("utf-8", "surrogatepass")
        masked = self._pattern.sub(MASK.encode(), data)
        return text if masked == data else masked.decode("utf-8", "surrogatepass")

    def value(self, value: Any) -> Any:
        """Every text in JSON-like data, masked."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.value(name): self.value(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(inner) for inner in value]
        return value

    def stream(self) -> MaskedStream:
        """For output that comes in pieces."""
        return MaskedStream(self)

    def whole(self, data: bytes) -> bytes:
        """Complete bytes, masked."""
        return data if self._pattern is None else self._pattern.sub(MASK.encode(), data)

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """What of `data` can be said, masked, and what must wait, as it may begin a secret."""
        if self._pattern is None:
            return data, b""
        cut = self._cut(data)
        for match in self._pattern.finditer(data):
            if match.start() < cut < match.end():
                cut = match.start()
                break
        return self._pattern.sub(MASK.encode(), data[:cut]), data[cut:]

    def _cut(self, data: bytes) -> int:
        """Where the longest end of `data` starts that is the beginning of a secret."""
        for start in range(max(0, len(data) - self._longest + 1), len(data)):
            end = data[start:]
            if any(len(form) > len(end) and form.startswith(end) for form in self._forms):
                return start
        return len(data)


class MaskedStream:
    """Bytes in, masked bytes out; a secret may be split over any number of writes."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be said so far."""
        said, self._held = self._masker.split(self._held + data)
        return said

    def close(self) -> bytes:
        """The rest; what only began like a secret is said as it is."""
        rest, self._held = self._held, b""
        return self._masker.whole(rest)


def _forms(secret: str) -> set[str]:
    stripped = secret.strip()
    if len(stripped) < SHORTEST:
        return set()
    whole = {secret, stripped}
    found = set(whole)
    lines = stripped.splitlines()
    if len(lines) > 1:
        found |= {line for line in lines if len(line) >= _SHORTEST_PART}
    for text in whole:
        found |= {quote(text, safe=""), quote(text), quote_plus(text)}
        found |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        found |= {repr(text)[1:-1]}
        found |= _base64(text.encode())
    found |= {re.sub("%[0-9A-F]{2}", lambda hit: hit[0].lower(), form) for form in found}
    return {form for form in found if len(form) >= SHORTEST}


def _base64(data: bytes) -> set[str]:
    found: set[str] = set()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        found.add(encode(data).decode().rstrip("="))
        for before in range(3):
            text = encode(bytes(before) + data).decode().rstrip("=")
            # Characters that share bits with the neighbours are not the secret's alone.
            first = (0, 2, 3)[before]
            end = len(text) if (before + len(data)) % 3 == 0 else len(text) - 1
            if end - first >= _SHORTEST_PART:
                found.add(text[first:end])
        lines = encode(data).decode()
        pieces = [lines[start : start + _WRAPPED] for start in range(0, len(lines), _WRAPPED)]
        if len(pieces) > 1:
            found |= {piece.rstrip("=") for piece in pieces if len(piece) >= _SHORTEST_PART}
    return found
