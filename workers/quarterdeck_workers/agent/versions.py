"""Versions of this machine's parts that its cluster's other machines must match."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version

import quarterdeck

LABELS = {"quarterdeck": "quarterdeck/version", "ray": "quarterdeck/ray",
          "python": "quarterdeck/python"}  # fmt: skip
"""Labels of Ray's node, so that the head's agent sees what each machine was started with."""


def own_versions() -> dict[str, str]:
    """Of Quarterdeck, Ray and Python, the latter as Ray compares it. Does not import Ray, which
    reads its variables when that happens."""
    return {
        "quarterdeck": quarterdeck.__version__,
        "ray": version("ray"),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def labels_of(versions: Mapping[str, str]) -> dict[str, str]:
    """The labels that tell versions."""
    return {LABELS[name]: text for name, text in versions.items() if name in LABELS}


def versions_of(labels: Mapping[str, str]) -> dict[str, str]:
    """What a node's labels tell; empty for one that an earlier version started."""
    return {name: labels[label] for name, label in LABELS.items() if label in labels}
