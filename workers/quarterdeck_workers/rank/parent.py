"""The preloaded parent: imports the heavy libraries once, then forks ranks in milliseconds.

One per node. It never runs an operator and never touches a device, so its children start clean.
`--socket PATH` serves launches until its standard input closes (its starter died);
`--connection N` serves the single launch on an inherited descriptor, without preloading: for
users' programs, which bring their own interpreter.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path

from quarterdeck_workers.rank.entry import run
from quarterdeck_workers.rank.launch import receive_launch
from quarterdeck_workers.rank.watcher import watch

PRELOADED = (
    "numpy", "torch", "torch.distributed", "safetensors.torch", "tokenizers",
    "transformers", "transformers.models.llama.modeling_llama",
    "transformers.models.gpt2.modeling_gpt2", "deepspeed", "deepspeed.runtime.engine",
    "deepspeed.runtime.pipe.engine", "quarterdeck_workers.training.pretrain",
    "quarterdeck_workers.evaluation.jobs", "quarterdeck_workers.data.jobs",
    "quarterdeck_workers.engine.serve", "quarterdeck_workers.rank.tunnel",
    "quarterdeck_workers.batch.job",
)  # fmt: skip
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # Asking the driver's management library instead of CUDA leaves no context behind to inherit.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
READY = b"+"
_RECEIVE_SECONDS = 10.0


def main(arguments: list[str] | None = None) -> None:
    """Command line of both modes."""
    parser = argparse.ArgumentParser(prog="quarterdeck-rank-parent")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--socket", type=Path)
    chosen.add_argument("--connection", type=int)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.connection is not None:
        connection = socket.socket(fileno=options.connection)
        launch, descriptors = receive_launch(connection)
        connection.sendall(READY)
        connection.close()
        if os.fork() != 0:
            os._exit(0)  # the watcher is nobody's child: Ray kills those of a leaving worker
        watch(launch, descriptors, run)
    preload()
    serve(options.socket)


def preload() -> None:
    """Import everything that ranks need; what is not installed is left to them to miss."""
    os.environ.update(ENVIRONMENT)
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"preload: {name}: {error}", file=sys.stderr, flush=True)
    if threading.active_count() > 1:
        names = [thread.name for thread in threading.enumerate()]
        print(f"preload: threads before the fork: {names}", file=sys.stderr, flush=True)
    gc.collect()
    gc.freeze()  # collections in children shall not touch, and so copy, these pages


def serve(path: Path) -> None:
    """Fork a watcher, and through it a rank, for each launch that comes in on `path`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers are reaped by the kernel
    with suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(256)
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    poller.register(0, select.POLLIN | select.POLLHUP)
    while True:
        events = dict(poller.poll())
        if 0 in events:
            return
        connection, _ = listener.accept()
        with connection:
            _serve_one(listener, connection)


def _serve_one(listener: socket.socket, connection: socket.socket) -> None:
    connection.settimeout(_RECEIVE_SECONDS)
    if not _same_user(connection):
        return
    try:
        launch, descriptors = receive_launch(connection)
    except (OSError, ValueError, TypeError) as error:
        print(f"launch refused: {error}", file=sys.stderr, flush=True)
        return
    if os.fork() == 0:
        listener.close()
        connection.close()
        watch(launch, descriptors, run)
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(OSError):
        connection.sendall(READY)


def _same_user(connection: socket.socket) -> bool:
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, user, _ = struct.unpack("3i", credentials)
    return bool(user == os.geteuid())


if __name__ == "__main__":
    main()
