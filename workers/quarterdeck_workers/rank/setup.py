"""A job's `setup`: a shell command that makes an environment, once for each node and content.

The environment is a folder with a Python environment in it, named by the digest of what goes into
it. Runs that want the same one at the same time wait for the first; whoever uses one holds it. An
environment exists when its `done` file does: one that was interrupted is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import site
import sys
import threading
import time
import venv
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.rank.errors import CannotStart, blame_of
from quarterdeck_workers.rank.launch import Launch
from quarterdeck_workers.rank.masking import Masker
from quarterdeck_workers.rank.process import LaunchFailed, RankNews, RankProcess

ENV_DIR = "QUARTERDECK_ENV_DIR"
FOLDER = "setups"
DONE = "done"
MOST_KEPT = 20
"""Environments of a node; making another removes those that were not used for the longest time."""
_PAUSE = 0.2
_PIP = """#!{python}
import sys
from pip._internal.cli.main import main
sys.exit(main())
"""


class SetupFailed(CannotStart):
    """The setup command failed; `tail` has its last lines."""

    def __init__(self, message: str, blame: str, tail: str) -> None:
        super().__init__(message, blame)  # type: ignore[arg-type]
        self.args = (message, blame, tail)
        self.tail = tail


def environment_folder(order: RunOrder, home: Path) -> Path | None:
    """Where the environment of this run lies on a node; None for a job without `setup`."""
    spec = order.spec
    if not spec.get("setup"):
        return None
    workdir = spec.get("workdir")
    content = {
        "project": order.project,
        "setup": spec["setup"],
        "workdir": workdir["digest"] if isinstance(workdir, Mapping) else workdir,
        "env": spec.get("env") or {},
        "python": sys.version,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    return home / FOLDER / digest / "env"


def with_environment(variables: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Variables under which the environment's programs and packages come first."""
    path = os.pathsep.join([str(folder / "bin"), variables.get("PATH", os.defpath)])
    return {**variables, "PATH": path, "VIRTUAL_ENV": str(folder), ENV_DIR: str(folder)}


class NodeSetup:
    """One run's use of an environment on one node: `run` in a thread, `take` its output from
    another, `cancel` from anywhere, `release` when the run has ended."""

    def __init__(self, launch: Launch, environment: Path, masker: Masker) -> None:
        command = f"set -eo pipefail\n{launch.order['spec']['setup']}"
        self._launch = replace(launch, command=command)
        self._environment = environment
        self._folder = environment.parent
        self._masker = masker
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._process: RankProcess | None = None
        self._news = RankNews()
        self._held = -1
        self.ended = threading.Event()
        """`run` has returned: nothing of the command is left."""

    def run(self, host: str) -> None:
        """Have the environment there, made now or before. Raises SetupFailed, naming `host`."""
        try:
            self._have(host)
        finally:
            self.ended.set()

    def _have(self, host: str) -> None:
        try:
            self._hold(host)
        except (OSError, LaunchFailed) as error:
            blame = blame_of(error)
            why = f"setup on {host} could not run: {error}"
            raise SetupFailed(why, "node" if blame == "unknown" else blame, "") from error

    def _hold(self, host: str) -> None:
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held = os.open(f"{self._folder}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._acquire(fcntl.LOCK_SH)
        while not self._done() and not self._cancelled.is_set():
            # Only one makes it; whoever waited for that looks again.
            if self._try(fcntl.LOCK_EX):
                if not self._done():
                    self._make(host)
                self._acquire(fcntl.LOCK_SH)
            else:
                fcntl.flock(self._held, fcntl.LOCK_UN)
                time.sleep(_PAUSE)
                self._acquire(fcntl.LOCK_SH)
        if not self._cancelled.is_set():
            os.utime(self._folder / DONE)

    def _done(self) -> bool:
        return (self._folder / DONE).exists()

    def _acquire(self, kind: int) -> None:
        while not self._cancelled.is_set() and not self._try(kind):
            time.sleep(_PAUSE)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._held, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _make(self, host: str) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        forget_unused(self._folder.parent, MOST_KEPT - 1)
        make_environment(self._environment)
        process = RankProcess(self._launch, masker=self._masker)
        process.start(None)
        with self._lock:
            self._process = process
        while not process.gone.wait(_PAUSE):
            if self._cancelled.is_set():
                process.kill()
        self._collect()
        if self._cancelled.is_set():
            return
        exits = [message for message in self._news.messages if message["type"] == "exit"]
        if exits and exits[0].get("code") == 0:
            (self._folder / DONE).write_text(json.dumps({"at": time.time()}), encoding="utf-8")
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        why = "was ended" if not exits else f"ended with {_ending(exits[0])}"
        full = "No space left on device" in self._news.tail
        raise SetupFailed(
            f"setup on {host} {why}", "disk" if full else "user_code", self._news.tail
        )

    def _collect(self) -> None:
        with self._lock:
            if self._process is None:
                return
            news = self._process.take()
            self._news.messages += news.messages
            self._news.lines += news.lines
            self._news.tail = news.tail or self._news.tail

    def take(self) -> list[tuple[float, str]]:
        """Lines of output since the last call."""
        self._collect()
        with self._lock:
            lines, self._news.lines = self._news.lines, []
        return lines

    def cancel(self) -> None:
        """End the command and all below it, or the wait for another's; `run` returns."""
        self._cancelled.set()

    def release(self) -> None:
        """Let go of the environment."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def _ending(exit_: Mapping[str, object]) -> str:
    return f"signal {exit_['signal']}" if exit_.get("code") is None else f"code {exit_['code']}"


def make_environment(folder: Path) -> None:
    """A Python environment that sees the packages of the platform's own behind its own."""
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    lines = [f"import site; site.addsitedir({place!r})" for place in site.getsitepackages()]
    behind = packages / "site-packages" / "_quarterdeck.pth"
    behind.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("pip", "pip3"):
        script = folder / "bin" / name
        script.write_text(_PIP.format(python=python), encoding="utf-8")
        script.chmod(0o755)


def forget_unused(folder: Path, keep: int) -> None:
    """Remove environments that nobody holds, except the `keep` that were used last."""
    found = sorted(folder.glob(f"*/{DONE}"), key=_last_use, reverse=True)
    for done in found[keep:]:
        lock = os.open(f"{done.parent}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            done.unlink(missing_ok=True)
            shutil.rmtree(done.parent, ignore_errors=True)
        finally:
            os.close(lock)


def _last_use(done: Path) -> float:
    with suppress(OSError):
        return done.stat().st_mtime
    return 0.0
