"""`projects`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.output import Column, age, show
from quarterdeck.cli.session import USAGE, Output, connect, note, refuse

if TYPE_CHECKING:
    from quarterdeck.specs.resources import Project
    from quarterdeck.specs.tenancy import Isolation

projects = typer.Typer(help="Tenants: list, create, isolate.", no_args_is_help=False)
_HOW = "shared, or cluster: its runs go to clusters of its own alone."


@projects.callback(invoke_without_command=True)
def bare(context: typer.Context, output: Output = "table") -> None:
    """Tenants. Without a command: list them."""
    if context.invoked_subcommand is None:
        list_projects(output=output)


@projects.command("list")
def list_projects(output: Output = "table") -> None:
    """List projects, how they are isolated, and the clusters of their own.

    Example: quarterdeck projects
    """
    columns: list[Column[Project]] = [
        Column("NAME", lambda project: project.name),
        Column("ISOLATION", lambda project: project.isolation),
        Column("CLUSTERS", lambda project: ", ".join(project.clusters)),
        Column("AGE", lambda project: age(project.created_at)),
    ]
    with connect() as client:
        found = client.projects.list()
    show(found, columns, output, lambda project: f"project/{project.name}", "no projects")


@projects.command()
def create(name: str, isolation: Annotated[str, typer.Option(help=_HOW)] = "shared") -> None:
    """Make a project.

    Example: quarterdeck projects create nlp --isolation cluster
    """
    with connect() as client:
        made = client.projects.create(name, _isolation(isolation))
    print(f"project/{made.name} created")
    _tell(made)


@projects.command()
def isolate(name: str, isolation: Annotated[str, typer.Option(help=_HOW)] = "cluster") -> None:
    """Keep a project's runs and those of others apart, from now on; what runs goes on.

    Example: quarterdeck projects isolate nlp
    """
    with connect() as client:
        changed = client.projects.isolate(name.removeprefix("project/"), _isolation(isolation))
    print(f"project/{changed.name} isolation {changed.isolation}")
    _tell(changed)


def _isolation(text: str) -> Isolation:
    from typing import cast, get_args

    from quarterdeck.specs.tenancy import Isolation

    if text not in get_args(Isolation):
        refuse(f"--isolation {text}: write one of {', '.join(get_args(Isolation))}", USAGE)
    return cast(Isolation, text)


def _tell(project: Project) -> None:
    if project.isolation == "cluster" and not project.clusters:
        note(
            f"it has no cluster of its own yet: give a pool `project: {project.name}`, or start an "
            f"agent with --project {project.name}"
        )
