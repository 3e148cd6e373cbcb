"""`keys`, `secrets`, `login`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.output import Column, age, show
from quarterdeck.cli.session import USAGE, Output, Project, connect, note, refuse

if TYPE_CHECKING:
    from quarterdeck.specs.resources import Key, SecretInfo

keys = typer.Typer(help="Credentials: list, create, revoke.", no_args_is_help=False)
secrets = typer.Typer(help="Write-only values for jobs: list, set, delete.", no_args_is_help=False)
_PRIVATE = 0o600


@keys.callback(invoke_without_command=True)
def bare_keys(context: typer.Context, output: Output = "table") -> None:
    """Credentials. Without a command: list them."""
    if context.invoked_subcommand is None:
        list_keys(output=output)


@keys.command("list")
def list_keys(output: Output = "table") -> None:
    """List keys, without their secret part.

    Example: quarterdeck keys list
    """

    def state(key: Key) -> str:
        return "revoked" if key.revoked_at else "valid"

    columns: list[Column[Key]] = [
        Column("NAME", lambda key: key.name),
        Column("ACCESS", lambda key: key.access),
        Column("PROJECT", lambda key: key.project or "(all)"),
        Column("CLUSTER", lambda key: key.cluster, wide=True),
        Column("PREFIX", lambda key: f"{key.prefix}…"),
        Column("REQ/MIN", lambda key: key.requests_per_minute, wide=True),
        Column("TOKENS/MIN", lambda key: key.tokens_per_minute, wide=True),
        Column("STREAMS", lambda key: key.streams, wide=True),
        Column("STATE", state),
        Column("EXPIRES", lambda key: key.expires_at and f"{key.expires_at:%Y-%m-%d %H:%MZ}"),
        Column("AGE", lambda key: age(key.created_at)),
        Column("ID", lambda key: key.id),
    ]
    with connect() as client:
        found = client.keys.list()
    show(found, columns, output, lambda key: f"key/{key.id}", "no keys")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use it.")],
    access: Annotated[str, typer.Option(help="viewer, operator, admin or agent.")] = "operator",
    project: Annotated[str | None, typer.Option(help="Only this project; default: all.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="With --access agent: only this cluster.")
    ] = None,
    expires_in: Annotated[str | None, typer.Option(help="E.g. 90d; default: never.")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Inference requests; default: no limit.")
    ] = None,
    tokens_per_minute: Annotated[
        str | None, typer.Option(help="Of prompts and answers, e.g. 200k; default: no limit.")
    ] = None,
    streams: Annotated[
        int | None, typer.Option(min=1, help="Inference requests at once; default: no limit.")
    ] = None,
) -> None:
    """Make a key; it is printed once and never again.

    Example: quarterdeck keys create ada --access operator --project nlp --expires-in 90d
    """
    from typing import cast, get_args

    from quarterdeck.specs.resources import Access
    from quarterdeck.specs.units import parse_count, parse_duration

    if access not in get_args(Access):
        refuse(f"--access {access}: write one of {', '.join(get_args(Access))}", USAGE)
    try:
        seconds = None if expires_in is None else parse_duration(expires_in)
    except ValueError as error:
        refuse(f"--expires-in: {error}", USAGE)
    try:
        tokens = None if tokens_per_minute is None else parse_count(tokens_per_minute)
    except ValueError as error:
        refuse(f"--tokens-per-minute: {error}", USAGE)
    with connect() as client:
        key = client.keys.create(
            name, cast(Access, access), project=project, cluster=cluster, expires_in=seconds,
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens, streams=streams,
        )  # fmt: skip
    note(f"key/{key.id} for {key.name}, access {key.access}; it is shown only now:")
    print(key.key)


@keys.command()
def revoke(key: Annotated[str, typer.Argument(metavar="ID", help="As in `keys list`.")]) -> None:
    """End a key at once.

    Example: quarterdeck keys revoke key-5jq2v7k3m4xa
    """
    with connect() as client:
        client.keys.revoke(key.removeprefix("key/"))
    print(f"{key} revoked")


@secrets.callback(invoke_without_command=True)
def bare_secrets(context: typer.Context, project: Project = None, output: Output = "table") -> None:
    """Write-only values. Without a command: list their names."""
    if context.invoked_subcommand is None:
        list_secrets(project=project, output=output)


@secrets.command("list")
def list_secrets(project: Project = None, output: Output = "table") -> None:
    """List names and versions, never values.

    Example: quarterdeck secrets list
    """
    columns: list[Column[SecretInfo]] = [
        Column("NAME", lambda secret: secret.name),
        Column("VERSION", lambda secret: secret.version),
        Column("AGE", lambda secret: age(secret.updated_at)),
    ]
    with connect(project) as client:
        found = client.secrets.list()
    show(found, columns, output, lambda secret: f"secret/{secret.name}", "no secrets")


@secrets.command("set")
def set_secret(name: str, project: Project = None) -> None:
    """Create or replace a value, which is read from stdin.

    Example: quarterdeck secrets set WANDB_API_KEY < key.txt
    """
    value = _hidden(f"value of {name}: ").removesuffix("\n")
    if not value:
        refuse("the value on stdin is empty", USAGE)
    with connect(project) as client:
        secret = client.secrets.set(name, value)
    print(f"secret/{secret.name} version {secret.version}")


@secrets.command("delete")
def delete_secret(name: str, project: Project = None) -> None:
    """Forget a value.

    Example: quarterdeck secrets delete WANDB_API_KEY
    """
    with connect(project) as client:
        client.secrets.delete(name)
    print(f"secret/{name} deleted")


def login(
    url: Annotated[str, typer.Argument(help="E.g. https://quarterdeck.example.com")],
) -> None:
    """Remember an address and the key for it.

    The key is asked for, or read from stdin.

    Example: quarterdeck login https://quarterdeck.example.com < key.txt
    """
    from quarterdeck.client import Client
    from quarterdeck.client.config import KEY_FILE, URL_FILE

    if not url.startswith(("http://", "https://")):
        refuse(f"{url!r} is not an address: write https://HOST", USAGE)
    text = _hidden(f"key for {url}: ").strip()
    with Client(url, text) as client:
        key = client.whoami()
    named = os.environ.get("QUARTERDECK_HOME")
    home = Path(named) if named else Path.home() / ".config" / "quarterdeck"
    (home / KEY_FILE).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / URL_FILE).write_text(url.rstrip("/") + "\n", encoding="utf-8")
    _write_private(home / KEY_FILE, text)
    note(f"kept in {home}")
    print(f"{key.name} · {key.access} · project {key.project or '(all)'}")


def _hidden(prompt: str) -> str:
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass(prompt)
    return sys.stdin.read()


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(text)
