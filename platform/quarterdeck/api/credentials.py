"""Keys: 256 random bits behind a prefix, known to the database by their SHA-256 only."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

KEY_BYTES = 32
_SHOWN = 8


@dataclass(frozen=True)
class Credential:
    """A fresh key: `text` is shown once, `sha256` and `prefix` are stored."""

    text: str = field(repr=False)
    sha256: str
    prefix: str


def new_credential(random_bytes: Callable[[int], bytes], kind: str = "qd") -> Credential:
    """A key `KIND_…` of 256 random bits; `kind` is `qd` for people, `qdr` for runs."""
    body = base64.urlsafe_b64encode(random_bytes(KEY_BYTES)).rstrip(b"=").decode()
    text = f"{kind}_{body}"
    return Credential(text, digest(text), text[: len(kind) + 1 + _SHOWN])


def digest(text: str) -> str:
    """SHA-256 of a key's text, in hexadecimal: 256 random bits need no salt and no stretching."""
    return hashlib.sha256(text.encode()).hexdigest()
