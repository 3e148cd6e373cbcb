"""`doctor`: does what the CLI can see work, and do the invariants hold?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quarterdeck.cli.output import age
from quarterdeck.cli.session import REFUSED, Output

if TYPE_CHECKING:
    from quarterdeck.client import Client
    from quarterdeck.specs.reports import DoctorCheck

WORDS = {"ok": "OK", "note": "NOTE", "failed": "FAIL"}


Look = Callable[[], "list[DoctorCheck]"]


def command(looks: Sequence[Look] = ()) -> Callable[..., None]:
    """The command; `looks` add checks of what lies beside the api."""

    def doctor(
        deep: Annotated[
            bool, typer.Option("--deep", help="Read checkpoints' files and compare digests.")
        ] = False,
        output: Output = "table",
    ) -> None:
        """Check address, key, api, clusters and nodes; prove the invariants on the live database.

        The invariants need an administrator's key of the whole installation. Where
        QUARTERDECK_POOLS names pools, Kubernetes too: KubeRay, rights, Secrets. Exit code 1 when
        something is wrong.

        Example: quarterdeck doctor --deep
        """
        beside = [check for look in looks for check in look()]
        checks = [*beside, *_control_plane(deep, alone=not beside)]
        _print(checks, output)
        if any(check.state == "failed" for check in checks):
            raise typer.Exit(REFUSED)

    return doctor


def _control_plane(deep: bool, *, alone: bool) -> list[DoctorCheck]:
    """What the api tells. Where no api is known that is wrong, unless we are not `alone`."""
    from quarterdeck.client import Client, ConfigurationError, QuarterdeckError
    from quarterdeck.client.config import discover
    from quarterdeck.specs.reports import DoctorCheck

    checks: list[DoctorCheck] = []

    def add(name: str, good: bool, text: str) -> None:
        checks.append(DoctorCheck(name=name, claim=text, state="ok" if good else "failed"))

    try:
        found = discover()
        add("address", True, found.url + (f", from {found.home}" if found.home else ""))
        with Client(found.url, found.key) as client:
            for name, check in (
                ("api", _api), ("key", _key), ("clusters", _clusters), ("nodes", _nodes),
            ):  # fmt: skip
                for good, text in _attempt(check, client):
                    add(name, good, text)
            checks += _invariants(client, deep)
    except ConfigurationError as error:
        state: Literal["failed", "note"] = "failed" if alone else "note"
        checks.append(DoctorCheck(name="address", claim=str(error), state=state))
    except QuarterdeckError as error:
        add("control plane", False, str(error))
    return checks


def _print(checks: list[DoctorCheck], output: str) -> None:
    from quarterdeck.cli.output import Column, show

    columns: list[Column[DoctorCheck]] = [
        Column("STATE", lambda check: WORDS[check.state]),
        Column("CHECK", lambda check: check.name),
        Column("WHAT", lambda check: check.claim),
        Column("FOUND", lambda check: len(check.found) or None),
    ]
    show(checks, columns, output, lambda check: f"check/{check.name}")
    if output not in ("table", "wide"):
        return
    for check in checks:
        for each in check.found:
            print(f"{WORDS[check.state]} {check.name}: {each.id}: {each.message}")
        if check.remedy:
            print(f"  {check.remedy}")


Finding = tuple[bool, str]


def _invariants(client: Client, deep: bool) -> list[DoctorCheck]:
    from quarterdeck.client import QuarterdeckError
    from quarterdeck.specs.reports import DoctorCheck

    key = client.whoami()
    if key.access != "admin" or key.project is not None:
        claim = "not looked at: they need an administrator's key of the whole installation"
        return [DoctorCheck(name="invariants", claim=claim, state="note")]
    try:
        return client.doctor(deep=deep).checks
    except QuarterdeckError as error:
        return [DoctorCheck(name="invariants", claim=str(error), state="failed")]


def _attempt(check: Callable[[Client], Iterator[Finding]], client: Client) -> Iterator[Finding]:
    from quarterdeck.client import QuarterdeckError

    try:
        yield from check(client)
    except QuarterdeckError as error:
        yield False, str(error)


def _api(client: Client) -> Iterator[Finding]:
    ready = client.ready()
    yield ready, "the api is ready" if ready else "the api is not ready: look at its log"


def _key(client: Client) -> Iterator[Finding]:
    key = client.whoami()
    yield True, f"key {key.name}: {key.access}, project {key.project or '(all)'}"


def _clusters(client: Client) -> Iterator[Finding]:
    clusters = client.clusters.list()
    if not clusters:
        yield False, "no cluster has an agent: run `quarterdeck agent --url URL --cluster NAME`"
    for cluster in clusters:
        beat = age(cluster.last_beat_at)
        text = f"cluster/{cluster.name} {cluster.phase}, last beat {beat} ago"
        yield cluster.phase == "connected", text


def _nodes(client: Client) -> Iterator[Finding]:
    for node in client.nodes.list():
        if node.phase == "dead" and not node.quarantined and not node.quarantined_runs:
            continue
        good = node.phase == "alive" and not node.quarantined and not node.quarantined_runs
        held = [f"run {run.epoch} of {run.owner}" for run in node.quarantined_runs]
        mark = f", quarantined: {', '.join(held) or 'a lost run'} may still hold it"
        mark = mark if held or node.quarantined else ""
        yield good, f"node/{node.id} {node.phase}, {node.slots_free}/{node.slots} free{mark}"
