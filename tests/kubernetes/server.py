"""A real API server, started for one session of tests, and what they ask of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kubernetes.chart import NAMESPACE, Object

_CRDS = (
    "crds/gateway-api/gateway.networking.k8s.io_httproutes.yaml",
    "crds/prometheus-operator",
    "kuberay/crds/ray.io_rayclusters.yaml",
)


class Server:
    """One API server with its state in `folder`; there are no controllers and no nodes."""

    def __init__(self, kubernetes: Path, folder: Path) -> None:
        self._scripts = kubernetes
        self._environment = {**os.environ, "K8S_RUN": str(folder)}
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        installed = os.environ.get("K8S_DIR") or home / "quarterdeck-kubernetes"
        self._kubectl = Path(installed) / "bin" / "kubectl"
        self.kubeconfig = folder / "admin.kubeconfig"

    def start(self) -> None:
        subprocess.run(
            [self._scripts / "start-apiserver.sh"], env=self._environment, check=True,
            capture_output=True, text=True, timeout=180,
        )  # fmt: skip

    def stop(self) -> None:
        subprocess.run(
            [self._scripts / "stop.sh", "--purge"], env=self._environment, check=False,
            capture_output=True, timeout=60,
        )  # fmt: skip

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator."""
        done = subprocess.run(
            [self._kubectl, "--kubeconfig", self.kubeconfig, *arguments], input=stdin,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    def apply_crds(self) -> None:
        """Those of the Gateway API, the Prometheus operator and KubeRay that the chart uses."""
        files = [argument for one in _CRDS for argument in ("-f", str(self._scripts / one))]
        self.kubectl("apply", "--server-side", *files)
        # `kubectl wait` fails on an object that has no conditions yet.
        until = time.monotonic() + 60
        while missing := self._not_established():
            assert time.monotonic() < until, f"never established: {missing}"
            time.sleep(0.1)

    def _not_established(self) -> list[str]:
        found = json.loads(self.kubectl("get", "crd", "-o", "json").stdout)["items"]
        return [
            one["metadata"]["name"]
            for one in found
            if not any(
                condition["type"] == "Established" and condition["status"] == "True"
                for condition in one.get("status", {}).get("conditions") or ()
            )
        ]

    def make_namespace(self) -> None:
        labels = {
            f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")
        }
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": labels},
        }
        self.apply([namespace])

    def apply(self, objects: Sequence[Object], *options: str) -> str:
        """Apply objects; answers what was said on stderr. Fails when one is refused."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.kubectl("apply", "--server-side", *options, "-f", "-", stdin=text).stderr

    def delete(self, objects: Sequence[Object]) -> None:
        """Delete what there is of objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text)

    def instances(self, release: str) -> set[str]:
        """KIND/NAME of every object that is labelled as a release's. What is being deleted is
        gone: the controllers that would take finalizers away are not here."""
        kinds = self.kubectl("api-resources", "--verbs=list", "-o", "name").stdout.split()
        label = f"app.kubernetes.io/instance={release}"
        done = self.kubectl("get", ",".join(kinds), "-A", "-l", label, "-o", "json")
        return {
            f"{one['kind']}/{one['metadata']['name']}"
            for one in json.loads(done.stdout)["items"]
            if "deletionTimestamp" not in one["metadata"]
        }

    def dry_run(self, objects: Sequence[Object]) -> str:
        """What the server says to objects that it checks, defaults, admits, and does not keep:
        refusals and warnings."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.kubectl(
            "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-",
            stdin=text, check=False,
        ).stderr  # fmt: skip

    def rights(self, user: str) -> set[tuple[str, str, str]]:
        """(verb, group, resource) of all that a user may do in the namespace, as the API server's
        own authorizer tells."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": NAMESPACE},
        }
        done = self.kubectl(
            "create", "--validate=false", "-f", "-", "-o", "json", f"--as={user}",
            "--as-group=system:serviceaccounts", "--as-group=system:authenticated",
            stdin=json.dumps(review),
        )  # fmt: skip
        status: dict[str, Any] = json.loads(done.stdout)["status"]
        assert not status.get("incomplete"), status
        return {
            (verb, group, resource)
            for rule in status["resourceRules"]
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }

    def may(self, user: str, verb: str, resource: str, namespace: str) -> bool:
        """One question: `kubectl auth can-i`."""
        done = self.kubectl(
            "auth", "can-i", verb, resource, "-n", namespace, f"--as={user}",
            "--as-group=system:serviceaccounts", "--as-group=system:authenticated", check=False,
        )  # fmt: skip
        return done.stdout.strip() == "yes"
