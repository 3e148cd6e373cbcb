"""`x-quarterdeck-revision: N`: an operator's request to one revision of a service."""

from __future__ import annotations

from collections.abc import Mapping

from quarterdeck.gateway.errors import ApiError
from quarterdeck.specs.gateway_snapshot import KeyDigest

REVISION_HEADER = b"x-quarterdeck-revision"
_OPERATORS = frozenset({"operator", "admin"})
_DIGITS = 9


def asked_revision(fields: Mapping[bytes, bytes], key: KeyDigest) -> int | None:
    """The revision that the request asks for; None: whatever the rollout's weights say. Raises
    ApiError 400 for what is no number and 403 for a key below operator."""
    found = fields.get(REVISION_HEADER)
    if found is None:
        return None
    given = found.decode("latin-1")
    name = REVISION_HEADER.decode()
    if not (given.isascii() and given.isdigit() and len(given) <= _DIGITS):
        raise ApiError(400, f"{name}: {given[:40]!r} is not a revision: write its number, e.g. 3")
    if key.access not in _OPERATORS:
        raise ApiError(
            403, f"{name}: a key with access {key.access!r} cannot choose: leave the header out",
            code="access_denied", type_="permission_error",
        )  # fmt: skip
    return int(given)
