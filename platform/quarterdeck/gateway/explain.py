"""`?explain=1`: why this replica, as JSON in a header of the answer; for operators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import parse_qs

from quarterdeck.gateway.access_log import Step
from quarterdeck.gateway.errors import ApiError
from quarterdeck.routing.policy import Choice
from quarterdeck.routing.replicas import Refusal
from quarterdeck.specs.gateway_snapshot import KeyDigest

HEADER = b"x-quarterdeck-explain"
_MOST = 20
"""Replicas told of; proxies in front refuse headers that are too long."""
_MAY = frozenset({"operator", "admin"})


def wanted(query: bytes, key: KeyDigest) -> bool:
    """Whether a request asks for it. Raises ApiError 403 for keys that may not."""
    if b"explain" not in query:
        return False
    asked = parse_qs(query.decode("latin-1")).get("explain", ["0"])[-1]
    if asked not in ("1", "true"):
        return False
    if key.access not in _MAY:
        raise ApiError(
            403, f"explain: a key with access {key.access!r} may not ask: use one of an operator",
            code="access_denied", type_="permission_error", param="explain",
        )  # fmt: skip
    return True


def told_chain(chain: str, steps: Sequence[Step]) -> bytes:
    """The header's value for a chain: each step, and how its replica was chosen. What every single
    replica scored is told of the last step alone."""
    told_steps: list[dict[str, object]] = []
    for step in steps:
        choice = json.loads(step.record.explanation or b"null")
        if choice and step is not steps[-1]:
            choice.pop("replicas")
        told_steps.append({**step.told(), "choice": choice})
    return json.dumps({"chain": chain, "steps": told_steps}, separators=(",", ":")).encode()


def told(choice: Choice, attempt: int) -> bytes:
    """The header's value: the policy, whom it chose and why, and what each replica scored."""
    chosen = choice.chosen
    content = {
        "policy": choice.policy,
        "attempt": attempt,
        "chosen": None if isinstance(chosen, Refusal) else chosen.run_id,
        "why": choice.why,
        "replicas": [
            {"replica": each.run_id, "left_out": each.left_out}
            if each.left_out
            else {
                "replica": each.run_id,
                "score": round(each.score or 0.0, 4),
                "parts": {name: round(value, 4) for name, value in each.parts.items()},
            }
            for each in choice.candidates[:_MOST]
        ],
    }
    return json.dumps(content, separators=(",", ":")).encode()
