"""Dividing a key's limits between gateways by what each lately had to carry. Pure.

Each gateway reports once a second how many tokens (and requests) a key asked of it, refused ones
too. A part of the limit is divided alike, so that a gateway that a client turns to has something at
once; the rest goes by demand. The shares of a key add up to one, so whatever clients do, together
the gateways let through a second's worth too much at most, while shares are on their way.

Example: two gateways, a tenth divided alike, demands 900 and 100: shares 0.05 + 0.81 = 0.86 and
0.05 + 0.09 = 0.14.
"""

from __future__ import annotations

from collections.abc import Mapping

ALIKE = 0.1
"""The part of a limit that is divided alike."""


def shares(demands: Mapping[str, Mapping[str, float]], gateway: str) -> dict[str, float]:
    """One gateway's share of each key that anybody told of. `demands` holds all living gateways,
    this one among them; keys that nobody told of are divided alike by everybody."""
    count = max(1, len(demands))
    keys = {key for demand in demands.values() for key in demand}
    found: dict[str, float] = {}
    for key in keys:
        everybody = sum(max(0.0, demand.get(key, 0.0)) for demand in demands.values())
        mine = max(0.0, demands.get(gateway, {}).get(key, 0.0))
        part = mine / everybody if everybody > 0 else 1.0 / count
        found[key] = ALIKE / count + (1.0 - ALIKE) * part
    return found
