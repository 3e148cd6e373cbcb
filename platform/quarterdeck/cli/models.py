"""`models` and `tokenizers`: versions, aliases, downloads, weights on nodes ahead."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.model_folders import add
from quarterdeck.cli.names import versioned
from quarterdeck.cli.output import Column, age, show, size
from quarterdeck.cli.session import USAGE, Output, Project, connect, note, refuse
from quarterdeck.cli.warming import warm

if TYPE_CHECKING:
    from quarterdeck.specs.resources import AssetVersion

models = typer.Typer(
    help="Versions of models: list, add, promote, pull, warm.", no_args_is_help=False
)
models.command()(add)


def version_columns() -> list[Column[AssetVersion]]:
    """What lists of versions show."""
    return [
        Column("NAME", lambda one: one.name),
        Column("VERSION", lambda one: one.version),
        Column("ALIASES", lambda one: ",".join(one.aliases)),
        Column("SIZE", lambda one: size(one.size)),
        Column("MADE-FROM", lambda one: ",".join(one.inputs)),
        Column("AGE", lambda one: age(one.created_at)),
        Column("DIGEST", lambda one: one.digest[:16], wide=True),
        Column("RUN", lambda one: one.run_id, wide=True),
        Column("URI", lambda one: one.uri, wide=True),
    ]


@models.callback(invoke_without_command=True)
def bare(context: typer.Context, project: Project = None, output: Output = "table") -> None:
    """Versions of models. Without a command: list them."""
    if context.invoked_subcommand is None:
        list_models(project=project, output=output)


@models.command("list")
def list_models(
    name: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    project: Project = None,
    output: Output = "table",
) -> None:
    """List versions, newest first.

    Example: quarterdeck models list llama-8b
    """
    with connect(project) as client:
        found = client.models.list(name=name)
    show(found, version_columns(), output, lambda m: f"model/{m.name}@{m.version}", "no models")


@models.command()
def promote(
    model: Annotated[str, typer.Argument(metavar="NAME@VERSION")],
    alias: Annotated[str, typer.Argument(help="E.g. prod.")],
    project: Project = None,
) -> None:
    """Let an alias mean a version; services that follow it roll.

    Example: quarterdeck models promote support@4 prod
    """
    name, version = versioned(model, "model")
    if version is None or not version.isdigit():
        refuse(f"{model!r}: write NAME@NUMBER, e.g. {name}@1", USAGE)
    with connect(project) as client:
        found = client.models.promote(name, alias, int(version))
    print(f"model/{name}@{alias} is version {found.version}")


@models.command()
def pull(
    model: Annotated[str, typer.Argument(metavar="NAME@VERSION")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    project: Project = None,
) -> None:
    """Copy a version's files here, in Hugging Face layout.

    Example: quarterdeck models pull support@prod ./support
    """
    from quarterdeck.artifacts import ArtifactError, ArtifactStore

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        refuse(f"{folder} is not an empty folder: choose another", USAGE)
    name, version = versioned(model, "model")
    with connect(project) as client:
        found = client.models.get(name, version)
    note(f"copying {size(found.size)} from {found.uri}")
    started = time.monotonic()
    try:
        files = ArtifactStore(found.uri).get_folder("", folder)
    except (ArtifactError, OSError) as error:
        refuse(f"{found.uri} cannot be copied: {error}")
    total = size(sum(file.size for file in files))
    seconds = time.monotonic() - started
    print(f"{folder}: model/{name}@{found.version}, {len(files)} files, {total} in {seconds:.1f} s")


models.command()(warm)


def tokenizers(project: Project = None, output: Output = "table") -> None:
    """List versions of tokenizers.

    Example: quarterdeck tokenizers
    """
    with connect(project) as client:
        found = client.tokenizers.list()
    show(
        found, version_columns(), output, lambda t: f"tokenizer/{t.name}@{t.version}",
        "no tokenizers",
    )  # fmt: skip
