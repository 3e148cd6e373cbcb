from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.gateway.directory import Directory
from quarterdeck.gateway.errors import ApiError
from quarterdeck.specs.gateway_snapshot import GatewaySnapshot, KeyDigest, ServiceRoute

names = st.sampled_from(["chat", "code", "embed"])
projects = st.sampled_from(["default", "red", "blue"])


def key(project: str | None, access: str = "viewer") -> KeyDigest:
    digest = hashlib.sha256(b"qd_secret").hexdigest()
    return KeyDigest.model_validate(
        {"sha256": digest, "name": "k", "project": project, "access": access}
    )


def directory(services: set[tuple[str, str]], *keys: KeyDigest) -> Directory:
    routes = [
        ServiceRoute(name=name, project=project, model_version=None, endpoints=[])
        for project, name in services
    ]
    return Directory.of(GatewaySnapshot(version="1", services=routes, keys=list(keys)))


@given(st.sets(st.tuples(projects, names)), st.none() | projects)
def test_every_listed_name_leads_to_its_own_service(
    services: set[tuple[str, str]], project: str | None
) -> None:
    known = directory(services)
    visible = known.visible(key(project))
    for name, route in visible.items():
        assert known.service_of(key(project), name) is route
    assert {(route.project, route.name) for route in visible.values()} == {
        service for service in services if project in (None, service[0])
    }


@given(st.sets(st.tuples(projects, names)), projects, projects, names)
def test_a_key_never_reaches_another_project(
    services: set[tuple[str, str]], mine: str, other: str, name: str
) -> None:
    known = directory(services)
    for model in (name, f"{other}/{name}"):
        try:
            assert known.service_of(key(mine), model).project == mine
        except ApiError as error:
            assert error.status == 404


def test_keys_by_their_digest() -> None:
    known = directory(set(), key("default"))
    assert known.key_of(b"Bearer qd_secret").name == "k"
    assert known.key_of(b"bearer  qd_secret ").name == "k"
    for wrong in (
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic qd_secret",
        b"Bearer qd_secret2",
        "Bearer ü".encode(),
    ):
        with pytest.raises(ApiError) as refusal:
            known.key_of(wrong)
        assert refusal.value.status == 401
    with pytest.raises(ApiError) as refusal:
        directory(set(), key(None, "agent")).key_of(b"Bearer qd_secret")
    assert refusal.value.status == 403
