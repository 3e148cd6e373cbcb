"""Programs that users run beside a rank: with pipes, or on a terminal of their own.

The stream that asked carries standard input and output; without a terminal a second stream carries
standard error. The outcome is `exit_code` (128 + number for a signal, as shells say).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from contextlib import suppress
from typing import Any

from quarterdeck.client.mux import Stream

_CHUNK = 32 * 2**10
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_ENDING_SECONDS = 5.0
"""How long a program that lost its user may take to end after SIGHUP."""


async def run_program(stream: Stream) -> None:
    """Run `stream.wanted["command"]` (a list of words) to its end.

    Raises ValueError for a wrong request, TunnelClosed when the user leaves; the program then
    gets SIGHUP, as on a terminal that is closed, and SIGKILL after five seconds.
    """
    command = stream.wanted["command"]
    if not isinstance(command, list) or not command or not all(isinstance(w, str) for w in command):
        raise ValueError("command: not a list of words")
    run = _on_terminal if stream.wanted.get("tty") else _on_pipes
    try:
        await stream.close(exit_code=await run(stream, command))
    except FileNotFoundError:
        await stream.close(exit_code=_NOT_FOUND, error=f"{command[0]}: not found")
    except PermissionError:
        await stream.close(exit_code=_NOT_EXECUTABLE, error=f"{command[0]}: not executable")


async def _on_pipes(stream: Stream, command: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    stream.on_control = lambda control: _signal(process.pid, control)
    errors = await stream.mux.open(stderr=True)
    feeding = asyncio.create_task(_feed(stream, process.stdin))
    try:
        await asyncio.gather(_drain(process.stdout, stream), _drain(process.stderr, errors))
        code = await process.wait()
        await errors.close()
        return _shell_code(code)
    finally:
        feeding.cancel()
        if process.returncode is None:
            await _end(process)


async def _feed(stream: Stream, stdin: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await stream.read():
            stdin.write(data)
            await stdin.drain()
        stdin.close()


async def _drain(source: asyncio.StreamReader, stream: Stream) -> None:
    while data := await source.read(_CHUNK):
        await stream.write(data)


async def _on_terminal(stream: Stream, command: list[str]) -> int:
    master, slave = os.openpty()
    _resize(master, stream.wanted)
    os.set_blocking(master, False)
    environment = {**os.environ, "TERM": str(stream.wanted.get("term") or "xterm")}
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=slave, stdout=slave, stderr=slave, env=environment,
            preexec_fn=lambda: os.login_tty(os.dup(0)),
        )  # fmt: skip
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    stream.on_control = lambda control: _resize(master, control)
    typing = asyncio.create_task(_type(stream, master))
    try:
        await _show(master, stream)
        return _shell_code(await process.wait())
    finally:
        typing.cancel()
        await asyncio.gather(typing, return_exceptions=True)
        os.close(master)
        if process.returncode is None:
            await _end(process)


async def _type(stream: Stream, master: int) -> None:
    while data := await stream.read():
        while data:
            try:
                data = data[os.write(master, data) :]
            except BlockingIOError:
                await _ready(master, writing=True)


async def _show(master: int, stream: Stream) -> None:
    while True:
        try:
            data = os.read(master, _CHUNK)
        except BlockingIOError:
            await _ready(master, writing=False)
            continue
        except OSError:  # EIO: the last program on the terminal has ended
            return
        if not data:
            return
        await stream.write(data)


async def _ready(descriptor: int, *, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    )
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


def _resize(master: int, size: dict[str, Any]) -> None:
    rows, columns = int(size.get("rows") or 24), int(size.get("columns") or 80)
    with suppress(OSError, struct.error):
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _signal(pid: int, control: dict[str, Any]) -> None:
    number = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "QUIT": signal.SIGQUIT}.get(
        str(control.get("signal"))
    )
    if number is not None:
        with suppress(ProcessLookupError):
            os.killpg(pid, number)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGHUP)
    try:
        async with asyncio.timeout(_ENDING_SECONDS):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _shell_code(code: int) -> int:
    return code if code >= 0 else 128 - code
