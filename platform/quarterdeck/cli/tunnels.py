"""`exec`, `attach`, `port-forward`: into a running rank, through the control plane."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quarterdeck.cli.names import job_or_service
from quarterdeck.cli.session import REFUSED, USAGE, Project, note, refuse
from quarterdeck.cli.terminal import Keyboard, RawTerminal, put, size_of_terminal

if TYPE_CHECKING:
    from quarterdeck.client.config import Connection
    from quarterdeck.client.mux import Mux, Stream

Subject = Annotated[str, typer.Argument(metavar="TYPE/NAME", help="job/NAME or service/NAME.")]
Rank = Annotated[int, typer.Option(help="The rank, counted from 0.", min=0)]
_PORTS = 65536


def exec_(
    subject: Subject,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD…", help="The program.")],
    rank: Rank = 0,
    tty: Annotated[
        bool | None,
        typer.Option("-t/-T", "--tty/--no-tty", help="On a terminal of its own; default: as here."),
    ] = None,
    project: Project = None,
) -> None:
    """Run a program inside a rank's environment; ends with its exit code.

    Example: quarterdeck exec job/my-ddp --rank 3 -- nvidia-smi
    """
    here = sys.stdin.isatty() and sys.stdout.isatty()
    terminal = here if tty is None else tty
    _run(_exec(_connection(project), _checked(subject), rank, command, terminal, here))


async def _exec(
    found: Connection, subject: str, rank: int, command: list[str], terminal: bool, here: bool
) -> int:
    from quarterdeck.client.tunnel import tunnel

    errors: asyncio.Task[None] | None = None

    def accept(stream: Stream) -> None:
        nonlocal errors
        errors = asyncio.create_task(_copy(stream, 2))

    async with tunnel(
        found.url, found.key, subject, "exec", rank=rank, project=found.project, accept=accept
    ) as mux:
        rows, columns = size_of_terminal()
        stream = await mux.open(command=command, tty=terminal, rows=rows, columns=columns)
        with RawTerminal(stream, wanted=terminal and here), Keyboard(stream):
            await _copy(stream, 1)
            outcome = await stream.closed()
            if errors is not None:
                await errors
    if "error" in outcome:
        note(f"error: {outcome['error']}")
    return int(outcome.get("exit_code", REFUSED))


def attach(subject: Subject, rank: Rank = 0, project: Project = None) -> None:
    """Show a rank's output as it comes, from now on, unaltered; Ctrl-C leaves.

    Lines that were printed before are in `logs`. Ranks have no standard input.

    Example: quarterdeck attach job/my-ddp --rank 0
    """
    _run(_attach(_connection(project), _checked(subject), rank))


async def _attach(found: Connection, subject: str, rank: int) -> int:
    from quarterdeck.client.tunnel import tunnel

    async with tunnel(
        found.url, found.key, subject, "attach", rank=rank, project=found.project
    ) as mux:
        stream = await mux.open()
        await _copy(stream, 1)
        outcome = await stream.closed()
    if "error" in outcome:
        refuse(str(outcome["error"]))
    return 0


def port_forward(
    subject: Subject,
    ports: Annotated[list[str], typer.Argument(metavar="[LOCAL:]PORT…", help="Ports of the rank.")],
    rank: Rank = 0,
    project: Project = None,
) -> None:
    """Reach ports of a rank's machine on this one's loopback; Ctrl-C ends it.

    Example: quarterdeck port-forward job/my-ddp 6006
    """
    pairs = [_ports(text) for text in ports]
    _run(_forward(_connection(project), _checked(subject), rank, pairs))


async def _forward(found: Connection, subject: str, rank: int, pairs: list[tuple[int, int]]) -> int:
    from quarterdeck.client.tunnel import tunnel

    async with tunnel(
        found.url, found.key, subject, "forward", rank=rank, project=found.project
    ) as mux:
        servers = []
        for local, remote in pairs:
            try:
                server = await asyncio.start_server(_carrier(mux, remote), "127.0.0.1", local)
            except OSError as error:
                refuse(f"port {local} of this machine: {error.strerror}; choose another: :{remote}")
            servers.append(server)
            port = server.sockets[0].getsockname()[1]
            note(f"forwarding 127.0.0.1:{port} → port {remote} of rank {rank}")
        why = await mux.over()
        for server in servers:
            server.close()
    refuse(why)


def _carrier(mux: Mux, port: int) -> Any:
    from quarterdeck.client.mux import TunnelClosed

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TunnelClosed, ConnectionError):
            stream = await mux.open(port=port)
            try:
                await stream.carry(reader, writer)
                if stream.outcome and "error" in stream.outcome:
                    note(str(stream.outcome["error"]))
            finally:
                await stream.close()
        writer.close()

    return carry


async def _copy(stream: Stream, descriptor: int) -> None:
    while data := await stream.read():
        await asyncio.to_thread(put, descriptor, data)


def _run(work: Coroutine[Any, Any, int]) -> None:
    from quarterdeck.client.mux import TunnelClosed

    try:
        code = asyncio.run(work)
    except TunnelClosed as gone:
        refuse(str(gone))
    raise typer.Exit(code)


def _connection(project: str | None) -> Connection:
    from dataclasses import replace

    from quarterdeck.client.config import discover

    found = discover()
    return replace(found, project=project) if project else found


def _checked(subject: str) -> str:
    return "/".join(job_or_service(subject))


def _ports(text: str) -> tuple[int, int]:
    """`PORT`, `LOCAL:PORT`, or `:PORT` for any free one here."""
    local, colon, remote = text.rpartition(":")
    words = (local or "0", remote) if colon else (remote, remote)
    if not all(word.isdigit() and int(word) < _PORTS for word in words) or int(words[1]) == 0:
        refuse(f"{text!r}: write PORT, LOCAL:PORT or :PORT", USAGE)
    return int(words[0]), int(words[1])
