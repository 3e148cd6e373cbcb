"""Ports at which the ranks of a role meet: free on every address of the host, and kept for it.

A rank opens its port seconds after it was told of it, on all addresses. So a port that is free on
one address alone, or that the system may give to the next program that asks for any, is none:
ports come from below those, and a name in the kernel keeps other gangs of the host off them.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

RANGE = range(20_000, 30_000)
"""Above those of Ray's workers, below Kubernetes' node ports and what systems give to clients."""
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LEAST = 1_000
"""Fewer than so many are no choice: then any above 1024 will do."""
_BACKLOG = 1


def candidates(ephemeral: tuple[int, int], wanted: range = RANGE) -> list[int]:
    """Those of `wanted` that the system does not give out by itself (`ephemeral`: first, last);
    where that leaves too few, other ones that it does not, at last all of `wanted`."""
    first, last = ephemeral
    for ports in (wanted, range(1_025, 65_536)):
        if len(left := [port for port in ports if not first <= port <= last]) >= _LEAST:
            return left
    return list(wanted)


def ephemeral_ports(file: Path = _EPHEMERAL) -> tuple[int, int]:
    """First and last port that the system gives to who asks for any."""
    try:
        first, last = file.read_text(encoding="ascii").split()
        return int(first), int(last)
    except (OSError, ValueError):
        return 32_768, 60_999


class HeldPorts:
    """A free port for each of `names` in `by_name`, held against other gangs until `release`.

    Raises OSError (EADDRINUSE) when none of `ports` is free.
    """

    def __init__(self, names: Iterable[str], ports: Iterable[int] | None = None) -> None:
        if ports is None:
            ports = candidates(ephemeral_ports())
            random.shuffle(ports)
        left = iter(ports)
        self.by_name: dict[str, int] = {}
        with ExitStack() as stack:
            for name in names:
                self.by_name[name] = _hold_one(left, stack)
            self._held = stack.pop_all()

    def release(self) -> None:
        """Let others have them."""
        self._held.close()


def _hold_one(ports: Iterable[int], stack: ExitStack) -> int:
    for port in ports:
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0quarterdeck-port-{port}")  # of this network namespace, like the port
        except OSError:
            mark.close()
            continue
        if _free(port):
            stack.enter_context(mark)
            return port
        mark.close()
    raise OSError(errno.EADDRINUSE, "no port is free for the ranks to meet at")


def _free(port: int) -> bool:
    """Whether a program can listen there on all addresses."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", port))
            probe.listen(_BACKLOG)
            return True
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return False
    with suppress(OSError), socket.socket() as probe:  # a host without IPv6
        probe.bind(("0.0.0.0", port))
        probe.listen(_BACKLOG)
        return True
    return False
