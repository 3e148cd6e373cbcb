"""What compose.yaml promises, read from the file: no root, nothing open, no secret to be seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import quarterdeck

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
FILE: dict[str, Any] = YAML(typ="safe").load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
ONCE = {"prepare", "migration"}
LASTING = sorted(set(SERVICES) - ONCE)
VARIABLE = re.compile(r"\$\{([A-Z_]+)(:[-+])?")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|DATABASE_URL")

each = pytest.mark.parametrize("name", sorted(SERVICES))
each_lasting = pytest.mark.parametrize("name", LASTING)


def by_default(text: str) -> str:
    """What a value is when no variable is set."""
    text = re.sub(r"\$\{[A-Z_]+:-([^{}]*)\}", r"\1", text)
    return re.sub(r"\$\{[A-Z_]+:\+[^{}]*\}", "", text)


def mounts(name: str) -> dict[str, tuple[str, bool]]:
    """Volume -> (where it is mounted, whether it can be written)."""
    parts = [mount.split(":") for mount in SERVICES[name].get("volumes", [])]
    return {part[0]: (part[1], part[2:] != ["ro"]) for part in parts}


def test_the_services_are_those_of_the_platform() -> None:
    lasting = ["api", "controller", "gateway", "postgres", "worker"]
    assert (LASTING, ONCE - set(SERVICES)) == (lasting, set())


@each
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0 and int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged") and service.get("network_mode") in (None, "none")
    assert not {"pid", "ipc", "userns_mode", "devices"} & set(service)


@each
def test_a_service_has_bounds(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", by_default(service["mem_limit"]))
    assert 0 < service["pids_limit"] <= 8192
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])


@each_lasting
def test_a_lasting_service_is_looked_at_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    check = service["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert "stop_grace_period" in service


@each
def test_a_service_waits_for_what_it_needs(name: str) -> None:
    needs = SERVICES[name].get("depends_on", {})
    for other, how in needs.items():
        ended = "service_completed_successfully"
        assert how["condition"] == (ended if other in ONCE else "service_healthy")
    assert needs or name == "prepare"


@each
def test_an_image_has_a_tag_and_no_registry(name: str) -> None:
    image = by_default(SERVICES[name]["image"])
    place, _, tag = image.rpartition(":")
    assert place and tag not in ("", "latest")
    assert not re.search(r"[.:]|localhost", place.split("/")[0])


@each
def test_own_images_are_of_this_version_and_never_fetched_unasked(name: str) -> None:
    image = by_default(SERVICES[name]["image"])
    if image.startswith("quarterdeck/"):
        assert image.rpartition(":")[2] == quarterdeck.__version__
        assert by_default(SERVICES[name]["pull_policy"]) == "never"


def test_ports_are_on_the_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", by_default(port)) for port in ports)


@each
def test_no_secret_is_in_the_environment_or_the_command(name: str) -> None:
    service = SERVICES[name]
    for variable in service.get("environment", {}):
        assert not SECRET.search(variable) or variable.endswith("_FILE")
    values = [*service.get("environment", {}).values(), *service.get("command", [])]
    assert not [value for value in values if re.search(r"://[^/@]*:[^/@]*@", str(value))]


def test_each_secret_goes_to_those_who_need_it() -> None:
    """The api's home has the master key and the person's: no job may see it."""
    holders = {
        volume: {name: mounts(name)[volume][1] for name in SERVICES if volume in mounts(name)}
        for volume in ("home", "agent-key", "database-access")
    }
    assert holders == {
        "home": {"prepare": True, "api": True},
        "agent-key": {"prepare": True, "gateway": False, "worker": False},
        "database-access": {
            "prepare": True, "postgres": False, "migration": False, "api": False,
            "controller": False,
        },
    }  # fmt: skip


def test_only_those_who_open_the_database_reach_it() -> None:
    assert FILE["networks"]["database"] == {"internal": True}
    reach = {name for name in SERVICES if "database" in SERVICES[name].get("networks", [])}
    assert reach == {"postgres", "migration", "api", "controller"}
    assert SERVICES["postgres"]["networks"] == ["database"]


def test_artifacts_lie_at_one_path_for_all() -> None:
    places = {mounts(name).get("artifacts") for name in ("api", "controller", "worker")}
    assert places == {("/srv/quarterdeck/artifacts", True)}


@each
def test_state_can_be_written(name: str) -> None:
    service = SERVICES[name]
    temporary = {mount.split(":")[0] for mount in service["tmpfs"]}
    written = temporary | {place for place, writable in mounts(name).values() if writable}
    home = "/var/lib/postgresql/data" if name == "postgres" else "/var/lib/quarterdeck"
    assert {"/tmp", home} <= written


def test_variables_have_defaults_and_are_listed() -> None:
    used = {variable for variable, _ in VARIABLE.findall(TEXT)}
    assert all(default for _, default in VARIABLE.findall(TEXT))
    head = TEXT[: TEXT.index("name: quarterdeck")]
    assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", head)) == used


def test_mounted_volumes_exist() -> None:
    assert {volume for name in SERVICES for volume in mounts(name)} == set(FILE["volumes"])
