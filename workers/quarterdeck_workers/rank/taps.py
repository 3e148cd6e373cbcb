"""A rank's output passed on as it comes, to whoever is attached; the rank is never held up."""

from __future__ import annotations

import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path

_ACCEPT_SECONDS = 30.0


class Taps:
    """The readers of one rank's output. `pass_on` and `close` are called by one thread."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._readers: list[socket.socket] = []

    def open(self) -> str:
        """The path of a socket on which one reader gets the output from now on.

        A reader that falls behind misses some. Raises OSError.
        """
        path = self._folder / f"tap-{secrets.token_hex(4)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.settimeout(_ACCEPT_SECONDS)
        listener.bind(str(path))
        listener.listen(1)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return str(path)

    def _accept(self, listener: socket.socket) -> None:
        with listener, suppress(OSError):  # nobody came
            reader, _ = listener.accept()
            reader.setblocking(False)
            with self._lock:
                self._readers.append(reader)

    def pass_on(self, data: bytes) -> None:
        """Give what was written to every reader that can take it."""
        with self._lock:
            readers = list(self._readers)
        for reader in readers:
            try:
                reader.send(data)
            except BlockingIOError:
                continue
            except OSError:
                with self._lock:
                    self._readers.remove(reader)
                reader.close()

    def close(self) -> None:
        """The output has ended."""
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._readers.clear()
