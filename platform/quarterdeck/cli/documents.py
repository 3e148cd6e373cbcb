"""`apply`, `diff`, `plan`: what is done with files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from difflib import unified_diff
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quarterdeck.cli.output import dump_yaml, yaml_text
from quarterdeck.cli.session import (
    REFUSED,
    USAGE,
    Output,
    Project,
    connect,
    explain,
    note,
    refuse,
)
from quarterdeck.cli.workdirs import upload_all

if TYPE_CHECKING:
    from quarterdeck.client import Client
    from quarterdeck.specs.kinds import AnyJob, ServiceSpec
    from quarterdeck.specs.loading import LoadedDocument

Files = Annotated[
    list[str], typer.Option("-f", "--file", help="A file, a folder, or - for stdin; repeatable.")
]


def load(files: list[str], code: int = REFUSED) -> list[LoadedDocument]:
    """Documents of files, or the end of the command with every mistake and this exit code."""
    from quarterdeck.specs.loading import LoadError, load_paths

    try:
        return load_paths(files, sys.stdin)
    except LoadError as error:
        for problem in error.problems:
            note(str(problem))
        refuse(f"{len(error.problems)} mistakes: nothing was sent", code)


def apply(
    files: Files,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Delete services of the files' projects that no file names."),
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


def diff(
    files: Files,
    prune: Annotated[
        bool, typer.Option("--prune", help="Show what `apply --prune` would delete too.")
    ] = False,
    project: Project = None,
) -> None:
    """Show what an apply would change.

    Exit code 0 when nothing would, 1 when something would, 2 when that cannot be told.

    Example: quarterdeck diff -f deploy/ --prune
    """
    from quarterdeck.client import QuarterdeckError

    documents = load(files, USAGE)
    try:
        drift = False
        for text in _differences(documents, prune, project):
            drift = True
            sys.stdout.write(text)
    except QuarterdeckError as error:
        refuse(explain(error), USAGE)
    if drift:
        raise typer.Exit(REFUSED)


def _differences(
    documents: list[LoadedDocument], prune: bool, project: str | None
) -> Iterator[str]:
    """A unified diff for each document that differs from what is there."""
    from quarterdeck.specs.pruning import kept_services
    from quarterdeck.specs.suggestions import parse_document

    with ExitStack() as stack:
        clients: dict[str, Client] = {}

        def client_of(project: str) -> Client:
            if project not in clients:
                clients[project] = stack.enter_context(connect(project))
            return clients[project]

        home = stack.enter_context(connect(project))
        specs = []
        for document in documents:
            (data,) = upload_all(home, [document], send=False)
            spec = parse_document({"project": home.project, **data}, "")
            specs.append(spec)
            there, now = _there(client_of(spec.project), document.noun, spec.name)
            text = _compared(there, _shown(spec), now, f"{document.source}:{document.line}")
            if text:
                yield text
        if prune:
            kept = kept_services(specs)
            for name in sorted({spec.project for spec in specs}):
                for service in client_of(name).services.list():
                    if service.desired == "run" and (name, service.name) not in kept:
                        noun = f"service/{service.name} (now)"
                        yield _compared(_stored(service.spec), None, noun, os.devnull)


def _compared(
    there: dict[str, Any] | None, here: dict[str, Any] | None, now: str, source: str
) -> str:
    from quarterdeck.specs.workdir import identity

    before, after = (
        [] if spec is None else yaml_text(identity(spec)).splitlines(keepends=True)
        for spec in (there, here)
    )
    return "".join(unified_diff(before, after, fromfile=now, tofile=source))


def _there(client: Client, noun: str, name: str) -> tuple[dict[str, Any] | None, str]:
    """The spec on the platform, None where an apply would make anew, and what to call it."""
    from quarterdeck.client import NotFound

    try:
        if noun.startswith("service/"):
            service = client.services.get(name)
            if service.desired != "run" or service.phase == "stopped":
                return None, f"{noun} ({service.phase})"
            spec = _stored(service.spec)
            if spec.get("chain") is None and "replicas" in spec:  # somebody may have scaled it
                spec["replicas"] = service.desired_replicas
            return spec, f"{noun} (now)"
        job = client.jobs.get(name)
    except NotFound:
        return None, f"{noun} (now)"
    if job.phase in ("failed", "cancelled") or (
        job.desired == "cancel" and job.phase != "succeeded"
    ):
        return None, f"{noun} ({job.phase}: apply submits it again)"
    return _stored(job.spec), f"{noun} (now)"


def _stored(found: dict[str, Any]) -> dict[str, Any]:
    """A spec on the platform in the form of this version's documents."""
    from quarterdeck.specs.suggestions import DocumentError, parse_document

    try:
        return _shown(parse_document(found, ""))
    except DocumentError:
        return {field: value for field, value in found.items() if field != "project"}


def _shown(spec: AnyJob | ServiceSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude={"project"})
