"""TensorBoard event files, written without TensorBoard.

A file is a sequence of TFRecords (length, masked CRC-32C of it, data, masked CRC-32C of that), each
an `Event` message in protocol-buffer encoding (tensorflow/core/util/event.proto): wall_time = 1
(double), step = 2 (int64), file_version = 3 (string), summary = 5, whose value = 1 has tag = 1
(string) and simple_value = 2 (float).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    value = crc32c(data)
    rotated = ((value >> 15) | (value << 17)) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + _MASK_DELTA) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """One TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= 2**64 - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def scalars(at: float, step: int, values: Mapping[str, float]) -> bytes:
    """An Event with values at a step; `at` is Unix seconds."""
    summary = b"".join(
        _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", _float32(value)))
        for tag, value in values.items()
    )
    return b"\x09" + struct.pack("<d", at) + b"\x10" + _varint(step) + _bytes(5, summary)


def _float32(value: float) -> float:
    try:
        struct.pack("<f", value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return value


class EventFile:
    """One event file of a folder, made with its first values; `name` tells writers apart."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._file: Path | None = None

    def add(self, at: float, step: int, values: Mapping[str, float]) -> None:
        """Append the values of a step. Raises OSError."""
        data = record(scalars(at, step, values))
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._folder / f"events.out.tfevents.{int(at):010d}.{self._name}"
            version = b"\x09" + struct.pack("<d", at) + _bytes(3, b"brain.Event:2")
            data = record(version) + data
        with self._file.open("ab") as out:
            out.write(data)
