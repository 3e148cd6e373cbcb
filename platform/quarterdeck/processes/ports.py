"""Ports that must be free, and who holds them when they are not."""

from __future__ import annotations

import socket
from contextlib import suppress

import psutil


class PortBusy(Exception):
    """Something listens there already; the message names it where the system tells."""


def require_free(host: str, port: int) -> None:
    """Raise PortBusy when `port` cannot be bound on `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortBusy(f"port {port} is taken by {holder(port)}") from error


def holder(port: int) -> str:
    """`name (pid N)` of the process that listens on a TCP port, as far as it may be seen."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and connection.laddr and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another program"
