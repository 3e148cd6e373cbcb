"""Helm and a real API server: `QUARTERDECK_KUBERNETES` names the folder with start scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.cluster.kubernetes_client import Kubernetes, connect
from tests.kubernetes.chart import Chart, Object, read_all
from tests.kubernetes.kuberay_server import KubeRayServer
from tests.kubernetes.renders import EVERYTHING, TRIAL
from tests.kubernetes.server import Server


@pytest.fixture(scope="session")
def kubernetes() -> Path:
    """The folder with start-apiserver.sh, tools and CRDs."""
    named = os.environ.get("QUARTERDECK_KUBERNETES")
    if not named:
        pytest.skip("QUARTERDECK_KUBERNETES names no folder with start-apiserver.sh and tools")
    folder = Path(named)
    assert (folder / "start-apiserver.sh").is_file(), f"{folder} has no start-apiserver.sh"
    return folder


@pytest.fixture(scope="session")
def tools(kubernetes: Path) -> Path:
    """A folder with helm, kubeconform and its schemas."""
    done = subprocess.run(
        [kubernetes / "tools" / "install.sh"], capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def chart(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """The chart, to render."""
    return Chart(tools / "helm", tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def server(kubernetes: Path) -> Iterator[Server]:
    """An API server of this session's own with every CRD that the chart can use, and a namespace
    whose pods must satisfy Pod Security `restricted`."""
    folder = Path(tempfile.mkdtemp(prefix="qd-k8s-", dir="/tmp"))  # paths of sockets are short
    server = Server(kubernetes, folder)
    try:
        server.start()
        server.apply_crds()
        server.make_namespace()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def everything(chart: Chart) -> list[Object]:
    """With every option that does not exclude another."""
    return chart.objects(EVERYTHING)


@pytest.fixture(scope="session")
def resting(chart: Chart) -> list[Object]:
    """Every option, in maintenance."""
    return chart.objects({**EVERYTHING, "maintenance.enabled": True})


@pytest.fixture(scope="session")
def trial(chart: Chart) -> list[Object]:
    """The included database and a volume for artifacts."""
    done = chart.template(TRIAL)
    assert done.returncode == 0, done.stderr
    return read_all(done.stdout)


@pytest.fixture(scope="session")
def kuberay(kubernetes: Path) -> Iterator[KubeRayServer]:
    folder = Path(tempfile.mkdtemp(prefix="qd-ray-", dir="/tmp"))  # paths of sockets are short
    server = KubeRayServer(kubernetes, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def api(kuberay: KubeRayServer) -> Iterator[Kubernetes]:
    api = connect(kuberay.kubeconfig)
    yield api
    api.close()
