"""A real API server with the real KubeRay operator, and kwok's machines and pods."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Object = dict[str, Any]
FAKE = {"kwok.x-k8s.io/node": "fake"}


class KubeRayServer:
    """State in `folder`; `extra` are more flags of the API server. `stop` ends everything that it
    started."""

    def __init__(self, scripts: Path, folder: Path, extra: str = "") -> None:
        self._scripts = scripts
        self._folder = folder
        self._environment = {
            **os.environ, "K8S_RUN": str(folder), "WITH": "cm,sched", "APISERVER_EXTRA": extra,
            "RAYCLUSTER_DEFAULT_REQUEUE_SECONDS_ENV": "5",
        }  # fmt: skip
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._installed = Path(os.environ.get("K8S_DIR") or home / "quarterdeck-kubernetes")
        self._kwok: subprocess.Popen[bytes] | None = None
        self._operator: int | None = None
        self.kubeconfig = folder / "admin.kubeconfig"
        self.token_kubeconfig = folder / "admin-token.kubeconfig"
        """Of another user, `admin-token`, who may do the same."""

    def start(self) -> None:
        tools = self._run(self._scripts / "tools" / "install.sh").stdout.strip().splitlines()[-1]
        self._run(self._scripts / "start-apiserver.sh")
        started = self._run(
            self._scripts / "kuberay" / "run-operator.sh", self.kubeconfig, self._folder / "kuberay"
        )
        self._operator = int(started.stdout.strip().splitlines()[-1])
        with (self._folder / "kwok.log").open("wb") as log:
            self._kwok = subprocess.Popen(
                [
                    Path(tools, "kwok"), "--kubeconfig", self.kubeconfig, "--config",
                    self._scripts / "tools" / "kwok" / "fast.yaml", "--manage-all-nodes=false",
                    "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                    "--node-lease-duration-seconds=40",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def stop(self) -> None:
        if self._kwok is not None:
            self._kwok.kill()
            self._kwok.wait()
        if self._operator is not None:
            os.kill(self._operator, 15)
        self._run(self._scripts / "stop.sh", "--purge", check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert not check or done.returncode == 0, f"{command[0]}: {done.stderr[-2000:]}"
        return done

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator."""
        kubectl = self._installed / "bin" / "kubectl"
        done = subprocess.run(
            [kubectl, "--kubeconfig", self.kubeconfig, *arguments], input=stdin,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, objects: Sequence[Object]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "-f", "-", stdin=text)

    def machine(self, name: str, pool: str, gpus: int = 8) -> None:
        """A machine of kwok's that only pods of `pool` get."""
        self.apply([machine(name, pool, gpus)])


def machine(name: str, pool: str, gpus: int = 8) -> Object:
    """A node of kwok's, for pods of `pool`."""
    room = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": FAKE, "labels": {"pool": pool}},
        "status": {"capacity": room, "allocatable": room},
    }  # fmt: skip


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """What `condition` answers once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
    return found
