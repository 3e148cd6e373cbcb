"""How resources are named on the command line."""

from __future__ import annotations

from quarterdeck.cli.session import USAGE, refuse


def of_kind(text: str, kind: str) -> str:
    """The name in `KIND/NAME`; a bare name is taken as one. Ends the command otherwise."""
    given, slash, name = text.partition("/")
    if not slash:
        name, given = text, kind
    if given.removesuffix("s") != kind or not name:
        refuse(f"{text!r} is not a {kind}: write {kind}/NAME", USAGE)
    return name


def job_or_service(text: str) -> tuple[str, str]:
    """(`job` or `service`, name). Ends the command for anything else."""
    kind, slash, name = text.partition("/")
    kind = kind.removesuffix("s")
    if not slash or not name or kind not in ("job", "service"):
        refuse(f"{text!r}: write job/NAME or service/NAME", USAGE)
    return kind, name


def versioned(text: str, kind: str) -> tuple[str, str | None]:
    """(name, version or alias) of `NAME`, `NAME@VERSION` or `KIND/NAME@VERSION`."""
    name, _, version = of_kind(text, kind).partition("@")
    return name, version or None
