"""What the machines of one cluster must have alike. Pure."""

from __future__ import annotations

from collections.abc import Mapping

NAMES = {"ray": "Ray", "python": "Python"}
"""Ray lets a process into a cluster only if both are the head's, down to the patch version."""


def apart(mine: Mapping[str, str], heads: Mapping[str, str]) -> list[str]:
    """Where a machine's versions are not those of its cluster's head, as `Ray 2.59.0, not 2.60.0`.

    What one of the two does not tell is not compared: agents of earlier versions tell less.
    """
    return [
        f"{label} {mine[name]}, not {heads[name]}"
        for name, label in NAMES.items()
        if mine.get(name) and heads.get(name) and mine[name] != heads[name]
    ]
