"""Frames of a tunnel: several streams of bytes over one connection. Pure.

A frame is one byte of kind, four of stream number (big endian) and a payload. Structured payloads
are JSON. The side that opened a stream chose its number: users odd ones, ranks even ones.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

_HEAD = struct.Struct("!BI")
LARGEST_DATA = 32 * 2**10
"""Bytes of payload in one frame."""
LARGEST_FRAME = LARGEST_DATA + _HEAD.size
WINDOW = 256 * 2**10
"""Bytes that a side may send on a stream before the other has read any."""


class Kind(IntEnum):
    """What a frame says of its stream."""

    OPEN = 1
    """Payload: what is wanted."""
    DATA = 2
    EOF = 3
    """No more data from this side."""
    CLOSE = 4
    """The stream is over; payload: its outcome."""
    CREDIT = 5
    """So many more bytes may be sent; payload: four bytes, big endian."""
    CONTROL = 6
    """Beside the data, e.g. a new size of the window."""


class BadFrame(Exception):
    """The other side does not speak this form."""


@dataclass(frozen=True)
class Frame:
    """One frame; `payload` is raw."""

    kind: Kind
    stream: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """As it travels."""
        return _HEAD.pack(self.kind, self.stream) + self.payload

    def content(self) -> dict[str, Any]:
        """A structured payload. Raises BadFrame."""
        try:
            content = json.loads(self.payload)
        except ValueError as error:
            raise BadFrame("a frame's content is not JSON") from error
        if not isinstance(content, dict):
            raise BadFrame("a frame's content is not an object")
        return content

    def amount(self) -> int:
        """A credit's bytes. Raises BadFrame."""
        if len(self.payload) != 4:
            raise BadFrame("a credit is not four bytes")
        return int.from_bytes(self.payload, "big")


def decode(data: bytes) -> Frame:
    """The reverse of `Frame.encode`. Raises BadFrame."""
    if not _HEAD.size <= len(data) <= LARGEST_FRAME:
        raise BadFrame(f"a frame of {len(data)} bytes")
    kind, stream = _HEAD.unpack_from(data)
    try:
        return Frame(Kind(kind), stream, data[_HEAD.size :])
    except ValueError as error:
        raise BadFrame(f"a frame of kind {kind}") from error


def structured(kind: Kind, stream: int, content: dict[str, Any]) -> Frame:
    """A frame with a JSON payload. Raises ValueError when it is too large."""
    payload = json.dumps(content).encode()
    if len(payload) > LARGEST_DATA:
        raise ValueError(f"{len(payload)} bytes are more than the {LARGEST_DATA} of one frame")
    return Frame(kind, stream, payload)


def credit(stream: int, amount: int) -> Frame:
    """Leave to send `amount` more bytes."""
    return Frame(Kind.CREDIT, stream, amount.to_bytes(4, "big"))
