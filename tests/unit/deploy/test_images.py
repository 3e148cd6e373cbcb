"""What the Dockerfiles and the programs around them promise, without a Docker daemon."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import quarterdeck

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "deploy" / "images"
IGNORE = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
SERVICES = ("s3", "signin", "sso", "sso-oidc", "sts")
each = pytest.mark.parametrize("image", ["control", "worker"])


def instructions(image: str) -> list[tuple[str, str]]:
    """(instruction, the rest) of a Dockerfile, continued lines joined."""
    text = (IMAGES / f"{image}.Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    return [
        (word, " ".join(rest.split()))
        for word, _, rest in (line.partition(" ") for line in lines if line.strip())
    ]


def final(image: str) -> list[tuple[str, str]]:
    """The instructions of the last stage."""
    found = instructions(image)
    begin = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[begin + 1 :]


@each
def test_bases_are_pinned_by_argument(image: str) -> None:
    found = instructions(image)
    defaults = dict(rest.split("=", 1) for word, rest in found if word == "ARG" and "=" in rest)
    stages: set[str] = {"scratch"}
    for word, rest in found:
        if word == "FROM":
            base, *name = rest.split(" AS ")
            argument = re.fullmatch(r"\$\{([A-Z_]+)\}", base)
            if argument:
                place, _, tag = defaults[argument[1]].rpartition(":")
                assert place and tag != "latest"
                assert not re.search(r"[.:]", place.split("/")[0])
            else:
                assert base in stages
            stages.update(name)
    assert len(stages) > 3


@each
def test_it_runs_as_a_numeric_user_with_the_program_as_its_entry(image: str) -> None:
    last = final(image)
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    (entry,) = [rest for word, rest in last if word == "ENTRYPOINT"]
    assert re.fullmatch(r'\[("tini", "--", )?"quarterdeck"\]', entry)
    words = [word for word, _ in last]
    assert "RUN" not in words[words.index("USER") :]
    environment = " ".join(rest for word, rest in last if word == "ENV")
    assert "QUARTERDECK_HOME=/var/lib/quarterdeck" in environment


@each
def test_nothing_is_fetched_but_packages(image: str) -> None:
    found = instructions(image)
    assert "ADD" not in [word for word, _ in found]
    for word, rest in found:
        assert word != "RUN" or not re.search(r"\b(curl|wget|git)\b|https?://", rest)
        if word == "RUN" and re.search(r"\bpip\b.* (install|wheel) ", rest):
            bound = ("constraints.txt", "--no-index", "apt-get")
            assert any(each in rest for each in bound), rest


@each
def test_labels_tell_what_it_is(image: str) -> None:
    labels = " ".join(rest for word, rest in final(image) if word == "LABEL")
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels


@each
def test_what_is_copied_is_not_ignored(image: str) -> None:
    wanted = {
        source.rstrip("/")
        for word, rest in instructions(image)
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert wanted and {f"!{source}" for source in wanted} <= set(IGNORE)
    assert IGNORE[1] == "*"


@each
def test_what_compose_mounts_belongs_to_the_user(image: str) -> None:
    (made,) = [rest for word, rest in final(image) if word == "RUN"]
    folders = set(re.findall(r"/srv/quarterdeck/\w+", made))
    expected = {"agent", "artifacts"} | ({"database"} if image == "control" else set())
    assert folders == {f"/srv/quarterdeck/{name}" for name in expected}
    assert "install -d -o 10001 -g 10001 -m 0700 /var/lib/quarterdeck" in made


def program(path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("IMAGE_", "DOCKER_"))}
    return subprocess.run(
        [sys.executable, str(path), *arguments], env={**kept, **environment},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_the_control_plane_requires_neither_torch_nor_ray() -> None:
    script = IMAGES / "requirements.py"
    core = program(script, "tracing", "s3").stdout.splitlines()
    names = {re.split(r"[\[=;]", line)[0] for line in core}
    assert {"fastapi", "psycopg", "s3fs", "opentelemetry-sdk"} <= names
    assert not {"torch", "ray", "deepspeed", "transformers"} & names
    assert set(core) < set(program(script, "tracing", "s3", "workers").stdout.splitlines())
    assert re.fullmatch(r"torch==[\d.]+\n", program(script, "--only", "torch").stdout)


def test_an_unknown_extra_is_refused_by_name() -> None:
    refused = program(IMAGES / "requirements.py", "tracing", "everything")
    assert refused.returncode == 1
    assert "no extra everything; there are workers" in refused.stderr


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The part of an environment that trim.py looks at."""
    for name in (
        "kubernetes/aio/api.py", "kubernetes/client/api_client.py", "kubernetes/client/api/pods.py",
        "kubernetes/client/models/__init__.py", "kubernetes/client/models/v1_pod.py",
        "kubernetes/client/models/__pycache__/__init__.cpython-311.pyc",
        "kubernetes/client/models/__pycache__/v1_pod.cpython-311.pyc",
        "botocore/data/endpoints.json", "botocore/data/ec2/service.json",
        *(f"botocore/data/{service}/service.json" for service in SERVICES),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_what_nobody_imports_goes(site: Path) -> None:
    assert program(IMAGES / "trim.py", str(site)).returncode == 0
    left = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert left == {
        "kubernetes/client/api_client.py",
        "kubernetes/client/models/__init__.py",
        "kubernetes/client/models/__pycache__/__init__.cpython-311.pyc",
        "botocore/data/endpoints.json",
        *(f"botocore/data/{service}/service.json" for service in SERVICES),
    }  # fmt: skip


def test_a_package_that_has_changed_is_told(site: Path) -> None:
    (site / "botocore" / "data" / "sts" / "service.json").unlink()
    (site / "botocore" / "data" / "sts").rmdir()
    refused = program(IMAGES / "trim.py", str(site))
    assert refused.returncode == 1 and "data/sts is not there" in refused.stderr
    assert (site / "kubernetes" / "aio").exists()


def test_without_docker_the_remedy_is_said(tmp_path: Path) -> None:
    refused = program(ROOT / "tools" / "images.py", "control", PATH=str(tmp_path))
    assert refused.returncode == 1
    assert refused.stderr == (
        "images: docker is not on PATH: install Docker Engine 25 or newer with its client\n"
    )


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker client here")
def test_a_silent_daemon_is_told(tmp_path: Path) -> None:
    refused = program(
        ROOT / "tools" / "images.py", "control", DOCKER_HOST=f"unix://{tmp_path}/docker.sock"
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("images: the Docker daemon does not answer (")
    assert refused.stderr.endswith("start it, or set DOCKER_HOST to the one to use\n")


def test_an_unknown_image_is_refused() -> None:
    refused = program(ROOT / "tools" / "images.py", "dashboard")
    assert (refused.returncode, "no image dashboard" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, f"quarterdeck/control:{quarterdeck.__version__}"),
        ({"IMAGE_TAG": "next"}, "quarterdeck/control:next"),
        (
            {"IMAGE_REGISTRY": "registry.example/team/"},
            f"registry.example/team/quarterdeck/control:{quarterdeck.__version__}",
        ),
    ],
)
def test_names_follow_registry_and_tag(environment: dict[str, str], name: str) -> None:
    said = program(ROOT / "tools" / "images.py", "--name", "control", **environment)
    assert said.stdout == f"{name}\n"
