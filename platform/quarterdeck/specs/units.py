"""Human quantities in specs: durations, memory, counts and shares.

Each parser takes what people write (text or a plain number) and returns one number in the
base unit; the annotated types at the end plug the parsers into pydantic.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_DURATIONS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MEMORY = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_COUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_QUANTITY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z%]*)\s*$")


LONGEST_DURATION = 100 * 365 * 86400.0
"""Seconds. What is longer cannot be added to a date."""
_LARGEST = 1e30
"""Multiplied by any unit it is still finite."""


def _split(text: str) -> tuple[float, str] | None:
    """The number and the unit; None where there is neither, or nobody can mean the number."""
    match = _QUANTITY.match(text)
    if match is None or float(match[1]) > _LARGEST:
        return None
    return float(match[1]), match[2]


def parse_duration(value: object) -> float:
    """Seconds from `800ms`, `30s`, `5m`, `12h`, `7d`; a plain number is seconds."""
    seconds: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and (parts := _split(value)) and parts[1] in _DURATIONS:
        seconds = parts[0] * _DURATIONS[parts[1]]
    if seconds is None:
        raise ValueError(f"{value!r} is not a duration: write 800ms, 30s, 5m, 12h or 7d")
    if not abs(seconds) <= LONGEST_DURATION:  # which is true of NaN
        raise ValueError(f"{value!r} is not a duration of at most 100 years: write a shorter one")
    return float(seconds)


def parse_memory(value: object) -> int:
    """Bytes from `64GiB`, `512MiB`, `80GB`; a plain number is bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (parts := _split(value)) and parts[1] in _MEMORY:
        return round(parts[0] * _MEMORY[parts[1]])
    raise ValueError(f"{value!r} is not an amount of memory: write 64GiB, 512MiB or 80GB")


def parse_count(value: object) -> int:
    """A whole number from `100B`, `1.4T`, `32k` or a plain number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and (parts := _split(value)) and parts[1] in _COUNTS:
        number = parts[0] * _COUNTS[parts[1]]
        if abs(number - round(number)) < 1e-6 * max(1.0, number):
            return round(number)
    raise ValueError(f"{value!r} is not a count: write 512, 32k, 4M, 100B or 1.4T")


def parse_share(value: object) -> float:
    """A share between 0 and 1 from `99.9%` or a plain number."""
    share: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        share = float(value)
    elif isinstance(value, str) and (parts := _split(value)) and parts[1] in ("%", ""):
        share = parts[0] / 100 if parts[1] == "%" else parts[0]
    if share is None or not 0.0 <= share <= 1.0:
        raise ValueError(f"{value!r} is not a share: write 2% or 0.02, between 0 and 1")
    return share


Seconds = Annotated[float, BeforeValidator(parse_duration)]
Bytes = Annotated[int, BeforeValidator(parse_memory)]
Count = Annotated[int, BeforeValidator(parse_count)]
PositiveCount = Annotated[int, Field(ge=1), BeforeValidator(parse_count)]
"""A `Count` of at least 1: in this order the bound is in the JSON schema, also of optional ones."""
Share = Annotated[float, BeforeValidator(parse_share)]
