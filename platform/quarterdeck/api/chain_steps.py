"""Whether the services that a chain names are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from quarterdeck.api.documents import Document
from quarterdeck.specs.kinds import ServiceSpec
from quarterdeck.specs.resources import FieldProblem
from quarterdeck.specs.suggestions import did_you_mean
from quarterdeck.store.service_queries import live_services
from quarterdeck.store.sessions import Session


def wrong_steps(
    session: Session, document: Document, documents: Mapping[tuple[str, str], Document]
) -> Iterator[FieldProblem]:
    """What is wrong with a service's document as a chain, or as what was one; `documents` are the
    services of the same request, by project and name."""
    spec = document.parsed
    if not isinstance(spec, ServiceSpec):
        return
    steps = spec.chain or ()
    live = live_services(session, spec.project, {spec.name, *(step.service for step in steps)})
    before = live.get(spec.name)
    if before is not None and bool(before.spec.get("chain")) is not bool(spec.chain):
        was, is_ = ("a chain", "a model") if before.spec.get("chain") else ("a model", "a chain")
        yield document.problem(
            "chain" if spec.chain else "model",
            f"service/{spec.name} has {was}, and cannot go over to {is_} without a gap: give this "
            "another name, and move its aliases",
        )
    chains = {name: bool(row.spec.get("chain")) for name, row in live.items()}
    for (project, name), other in documents.items():
        if project == spec.project and isinstance(other.parsed, ServiceSpec):
            chains[name] = bool(other.parsed.chain)
    for place, step in enumerate(steps):
        path = f"chain[{place}].{step.role}"
        if step.service not in chains:
            known = {*live_services(session, spec.project), *chains} - {spec.name}
            yield document.problem(
                path,
                f"service {step.service!r} does not exist: {did_you_mean(step.service, known)}",
            )
        elif chains[step.service]:
            yield document.problem(
                path, f"service {step.service!r} is a chain itself: name its services here"
            )
