"""`log-policies`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.output import Column, show
from quarterdeck.cli.session import USAGE, Output, connect, refuse

if TYPE_CHECKING:
    from quarterdeck.specs.log_policies import OrderedPolicy

log_policies = typer.Typer(
    help="What known lines of output mean for the next attempt: list, set.", no_args_is_help=False
)


@log_policies.callback(invoke_without_command=True)
def bare(context: typer.Context, output: Output = "table") -> None:
    """Log policies. Without a command: list them."""
    if context.invoked_subcommand is None:
        list_policies(output=output)


@log_policies.command("list")
def list_policies(output: Output = "table") -> None:
    """List the policies in force for jobs that have none of their own.

    Example: quarterdeck log-policies list
    """
    with connect() as client:
        found = client.log_policies.get()
    own = {policy.name for policy in found.policies}
    columns: list[Column[OrderedPolicy]] = [
        Column("NAME", lambda policy: policy.name),
        Column("VERDICT", lambda policy: policy.verdict),
        Column("FROM", lambda policy: "installation" if policy.name in own else "built in"),
        Column("PATTERN", lambda policy: policy.pattern),
    ]
    show(found.in_force, columns, output, lambda policy: policy.name, "no log policies")


@log_policies.command("set")
def set_policies(
    file: Annotated[Path, typer.Argument(help="YAML: a list of {name, pattern, verdict}.")],
) -> None:
    """Replace the installation's own policies by those of a file; an empty list removes them.

    Example: quarterdeck log-policies set policies.yaml
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        policies = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        refuse(f"{file}: {error}", USAGE)
    if not isinstance(policies, list):
        refuse(f"{file}: write a list of {{name, pattern, verdict}}", USAGE)
    with connect() as client:
        found = client.log_policies.put(policies)
    print(f"{len(found.policies)} log policies of the installation, {len(found.in_force)} in force")
