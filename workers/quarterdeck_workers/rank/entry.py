"""What runs inside a rank's process: a job's entry point by its kind, or the user's program."""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TextIO

from quarterdeck_workers.rank.launch import Launch

ENTRY_POINTS = {
    "dataset": "quarterdeck_workers.data.jobs:dataset_main",
    "tokenizer": "quarterdeck_workers.data.jobs:tokenizer_main",
    "data": "quarterdeck_workers.data.jobs:data_main",
    "pretrain": "quarterdeck_workers.training.pretrain:main",
    "evaluate": "quarterdeck_workers.evaluation.jobs:evaluate_main",
    "batch": "quarterdeck_workers.batch.job:batch_main",
    "service": "quarterdeck_workers.engine.serve:main",
}
STACKS_FILE = "stacks"
SHELL = "/bin/bash"
FAILED = 1
_LONGEST_TRACEBACK = 64 * 1024


def run(launch: Launch, report: int) -> int:
    """Become the rank: exec a command, or call the entry point and answer its exit code.

    `report` is the descriptor of the socket to the host actor.
    """
    os.environ.clear()
    os.environ.update(launch.environment)
    os.chdir(launch.cwd)
    if launch.command is not None:
        os.close(report)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would keep that
        os.execve(SHELL, [SHELL, "-c", launch.command], launch.environment)
    stacks = Path(launch.private, STACKS_FILE).open("w", encoding="utf-8")  # noqa: SIM115
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    _fresh_randomness()
    # Streams of a forked process still believe in the files of its parent.
    sys.stdin, sys.stdout, sys.stderr = open(os.devnull), _stream(1), _stream(2)  # noqa: SIM115, PTH123
    return _call(launch, socket.socket(fileno=report))


def _call(launch: Launch, connection: socket.socket) -> int:
    from quarterdeck.specs.protocol import RunOrder
    from quarterdeck_workers.rank.context import RankContext
    from quarterdeck_workers.rank.errors import blame_of

    context = RankContext(
        order=RunOrder.model_validate(launch.order), rank=launch.rank,
        world_size=launch.world_size, local_rank=launch.local_rank, node_rank=launch.node_rank,
        master_address=launch.master_address, master_port=launch.master_port,
        workdir=Path(launch.workdir), _socket=connection,
    )  # fmt: skip
    context.start()
    try:
        name = launch.entry or ENTRY_POINTS[launch.order["kind"]]
        module, _, function = name.partition(":")
        getattr(importlib.import_module(module), function)(context)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(text)
        message = traceback.format_exception_only(error)[-1].strip()
        context.failure(message, text[-_LONGEST_TRACEBACK:], blame_of(error))
        return FAILED
    return 0


def _stream(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, errors="replace", closefd=False)


def _fresh_randomness() -> None:
    """numpy's global generator is the parent's after a fork: give each rank its own."""
    if "numpy" in sys.modules:
        import numpy

        numpy.random.seed()
