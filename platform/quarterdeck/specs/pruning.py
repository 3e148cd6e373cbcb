"""Which services `prune` leaves alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from quarterdeck.specs.kinds import AnyJob, ServiceSpec


def kept_services(specs: Iterable[AnyJob | ServiceSpec]) -> set[tuple[str, str]]:
    """(project, name) of the services that documents are, and of those that they send requests to:
    steps of a chain, `fallback`, `mirror`."""
    kept: set[tuple[str, str]] = set()
    for spec in specs:
        if isinstance(spec, ServiceSpec):
            names = [spec.name, *(step.service for step in spec.chain or ())]
            names += [spec.fallback] if spec.fallback else []
            names += [spec.mirror.service] if spec.mirror else []
            kept |= {(spec.project, name) for name in names}
    return kept
