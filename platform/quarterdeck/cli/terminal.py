"""This side's terminal while a program runs elsewhere: keys, size, raw mode."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from concurrent.futures import CancelledError
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from quarterdeck.client.mux import Stream

_CHUNK = 32 * 2**10


def size_of_terminal() -> tuple[int, int]:
    """(rows, columns)."""
    size = shutil.get_terminal_size()
    return size.lines, size.columns


def put(descriptor: int, data: bytes) -> None:
    """Write all of it."""
    while data:
        data = data[os.write(descriptor, data) :]


class RawTerminal:
    """Hands every key on unread and tells `stream` of new sizes, while the block runs.

    Where nothing is `wanted`, Ctrl-C is told to the program as SIGINT instead.
    """

    def __init__(self, stream: Stream, *, wanted: bool) -> None:
        self._stream = stream
        self._wanted = wanted
        self._before: list[Any] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._wanted:
            self._before = termios.tcgetattr(sys.stdin)
            tty.setraw(sys.stdin)
            loop.add_signal_handler(signal.SIGWINCH, self._resized)
        else:
            loop.add_signal_handler(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGWINCH if self._wanted else signal.SIGINT)
        if self._before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def _resized(self) -> None:
        rows, columns = size_of_terminal()
        self._tell(rows=rows, columns=columns)

    def _interrupted(self) -> None:
        self._tell(signal="INT")

    def _tell(self, **control: Any) -> None:
        async def tell() -> None:
            from quarterdeck.client.mux import TunnelClosed

            with suppress(TunnelClosed):
                await self._stream.control(**control)

        task = asyncio.get_running_loop().create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Keyboard:
    """Carries standard input into `stream`, read by a thread: it may be a file, a pipe, a
    terminal, and none of them is left non-blocking for whoever comes after."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        threading.Thread(target=self._read, name="keyboard", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The thread ends with its next byte, or with the command."""

    def _read(self) -> None:
        from quarterdeck.client.mux import TunnelClosed

        # The program may end at any moment, and with it the tunnel or the loop.
        with suppress(TunnelClosed, OSError, RuntimeError, CancelledError):
            while data := os.read(0, _CHUNK):
                writing = self._stream.write(data)
                asyncio.run_coroutine_threadsafe(writing, self._loop).result()
            asyncio.run_coroutine_threadsafe(self._stream.end(), self._loop).result()
