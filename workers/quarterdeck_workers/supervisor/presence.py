"""Which process carries which run on this machine, for people and tools that look for one.

A Ray actor's process shows its class alone; this says whose it is. `HOME/ray/actors/PID.json`
counts only while the process of that pid has that moment of creation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.supervisor.berths import NODE_HOME

FOLDER = Path("ray") / "actors"


@contextmanager
def present(kind: str, order: RunOrder) -> Iterator[None]:
    """Say that this process is the `kind` (supervisor, host) of a run, while the block runs."""
    file = announce(kind, order)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                file.unlink()


def announce(kind: str, order: RunOrder) -> Path | None:
    """Write the file; None where it cannot be written: no run ends for that."""
    home = os.environ.get(NODE_HOME)
    if home is None:
        return None
    file = Path(home) / FOLDER / f"{os.getpid()}.json"
    content = {
        "kind": kind, "run_id": order.run_id, "epoch": order.epoch,
        "owner": f"{order.owner_type}/{order.owner_name}", "pid": os.getpid(),
        "created": psutil.Process().create_time(),
    }  # fmt: skip
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _forget_dead(file.parent)
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        return None
    return file


def _forget_dead(folder: Path) -> None:
    for old in folder.glob("*.json"):
        if old.stem.isdecimal() and not psutil.pid_exists(int(old.stem)):
            old.unlink(missing_ok=True)
