"""`services`, `scale`, `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.names import of_kind
from quarterdeck.cli.output import Column, age, show
from quarterdeck.cli.session import Output, Project, connect

if TYPE_CHECKING:
    from quarterdeck.specs.resources import Service

ServiceName = Annotated[str, typer.Argument(metavar="service/NAME", help="The service.")]


def model_of(service: Service) -> str:
    """What it serves; of a chain its steps."""
    steps = " → ".join(step.service for step in service.steps)
    return service.model_version or service.model or steps


def ready_of(service: Service) -> str:
    """Ready replicas of those wanted; of a chain steps."""
    if service.steps:
        return f"{sum(step.ready for step in service.steps)}/{len(service.steps)}"
    return f"{service.ready_replicas}/{service.desired_replicas}"


def services(project: Project = None, output: Output = "table") -> None:
    """List services.

    Example: quarterdeck services -o wide
    """
    columns: list[Column[Service]] = [
        Column("NAME", lambda service: service.name),
        Column("MODEL", model_of),
        Column("PHASE", lambda service: service.phase),
        Column("REASON", lambda service: service.reason),
        Column("READY/WANTED", ready_of),
        Column("AGE", lambda service: age(service.created_at)),
        Column("REVISION", lambda service: service.revision, wide=True),
        Column("ID", lambda service: service.id, wide=True),
        Column("MESSAGE", lambda service: service.message, wide=True),
    ]
    with connect(project) as client:
        found = client.services.list()
    show(found, columns, output, lambda service: f"service/{service.name}", "no services")


def scale(
    name: ServiceName,
    replicas: Annotated[int, typer.Option("--replicas", min=0, help="0 stops serving.")],
    project: Project = None,
) -> None:
    """Set a service's number of replicas.

    Example: quarterdeck scale service/chat --replicas 2
    """
    with connect(project) as client:
        service = client.services.scale(of_kind(name, "service"), replicas)
    print(f"service/{service.name} {service.ready_replicas}/{service.desired_replicas} ready")


def delete(name: ServiceName, project: Project = None) -> None:
    """Drain and stop a service.

    Example: quarterdeck delete service/chat
    """
    with connect(project) as client:
        client.services.delete(of_kind(name, "service"))
    print(f"{name} deleted")
