"""What may go wrong when processes start and stop, said without a traceback."""

from __future__ import annotations

import importlib.util
import sys


class ProcessFailed(Exception):
    """A process could not start, stop or do its work; the message says what to do."""


class WorkersMissing(ProcessFailed):
    """This machine has only the control plane's packages."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"this machine lacks {missing}: run `{sys.executable} -m pip install "
            "'quarterdeck[workers]'`"
        )


WORKERS = ("ray", "torch", "quarterdeck_workers")


def workers_installed() -> bool:
    """Whether what the agent imports is installed."""
    return all(importlib.util.find_spec(module) is not None for module in WORKERS)


def require_workers() -> None:
    """Raise WorkersMissing unless what the agent imports is installed."""
    for module in WORKERS:
        if importlib.util.find_spec(module) is None:
            raise WorkersMissing(module)
