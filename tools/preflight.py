"""Look at the machine before work begins: disk, memory, /dev/shm, busy ports and their owners.

Standard library only. Exits 1 with every shortage and its remedy.
"""

import argparse
import os
import shutil
import socket
import sys
from pathlib import Path

GIB = 2**30
ROOT = Path(__file__).resolve().parent.parent


def available_memory():
    """Bytes that new programs can use (MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def listening_inode(port):
    """Inode of the socket that listens on a TCP port, from /proc/net/tcp{,6}; None if free."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                return fields[9]
    return None


def owner_of(inode):
    """`name (pid N)` of the process that holds a socket, as far as /proc may be read."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    name = (process / "comm").read_text().strip()
                    return f"{name} (pid {process.name})"
        except OSError:
            continue
    return "a process of another user"


def own_platform_runs():
    """Whether this folder's own platform may own the port: a second run attaches to it."""
    home = Path(os.environ.get("QUARTERDECK_HOME", ROOT / ".quarterdeck"))
    return (home / "processes.json").exists()


def shortages(ports, installing):
    """Every shortage found, as sentences with a remedy."""
    found = []
    disk = shutil.disk_usage(ROOT).free
    need = 8 * GIB if installing else 2 * GIB
    if disk < need:
        found.append(f"disk: {disk / GIB:.1f} GiB free in {ROOT}, {need // GIB} needed: free some")
    memory = available_memory()
    if not installing and memory < 5 * GIB:
        found.append(
            f"memory: {memory / GIB:.1f} GiB available, 5 needed for 8 ranks: end other programs"
        )
    if not installing:
        shm = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").exists() else 0
        if shm < GIB // 2:
            found.append(
                f"/dev/shm: {shm / GIB:.2f} GiB free, 0.5 needed by Ray: remount it larger "
                "(containers: --shm-size=2g)"
            )
    for port in ports:
        inode = listening_inode(port)
        if inode is not None and not own_platform_runs():
            found.append(f"port {port}: held by {owner_of(inode)}: end it or choose another port")
        elif inode is None:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    found.append(f"port {port}: cannot be bound ({error}): choose another port")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, nargs="*", default=[], help="TCP ports needed free")
    parser.add_argument("--install", action="store_true", help="check for installation only")
    arguments = parser.parse_args()
    found = shortages(arguments.ports, arguments.install)
    for line in found:
        print("preflight: " + line, file=sys.stderr)
    if os.geteuid() != 0 and not arguments.install:
        print("preflight: not root: tests of several hosts' networks are skipped", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
