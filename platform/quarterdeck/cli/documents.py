"""`apply`, `diff`, `plan`: what is done with files."""

from __future__ import annotations

import json
import sys
from difflib import unified_diff
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quarterdeck.cli.output import dump_yaml, yaml_text
from quarterdeck.cli.session import REFUSED, Output, Project, connect, note, refuse
from quarterdeck.cli.workdirs import upload_all

if TYPE_CHECKING:
    from quarterdeck.client import Client
    from quarterdeck.specs.loading import LoadedDocument

Files = Annotated[
    list[str], typer.Option("-f", "--file", help="A file, a folder, or - for stdin; repeatable.")
]


def load(files: list[str]) -> list[LoadedDocument]:
    """Documents of files, or the end of the command with every mistake."""
    from quarterdeck.specs.loading import LoadError, load_paths

    try:
        return load_paths(files, sys.stdin)
    except LoadError as error:
        for problem in error.problems:
            note(str(problem))
        refuse(f"{len(error.problems)} mistakes: nothing was sent")


def apply(
    files: Files,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete services of the project that no file names.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and say what would happen.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Cancel a live job whose spec changed.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Submit although the planner says it cannot fit.")
    ] = False,
    project: Project = None,
    output: Output = "table",
) -> None:
    """Make it so: all documents in one transaction.

    Example: quarterdeck apply -f examples/pretrain-3d.yaml
    """
    loaded = load(files)
    with connect(project) as client:
        documents = upload_all(client, loaded, send=not dry_run)
        result = client.apply(documents, prune=prune, dry_run=dry_run, replace=replace, force=force)
    if output in ("json", "yaml"):
        data = result.model_dump(mode="json")
        print(json.dumps(data, indent=2)) if output == "json" else dump_yaml(data)
        return
    for applied in result.results:
        noun = "service" if applied.kind == "service" else "job"
        if output == "name":
            print(f"{noun}/{applied.name}")
            continue
        said = f" · {applied.message}" if applied.message else ""
        would = " (dry run)" if result.dry_run else ""
        print(f"{noun}/{applied.name} {applied.action}{said}{would}")


def diff(files: Files, project: Project = None) -> None:
    """Show how files differ from what is there.

    Exit code 1 when they do.

    Example: quarterdeck diff -f service.yaml
    """
    from quarterdeck.specs.suggestions import parse_document
    from quarterdeck.specs.workdir import identity

    drift = False
    documents = load(files)
    with connect(project) as client:
        for document in documents:
            there = _there(client, document)
            (data,) = upload_all(client, [document], send=False)
            here = parse_document(data, "").model_dump(mode="json", exclude={"project"})
            lines = unified_diff(
                [] if there is None else yaml_text(identity(there)).splitlines(keepends=True),
                yaml_text(identity(here)).splitlines(keepends=True),
                fromfile=f"{document.noun} (now)",
                tofile=f"{document.source}:{document.line}",
            )
            text = "".join(lines)
            drift = drift or bool(text)
            sys.stdout.write(text)
    if drift:
        raise typer.Exit(REFUSED)


def _there(client: Client, document: LoadedDocument) -> dict[str, Any] | None:
    """The spec on the platform in the form of this version's documents; None when absent."""
    from quarterdeck.client import NotFound
    from quarterdeck.specs.suggestions import DocumentError, parse_document

    name = document.spec.name
    try:
        if document.spec.kind == "service":
            found = client.services.get(name).spec
        else:
            found = client.jobs.get(name).spec
    except NotFound:
        return None
    try:
        return parse_document(found, "").model_dump(mode="json", exclude={"project"})
    except DocumentError:
        return {field: value for field, value in found.items() if field != "project"}
