"""`quarterdeck doctor` where pools are configured, against a real API server and its authorizer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.chart import NAMESPACE, Chart, Object, named, of_kind
from tests.kubernetes.renders import EVERYTHING
from tests.kubernetes.server import Server

CONTROLLER = "qd-quarterdeck-controller"


@pytest.fixture(scope="module")
def bare(kubernetes: Path) -> Iterator[Server]:
    """An API server of its own: the others' has KubeRay's CRD."""
    folder = Path(tempfile.mkdtemp(prefix="qd-doc-", dir="/tmp"))  # paths of sockets are short
    server = Server(kubernetes, folder)
    try:
        server.start()
        server.make_namespace()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def pools(chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of pools that the chart writes."""
    configs = of_kind(chart.objects(EVERYTHING), "ConfigMap")
    (text,) = [one["data"]["pools.yaml"] for one in configs if "pools.yaml" in one["data"]]
    file = tmp_path_factory.mktemp("pools") / "pools.yaml"
    file.write_text(text, encoding="utf-8")
    return file


class Doctor:
    """The command in a process of its own, which knows no api."""

    def __init__(self, pools: Path, home: Path) -> None:
        self._pools, self._home = pools, home
        self.code = -1

    def __call__(self, kubeconfig: Path) -> dict[str, dict[str, Any]]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("QUARTERDECK_", "KUBE"))}
        own = {
            "QUARTERDECK_POOLS": str(self._pools),
            "QUARTERDECK_HOME": str(self._home),
            "KUBECONFIG": str(kubeconfig),
        }
        done = subprocess.run(
            [sys.executable, "-m", "quarterdeck.processes.main", "doctor", "-o", "json"],
            env={**kept, **own}, cwd=self._home, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert not done.stderr, done.stderr
        self.code = done.returncode
        return {check["name"]: check for check in json.loads(done.stdout)}


@pytest.fixture
def doctor(pools: Path, tmp_path: Path) -> Doctor:
    return Doctor(pools, tmp_path)


def states(checks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: check["state"] for name, check in checks.items()}


def config_of(server: Server) -> dict[str, Any]:
    """The administrator's kubeconfig."""
    text = server.kubectl("config", "view", "--raw", "-o", "json").stdout
    config: dict[str, Any] = json.loads(text)
    return config


def test_everything_is_missing(doctor: Doctor, bare: Server) -> None:
    checks = doctor(bare.kubeconfig)
    assert doctor.code == 1
    assert states(checks) == {
        "pools": "ok", "kubernetes": "ok", "kuberay": "failed", "pool-namespaces": "ok",
        "pool-rights": "ok", "node-rights": "ok", "pool-secrets": "failed", "address": "note",
    }  # fmt: skip
    assert "KubeRay is not installed" in checks["kuberay"]["found"][0]["message"]
    assert "workers.enabled" in checks["kuberay"]["remedy"]
    found = {one["id"]: one["message"] for one in checks["pool-secrets"]["found"]}
    message = "pool gpu names this Secret, and it does not exist"
    assert found == {f"{NAMESPACE}/keys": message}


def test_an_entry_is_missing(doctor: Doctor, server: Server) -> None:
    """Names of entries are told, no value."""
    space = ("-n", NAMESPACE)
    secret = ("create", "secret", "generic", "keys", "--from-literal=agent-key=hunter2")
    server.kubectl(*secret, *space)
    try:
        checks = doctor(server.kubeconfig)
        assert (doctor.code, checks["kuberay"]["state"]) == (1, "ok")
        found = [one["message"] for one in checks["pool-secrets"]["found"]]
        assert found == ["it has no entry ray-token, which pool gpu names"]
        assert "hunter2" not in json.dumps(checks)
        entry = '{"stringData": {"ray-token": "t"}}'
        server.kubectl("patch", "secret", "keys", *space, "-p", entry)
        assert set(states(doctor(server.kubeconfig)).values()) == {"ok", "note"}
        assert doctor.code == 0
    finally:
        server.kubectl("delete", "secret", "keys", *space)


@pytest.fixture
def roles(chart: Chart, server: Server) -> Iterator[list[Object]]:
    """The roles that the chart gives, and its controller's account, which is there."""
    objects = chart.objects(EVERYTHING)
    account = named(objects, "ServiceAccount", CONTROLLER)
    kinds = ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    roles = [one for one in objects if one["kind"] in kinds]
    server.apply([account])
    yield roles
    server.delete([account, *roles])


def test_the_controllers_account_may_do_what_it_needs(
    roles: list[Object], doctor: Doctor, server: Server, tmp_path: Path
) -> None:
    """Without the chart's roles each missing right is named; with them none is, and no Secret."""
    config = config_of(server)
    token = server.kubectl("create", "token", CONTROLLER, "-n", NAMESPACE).stdout.strip()
    config["users"][0]["user"] = {"token": token}
    mine = tmp_path / "controller.kubeconfig"
    mine.write_text(json.dumps(config), encoding="utf-8")

    checks = doctor(mine)
    assert doctor.code == 1
    assert checks["node-rights"]["state"] == "note"
    assert "rbac.nodes" in checks["node-rights"]["remedy"]
    messages = [one["message"] for one in checks["pool-rights"]["found"]]
    assert f"it may not create rayclusters.ray.io in namespace {NAMESPACE}" in messages
    assert f"it may not delete pods in namespace {NAMESPACE}" in messages
    assert len(messages) == 8

    server.apply(roles)
    checks = doctor(mine)
    assert doctor.code == 0, checks
    found = states(checks)
    assert (found["pool-rights"], found["node-rights"], found["kuberay"]) == ("ok", "ok", "ok")
    assert found["secrets-unread"] == "note" and "pool-secrets" not in found


def test_a_namespace_is_missing(server: Server, pools: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "pools.yaml"
    text = pools.read_text(encoding="utf-8")
    elsewhere.write_text(text.replace(f"namespace: {NAMESPACE}", "namespace: nowhere"))
    doctor = Doctor(elsewhere, tmp_path)
    found = doctor(server.kubeconfig)["pool-namespaces"]["found"]
    assert doctor.code == 1
    assert found == [{"id": "nowhere", "message": "there is no such namespace"}]


def test_no_way_to_kubernetes(doctor: Doctor, server: Server, tmp_path: Path) -> None:
    checks = doctor(tmp_path / "none")
    assert doctor.code == 1 and "name a kubeconfig by KUBECONFIG" in checks["kubernetes"]["claim"]
    config = config_of(server)
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "away").write_text(json.dumps(config), encoding="utf-8")
    checks = doctor(tmp_path / "away")
    assert doctor.code == 1 and "does not answer" in checks["kubernetes"]["found"][0]["message"]


def test_a_wrong_file_of_pools(server: Server, pools: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(pools.read_text(encoding="utf-8").replace("slots: 8", "slot: 8"))
    checks = Doctor(wrong, tmp_path)(server.kubeconfig)
    assert states(checks) == {"pools": "failed", "address": "note"}
    assert any("slot" in one["message"] for one in checks["pools"]["found"])
