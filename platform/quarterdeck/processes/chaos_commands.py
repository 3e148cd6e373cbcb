"""`quarterdeck chaos`: faults on purpose, for the installation on this machine."""

from __future__ import annotations

import os
import signal as signals
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.processes.surroundings import fail, failures, own_home, tell

if TYPE_CHECKING:
    from quarterdeck.processes.home import Home
    from quarterdeck.processes.records import Record

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
For = Annotated[str, typer.Option("--for", help="How long it lasts, e.g. 10s.")]
DEFAULT_KINDS = "agent,api,controller,gateway,host,parent,rank,ranks,supervisor"

chaos = typer.Typer(
    name="chaos",
    help="Faults on purpose, on this machine: see whether your jobs survive them.",
    no_args_is_help=True,
)


@chaos.command("list")
def list_() -> None:
    """What a fault could hit now: kinds, pids, and whose they are.

    Example: quarterdeck chaos list
    """
    from quarterdeck.cli.output import aligned
    from quarterdeck.processes.chaos_targets import KINDS, targets

    home, _ = _local()
    found = targets(home)
    rows = [
        [kind, target.pids, target.owner or "-", "-" if target.rank is None else str(target.rank),
         words]
        for kind, words in KINDS.items()
        for target in (t for t in found if t.kind == kind)
    ]  # fmt: skip
    print(aligned([["KIND", "PID", "OF", "RANK", "WHAT"], *rows]))


@chaos.command()
def kill(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="As `chaos list` shows them.")],
    signal: Annotated[str, typer.Option("--signal", help="KILL, STOP, CONT or TERM.")] = "KILL",
    duration: Annotated[
        str | None, typer.Option("--for", help="STOP, and CONT after so long, e.g. 10s.")
    ] = None,
    job: Annotated[str | None, typer.Option("--job", help="Of this job: job/NAME.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", min=0, help="This rank.")] = None,
    yes: Yes = False,
) -> None:
    """Send a signal to one process of a kind.

    Example: quarterdeck chaos kill rank --job job/llama --rank 1
    """
    from quarterdeck.processes import chaos as faults
    from quarterdeck.processes.chaos_targets import chosen, targets

    name = _signal(signal, stop=duration is not None)
    seconds = _seconds(duration) if duration is not None else None
    _kinds(kind)
    home, _ = _local()
    owner = job if job is None or "/" in job else f"job/{job}"
    found = chosen(targets(home), kind, job=owner, rank=rank)
    if not found:
        of = f" of {owner}" if owner else ""
        fail(f"no {kind}{of} runs here now: see `quarterdeck chaos list`")
    if len(found) > 1:
        names = ", ".join(f"{target.words} (pid {target.pids})" for target in found)
        if (owner is None or kind == "rank") and kind in ("rank", "ranks", "supervisor", "host"):
            fail(f"{len(found)} would do: {names}: say which with --job and --rank")
    target = found[0]
    held = f" for {duration}" if seconds is not None else ""
    _confirm(f"SIG{name} to {target.words} (pid {target.pids}){held}?", yes)
    if seconds is not None:
        hit = faults.hold(target, seconds)
    else:
        hit = faults.strike(target, getattr(signals, f"SIG{name}"))
    if not hit:
        fail(f"{target.words} was gone already")
    print(f"SIG{name} sent to {target.words} (pid {target.pids}){held}")


@chaos.command("slow-disk")
def slow_disk(duration: For = "10s", yes: Yes = False) -> None:
    """Make writes to the SQLite database wait, as a disk does that is slow to sync.

    It holds the database's write lock 90 % of the time. PostgreSQL is refused: slow it down where
    it runs.

    Example: quarterdeck chaos slow-disk --for 30s --yes
    """
    from quarterdeck.processes import chaos as faults

    seconds = _seconds(duration)
    home, _ = _local()
    with failures():
        file = faults.database_file(home, os.environ)
        _confirm(f"hold the write lock of {file} for {duration}?", yes)
        held = faults.slow_disk(file, seconds)
    print(f"the write lock was held {held} times within {duration}")


@chaos.command()
def cut(
    listen: Annotated[int, typer.Option("--listen", min=1, max=65535, help="The link's port.")],
    every: Annotated[str, typer.Option("--every", help="From one cut to the next.")] = "60s",
    duration: For = "10s",
) -> None:
    """A network link to the api that is cut again and again; Ctrl-C ends it.

    Start an agent through it: `quarterdeck agent --url http://127.0.0.1:PORT …`. It needs no root;
    to cut a machine off that is there already, use its firewall (nftables), which does.

    Example: quarterdeck chaos cut --listen 9000 --every 60s --for 10s
    """
    import time
    from urllib.parse import urlsplit

    from quarterdeck.processes.chaos_link import Link

    pause, length = _seconds(every), _seconds(duration)
    if length >= pause:
        fail(f"--for {duration} is not shorter than --every {every}", 2)
    _, record = _local()
    api = urlsplit(record.api_url)
    try:
        with Link("127.0.0.1", listen, api.hostname or "127.0.0.1", api.port or 80) as link:
            print(f"http://127.0.0.1:{link.port} leads to {record.api_url}", flush=True)
            while True:
                time.sleep(pause - length)
                link.cut()
                tell(f"cut for {duration}")
                time.sleep(length)
                link.mend()
                tell("mended")
    except OSError as error:
        fail(f"port {listen}: {error}")
    except KeyboardInterrupt:
        tell("the link is gone")


@chaos.command()
def run(
    faults: Annotated[int, typer.Option("--faults", min=1, max=100_000, help="How many.")] = 20,
    every: Annotated[str, typer.Option("--every", help="From one fault to the next.")] = "10s",
    seed: Annotated[int, typer.Option("--seed", help="The same seed, the same faults.")] = 0,
    kinds: Annotated[str, typer.Option("--kinds", help="Comma-separated.")] = DEFAULT_KINDS,
    yes: Yes = False,
) -> None:
    """Kill processes at random and tell how long the platform took to notice and to resume.

    Example: quarterdeck chaos run --seed 1 --faults 20 --every 10s --yes
    """
    from quarterdeck.cli.output import aligned
    from quarterdeck.processes.chaos_run import storm
    from quarterdeck.processes.chaos_watch import HEADINGS, table

    names = _kinds(*(name.strip() for name in kinds.split(",") if name.strip()))
    pause = _seconds(every)
    home, record = _local()
    _confirm(f"{faults} faults to {', '.join(names)} of {record.api_url}?", yes)
    with failures():
        recoveries = storm(home, record, names, faults, pause, seed, tell)
    print(aligned([HEADINGS, *table(recoveries)]))


def _kinds(*names: str) -> list[str]:
    from quarterdeck.processes.chaos_targets import KINDS

    for name in names:
        if name not in KINDS:
            fail(f"kind {name!r}: choose of {', '.join(KINDS)}", 2)
    if not names:
        fail(f"--kinds is empty: choose of {', '.join(KINDS)}", 2)
    return sorted(set(names))


def _signal(name: str, *, stop: bool) -> str:
    from quarterdeck.processes.chaos import SIGNALS

    upper = name.upper().removeprefix("SIG")
    if upper not in SIGNALS:
        fail(f"--signal {name}: choose of {', '.join(SIGNALS)}", 2)
    if stop and upper not in ("STOP", "KILL"):
        fail(f"--for goes with --signal STOP, not {upper}", 2)
    return "STOP" if stop else upper


def _seconds(text: str) -> float:
    from quarterdeck.specs.units import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        fail(str(error), 2)
    if not 0 < seconds <= 86400:
        fail(f"{text}: choose more than 0s and at most 1d", 2)
    return seconds


def _local() -> tuple[Home, Record]:
    from quarterdeck.processes.chaos import require_local

    home = own_home()
    with failures():
        return home, require_local(home, os.environ)


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        fail("nobody can answer here: say --yes", 2)
    if not typer.confirm(question, err=True):
        fail("nothing was done")
