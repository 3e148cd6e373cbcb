"""`logs`: what ranks wrote."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.log_text import for_terminal, plain
from quarterdeck.cli.names import job_or_service
from quarterdeck.cli.output import clock
from quarterdeck.cli.session import USAGE, Output, Project, connect, note, refuse

if TYPE_CHECKING:
    from quarterdeck.client import Client
    from quarterdeck.client.logs import LogOptions
    from quarterdeck.specs.resources import LogLine

MOST_RANKS = 1024


def logs(
    subject: Annotated[str, typer.Argument(metavar="TYPE/NAME", help="job/NAME or service/NAME.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come.")] = False,
    rank: Annotated[
        list[str] | None, typer.Option(help="Only of these ranks: 3, or 0,2-5; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only newer ones: an age as 10m, or an ISO 8601 moment.")
    ] = None,
    tail: Annotated[int | None, typer.Option(help="Only the last so many.", min=1)] = None,
    setup: Annotated[bool, typer.Option("--setup", help="Only what `setup` wrote.")] = False,
    attempt: Annotated[int | None, typer.Option(help="Only of this attempt.", min=1)] = None,
    search: Annotated[str | None, typer.Option(help="Only lines that hold this text.")] = None,
    regex: Annotated[
        bool, typer.Option("--regex", help="--search is a regular expression.")
    ] = False,
    project: Project = None,
    output: Output = "table",
) -> None:
    """Print what ranks wrote, also long after the job's end.

    An array's lines are those of its members, by their time, each with its member's name.

    Example: quarterdeck logs job/llama-8b -f --rank 0-3 --since 1h --search nan
    """
    kind, name = job_or_service(subject)
    if regex and search is None:
        refuse("--regex says how to read --search: give that too", USAGE)
    options: LogOptions = {
        "rank": ranks(rank) if rank else None,
        "since": since,
        "tail": tail,
        "stream": "setup" if setup else None,
        "epoch": attempt,
        "search": search,
        "regex": regex,
    }
    with connect(project) as client:
        if kind == "job" and (job := client.jobs.get(name)).array_size is not None:
            print_array(client, job.id, options, output, follow=follow)
            return
        if follow:
            print_logs(client, f"{kind}/{name}", options, output)
            return
        owner = client.jobs if kind == "job" else client.services
        for line in owner.iter_logs(name, **options):
            _print(line, output)


def ranks(texts: list[str]) -> list[int]:
    """`0,2-5` as numbers, each once."""
    found: set[int] = set()
    for part in ",".join(texts).split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [first, last] if dash else [first]
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            refuse(f"--rank {part!r}: write a number, or several as 0,2-5", USAGE)
        low, high = int(numbers[0]), int(numbers[-1])
        if high < low or high - low >= MOST_RANKS:
            refuse(f"--rank {part!r}: from the lower to the higher, at most {MOST_RANKS}", USAGE)
        found.update(range(low, high + 1))
    if len(found) > MOST_RANKS:
        refuse(f"--rank names {len(found)} ranks: at most {MOST_RANKS}", USAGE)
    return sorted(found)


def print_logs(
    client: Client,
    subject: str,
    options: LogOptions | None = None,
    output: str = "table",
    epoch: int | None = None,
) -> None:
    """Print log lines as they come, until the job has ended; between those of two attempts a note
    says why the earlier failed. `epoch` is that of the first attempt to tell of, where that is
    known."""
    lines = client.follow_logs(
        subject, on_reconnect=lambda reason: note(f"{reason}; reconnecting"), **(options or {})
    )
    for line in lines:
        if epoch is not None and line.epoch > epoch:
            _tell_failures(client, subject, epoch, line.epoch)
        epoch = max(epoch or 0, line.epoch)
        _print(line, output)


def print_array(
    client: Client, array: str, options: LogOptions, output: str, *, follow: bool
) -> None:
    """Print the lines of an array's members, with `follow` until all have ended."""
    lines = client.array_logs(
        array, follow=follow, on_reconnect=lambda reason: note(f"{reason}; trying again"),
        **options,
    )  # fmt: skip
    for member, line in lines:
        _print(line, output, member)


def _tell_failures(client: Client, subject: str, first: int, end: int) -> None:
    from quarterdeck.cli.inspect import why_ended

    kind, name = job_or_service(subject)
    if kind != "job":
        return
    for run in reversed(client.jobs.runs(name)):
        # By epochs, which a restored backup lets jump; attempts have none of the gaps.
        if first <= run.epoch < end and (why := why_ended(run)):
            note(f"attempt {run.attempt} {run.phase}: {why}")


def _print(line: LogLine, output: str, member: str | None = None) -> None:
    print(line_text(line, output, terminal=sys.stdout.isatty(), member=member), flush=True)


def line_text(line: LogLine, output: str, *, terminal: bool, member: str | None = None) -> str:
    """One line as it is printed: to a terminal with the program's colours, else without; JSON
    holds the text as it was written. `member` is whose it is, where several jobs' are shown."""
    if output == "json":
        job = {} if member is None else {"job": member}
        return json.dumps({**job, **line.model_dump(mode="json")}, ensure_ascii=terminal)
    text = (
        for_terminal(line.line) if terminal and not os.environ.get("NO_COLOR") else plain(line.line)
    )
    if line.stream == "notice":
        return f"-- {text}" if member is None else f"-- {member}: {text}"
    moment = clock(datetime.fromtimestamp(line.at, UTC))
    epoch = f" e{line.epoch}" if line.epoch > 1 else ""
    stream = f" {line.stream}" if line.stream != "output" else ""
    name = "" if member is None else f"{member} "
    return f"[{name}r{line.rank}{epoch}{stream} {moment}] {text}"
