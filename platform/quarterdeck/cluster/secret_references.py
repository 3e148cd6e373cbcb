"""Which Secrets, with which entries, the pods of a manifest cannot start without. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def secret_references(manifest: object) -> dict[str, frozenset[str]]:
    """By the Secret's name the entries that are needed of it; empty: that it is there is enough.

    Looks at every place below `manifest` where a pod can name one: variables, `envFrom`, volumes,
    projected volumes, `imagePullSecrets`. What is `optional` is left out.
    """
    found: dict[str, set[str]] = {}
    for name, keys in _references(manifest):
        found.setdefault(name, set()).update(keys)
    return {name: frozenset(keys) for name, keys in sorted(found.items())}


def _references(value: object) -> Iterator[tuple[str, list[str]]]:
    if isinstance(value, list):
        for each in value:
            yield from _references(each)
    if not isinstance(value, Mapping):
        return
    for field, each in value.items():
        if field == "imagePullSecrets" and isinstance(each, list):
            yield from ((str(one["name"]), []) for one in each if _named(one, "name"))
        elif field == "secretKeyRef" and _named(each, "name"):
            yield str(each["name"]), [str(each["key"])] if each.get("key") else []
        elif field == "secretRef" and _named(each, "name"):
            yield str(each["name"]), []
        elif field == "secret" and _named(each, "secretName"):
            yield str(each["secretName"]), _items(each)
        elif field == "secret" and _named(each, "name"):  # of a projected volume
            yield str(each["name"]), _items(each)
        else:
            yield from _references(each)


def _named(value: Any, field: str) -> bool:
    return isinstance(value, Mapping) and bool(value.get(field)) and not value.get("optional")


def _items(volume: Mapping[str, Any]) -> list[str]:
    return [str(item["key"]) for item in volume.get("items") or () if item.get("key")]
